"""Weights of an ensemble from what its members say of a validation, and what fitting them is worth beside equal ones.

A weight that helps on the files it was chosen on proves nothing: what is reported was measured on files that the
weights had not seen. In 2026 some 250 fitted numbers gained 1.1 points in public and lost 0.3 in private (17th place).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from birdkit.blending import join_prepared, prepare
from birdkit.decisions import decide
from birdkit.effects import Rows
from birdkit.metrics import METRICS, Interval, bootstrap_difference, bootstrap_interval
from birdkit.postprocess.base import NamedOptions

SHRINKAGES = (1.0, 0.75, 0.5, 0.25, 0.0)  # how far fitted weights are moved back to equal ones
STEPS = (0.5, 0.25, 0.1, 0.05)  # of a member's weight, tried one after the other
N_PARTS = 5


@dataclass(frozen=True)
class Fit:
    """Fitted weights, beside equal ones.

    weights     of the members by name, their sum is 1
    shrinkage   0: as fitted, 1: equal; chosen by cross-validation over files
    n_fitted    scalars that were fitted: all weights but one, and the shrinkage
    equal       score of equal weights
    fitted      score of the fitted weights on the very files they were fitted to, which flatters them
    honest      difference to equal weights on files that were not fitted to, with its paired interval
    alone       score of each member by name
    """

    how: str
    metric: str
    weights: Mapping[str, float]
    shrinkage: float
    n_fitted: int
    n_rows: int
    n_files: int
    equal: Interval
    fitted: Interval
    honest: Interval
    alone: Mapping[str, float]

    @property
    def is_worth_it(self) -> bool:
        """True where the fitted weights are surely better on files that they had not seen."""
        return self.honest.low > 0


def fit_weights(rows: Rows, how: str = "probabilities", *, seed: int = 0, decision: NamedOptions | None = None) -> Fit:
    """Weights of the members that score highest, shrunk towards equal.

    Weights are searched one after the other from equal ones, with ever smaller steps, and moved back by the shrinkage
    that scores highest on parts of the files that were not fitted to; where several score alike, the nearest to equal.
    All of that is done again for each of five parts of the files, left out, to measure what it is worth.

    how   one of birdkit.blending.BLENDS, but for the minimum, in which weights do not count
    seed  of which files are in which part
    decision  a member of birdkit.decisions that makes decisions of a blend, where the metric judges those; a quantile
          is that of the rows that are scored

    Raises ValueError for fewer than two members, fewer files than twice the parts, or a metric of decisions and none.
    """
    if decision is None and METRICS[rows.metric].on_decisions:
        raise ValueError(f"{rows.metric} judges decisions: say which, see birdkit.decisions")
    if how == "minimum":
        raise ValueError("blend = 'minimum': weights do not count there, so that none can be fitted")
    n_members, files = len(rows.names), np.unique(rows.files)
    if n_members < 2 or len(files) < 2 * N_PARTS:
        raise ValueError(f"{n_members} members on {len(files)} files: weights are fitted to two members or more, on "
                         f"{2 * N_PARTS} files or more")
    search = _Search(rows, how, decision if METRICS[rows.metric].on_decisions else None)
    whole = np.ones(len(rows.files), bool)
    weights, shrinkage = search.shrunk(whole, seed)
    honest = np.empty(rows.truth.shape)
    for part in _parts(rows.files, seed + 1):
        honest[part] = search.joined(search.shrunk(~part, seed)[0])[part]
    equal, fitted = (search.said(search.joined(one)) for one in (np.full(n_members, 1 / n_members), weights))
    honest = search.said(honest)
    return Fit(how, rows.metric, dict(zip(rows.names, map(float, weights), strict=True)), shrinkage, n_members,
               len(rows.files), len(files), bootstrap_interval(rows.truth, equal, rows.files, metric=rows.metric),
               bootstrap_interval(rows.truth, fitted, rows.files, metric=rows.metric),
               bootstrap_difference(rows.truth, honest, equal, rows.files, metric=rows.metric),
               {name: search.score_alone(values) for name, values in zip(rows.names, rows.members, strict=True)})


class _Search:
    """Weights that score highest on some of the rows."""

    def __init__(self, rows: Rows, how: str, decision: NamedOptions | None) -> None:
        self.rows, self.how, self.decision = rows, how, decision
        self.prepared = prepare(rows.members, how)
        self.equal = np.full(len(rows.names), 1 / len(rows.names))

    def joined(self, weights: np.ndarray) -> np.ndarray:
        """The blend, (R, K)."""
        return join_prepared(self.prepared, weights, self.how)

    def said(self, values: np.ndarray) -> np.ndarray:
        """What the metric judges: the probabilities of some rows, or what is decided by them."""
        return values if self.decision is None else decide(values, self.rows.classes, self.decision).astype(float)

    def score(self, weights: np.ndarray, asked: np.ndarray) -> float:
        """The metric on some of the rows."""
        values = join_prepared(self.prepared[:, asked], weights, self.how)
        return METRICS[self.rows.metric](self.rows.truth[asked], self.said(values))

    def score_alone(self, values: np.ndarray) -> float:
        """The metric of one member over the classes that it knows."""
        known = np.isfinite(values).all(0)
        said = values[:, known]
        if self.decision is not None:
            names = [self.rows.classes[index] for index in np.flatnonzero(known)]
            said = decide(said, names, self.decision).astype(float)
        return METRICS[self.rows.metric](self.rows.truth[:, known], said)

    def highest(self, asked: np.ndarray) -> np.ndarray:
        """The weights that score highest on some of the rows, by a search of one weight after the other."""
        weights = self.equal
        best = self.score(weights, asked)
        for step in STEPS:
            improved = True
            while improved:
                improved = False
                for member, sign in [(member, sign) for member in range(len(weights)) for sign in (step, -step)]:
                    tried = weights.copy()
                    tried[member] = max(tried[member] + sign, 0.0)
                    if tried.sum() <= 0 or not self._everyone_is_heard(tried):
                        continue
                    tried /= tried.sum()
                    score = self.score(tried, asked)
                    if score > best + 1e-6:
                        weights, best, improved = tried, score, True
        return weights

    def shrunk(self, asked: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        """Those weights moved back towards equal ones, and how far, chosen on parts that were not fitted to."""
        gained = np.zeros(len(SHRINKAGES))
        for part in _parts(self.rows.files[asked], seed):
            inside = np.zeros(len(asked), bool)
            inside[np.flatnonzero(asked)[part]] = True
            fitted = self.highest(asked & ~inside)
            gained += [self.score(self._moved(fitted, shrinkage), inside) for shrinkage in SHRINKAGES]
        shrinkage = SHRINKAGES[int(np.argmax(gained > gained.max() - 1e-6))]
        return self._moved(self.highest(asked), shrinkage), shrinkage

    def _moved(self, weights: np.ndarray, shrinkage: float) -> np.ndarray:
        return shrinkage * self.equal + (1 - shrinkage) * weights

    def _everyone_is_heard(self, weights: np.ndarray) -> bool:
        """Whether somebody with a weight knows every class that anybody knows."""
        known = np.isfinite(self.prepared).any(1)  # (M, K)
        return bool((known[weights > 0].any(0) >= known.any(0)).all())


def _parts(files: np.ndarray, seed: int) -> Sequence[np.ndarray]:
    """The rows of each of five parts of the files, (R,) of bool each."""
    names = np.unique(files)
    number = np.random.default_rng(seed).permutation(len(names)) % N_PARTS
    of_row = number[np.searchsorted(names, files)]
    return [of_row == part for part in range(N_PARTS)]
