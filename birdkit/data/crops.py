"""Which part of a recording a clip is, and what fills a clip that is longer than its recording."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from birdkit import audio

BLOCK_S = 0.25  # resolution of an Energy
STEP_S = 0.5  # from one possible start of an energy-weighted clip to the next


@dataclass(frozen=True)
class Energy:
    """How the energy of a recording is spread over its time, (E + 1,) each.

    edges_s  seconds from the start of the file
    total    integral of the squared wave up to there
    """

    edges_s: np.ndarray
    total: np.ndarray

    @classmethod
    def measure(cls, pieces: Iterable[np.ndarray], sample_rate_hz: int, *, start_s: float = 0.0) -> Energy:
        """Of a wave in consecutive pieces, which all but the last are whole numbers of blocks long."""
        block = max(round(BLOCK_S * sample_rate_hz), 1)
        sums, length = [], 0
        for piece in pieces:
            sums.append(np.add.reduceat(np.square(piece, dtype=np.float64), np.arange(0, len(piece), block)))
            length += len(piece)
        total = np.concatenate([[0.0], np.cumsum(np.concatenate(sums))]) / sample_rate_hz
        edges = np.minimum(np.arange(len(total)) * block, length) / sample_rate_hz
        return cls(start_s + edges, total)

    def rms(self, start_s: np.ndarray, length_s: float) -> np.ndarray:
        """Of clips from these seconds on; exact where they begin and end on an edge, else interpolated."""
        inside = np.interp(start_s + length_s, self.edges_s, self.total) - np.interp(start_s, self.edges_s, self.total)
        return np.sqrt(np.maximum(inside, 0.0) / length_s)

    def loud_starts(self, first_s: float, last_s: float, length_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Possible starts of a clip, `STEP_S` apart, and the probability of each in proportion to the clip's RMS.

        >>> energy = Energy.measure([np.repeat([0.0, 0.0, 1.0], 8)], 8)
        >>> energy.loud_starts(0.0, 2.0, 1.0)
        (array([0. , 0.5, 1. , 1.5, 2. ]), array([0.   , 0.   , 0.   , 0.414..., 0.585...]))
        """
        starts = first_s + np.arange(int((last_s - first_s) / STEP_S + 1e-6) + 1) * STEP_S
        rms = self.rms(starts, length_s)
        total = rms.sum()
        return starts, rms / total if total > 0 else np.full(len(starts), 1 / len(starts))


def choose_start(crop: str, first_s: float, last_s: float, length_s: float, *, rng: np.random.Generator,
                 centre_s: float = np.nan, energy: Callable[[], Energy] | None = None) -> float:
    """Where a clip of `length_s` begins, from `first_s` to `last_s` seconds.

    crop      "random", "first", "last", "rms" (random, weighted by the clip's energy) or "marked"
    centre_s  of a marked clip, as far as the range allows; NaN for a random clip
    energy    measures the recording; called for "rms" alone
    """
    if crop == "first":
        return first_s
    if crop == "last":
        return last_s
    if crop == "marked" and not np.isnan(centre_s):
        return float(np.clip(centre_s - length_s / 2, first_s, last_s))
    if crop == "rms" and energy is not None:
        starts, odds = energy().loud_starts(first_s, last_s, length_s)
        return float(starts[rng.choice(len(starts), p=odds)])
    return float(rng.uniform(first_s, last_s))


def snap(start_s: float, first_s: float, last_s: float, begins_s: np.ndarray) -> float:
    """The one of `begins_s` next to `start_s` among those from `first_s` to `last_s`; `start_s` where there is none.

    >>> snap(6.0, 0.0, 12.0, np.array([0.0, 5.0, 10.0])), snap(13.0, 0.0, 12.0, np.array([0.0, 5.0, 10.0, 15.0]))
    (5.0, 10.0)
    """
    possible = begins_s[(begins_s >= first_s) & (begins_s <= last_s)]
    return float(possible[np.abs(possible - start_s).argmin()]) if len(possible) else start_s


def fill(wave: np.ndarray, n_samples: int, short: str, *, rng: np.random.Generator) -> np.ndarray:
    """A clip of `n_samples` from a shorter wave, (N,) -> (n_samples,).

    short  "repeat": over and over, from a random phase. "place": at a random place between zeros. "start": zeros after
           it, as in the first seed, whose 5 s parts of nothing but zeros then carried the recording's label

    >>> fill(np.array([1.0, 2.0]), 5, "start", rng=np.random.default_rng(0))
    array([1., 2., 0., 0., 0.])
    """
    if short == "repeat":
        return audio.pad_cyclic(np.roll(wave, int(rng.integers(len(wave)))), n_samples)
    spare = n_samples - len(wave)
    before = int(rng.integers(spare + 1)) if short == "place" else 0
    return np.pad(wave, (before, spare - before))
