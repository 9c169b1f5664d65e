"""How what several models say becomes one: pure functions on (members, rows, classes) arrays.

A member that does not know a class, or was left out of a row because time was short, has NaN and no say there; the
others share its weight. So specialists of a few classes need nothing of their own.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

LEAST_PROBABILITY = 1e-7  # float32 knows no more about a probability near one


@dataclass(frozen=True)
class Way:
    """One way to blend: what is done to every member alone, how they are joined, and what is done to the result.

    whole  True where a member's rows of all soundscapes are needed before any can be blended
    """

    before: Callable[[np.ndarray], np.ndarray]
    join: Callable[[np.ndarray, np.ndarray], np.ndarray]
    after: Callable[[np.ndarray], np.ndarray]
    whole: bool = False


def blend(members: np.ndarray, shares: np.ndarray, how: str) -> np.ndarray:
    """Probabilities of several members (M, R, K), NaN where one does not know -> (R, K) float64, NaN where none does.

    "probabilities"     their weighted mean
    "logits"            the weighted mean of their logits: one sure member outweighs several that only suspect (2023
                        second place: better than ranks; the geometric mean of the 2024 fourth place is much the same)
    "root_mean_square"  of probabilities, which leans to the surer ones (2023 first place)
    "minimum"           what all agree to, weights but 0 do not count (2024 first place: +0.003 over the mean)
    "rank"              the mean of each class's percentile ranks over all rows, for members that are calibrated
                        differently (2026 first place: 0.8 + 0.2 of unlike families)
    "histogram"         the mean after each member got the first one's distribution of values in each class, rank by
                        rank (2026 fourteenth place)

    The last two need all rows of a submission at once. All are mean, a monotone map before and another after, or a
    minimum, so that one member alone keeps its order of rows in every class.

    shares  (M,), (M, K) or, of every row, (M, R, K) weights of members, at least 0; a share of 0 is no say

    Raises ValueError for another `how`, shares that do not fit, and where a row and class is left to nobody with a
    share although somebody knows it.

    >>> two = np.array([[[0.8], [0.2]], [[0.4], [np.nan]]])
    >>> blend(two, np.array([1.0, 3.0]), "probabilities").ravel()
    array([0.5, 0.2])
    """
    return join_prepared(prepare(members, how), shares, how)


def prepare(members: np.ndarray, how: str) -> np.ndarray:
    """The part of `blend` that does not depend on shares, (M, R, K) -> (M, R, K), for who tries many of them."""
    return _way(how).before(np.asarray(members, dtype=float))


def join_prepared(prepared: np.ndarray, shares: np.ndarray, how: str) -> np.ndarray:
    """The rest of `blend`."""
    shares = np.asarray(shares, dtype=float)
    n_members, _, n_classes = prepared.shape
    if shares.shape not in ((n_members,), (n_members, n_classes), prepared.shape) or not (shares >= 0).all():
        raise ValueError(f"shares {shares.shape} must be numbers >= 0 for {n_members} members, or for them and "
                         f"{n_classes} classes, or for every value")
    weight = np.where(np.isfinite(prepared), shares if shares.ndim == 3 else shares.reshape(n_members, 1, -1), 0.0)
    left_alone = (weight.sum(0) <= 0) & np.isfinite(prepared).any(0)
    if left_alone.any():
        row, column = np.argwhere(left_alone)[0]
        raise ValueError(f"{int(left_alone.sum())} values are known to no member with a share, the first in row {row}, "
                         f"column {column}")
    way = _way(how)
    return way.after(way.join(prepared, weight))


def needs_all_rows(how: str) -> bool:
    """True for a way of blending that needs the rows of all soundscapes before any can be blended."""
    return _way(how).whole


def logit(probabilities: np.ndarray) -> np.ndarray:
    """Logits in float64, no further from 0 than those of LEAST_PROBABILITY: a probability of 0 says no more."""
    values = np.clip(np.asarray(probabilities, dtype=float), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.log(values) - np.log1p(-values)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The inverse of `logit`."""
    return 1 / (1 + np.exp(-logits))


def percentile_ranks(members: np.ndarray) -> np.ndarray:
    """Each member's ranks in each class over the rows it knows, ties shared, as (rank - 0.5) / rows: in (0, 1).

    >>> percentile_ranks(np.array([[[0.1], [0.9], [0.9], [np.nan]]])).ravel().round(3)
    array([0.167, 0.667, 0.667,   nan])
    """
    ranks = rankdata(members, axis=1, nan_policy="omit")
    return (ranks - 0.5) / np.isfinite(members).sum(axis=1, keepdims=True).clip(1)


def match_histograms(members: np.ndarray) -> np.ndarray:
    """Each member with the values of the first one that knows the class, given out by rank.

    >>> match_histograms(np.array([[[0.1], [0.9]], [[0.8], [0.7]]])).round(2).tolist()
    [[[0.1], [0.9]], [[0.9], [0.1]]]
    """
    matched, ranks = members.copy(), percentile_ranks(members)
    known = np.isfinite(members)
    for column in range(members.shape[2]):
        whose = np.flatnonzero(known[:, :, column].any(1))
        if not len(whose):
            continue
        first = whose[0]
        values = np.sort(members[first, known[first, :, column], column])
        places = (np.arange(len(values)) + 0.5) / len(values)
        for one in whose[1:]:
            rows = known[one, :, column]
            matched[one, rows, column] = np.interp(ranks[one, rows, column], places, values)
    return matched


def _weighted_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted mean over members; NaN where nobody has a weight."""
    total = weight.sum(0)
    mean = np.full(total.shape, np.nan)
    return np.divide((np.where(weight > 0, values, 0.0) * weight).sum(0), total, out=mean, where=total > 0)


def _minimum(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The least of those with a weight; NaN where there are none."""
    least = np.where(weight > 0, values, np.inf).min(0)
    return np.where(np.isfinite(least), least, np.nan)


def _same(values: np.ndarray) -> np.ndarray:
    return values


BLENDS: dict[str, Way] = {
    "probabilities": Way(_same, _weighted_mean, _same),
    "logits": Way(logit, _weighted_mean, sigmoid),
    "root_mean_square": Way(np.square, _weighted_mean, np.sqrt),
    "minimum": Way(_same, _minimum, _same),
    "rank": Way(percentile_ranks, _weighted_mean, _same, whole=True),
    "histogram": Way(match_histograms, _weighted_mean, _same, whole=True),
}


def _way(how: str) -> Way:
    if how not in BLENDS:
        raise ValueError(f"blend = {how!r}; it must be one of {', '.join(BLENDS)}")
    return BLENDS[how]
