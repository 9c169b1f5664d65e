"""How far teachers agree, counted file by file in sums whose size does not depend on how much they have heard."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from birdkit.pseudolabel.table import SURE

SUMS = 8  # per pair of teachers: cells, sums of x, y, xx, yy and xy, cells that both label, cells that either labels


class Agreement:
    """Sums over the cells (window, class) that several teachers heard. `of` counts a file, `add` adds it up.

    n_teachers  T
    n_classes   K

    >>> both = Agreement(2, 1)
    >>> both.add(both.of(np.array([[[0.9], [0.1], [0.2]], [[0.8], [0.6], [0.1]]]), [0, 1]))
    >>> both.same_labels()[0, 1], both.per_class()
    (np.float64(0.5), array([0.5]))
    """

    def __init__(self, n_teachers: int, n_classes: int) -> None:
        self.pairs = np.zeros((n_teachers, n_teachers, SUMS))
        self.labels = np.zeros((2, n_classes))  # windows in which any teacher labels the class, and in which all do

    def of(self, values: np.ndarray, members: Sequence[int]) -> np.ndarray:
        """The sums of one file, flat; empty where fewer than two teachers heard it.

        values   (M, W, K) probabilities of the `members` among the teachers, NaN in classes that one does not know
        """
        if len(members) < 2:
            return np.zeros(0)
        pairs, known = np.zeros_like(self.pairs), ~np.isnan(values)
        sure = np.nan_to_num(values) >= SURE
        for i, first in enumerate(members):
            for j, second in enumerate(members):
                cells = known[i] & known[j]
                x, y = (values[index][cells].astype(float) for index in (i, j))
                pairs[first, second] = (len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y,
                                        (sure[i] & sure[j])[cells].sum(), (sure[i] | sure[j])[cells].sum())
        shared = known.sum(0) > 1
        labels = np.stack([(sure.any(0) & shared).sum(0), ((sure | ~known).all(0) & shared).sum(0)])
        return np.concatenate([pairs.ravel(), labels.ravel()])

    def add(self, sums: np.ndarray) -> None:
        """Add what `of` counted in a file."""
        if sums.size:
            self.pairs += sums[:self.pairs.size].reshape(self.pairs.shape)
            self.labels += sums[self.pairs.size:].reshape(self.labels.shape)

    def correlation(self) -> np.ndarray:
        """Pearson's correlation of the probabilities of each two teachers, (T, T); NaN where they met in no cell."""
        n, x, y, xx, yy, xy = np.moveaxis(self.pairs[..., :6], 2, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))

    def same_labels(self) -> np.ndarray:
        """Of the cells that either of two teachers labels, the share that both label, (T, T); NaN for none."""
        with np.errstate(invalid="ignore"):
            return self.pairs[..., 6] / self.pairs[..., 7]

    def per_class(self) -> np.ndarray:
        """Of the windows in which any teacher labels a class, the share in which all do that know it, (K,)."""
        with np.errstate(invalid="ignore"):
            return self.labels[1] / self.labels[0]

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """What a table's provenance remembers of it, None where there is no number."""
        per_class = dict(zip(classes, self.per_class().tolist(), strict=True))
        return {"correlation": _as_lists(self.correlation()), "same_labels": _as_lists(self.same_labels()),
                "per_class": {name: round(value, 4) for name, value in per_class.items() if not np.isnan(value)}}


def _as_lists(matrix: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in matrix]
