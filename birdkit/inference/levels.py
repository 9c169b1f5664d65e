"""Soundscapes that fewer models heard, because time was short, made comparable with those that all of them heard."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from birdkit import blending


class Levels:
    """How far the whole ensemble lies above some of its predictors, per class, in logits.

    Models differ in how sure they are in general, and a ranking over all rows of a submission would take that for a
    difference between soundscapes. So what only some predictors said is moved by the mean difference between all of
    them and those, over the windows that all of them heard. One number per class: the order of windows among each
    other stays.

    shares  (P, K) weights of the predictors
    how     they are blended, a name in birdkit.blending
    models  of each predictor, the number of the model whose scale it is
    fewer   the places of those that may be asked instead of all, as birdkit.pace.plans has them
    """

    def __init__(self, shares: np.ndarray, how: str, models: Sequence[int], fewer: Iterable[tuple[int, ...]]) -> None:
        self.shares = shares
        self.how = how
        self.models = models
        self._above = {used: np.zeros(shares.shape[1]) for used in fewer}  # sums of differences
        self._windows = 0

    def learn(self, apart: np.ndarray, blended: np.ndarray) -> None:
        """What all models heard in a soundscape, each alone (P, W, K) and blended (W, K)."""
        whole = blending.logit(blended)
        for used in self._above:
            asked = list(used)
            few = blending.blend(apart[asked], shares_of(self.shares, self.models, used)[asked], self.how)
            self._above[used] += np.nan_to_num(whole - blending.logit(few)).sum(0)
        self._windows += len(blended)

    def lift(self, blended: np.ndarray, used: tuple[int, ...]) -> np.ndarray:
        """What those said together, (W, K), as far up or down as all of them lie from those."""
        above = self._above[used] / max(self._windows, 1)
        return blending.sigmoid(blending.logit(blended) + above)


def shares_of(shares: np.ndarray, models: Sequence[int], used: Sequence[int]) -> np.ndarray:
    """The weights of predictors (P, K) where only those in `used` are asked: a model weighs as much as ever, for the
    first of its scales that is asked has the weight of those that are not.

    >>> shares_of(np.array([[1.0], [1.0], [3.0], [3.0]]), [0, 0, 1, 2], [0, 2]).ravel()
    array([2., 0., 3., 0.])
    """
    first = {models[index]: index for index in reversed(used)}
    moved = np.zeros_like(shares)
    for index, model in enumerate(models):
        if model in first:
            moved[index if index in used else first[model]] += shares[index]
    return moved
