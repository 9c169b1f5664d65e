"""The hosts' metrics, per class and with confidence intervals. For scoring only: nothing here chooses a threshold."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

Metric = Callable[[np.ndarray, np.ndarray], float]

# Draws of the bootstrap are taken in chunks of about this many numbers: small enough for the processor's cache.
_CHUNK = 500_000


@dataclass(frozen=True)
class Interval:
    """A value and the percentile interval of its bootstrap draws."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def macro_roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean one-vs-rest ROC-AUC over the classes that can be ranked (BirdCLEF 2024 to 2026).

    The hosts leave classes without a positive row out and take scikit-learn's macro average of the rest; ties count
    half. A class without a *negative* row cannot be ranked either: the hosts' code fails on it and their truths hold
    none, so here it is left out too, and shows as NaN in `per_class_roc_auc`.

    truth          (R, K) of 0 and 1
    probabilities  (R, K), finite, any scale: only the order within a column counts

    Raises ValueError on shapes that differ, truth that is not 0 or 1, numbers that are not finite, and where no class
    can be ranked.

    >>> macro_roc_auc(np.array([[1, 0], [0, 0], [0, 0]]), np.array([[.5, .1], [.2, .9], [.6, .3]]))
    0.5
    """
    return _mean_of_scored(per_class_roc_auc(truth, probabilities))


def macro_average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean average precision over the classes with a positive row. Shapes and errors as `macro_roc_auc`.

    >>> macro_average_precision(np.array([[1, 0], [0, 0], [0, 0]]), np.array([[.5, .1], [.2, .9], [.6, .3]]))
    0.5
    """
    return _mean_of_scored(per_class_average_precision(truth, probabilities))


def padded_cmap(truth: np.ndarray, probabilities: np.ndarray, *, padding: int = 5) -> float:
    """The class mean of average precision with `padding` rows of ones put under both tables (BirdCLEF 2023).

    The padding gives every class some positives, so that all classes count. Errors as `macro_roc_auc`.

    >>> padded_cmap(np.array([[0], [0]]), np.array([[.3], [.2]]))
    1.0
    """
    truth, probabilities = _checked(truth, probabilities)
    ones = np.ones((padding, truth.shape[1]))
    return macro_average_precision(np.concatenate([truth, ones]), np.concatenate([probabilities, ones]))


METRICS: dict[str, Metric] = {
    "macro_roc_auc": macro_roc_auc,
    "macro_average_precision": macro_average_precision,
    "padded_cmap": padded_cmap,
}


def per_class_roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The one-vs-rest ROC-AUC of each class, (K,); NaN where a class has no positive or no negative row.

    >>> per_class_roc_auc(np.array([[1, 0], [0, 0], [0, 0]]), np.array([[.5, .1], [.2, .9], [.6, .3]]))
    array([0.5, nan])
    """
    truth, probabilities = _checked(truth, probabilities)
    return _weighted_roc_auc(truth, probabilities, np.ones((len(truth), 1)))[0]


def per_class_average_precision(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The average precision of each class, (K,), as scikit-learn defines it; NaN where a class has no positive row."""
    truth, probabilities = _checked(truth, probabilities)
    values = [average_precision_score(truth[:, k], probabilities[:, k]) if truth[:, k].any() else np.nan
              for k in range(truth.shape[1])]
    return np.array(values, dtype=float)


def bootstrap_interval(truth: np.ndarray, probabilities: np.ndarray, groups: Sequence[Hashable] | np.ndarray, *,
                       metric: str = "macro_roc_auc", n_draws: int = 1000, seed: int = 0,
                       level: float = 0.95) -> Interval:
    """The metric with a percentile interval, from drawing whole groups with replacement.

    The windows of one file are alike, so a file is drawn or not, never a window. A draw scores the classes it can.
    Two systems are compared by `bootstrap_difference`: their intervals may overlap and the difference still be sure.

    groups  (R,) the file that each row belongs to
    level   share of the draws inside the interval, in (0, 1)

    Raises KeyError for an unknown metric, ValueError as `macro_roc_auc` and where groups has another length.
    """
    value = _metric(metric)(truth, probabilities)
    draws = bootstrap_draws(truth, [probabilities], groups, metric=metric, n_draws=n_draws, seed=seed)[0]
    return percentile_interval(value, draws, level)


def bootstrap_difference(truth: np.ndarray, probabilities: np.ndarray, baseline: np.ndarray,
                         groups: Sequence[Hashable] | np.ndarray, *, metric: str = "macro_roc_auc",
                         n_draws: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """The metric of `probabilities` minus that of `baseline`, both scored on the same draws of whole groups.

    An interval that holds 0 says that the truth is too small to tell the two apart. Arguments and errors as
    `bootstrap_interval`.
    """
    value = _metric(metric)(truth, probabilities) - _metric(metric)(truth, baseline)
    new, old = bootstrap_draws(truth, [probabilities, baseline], groups, metric=metric, n_draws=n_draws, seed=seed)
    return percentile_interval(value, new - old, level)


def bootstrap_draws(truth: np.ndarray, systems: Sequence[np.ndarray], groups: Sequence[Hashable] | np.ndarray, *,
                    metric: str, n_draws: int, seed: int) -> np.ndarray:
    """The metric of each system on the same draws of groups, (systems, draws); NaN where a draw cannot be scored.

    systems  probabilities (R, K) each

    Raises KeyError for an unknown metric, ValueError as `macro_roc_auc`, where groups has another length, or for
    n_draws < 1.
    """
    if len(groups) != len(truth):
        raise ValueError(f"{len(groups)} groups for {len(truth)} rows")
    if n_draws < 1:
        raise ValueError(f"n_draws = {n_draws} must be at least 1")
    codes: dict[Hashable, int] = {}
    group_of_row = np.array([codes.setdefault(group, len(codes)) for group in groups])
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=n_draws)  # (D, G)
    checked = [_checked(truth, probabilities) for probabilities in systems]
    values = np.full((len(systems), n_draws), np.nan)
    if metric == "macro_roc_auc":
        step = max(1, _CHUNK // len(truth))
        for start in range(0, n_draws, step):
            weight = counts[start:start + step, group_of_row].T.astype(float)  # (R, D)
            for s, (labels, probabilities) in enumerate(checked):
                values[s, start:start + step] = _nan_mean(_weighted_roc_auc(labels, probabilities, weight))
        return values
    for d in range(n_draws):
        rows = np.repeat(np.arange(len(truth)), counts[d, group_of_row])
        for s, (labels, probabilities) in enumerate(checked):
            if labels[rows].any():
                values[s, d] = _metric(metric)(labels[rows], probabilities[rows])
    return values


def percentile_interval(value: float, draws: np.ndarray, level: float) -> Interval:
    """`value` with the central `level` of the draws that could be scored.

    Raises ValueError for a level outside (0, 1), or where none could be scored.
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level} is not in (0, 1)")
    scored = draws[np.isfinite(draws)]
    if not len(scored):
        raise ValueError(f"none of {len(draws)} draws holds a class with positive and negative rows")
    low, high = np.quantile(scored, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def _checked(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both tables as arrays (R, K), or ValueError saying what is wrong with them."""
    truth, probabilities = np.asarray(truth), np.asarray(probabilities)
    if truth.ndim != 2 or truth.shape != probabilities.shape or not truth.size:
        raise ValueError(f"truth {truth.shape} and probabilities {probabilities.shape} must be equal (rows, classes)")
    for name, values in (("truth", truth), ("probabilities", probabilities)):
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{name} must be numbers, not {values.dtype}")
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(f"{name} hold {int(bad.sum())} numbers that are not finite, "
                             f"the first {values[row, column]} in row {row}, column {column}")
    other = (truth != 0) & (truth != 1)
    if other.any():
        row, column = np.argwhere(other)[0]
        raise ValueError(f"truth must be 0 or 1, not {truth[row, column]} in row {row}, column {column}")
    return truth.astype(bool), probabilities


def _weighted_roc_auc(truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The ROC-AUC of each class under each column of row weights (R, D) -> (D, K).

    The share of (positive, negative) pairs in the right order, each pair counted w_p * w_n times and ties half: one
    sort of the negatives, then a running sum of their weights tells how many lie below each positive.
    """
    values = np.full((weight.shape[1], truth.shape[1]), np.nan)
    for k in range(truth.shape[1]):
        positive, negative = np.flatnonzero(truth[:, k]), np.flatnonzero(~truth[:, k])
        if not len(positive) or not len(negative):
            continue
        negative = negative[np.argsort(probabilities[negative, k], kind="stable")]
        ranked, asked = probabilities[negative, k], probabilities[positive, k]
        below, upto = np.searchsorted(ranked, asked, side="left"), np.searchsorted(ranked, asked, side="right")
        running = np.zeros((len(negative) + 1, weight.shape[1]))
        np.cumsum(weight[negative], axis=0, out=running[1:])
        pairs = weight[positive].sum(0) * running[-1]
        right = (weight[positive] * (running[below] + running[upto])).sum(0) / 2
        np.divide(right, pairs, out=values[:, k], where=pairs > 0)
    return values


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise KeyError(f"no metric named {name!r}; there is: {', '.join(sorted(METRICS))}")
    return METRICS[name]


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not NaN; NaN where nothing is left."""
    known = np.isfinite(values)
    mean = np.full(values.shape[:-1], np.nan)
    return np.divide(np.where(known, values, 0).sum(-1), known.sum(-1), out=mean, where=known.any(-1))


def _mean_of_scored(values: np.ndarray) -> float:
    if not np.isfinite(values).any():
        raise ValueError(f"none of {len(values)} classes has both a positive and a negative row: nothing to score")
    return float(np.nanmean(values))
