"""How sure a score is, and a difference: whole files are drawn anew, never windows."""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from birdkit.metrics.hosts import metric_of
from birdkit.metrics.tables import checked

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
    value = metric_of(metric)(truth, probabilities)
    draws = bootstrap_draws(truth, [probabilities], groups, metric=metric, n_draws=n_draws, seed=seed)[0]
    return percentile_interval(value, draws, level)


def bootstrap_difference(truth: np.ndarray, probabilities: np.ndarray, baseline: np.ndarray,
                         groups: Sequence[Hashable] | np.ndarray, *, metric: str = "macro_roc_auc",
                         n_draws: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """The metric of `probabilities` minus that of `baseline`, both scored on the same draws of whole groups.

    An interval that holds 0 says that the truth is too small to tell the two apart. Arguments and errors as
    `bootstrap_interval`.
    """
    value = metric_of(metric)(truth, probabilities) - metric_of(metric)(truth, baseline)
    new, old = bootstrap_draws(truth, [probabilities, baseline], groups, metric=metric, n_draws=n_draws, seed=seed)
    return percentile_interval(value, new - old, level)


def bootstrap_draws(truth: np.ndarray, systems: Sequence[np.ndarray], groups: Sequence[Hashable] | np.ndarray, *,
                    metric: str, n_draws: int, seed: int) -> np.ndarray:
    """The metric of each system on the same draws of groups, (systems, draws); NaN where a draw cannot be scored.

    systems  probabilities (R, K) each; decisions where the metric judges those

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
    scored = metric_of(metric)
    tables = [checked(truth, probabilities, decisions=scored.on_decisions) for probabilities in systems]
    values = np.full((len(systems), n_draws), np.nan)
    step = max(1, _CHUNK // len(truth))
    for start in range(0, n_draws, step):
        weight = counts[start:start + step, group_of_row].T.astype(float)  # (R, D)
        for s, (labels, said) in enumerate(tables):
            values[s, start:start + step] = scored.weighted(labels, said, weight)
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
