"""Which of several runs is better, and whether that can be known: differences over the same files, and over seeds.

Pure arithmetic on probabilities: what is trained, and how, is the business of birdkit.experiments. A score differs from
run to run for two reasons that have nothing to do with the setting under test: which files happen to validate, and the
seed. Both are drawn anew here, the files for all runs together (a hard file is hard for all of them, so differences
are surer than scores), the seeds for each run by itself.
"""
from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from birdkit.metrics.bootstrap import Interval, bootstrap_draws, bootstrap_interval, percentile_interval
from birdkit.metrics.hosts import METRICS

BETTER, WORSE, LEVEL_PEGGING, ONE_SEED = "better", "worse", "not significant", "unknown (one seed)"


@dataclass(frozen=True)
class Validated:
    """What one trained model says of the validation of its split.

    truth          (R, K) of 0 and 1
    probabilities  (R, K)
    groups         (R,) the file of each row
    classes        names of the K classes
    metric         a name in birdkit.metrics.METRICS
    origin         what was trained, as JSON has it
    decisions      (R, K) bool, what was made of the probabilities, for a metric that judges decisions; None for others
    """

    truth: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]
    metric: str
    origin: dict[str, Any] = field(default_factory=dict)
    decisions: np.ndarray | None = None

    def save(self, path: Path | str) -> None:
        """Write an npz file, by way of a temporary one: it is there whole or not at all."""
        partial = Path(path).with_suffix(".partial.npz")
        tables: dict[str, Any] = {} if self.decisions is None else {"decisions": self.decisions}
        np.savez_compressed(partial, truth=self.truth.astype(np.uint8), probabilities=self.probabilities,
                            groups=self.groups, classes=np.array(self.classes), metric=np.array(self.metric),
                            origin=np.array(json.dumps(self.origin)), **tables)
        partial.replace(path)

    @classmethod
    def read(cls, path: Path | str) -> Validated:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["truth"], file["probabilities"], file["groups"], tuple(file["classes"].tolist()),
                       str(file["metric"]), json.loads(str(file["origin"])),
                       file.get("decisions"))

    @property
    def judged(self) -> np.ndarray:
        """What the metric judges, (R, K): the decisions where there are any, else the probabilities."""
        return self.probabilities if self.decisions is None else self.decisions

    @property
    def score(self) -> float:
        """The metric."""
        return METRICS[self.metric](self.truth, self.judged)

    def interval(self) -> Interval:
        """The metric with its bootstrap interval over files."""
        return bootstrap_interval(self.truth, self.judged, self.groups, metric=self.metric)


@dataclass(frozen=True)
class Row:
    """One run of a comparison; what concerns the difference to the baseline is NaN or None where there is none.

    score       mean over splits of the mean over seeds
    trainings   the score of every training, by (split, seed)
    difference  score minus the baseline's, over the splits that both have
    above       share of the draws in which the difference is above 0
    p           two-sided: twice the share of the draws on the other side of 0
    p_holm      the same, adjusted by Holm (1979) for as many comparisons as were made
    floor       the smallest difference that so many seeds can show
    verdict     in words, from the interval and the floor
    verdict_holm  in words, from the adjusted p and the floor
    """

    run: str
    score: Interval
    trainings: Mapping[tuple[int, int], float]
    difference: Interval | None = None
    above: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    floor: float = math.nan
    verdict: str = ""
    verdict_holm: str = ""


@dataclass(frozen=True)
class Comparison:
    """Runs against a baseline.

    rows         in the order they were given
    metric       name of the metric
    baseline_sd  standard deviation between the seeds of the baseline, NaN with one seed
    pooled_sd    the same, pooled over all runs and splits
    floor        the noise floor: the smallest difference that a second run like the baseline could show
    comparisons  how many were made; of twenty between equals one is "significant"
    level        share of draws inside the intervals
    """

    baseline: str
    rows: tuple[Row, ...]
    metric: str
    baseline_sd: float
    pooled_sd: float
    floor: float
    comparisons: int
    level: float


Trainings = Mapping[tuple[int, int], Validated]  # by (split, seed)


def compare(runs: Mapping[str, Trainings], baseline: str, *, n_draws: int = 2000, seed: int = 0,
            level: float = 0.95) -> Comparison:
    """Score every run and its difference to the baseline by a bootstrap over files and seeds.

    A draw takes the files of each split with replacement, the same for all runs, and within each run and split its
    seeds with replacement. The mean of n resampled seeds spreads too little, by n - 1 in n; its deviation is scaled
    up by sqrt(n / (n - 1)) (Rao and Wu 1988). With one seed nothing is known of its noise but what others show.

    The floor of a difference is t * sd * sqrt(1/n + 1/m) for n and m seeds, the standard deviation between seeds
    pooled over all runs (a setting moves the mean more than the spread), t the quantile of Student's distribution for
    the trainings it was estimated from (1.96 for very many). "better" and "worse" ask for an interval without 0 and a
    difference beyond the floor. A baseline without trainings leaves scores alone.

    runs      by name, each with its predictions by (split, seed); a split needs no seed of every run

    Raises ValueError where a run has no training, or two trainings of a split were not validated on the same rows.
    """
    empty = [name for name, trainings in runs.items() if not trainings]
    if empty or not runs:
        raise ValueError(f"nothing to compare: no trainings of {', '.join(empty) or 'any run'}")
    tables = _by_split(runs)
    metric = next(iter(next(iter(runs.values())).values())).metric
    means = _draw(tables, runs, metric, n_draws, seed)
    scores = {name: {split: np.array([one.score for one in tables[split][name].values()]) for split in own}
              for name, own in means.items()}
    pooled_sd, freedom = _pooled_deviation([values for own in scores.values() for values in own.values()])
    quantile = float(stats.t.ppf((1 + level) / 2, freedom)) if freedom else math.nan

    rows = []
    for name, trainings in runs.items():
        value = float(np.mean([values.mean() for values in scores[name].values()]))
        draws = np.mean(list(means[name].values()), 0)
        row: dict[str, Any] = {"run": name, "score": percentile_interval(value, draws, level),
                               "trainings": {key: one.score for key, one in sorted(trainings.items())}}
        shared = sorted(set(means[name]) & set(means.get(baseline, {})))
        if name != baseline and shared:
            value = float(np.mean([scores[name][k].mean() - scores[baseline][k].mean() for k in shared]))
            draws = np.mean([means[name][k] - means[baseline][k] for k in shared], 0)
            row |= _difference(value, draws, level)
            row["floor"] = quantile * pooled_sd * math.sqrt(_share_of_variance(scores[name], shared)
                                                            + _share_of_variance(scores[baseline], shared))
        rows.append(row)
    _judge(rows, 1 - level)
    floor = math.nan
    if baseline in scores:
        floor = quantile * pooled_sd * math.sqrt(2 * _share_of_variance(scores[baseline], sorted(scores[baseline])))
    return Comparison(baseline, tuple(Row(**row) for row in rows), metric,
                      _pooled_deviation(list(scores.get(baseline, {}).values()))[0], pooled_sd, floor,
                      sum("difference" in row for row in rows), level)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979): a bound on the chance of one false finding among all.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]


def _by_split(runs: Mapping[str, Trainings]) -> dict[int, dict[str, dict[int, Validated]]]:
    """Validated by split, run and seed; ValueError unless all of a split answer the same questions."""
    tables: dict[int, dict[str, dict[int, Validated]]] = {}
    first: dict[int, tuple[str, Validated]] = {}
    for name, trainings in runs.items():
        for (split, seed), one in sorted(trainings.items()):
            other, exam = first.setdefault(split, (name, one))
            same = one.metric == exam.metric and one.classes == exam.classes
            if not (same and np.array_equal(one.truth, exam.truth) and np.array_equal(one.groups, exam.groups)):
                raise ValueError(f"{name} and {other} were not validated on the same rows of split {split}: "
                                 f"{one.truth.shape} and {exam.truth.shape}, {one.metric} and {exam.metric}")
            tables.setdefault(split, {}).setdefault(name, {})[seed] = one
    return tables


def _draw(tables: Mapping[int, Mapping[str, Mapping[int, Validated]]], runs: Mapping[str, Trainings], metric: str,
          n_draws: int, seed: int) -> dict[str, dict[int, np.ndarray]]:
    """The score of each run on each split in every draw of files and seeds, (n_draws,) each."""
    means: dict[str, dict[int, np.ndarray]] = {name: {} for name in runs}
    for split, table in sorted(tables.items()):
        generator = np.random.default_rng([seed, split])
        every = [one for trainings in table.values() for one in trainings.values()]
        draws = bootstrap_draws(every[0].truth, [one.judged for one in every], every[0].groups, metric=metric,
                           n_draws=n_draws, seed=int(generator.integers(2**32)))
        first = 0
        for name, trainings in table.items():
            n = len(trainings)
            means[name][split] = _resampled_mean(draws[first:first + n], generator)
            first += n
    return means


def _resampled_mean(draws: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The mean over seeds of (seeds, draws), the seeds drawn with replacement in every draw; its spread unbiased."""
    n, n_draws = draws.shape
    centre = draws.mean(0)
    if n == 1:
        return centre
    chosen = generator.integers(n, size=(n, n_draws))
    return centre + math.sqrt(n / (n - 1)) * (np.take_along_axis(draws, chosen, 0).mean(0) - centre)


def _pooled_deviation(groups: Sequence[np.ndarray]) -> tuple[float, int]:
    """The standard deviation inside groups of scores, pooled over them, and its degrees of freedom; NaN where 0."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return math.nan, 0
    return math.sqrt(sum(float(((group - group.mean())**2).sum()) for group in groups) / freedom), freedom


def _share_of_variance(scores: Mapping[int, np.ndarray], splits: Sequence[int]) -> float:
    """The variance of the mean over splits of the means over seeds, for a variance of 1 between seeds."""
    return sum(1 / len(scores[split]) for split in splits) / len(splits)**2


def _difference(value: float, draws: np.ndarray, level: float) -> dict[str, Any]:
    """The interval of a difference, the share of its draws above 0 and its two-sided p, never below 1 draw."""
    scored = draws[np.isfinite(draws)]
    tail = min((scored <= 0).sum(), (scored >= 0).sum())
    return {"difference": percentile_interval(value, draws, level), "above": float((scored > 0).mean()),
            "p": min(1.0, 2 * (float(tail) + 1) / (len(scored) + 1))}


def _judge(rows: Sequence[dict[str, Any]], alpha: float) -> None:
    """Put the verdicts into the rows that have a difference."""
    compared = [row for row in rows if "difference" in row]
    for row, adjusted in zip(compared, holm([row["p"] for row in compared]), strict=True):
        interval, row["p_holm"] = row["difference"], adjusted
        row["verdict"] = _verdict(interval.value, row["floor"], not interval.low <= 0 <= interval.high)
        row["verdict_holm"] = _verdict(interval.value, row["floor"], adjusted < alpha)


def _verdict(difference: float, floor: float, sure: bool) -> str:
    """In words, with what is to be said where no run has two seeds."""
    if not math.isfinite(floor):
        return ONE_SEED
    if not sure or abs(difference) <= floor:
        return LEVEL_PEGGING
    return BETTER if difference > 0 else WORSE
