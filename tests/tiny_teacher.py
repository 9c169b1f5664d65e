"""Teachers that take a moment: checkpoints trained on nothing, whose logits are spread."""
from collections.abc import Sequence
from pathlib import Path

import torch

from birdkit import checkpoint
from birdkit.config import FrontEndConfig, ModelConfig, RunConfig
from birdkit.models import build_model

CLASSES = ("ant", "bee", "cat")


def tiny_run(*, clip_s: float = 2.0) -> RunConfig:
    """A run config with images of 32 mels."""
    return RunConfig(frontend=FrontEndConfig(clip_s=clip_s, hop_samples=1000, n_mels=32, strips=1),
                     model=ModelConfig(backbone="test_resnet", hidden=16))


def teacher(path: Path, run: RunConfig, *, seed: int = 0, seen: Sequence[str] = (), content: Sequence[str] = (),
            pseudo: Sequence[str] = (), classes: Sequence[str] = CLASSES, shift: float = 0.0) -> Path:
    """A checkpoint whose logits are spread, and moved by `shift`, trained on nothing."""
    torch.manual_seed(seed)
    model = build_model(run.model, run.frontend, len(classes)).train()
    with torch.no_grad():
        model.head.classifier.weight.mul_(10)  # type: ignore[union-attr, operator]
        model.head.classifier.bias.add_(shift)  # type: ignore[union-attr, operator]
        model(torch.randn(4, run.frontend.n_samples))
    checkpoint.save(path, model.eval(), config=run, classes=classes, table_hash="t", seen=seen, seen_content=content,
                    pseudo=pseudo)
    return path
