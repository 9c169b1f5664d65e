"""Random numbers for augmentations, always from the CPU generator that is passed in."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor


def check_range(what: str, low: float, high: float, *, least: float = -float("inf"),
                most: float = float("inf")) -> None:
    """Raise ValueError unless least <= low <= high <= most.

    >>> check_range("snr_db", 20.0, 3.0)
    Traceback (most recent call last):
    ValueError: snr_db: 20.0 to 3.0 is not a range
    """
    if not low <= high:
        raise ValueError(f"{what}: {low} to {high} is not a range")
    if not least <= low <= high <= most:
        raise ValueError(f"{what}: {low} to {high} is not within {least:g} to {most:g}")


def check_counts(counts: Sequence[int]) -> None:
    """Raise ValueError unless these are whole numbers >= 0, one at least."""
    if not counts or any(type(count) is not int or count < 0 for count in counts):
        raise ValueError(f"counts = {counts} must be a list of whole numbers >= 0")


def uniform(n: int, low: float, high: float, *, generator: Generator) -> Tensor:
    """(n,) numbers, uniform from `low` to `high`."""
    return low + (high - low) * torch.rand(n, generator=generator)


def integer(high: int, *, generator: Generator) -> int:
    """One whole number from 0 to high - 1."""
    return int(torch.randint(high, (1,), generator=generator))


def beta(n: int, alpha: float, *, generator: Generator) -> Tensor:
    """(n,) numbers from Beta(alpha, alpha).

    torch offers no beta distribution that takes a generator, so numpy draws from a seed that the generator gives.
    """
    rng = np.random.default_rng(integer(2**31, generator=generator))
    return torch.as_tensor(rng.beta(alpha, alpha, n), dtype=torch.float32)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) on the device of `like` (B, ...), shaped to multiply it."""
    return values.to(like.device).view(-1, *[1] * (like.ndim - 1))
