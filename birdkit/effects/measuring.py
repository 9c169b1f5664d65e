"""What each post-processing and each way of blending does to the metric: differences on the same soundscapes.

Nothing is predicted here and nothing chosen: the rows are given, and every setting is a published one.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from birdkit import postprocess
from birdkit.blending import BLENDS, blend
from birdkit.decisions import decide
from birdkit.effects.rows import Rows
from birdkit.metrics import METRICS, Interval, bootstrap_draws, percentile_interval
from birdkit.metrics.comparison import holm
from birdkit.postprocess.base import NamedOptions

BETTER, WORSE, UNSURE = "better", "worse", "not significant"
NOTHING, MISSING = "changes nothing here", "not measured: its data are not here"
ALPHA = 0.05


@dataclass(frozen=True)
class Tried:
    """Something to be measured.

    steps   members of birdkit.postprocess with their data; None where there is none for this competition
    gate    what a call detector does before them
    """

    label: str
    steps: Sequence[NamedOptions] | None
    source: str = ""
    said: str = ""
    gate: str = "none"


@dataclass(frozen=True)
class Effect:
    """What one thing does to the metric.

    alone     mean over the models of their differences, with its interval; None where nothing could be measured
    together  difference of the blended models
    p_holm    two-sided p of `alone`, adjusted by Holm (1979) for everything of its table
    verdict   in words, from p_holm
    """

    label: str
    source: str
    said: str
    alone: Interval | None
    together: Interval | None
    p_holm: float
    verdict: str


@dataclass(frozen=True)
class Measured:
    """Effects of post-processing and of ways to blend, with the scores that they are differences to.

    alone, together  the mean score of the models and the score of their mean of probabilities, nothing done to them
    """

    metric: str
    n_soundscapes: int
    names: tuple[str, ...]
    alone: Interval
    together: Interval
    effects: tuple[Effect, ...]
    blends: tuple[Effect, ...]


@dataclass(frozen=True)
class Treated:
    """One way to make a submission of rows.

    shares    weights of the models
    how       one of birdkit.blending.BLENDS
    steps     members of birdkit.postprocess, done to what is blended
    decision  a member of birdkit.decisions, None where the metric judges probabilities
    """

    rows: Rows
    shares: np.ndarray
    how: str
    steps: Sequence[NamedOptions]
    decision: NamedOptions | None = None


@dataclass(frozen=True)
class Compared:
    """What two ways score on the same soundscapes, and their difference with its paired interval."""

    metric: str
    n_soundscapes: int
    as_is: Interval
    changed: Interval
    difference: Interval
    verdict: str


def compare_ways(as_is: Treated, changed: Treated, *, n_draws: int = 1000, seed: int = 0,
                 level: float = 0.95) -> Compared:
    """Score two ways by a bootstrap over soundscapes, the same draws for both.

    Raises ValueError where they are not of the same rows and classes.
    """
    first, second = as_is.rows, changed.rows
    if first.classes != second.classes or not np.array_equal(first.files, second.files) or not np.array_equal(
            first.truth, second.truth):
        raise ValueError(f"the two ways are of other rows: {first.truth.shape} and {second.truth.shape}")
    judges = [_Judge(way.rows, way.decision, n_draws, seed, level) for way in (as_is, changed)]
    values = [_processed(way.rows, blend(way.rows.members, way.shares, way.how), Tried("", way.steps))
              for way in (as_is, changed)]
    scores = [judge.score(one) for judge, one in zip(judges, values, strict=True)]
    draws = [judge.draws(one) for judge, one in zip(judges, values, strict=True)]
    difference = judges[0].interval(scores[1] - scores[0], draws[1] - draws[0])
    return Compared(first.metric, len(first.blocks()), judges[0].interval(scores[0], draws[0]),
                    judges[1].interval(scores[1], draws[1]), difference,
                    _effect_verdict(difference, _two_sided(draws[1] - draws[0])))


def measure(rows: Rows, tried: Sequence[Tried], *, shares: np.ndarray | None = None,
            decision: NamedOptions | None = None, n_draws: int = 1000, seed: int = 0, level: float = 0.95) -> Measured:
    """The effect of everything tried, and of every way of blending, by a bootstrap over soundscapes.

    Each draw takes soundscapes with replacement, the same for all: differences are paired. The models are given, not
    drawn: the intervals speak of other soundscapes, not of other trainings.

    shares    weights of the models, None for equal
    decision  a member of birdkit.decisions that makes decisions of all rows before they are scored; None for none. The
              metrics of 2021 and 2022 need one. The ROC-AUC of decisions is the mean of their true positive and true
              negative rate, the class-balanced accuracy of 2022, which sees what ranks inside a class do not, such as
              a frequency penalty

    Raises ValueError where the metric judges decisions and there is none.
    """
    if decision is None and METRICS[rows.metric].on_decisions:
        raise ValueError(f"{rows.metric} judges decisions: say which, see birdkit.decisions")
    weights = np.ones(len(rows.names)) if shares is None else shares
    judge = _Judge(rows, decision, n_draws, seed, level)

    def systems(one: Tried) -> list[np.ndarray]:
        """Every model alone and, last, their blend."""
        return [_processed(rows, values, one) for values in
                (*rows.members, blend(rows.members, weights, "probabilities"))]

    raw = systems(Tried("", ()))
    base = [judge.draws(values) for values in raw]
    effects = []
    for one in tried:
        if one.steps is None:
            effects.append(_Found(one, None, None, np.zeros(0)))
            continue
        done = systems(one)
        draws = [judge.draws(values) - before for values, before in zip(done, base, strict=True)]
        scores = [judge.score(values) - judge.score(before) for values, before in zip(done, raw, strict=True)]
        alone = np.mean(draws[:-1], axis=0)
        effects.append(_Found(one, judge.interval(float(np.mean(scores[:-1])), alone),
                              judge.interval(scores[-1], draws[-1]), alone))
    blends = []
    for how in BLENDS if len(rows.names) > 1 else ():
        values = _processed(rows, blend(rows.members, weights, how), Tried("", ()))
        apart = judge.draws(values) - base[-1]
        blends.append(_Found(Tried(how, ()), None,
                             judge.interval(judge.score(values) - judge.score(raw[-1]), apart), apart))
    means = [judge.score(values) for values in raw[:-1]]
    return Measured(rows.metric if decision is None else f"{rows.metric} of decisions by {_decision_text(decision)}",
                    len(rows.blocks()), rows.names,
                    judge.interval(float(np.mean(means)), np.mean(base[:-1], axis=0)),
                    judge.interval(judge.score(raw[-1]), base[-1]), _judged(effects), _judged(blends))


class _Judge:
    """Scores of systems on the rows and on draws of their soundscapes, over the classes that each system knows."""

    def __init__(self, rows: Rows, decision: NamedOptions | None, n_draws: int, seed: int, level: float) -> None:
        self.rows, self.decision, self.n_draws, self.seed, self.level = rows, decision, n_draws, seed, level

    def _prepared(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = np.isfinite(values).all(0)
        values = values[:, known]
        if self.decision is not None:
            names = [self.rows.classes[index] for index in np.flatnonzero(known)]
            values = decide(values, names, self.decision).astype(float)
        return self.rows.truth[:, known], values

    def score(self, values: np.ndarray) -> float:
        """The metric on all rows."""
        return METRICS[self.rows.metric](*self._prepared(values))

    def draws(self, values: np.ndarray) -> np.ndarray:
        """The metric in every draw, (n_draws,); the same draws for every system."""
        truth, known = self._prepared(values)
        return bootstrap_draws(truth, [known], self.rows.files, metric=self.rows.metric, n_draws=self.n_draws,
                               seed=self.seed)[0]

    def interval(self, value: float, draws: np.ndarray) -> Interval:
        """A value with the central share of its draws."""
        return percentile_interval(value, draws, self.level)


def _decision_text(decision: NamedOptions) -> str:
    """A decision with its numbers, without the shares of the classes."""
    numbers = [f"{name} = {value}" for name, value in decision.options.items() if name != "shares"]
    return f"{decision.name} ({', '.join(numbers)})" if numbers else decision.name


def _processed(rows: Rows, values: np.ndarray, one: Tried) -> np.ndarray:
    """(R, K) of one system after its steps, soundscape by soundscape; classes that it does not know stay NaN."""
    known = np.flatnonzero(np.isfinite(values).all(0))
    names = [rows.classes[index] for index in known]
    result = np.full(values.shape, np.nan)
    for block in rows.blocks():
        part = values[block][:, known]
        if one.gate != "none":
            part = postprocess.gate(part, rows.calls[block], how=one.gate)
        result[block, known] = postprocess.apply(part, one.steps or (), classes=names, file=str(rows.files[block][0]))
    return result


@dataclass(frozen=True)
class _Found:
    """An effect before its verdict; the draws are those of what it is judged by."""

    tried: Tried
    alone: Interval | None
    together: Interval | None
    draws: np.ndarray


def _judged(found: Sequence[_Found]) -> tuple[Effect, ...]:
    """Effects with their verdicts, adjusted for the number of those that were measured."""
    measured = [one for one in found if one.together is not None]
    adjusted = iter(holm([_two_sided(one.draws) for one in measured]) if measured else [])
    effects = []
    for one in found:
        p = 1.0 if one.together is None else next(adjusted)
        effects.append(Effect(one.tried.label, one.tried.source, one.tried.said, one.alone, one.together, p,
                              _effect_verdict(one.alone or one.together, p)))
    return tuple(effects)


def _two_sided(draws: np.ndarray) -> float:
    """Twice the share of the draws on the other side of 0, never below one draw."""
    scored = draws[np.isfinite(draws)]
    tail = min((scored <= 0).sum(), (scored >= 0).sum())
    return min(1.0, 2 * (float(tail) + 1) / (len(scored) + 1))


def _effect_verdict(interval: Interval | None, p: float) -> str:
    if interval is None:
        return MISSING
    if interval.low == interval.value == interval.high == 0:
        return NOTHING
    if p >= ALPHA:
        return UNSURE
    return BETTER if interval.value > 0 else WORSE
