"""Batches for the tests of augmentations: tones, clicks and noise with labels one can follow."""
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations import AUGMENTATIONS, Augmentation
from birdkit.batch import Batch

RATE_HZ = 32_000
N = 8000
CLICK = 100  # the sample that clicks


def build(name: str, **options: Any) -> Augmentation:
    return AUGMENTATIONS.build(name, **{"p": 1.0} | options)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def noisy(*shape: int, seed: int = 0) -> Batch:
    """A batch of noise of this shape, without a background."""
    g = seeded(seed)
    return Batch(torch.randn(shape, generator=g) * 0.1, torch.rand(shape[0], 5, generator=g), torch.ones(shape[0]))


def waves(signal: Tensor, background: Tensor | None = None, source: str = "soundscapes") -> Batch:
    """A batch whose example i carries label i alone and weighs i + 1; the background's labels are in reverse."""
    n = len(signal)
    sources = {}
    if background is not None:
        sources[source] = Batch(background, torch.eye(n).flip(0), torch.full((n,), 3.0))
    return Batch(signal, torch.eye(n), torch.arange(1.0, n + 1), sources=sources)


def tones(n: int, first_hz: float = 1000.0) -> Tensor:
    """n waves, each a tone of its own frequency (all whole periods) and its own amplitude."""
    time_s = torch.arange(N) / RATE_HZ
    frequency = first_hz + 400.0 * torch.arange(n)[:, None]
    return (0.1 * (1 + torch.arange(n)))[:, None] * torch.sin(2 * math.pi * frequency * time_s)


def amplitudes(signal: Tensor, n: int, first_hz: float = 1000.0) -> Tensor:
    """Amplitude of each of the n tones in each wave, (B, n)."""
    bins = ((first_hz + 400.0 * torch.arange(n)) * N / RATE_HZ).round().long()
    return torch.fft.rfft(signal).abs()[:, bins] * 2 / N


def click(n: int = 1, n_samples: int = N) -> Tensor:
    """n waves, silent but for one sample."""
    signal = torch.zeros(n, n_samples)
    signal[:, CLICK] = 1
    return signal
