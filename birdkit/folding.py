"""Fold a spectrogram into an image and back: exact inverses on the last two axes, for numpy arrays and torch tensors.

A spectrogram is long and flat, a backbone wants a square. Folding cuts time into strips of equal length and stacks
them, the earliest on top (HTS-AT, Chen et al. 2022, arXiv:2202.00874; second seed, BirdCLEF 2025). Unfolding lays the
rows of a feature map out along time again, before anything is pooled.
"""
from __future__ import annotations

from typing import TypeVar

Array = TypeVar("Array")


def fold(spectrogram: Array, strips: int) -> Array:
    """Stack `strips` consecutive pieces of time on top of each other, the earliest on top.

    Shape: (..., F, T) -> (..., strips * F, T / strips). Raises ValueError where `strips` does not divide T.

    >>> import numpy as np
    >>> fold(np.arange(8).reshape(1, 8), 2)
    array([[0, 1, 2, 3],
           [4, 5, 6, 7]])
    """
    *lead, bands, frames = spectrogram.shape  # type: ignore[attr-defined]
    if strips < 1 or frames % strips:
        raise ValueError(f"{frames} frames cannot be cut into {strips} strips of equal length")
    pieces = spectrogram.reshape(*lead, bands, strips, frames // strips)  # type: ignore[attr-defined]
    return pieces.swapaxes(-3, -2).reshape(*lead, strips * bands, frames // strips)


def unfold(image: Array, strips: int) -> Array:
    """The exact inverse of `fold`; also for feature maps, whose rows are `strips` blocks.

    Shape: (..., strips * F, T / strips) -> (..., F, T). Raises ValueError where `strips` does not divide the rows.

    >>> import numpy as np
    >>> unfold(np.array([[0, 1], [2, 3], [4, 5], [6, 7]]), 2)
    array([[0, 1, 4, 5],
           [2, 3, 6, 7]])
    """
    *lead, rows, columns = image.shape  # type: ignore[attr-defined]
    if strips < 1 or rows % strips:
        raise ValueError(f"{rows} rows are not {strips} strips of equal height")
    pieces = image.reshape(*lead, strips, rows // strips, columns)  # type: ignore[attr-defined]
    return pieces.swapaxes(-3, -2).reshape(*lead, rows // strips, strips * columns)
