"""A predictor that hears nothing but how loud each moment is: what it says can be worked out in one's head."""
from __future__ import annotations

from collections.abc import Callable

import torch

from birdkit.config import FrontEndConfig, ModelConfig, RunConfig
from birdkit.folding import unfold
from birdkit.frontend import FrontEnd
from birdkit.inference import Predictor
from birdkit.output import SEDOutput
from birdkit.settings import replace

CLIP_S = 4.0
SEGMENTS = 16  # of a quarter of a second


def loudness_run(**changes: object) -> RunConfig:
    """Clips of 4 s whose images keep their level: nothing in one moment changes another."""
    frontend = FrontEndConfig(clip_s=CLIP_S, hop_samples=1000, n_mels=64, level="none", scaling="none", floor=1e-6)
    return replace(RunConfig(frontend=frontend, model=ModelConfig(backbone="resnet10t", hidden=32)),
                   **{f"inference__{name}": value for name, value in changes.items()})


def loudness(classes: tuple[str, ...] = ("loud",), *, above: float = 0.0,
             before: Callable[[int], None] | None = None, name: str = "", **changes: object) -> Predictor:
    """The predictor: a segment's logit is its level in decibels / 10 + `above`, attention is even.

    before  called with the number of images each time that the network is
    """
    run = replace(loudness_run(**changes), name=name or "loudness")
    frontend = FrontEnd(run.frontend)

    def classify(images: torch.Tensor) -> SEDOutput:
        if before is not None:
            before(len(images))
        bands = unfold(images, run.frontend.strips)[:, 0]  # (B, F, T)
        level = bands.mean(1).unflatten(1, (SEGMENTS, -1)).mean(2) / 10 + above  # (B, S)
        logits = level[..., None].repeat(1, 1, len(classes))
        return SEDOutput(logits.mean(1), logits, torch.full_like(logits, 1 / SEGMENTS))

    return Predictor(frontend, classify, config=run, classes=classes, n_segments=SEGMENTS, source=name)
