"""A checkpoint whose network says something about a sound, and soundscapes to say it about, without training."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile as sf
import torch
from conftest import RATE, noise, tone

from birdkit import checkpoint
from birdkit.catalogue import settle
from birdkit.config import FrontEndConfig, ModelConfig, RunConfig
from birdkit.models import build_model
from birdkit.settings import replace

CLASSES = ("a", "b", "c", "d")


def settled_config(**changes: Any) -> RunConfig:
    """Clips of 2 s as images of 32 x 64, for a network of a few thousand weights."""
    config = RunConfig(frontend=FrontEndConfig(clip_s=2.0, hop_samples=1000, n_mels=32, strips=1),
                       model=ModelConfig(backbone="test_resnet", hidden=16))
    return replace(config, **changes)


def write_soundscapes(folder: Path, n: int = 3, seconds: float = 20.0) -> list[Path]:
    """Soundscapes of noise in which tones come and go, so that every clip differs."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(n):
        rng, wave = np.random.default_rng(index), noise(seconds, amplitude=0.05, seed=index)
        for start_s in range(0, round(seconds) - 1, 2):
            part = tone(rng.uniform(500, 12_000), 2, amplitude=rng.uniform(0.05, 0.5))
            wave[start_s * RATE:start_s * RATE + len(part)] += part
        files.append(folder / f"soundscape_{index}.wav")
        sf.write(files[-1], wave, RATE, subtype="FLOAT")
    return files


def write_checkpoint(path: Path, config: RunConfig | None = None, *, seed: int = 0) -> Path:
    """A checkpoint of four classes whose batch norms, attention and logits are as after training."""
    config = config or settled_config()
    torch.manual_seed(seed)
    model = build_model(config.model, config.frontend, len(CLASSES))
    n = config.frontend.n_samples
    waves = [noise(n / RATE, seed=i) + tone(700 * (i + 1), n / RATE, amplitude=0.1 + 0.05 * i) for i in range(8)]
    settle(model, torch.from_numpy(np.stack(waves)))
    checkpoint.save(path, model.eval(), config=config, classes=CLASSES, table_hash="", seen=["x.ogg"])
    return path


def write_truth(path: Path, rows: pd.DataFrame) -> Path:
    """A truth that rows of probabilities are right about: the upper half of every column is present."""
    truth = (rows > rows.median()).astype(int)
    truth.index.name = "row_id"
    truth.to_csv(path)
    return path
