"""Whether all rows that a network gives to a soundscape are one: how far apart they lie, measured in logits.

Equal images do not get equal numbers to the last bit: a batch is worked off in blocks that round differently, and
overlapping clips are averaged with weights that do not quite sum to one. So nothing here asks for equality.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# How far apart arithmetic alone moves equal rows: with f32 by some 1e-7, with bf16, which has 8 bits, by 2^-8 = 4e-3.
# What unlike sounds do is far above: in the labels that teachers of the recipe `small` gave to 47 real soundscapes no
# file had a spread below 0.3, and a network that had learnt next to nothing still had 5e-4.
TOLERANCE = {"f32": 1e-4, "f16": 1e-4, "int8": 1e-4, "bf16": 1e-2}
EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Spread:
    """How far apart lies what a predictor says of the parts of a soundscape (`logit_spread`); NaN where there is one.

    clips      its outputs for all clips
    windows    the probabilities that it makes of them for all windows, before any post-processing
    tolerance  up to which rows are equal, at the precision it computes with
    """

    clips: float
    windows: float
    tolerance: float = TOLERANCE["f32"]

    @classmethod
    def of(cls, clips: Sequence[np.ndarray], windows: np.ndarray, *, precision: str) -> Spread:
        """Of a predictor's logits of clips, each (B, ...), and its probabilities of windows, (W, K).

        precision  one of birdkit.backends.PRECISIONS
        """
        return cls(max(map(logit_spread, clips)), spread_of_probabilities(windows), TOLERANCE[precision])

    @property
    def clips_are_one(self) -> bool:
        """Whether all clips have the same output."""
        return self.clips <= self.tolerance

    @property
    def windows_are_one(self) -> bool:
        """Whether all windows have the same probabilities."""
        return self.windows <= self.tolerance


def logit_spread(logits: np.ndarray) -> float:
    """How far rows of logits lie apart, (R, ...): the largest difference in any column, as a share of its size from 1
    on. NaN for fewer than two rows.

    >>> logit_spread(np.array([[0.5, 10.0], [0.5, 11.0]])).round(3)
    np.float64(0.091)
    """
    if len(logits) < 2:
        return float("nan")
    low, high = logits.min(axis=0), logits.max(axis=0)
    return ((high - low) / np.maximum(1, np.maximum(high, -low))).max()


def spread_of_probabilities(probabilities: np.ndarray) -> float:
    """The same of probabilities in [0, 1], (R, K), as far as float32 can tell them apart.

    A difference of p is one of p (1 - p) in logits, and near 1 float32 has few numbers left: one step counts nothing.

    >>> spread_of_probabilities(np.array([[0.5, 1.0], [0.525, 1.0]])).round(3)
    np.float64(0.1)
    """
    if len(probabilities) < 2:
        return float("nan")
    low, high = (edge.astype(float) for edge in (probabilities.min(axis=0), probabilities.max(axis=0)))
    middle = np.clip((low + high) / 2, 1e-30, 1 - EPS / 2)
    size = np.maximum(1, np.abs(np.log(middle) - np.log1p(-middle)))
    return (np.maximum(high - low - 2 * EPS * high, 0) / (middle * (1 - middle) * size)).max()
