"""Sounds one can hear in one's head, and a small geometry in which a test takes a moment."""
import numpy as np
import pytest
import torch

from birdkit.config import FrontEndConfig, ModelConfig, RunConfig

RATE = 32_000


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@pytest.fixture
def small_frontend() -> FrontEndConfig:
    """4 s * 32,000 Hz / 1000 = 128 frames; 2 strips of 64 mels: an image of 128 x 64."""
    return FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64)


@pytest.fixture
def small_run(small_frontend: FrontEndConfig) -> RunConfig:
    return RunConfig(frontend=small_frontend, model=ModelConfig(backbone="resnet10t", hidden=32))


def tone(frequency_hz: float, seconds: float, *, amplitude: float = 0.5) -> np.ndarray:
    """A steady tone, (N,) float32."""
    t = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32)


def click(at_s: float, seconds: float) -> np.ndarray:
    """Faint noise with one loud click, (N,) float32."""
    wave = noise(seconds, amplitude=1e-3)
    wave[round(at_s * RATE)] += 0.9
    return wave


def noise(seconds: float, *, amplitude: float = 0.1, seed: int = 0) -> np.ndarray:
    """White noise, (N,) float32."""
    return (amplitude * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)
