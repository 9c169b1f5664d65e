"""Soundscapes that fewer models heard, because time was short, made comparable with those that all of them heard."""
from __future__ import annotations

import numpy as np

from birdkit import blending


class Levels:
    """How far the whole ensemble lies above its first models, per class, in logits.

    Models differ in how sure they are in general, and a ranking over all rows of a submission would take that for a
    difference between soundscapes. So what only the first n models said is moved by the mean difference between all of
    them and those n, over the windows that all of them heard. One number per class: the order of windows among each
    other stays.

    shares  (P, K) weights of the models
    how     they are blended, a name in birdkit.blending
    least   fewer models than this are never asked
    """

    def __init__(self, shares: np.ndarray, how: str, least: int) -> None:
        self.shares = shares
        self.how = how
        self.least = least
        self._above = np.zeros(shares.shape)  # sums of differences, by the number of models - 1
        self._windows = 0

    def learn(self, apart: np.ndarray, blended: np.ndarray) -> None:
        """What all models heard in a soundscape, each alone (P, W, K) and blended (W, K)."""
        whole = blending.logit(blended)
        for n in range(self.least, len(self.shares)):
            few = blending.blend(apart[:n], self.shares[:n], self.how)
            self._above[n - 1] += np.nan_to_num(whole - blending.logit(few)).sum(0)
        self._windows += len(blended)

    def lift(self, blended: np.ndarray, n: int) -> np.ndarray:
        """What the first n models said together, (W, K), as far up or down as all of them lie from those."""
        above = self._above[n - 1] / max(self._windows, 1)
        return blending.sigmoid(blending.logit(blended) + above)
