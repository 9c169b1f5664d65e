"""Which recordings an epoch is made of, and which clips of a source: draws that can be made again.

No state is kept between epochs, so a run that was stopped goes on with exactly the examples it would have seen.
"""
from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def class_weights(labels: Sequence[str], *, exponent: float) -> NDArray[np.float64]:
    """The probability of drawing each recording: (recordings of its class) ** -exponent, scaled to sum to 1.

    labels    (n,) one class per recording
    exponent  0 draws recordings alike, 1 draws classes alike, 0.5 lies between: a class's share of an epoch is then
              proportional to the square root of its size
    Raises ValueError for no labels or a negative exponent.

    >>> class_weights(["owl", "owl", "owl", "frog"], exponent=1.0)
    array([0.16666667, 0.16666667, 0.16666667, 0.5       ])
    """
    if len(labels) == 0:
        raise ValueError("no labels: there is nothing to draw from")
    if exponent < 0:
        raise ValueError(f"exponent = {exponent} must be >= 0: below it the largest classes would be drawn even more")
    _, classes, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    weights = counts[classes].astype(np.float64) ** -exponent
    return weights / weights.sum()


def draw_epoch(weights: NDArray[np.float64] | Sequence[float], n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The recordings of one epoch, (n,) indices in random order.

    Systematic sampling over a random order: a recording of weight w appears n w / sum(weights) times on average, and
    never more than one away from that. So no class is short by chance, and with equal weights and n recordings an
    epoch holds each exactly once. The same arguments give the same indices; torch's random state is not touched.

    weights  (m,) >= 0, of any sum
    Raises ValueError for weights that are negative, not finite or all zero, or for n < 1.

    >>> sorted(draw_epoch([1, 1, 2], 4, seed=0, epoch=0).tolist())
    [0, 1, 2, 2]
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"weights must be one row of finite numbers >= 0 with a positive sum, not {weights}")
    if n < 1:
        raise ValueError(f"n = {n}: an epoch needs at least one example")
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(np.flatnonzero(weights))
    edges = np.cumsum(weights[order])
    places = (rng.random() + np.arange(n)) / n * edges[-1]
    drawn = order[np.searchsorted(edges, places, side="right").clip(max=len(order) - 1)]
    return rng.permutation(drawn).astype(np.int64)


class Rounds:
    """Which row of a source each position of a run gets: a round of all rows in random order, then another round.

    So a short source is cycled beside a longer main one, as the first seed's second loader was, and none of its rows
    is drawn a third time before all were drawn twice. The row depends on the seed, the position and the name alone:
    not on what was asked before, in which process, or which other sources there are.

    odds  (R,) >= 0, of any sum: where they differ, a round of R draws holds a row about R * odds / sum(odds) times
    name  of the source; another name draws another order

    >>> rounds = Rounds([1, 1, 1], seed=0, name="noise")
    >>> sorted(rounds[position] for position in range(3, 6))
    [0, 1, 2]
    """

    def __init__(self, odds: NDArray[np.float64] | Sequence[float], *, seed: int, name: str) -> None:
        self.odds = np.asarray(odds, dtype=np.float64)
        self.seed = (seed << 32) + zlib.crc32(name.encode())
        self._last: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, position: int) -> int:
        number, place = divmod(position, len(self.odds))
        last, rows = self._last
        if last != number:
            rows = draw_epoch(self.odds, len(self.odds), seed=self.seed, epoch=number)
            self._last = (number, rows)
        return int(rows[place])


class MatchedRounds:
    """Which row of a source each position of a run gets, of the rows that hold one class: `Rounds` of those rows.

    matches  (R, K) bool, which classes a row holds
    odds     (R,) >= 0, as for Rounds

    >>> matched = MatchedRounds(np.array([[True, False], [True, False]]), [1, 1], seed=0, name="windows")
    >>> sorted(matched.row(position, 0) for position in (0, 1)), matched.row(0, 1)
    ([0, 1], None)
    """

    def __init__(self, matches: NDArray[np.bool_], odds: NDArray[np.float64] | Sequence[float], *, seed: int,
                 name: str) -> None:
        self._matches, self._odds, self._seed, self._name = matches, np.asarray(odds, np.float64), seed, name
        self._of_class: dict[int, tuple[NDArray[np.int64], Rounds | None]] = {}

    def row(self, position: int, k: int) -> int | None:
        """A row that holds class k, or None where none does."""
        if k not in self._of_class:
            rows = np.flatnonzero(self._matches[:, k] & (self._odds > 0))
            self._of_class[k] = rows, Rounds(self._odds[rows], seed=self._seed, name=self._name) if len(rows) else None
        rows, rounds = self._of_class[k]
        return None if rounds is None else int(rows[rounds[position]])


def limit_classes(labels: Sequence[str], *, least: int = 0, most: int | None = None,
                  seed: int | Sequence[int]) -> NDArray[np.int64]:
    """Indices of the recordings to train on, sorted: none of a class more than `most`, none less than `least`.

    A class above `most` keeps a random choice of that many. One below `least` has its recordings repeated in turn:
    all once more before any a third time.
    Raises ValueError where least > most.

    >>> limit_classes(["owl", "owl", "owl", "frog"], least=2, most=2, seed=0).tolist()
    [0, 2, 3, 3]
    """
    if most is not None and not 0 <= least <= most:
        raise ValueError(f"0 <= least {least} <= most {most} does not hold")
    rng = np.random.default_rng(seed)
    names = np.asarray(labels)
    kept = []
    for name in np.unique(names):
        members = rng.permutation(np.flatnonzero(names == name))
        n = max(least, len(members) if most is None else min(len(members), most))
        kept.append(np.resize(members, n))
    return np.sort(np.concatenate(kept)).astype(np.int64) if kept else np.zeros(0, dtype=np.int64)


def draw_rows(labels: Sequence[str], n: int, *, balance: float, least: int = 0, most: int = 0, seed: int,
                    epoch: int) -> NDArray[np.int64]:
    """The recordings of one epoch, (n,) indices in random order, as the sampling settings of DataConfig ask.

    Classes are first limited, see `limit_classes` (most = 0 for no cap), then drawn with the weights of what is left,
    see `class_weights`. A capped class gets another choice of its recordings in every epoch, so that it weighs no more
    than the cap allows and yet nothing that was recorded of it is lost. The same arguments give the same indices.
    """
    chosen = np.arange(len(labels))
    if least or most:
        chosen = limit_classes(labels, least=least, most=most or None, seed=[seed, epoch, 1])
    weights = class_weights(np.asarray(labels)[chosen].tolist(), exponent=balance)
    return chosen[draw_epoch(weights, n, seed=seed, epoch=epoch)]
