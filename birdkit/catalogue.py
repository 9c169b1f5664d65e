"""What there is to choose from: every front end and model by name, with its size, its arithmetic and its time here."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from birdkit import audio
from birdkit.backends import TorchClassifier, has_openvino
from birdkit.backends.parity import parity
from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.export import export
from birdkit.frontend import FrontEnd
from birdkit.kaggle import AUDIO_SUFFIXES
from birdkit.models import MODELS, build_model
from birdkit.models.base import Model
from birdkit.models.heads import START_LOGIT
from birdkit.pace import one_thread
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.settings import replace

REPEATS = 5  # timed passes; the fastest counts, for everything else on the machine only adds


@dataclass(frozen=True)
class Choice:
    """A model on a front end."""

    name: str
    config: ModelConfig
    frontend_name: str
    frontend: FrontEndConfig

    def build(self, n_classes: int) -> Model:
        """The model without pretrained weights, in eval mode; ValueError where it does not take such images."""
        return build_model(replace(self.config, weights="none"), self.frontend, n_classes).eval()


def choices(*, names: Sequence[str] = (), backbone: str = "", frontend: str = "") -> list[Choice]:
    """Every registered model as published, on the front end it was published with.

    names     only these
    backbone  instead of the published one
    frontend  a name in birdkit.recipes.presets.FRONT_ENDS instead of the published one

    Raises KeyError, naming those there are, for a name that is not registered.
    """
    if frontend and frontend not in FRONT_ENDS:
        raise KeyError(f"no front end named {frontend!r}; there is: {', '.join(FRONT_ENDS)}")
    chosen = []
    for name in names or MODELS.names():
        kind = MODELS.get(name)
        config = replace(kind.published, backbone=backbone) if backbone else kind.published
        where = frontend or kind.published_frontend
        chosen.append(Choice(name, config, where, FRONT_ENDS[where]))
    return chosen


def list_front_ends(*, timing: bool = True) -> pd.DataFrame:
    """A row per front end: seconds and rate of a clip, mels x frames, rows x columns of the image, ms on one core."""
    rows = []
    for name, config in tqdm(FRONT_ENDS.items(), "front ends", leave=False):
        frontend, wave = FrontEnd(config), noise_clip(config)
        rows.append({"front end": name, "clip s": config.clip_s, "kHz": config.sample_rate_hz / 1000,
                     "mels x frames": f"{config.n_mels} x {config.n_frames}", "channels": config.n_channels,
                     "image": "{} x {}".format(*config.image_size),
                     "ms per clip": round(_fastest_ms(partial(frontend, wave)), 1) if timing else np.nan})
    return pd.DataFrame(rows)


def list_models(chosen: Sequence[Choice], *, n_classes: int = 206, timing: bool = True) -> pd.DataFrame:
    """A row per model: parameters, image, multiply-adds of a clip, ms of the network on one core.

    Timed on the submission's backend: OpenVINO at f32 where it is installed, else torch.

    A model that does not take the images of its front end has the reason instead of figures.
    """

    def measure(choice: Choice, model: Model) -> dict[str, object]:
        wave = noise_clip(choice.frontend)
        image = model.frontend(wave)
        row: dict[str, object] = {
            "image": "{} x {}".format(*choice.frontend.image_size),
            "parameters M": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
            "segments": model.n_segments, "GMAC per clip": round(multiply_adds(model, image) / 1e9, 2)}
        if timing:
            classify = export(model, wave, threads=1) if has_openvino() else TorchClassifier(model)
            row["ms per clip"] = round(_fastest_ms(partial(classify, image)), 1)
        return row

    return _rows(chosen, measure, n_classes)


def export_parity(chosen: Sequence[Choice], folder: Path | str, *, n_classes: int = 20) -> pd.DataFrame:
    """A row per model and front end: how far its export is from torch on real audio, in deviations of its logits.

    The networks are untrained, but their batch norms have seen the audio and their attention is not uniform.

    folder  audio files, from which a clip each is taken; the first eight by name

    Raises ImportError without openvino, ExportError where a model is more than 1e-4 off, FileNotFoundError where the
    folder holds no audio.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)[:8]
    if not files:
        raise FileNotFoundError(f"no audio files ({', '.join(AUDIO_SUFFIXES)}) in {folder}")

    def measure(choice: Choice, model: Model) -> dict[str, object]:
        config = choice.frontend
        waves = torch.from_numpy(np.stack([
            audio.pad_cyclic(audio.load(file, config.sample_rate_hz, duration_s=config.clip_s), config.n_samples)
            for file in files]))
        settle(model, waves)
        agreement = parity(model, export(model, waves), waves)
        return {"max difference / sigma": agreement.max_error / agreement.sigma, "sigma": round(agreement.sigma, 3),
                "attention": agreement.attention_error, "rank agreement": round(agreement.rank_agreement, 6)}

    return _rows(chosen, measure, n_classes)


def _rows(chosen: Sequence[Choice], measure: Callable[[Choice, Model], dict[str, object]],
           n_classes: int) -> pd.DataFrame:
    """A row per choice: its names and what was measured, or why the model does not take the images."""
    rows = []
    for choice in tqdm(chosen, "models", leave=False):
        row: dict[str, object] = {"model": choice.name, "backbone": choice.config.backbone,
                                  "front end": choice.frontend_name}
        try:
            model = choice.build(n_classes)
        except ValueError as error:
            rows.append(row | {"does not fit": str(error)})
        else:
            rows.append(row | measure(choice, model))
    return pd.DataFrame(rows)


def multiply_adds(model: Model, image: Tensor) -> int:
    """Multiply-adds of `classify` for one image, as torch counts them: convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.classify(image[:1])
    return counter.get_total_flops() // 2


def settle(model: Model, waves: Tensor) -> None:
    """Give an untrained model what parity needs to mean something: batch statistics, attention that differs, and
    logits of a trained model's size, for beside a logit of -4 that hardly moves, rounding is all there is.

    waves  (B, N)
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention" in name and not bool(parameter.any()):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.train()
        for _ in range(3):
            model(waves)
        sigma = float(model.eval()(waves).segment_logits.std())
        parameters = dict(model.named_parameters())
        for name, bias in parameters.items():
            if name.endswith(".bias") and bool((bias == START_LOGIT).all()):
                bias.zero_()
                parameters[name.removesuffix("bias") + "weight"].mul_(1 / sigma)


def noise_clip(config: FrontEndConfig) -> Tensor:
    """One clip of white noise, (1, N)."""
    return 0.1 * torch.randn(1, config.n_samples, generator=torch.Generator().manual_seed(0))


def _fastest_ms(work: Callable[[], object]) -> float:
    """Milliseconds of the fastest of some calls on one core, after one to warm up."""
    seconds = []
    with torch.inference_mode(), one_thread():
        for _ in range(REPEATS + 1):
            begin = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begin)
    return 1000 * min(seconds[1:])
