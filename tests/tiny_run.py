"""A training run of seconds: two kinds of tones, a network of a few thousand weights."""
from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile as sf
import torch
from conftest import RATE, noise, tone

from birdkit import checkpoint, training
from birdkit.batch import Batch
from birdkit.config import FrontEndConfig, Member, ModelConfig, RunConfig
from birdkit.models import build_model
from birdkit.settings import replace
from birdkit.training.trainer import Trainer

CLASSES = ("high", "low")


def write_tones(folder: Path, n: int = 12) -> pd.DataFrame:
    """Recordings of 3 s: tones around 6 kHz and around 1 kHz in noise, in two splits."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        label = CLASSES[i % 2]
        wave = tone((6000 if label == "high" else 1000) * rng.uniform(0.9, 1.1), 3) + noise(3, amplitude=0.05, seed=i)
        sf.write(folder / f"{i}.wav", wave, RATE, subtype="FLOAT")
        rows.append({"file": f"{i}.wav", "label": label, "secondary": "", "duration_s": 3.0, "rating": 0.0,
                     "split": (i // 2) % 2})
    return pd.DataFrame(rows)


def tiny_config(**changes: Any) -> RunConfig:
    """Four epochs of two steps of eight clips of 2 s, with mixing, dropout and an exponential average."""
    config = RunConfig(n_splits=2, frontend=FrontEndConfig(clip_s=2.0, hop_samples=1000, n_mels=32, strips=1),
                       model=ModelConfig(backbone="test_resnet", hidden=16))
    config = replace(config, data__samples_per_epoch=16, train__epochs=4, train__batch_size=8, train__workers=0,
                     train__peak_lr=3e-3, train__ema_decay=0.5, train__precision="f32",
                     augment__wave=(Member("or_mixup", {"p": 0.3}),), inference__backend="torch")
    return replace(config, **changes)


def run(config: RunConfig, table: pd.DataFrame, root: Path, name: str, **options: Any) -> training.FitResult:
    """`fit` into root/name."""
    return training.fit(config, table, CLASSES, root=root, out_dir=root / name, progress=False, **options)


def make_trainer(config: RunConfig, **options: Any) -> Trainer:
    """A trainer of a model with known first weights, for 100 steps."""
    torch.manual_seed(0)
    model = build_model(config.model, config.frontend, len(CLASSES))
    return Trainer(config, model, **{"total_steps": 100, "per_epoch": 10, "device": "cpu"} | options)


def make_batch(wave: np.ndarray, n: int = 4) -> Batch:
    """The same wave n times, with the labels of both classes in turn."""
    return Batch(torch.from_numpy(wave).repeat(n, 1), torch.eye(2).repeat(n // 2, 1), torch.ones(n))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights and statistics."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_weights(a: Path, b: Path) -> None:
    """Two checkpoints are equal bit by bit."""
    first, second = checkpoint.load(a).model.state_dict(), checkpoint.load(b).model.state_dict()
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


def assert_same_history(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Two histories are equal bit by bit, but for the time that it took."""
    pd.testing.assert_frame_equal(a.drop(columns="seconds"), b.drop(columns="seconds"), check_exact=True)


class Killed(BaseException):
    """What ends a run in the middle of a test, and is caught by nobody else."""


@contextlib.contextmanager
def killed_at(monkeypatch: Any, step: int) -> Any:
    """Let a run die before a step."""
    real = Trainer.train_step

    def dying(self: Trainer, batch: Batch) -> float:
        if self.step == step:
            raise Killed
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        try:
            yield
        except Killed:
            return
    raise AssertionError("the run was not killed")
