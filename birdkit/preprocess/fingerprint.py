"""Which recordings hold the same sound, whatever became of the files since: cut, re-encoded, resampled, turned down.

A fingerprint is a constellation (Wang 2003, "An industrial-strength audio search algorithm"): where in time and
frequency the sound stands out. Peaks survive what changes everything around them, such as another codec or added
noise, and three of them, with the times between them, are a key by which copies are found without comparing every
recording with every other. Two animals of one kind share a few peaks; a copy shares them second after second.
"""
from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from birdkit.config import FrontEndConfig
from birdkit.frontend import FrontEnd

VERSION = 1  # of what a fingerprint holds: those of another are not compared
FRONT_END = FrontEndConfig(sample_rate_hz=16_000, clip_s=8.192, n_fft=4096, hop_samples=512, n_mels=256, fmin_hz=150.0,
                           fmax_hz=7800.0, level="none", floor=1e-9, scaling="none", strips=1, edges="constant")
FRAME_S = FRONT_END.hop_samples / FRONT_END.sample_rate_hz  # 32 ms
MARGIN = FRONT_END.n_fft // 2 // FRONT_END.hop_samples  # frames that see the edge of a block: its neighbour's are used
BANDS, FRAMES = 8, 6  # a peak is the loudest cell as far as this in frequency and in time
CONTRAST_DB = 3.0  # and this much louder than the quietest within FRAMES: a steady tone, or silence, has none
DENSEST, NEAR = 12, 16  # of the peaks within so many frames, half a second, so many are kept
FAN, LONGEST = 8, 31  # a key joins a peak with two of the next so many, at most so many frames later
PER_PEAK = FAN * (FAN - 1) // 2
KEY, PLACE = np.uint64(32), np.uint64(0xFFFFFFFF)  # an entry of the index: the key's bits, and those of its place
COMMON = 32  # a key that more places share tells nothing
MOST_KEYS, BATCH = 20_000_000, 500_000  # about as many in the index, 8 bytes each, and looked up at a time
VOTES = 2  # keys that must agree on an offset before two fingerprints are compared
CHANCE, COPY = 0.03, 0.35  # share of peaks that coincide by chance, and in the noisiest copy that is looked for
FOR, AGAINST = math.log(COPY / CHANCE) / 2, math.log((1 - COPY) / (1 - CHANCE)) / 2  # each peak is there twice
LARGEST = 3.0  # evidence of one frame, so that one click is not enough
LEAST = 14.0  # evidence from which two recordings are copies, and more among many, see `enough_for`
CHANCES, DECAY = 1.3, 0.85  # of n pairs that are none, n * CHANCES * exp(-DECAY * e) have more evidence than e
FALSE_PAIRS = 0.05  # that are accepted, of all that are compared


@dataclass(frozen=True)
class Fingerprint:
    """Where a recording stands out, in order of time.

    frames  (P,) int32, in steps of FRAME_S
    bands   (P,) uint8
    """

    frames: np.ndarray
    bands: np.ndarray

    def to_text(self) -> str:
        """As ASCII, five bytes a peak in base64."""
        return base64.b64encode(self.frames.astype("<i4").tobytes() + self.bands.tobytes()).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `to_text` wrote; ValueError where it is something else."""
        data = base64.b64decode(text, validate=True)
        if len(data) % 5:
            raise ValueError(f"{len(data)} bytes are no fingerprint, which has five bytes a peak")
        n_peaks = len(data) // 5
        return cls(np.frombuffer(data, "<i4", n_peaks).astype(np.int32), np.frombuffer(data, np.uint8, -1, 4 * n_peaks))


@dataclass(frozen=True)
class Overlap:
    """The same sound in two recordings.

    first, second      their names
    first_s, second_s  where it begins in each
    length_s           of it, to about half a second at either end; where the copy is noisy, of its clearest stretch
    evidence           for a copy, against chance, as the logarithm of the odds
    """

    first: str
    second: str
    first_s: float
    second_s: float
    length_s: float
    evidence: float


class Fingerprinter:
    """Makes fingerprints; one can be used by several threads.

    Neither gain nor anything below 150 Hz or above 7.8 kHz matters. A recording shorter than about a second has too
    few peaks to be recognised by; one of digital silence, or of a steady tone alone, has none.
    """

    def __init__(self) -> None:
        self.front_end = FrontEnd(FRONT_END)

    def __call__(self, wave: np.ndarray) -> Fingerprint:
        """The fingerprint of (N,) samples at FRONT_END.sample_rate_hz, of any gain and length."""
        with torch.inference_mode():
            return _strongest(*_peaks(self._decibels(torch.from_numpy(wave))))

    def _decibels(self, wave: Tensor) -> Tensor:
        """(N,) -> (F, T): the front end's blocks, joined as if there were no blocks."""
        hop, block = FRONT_END.hop_samples, FRONT_END.n_samples
        step = block - 2 * MARGIN * hop
        n_blocks = max(math.ceil(len(wave) / step), 1)
        padded = torch.zeros((n_blocks - 1) * step + block)
        padded[MARGIN * hop:MARGIN * hop + len(wave)] = wave / wave.abs().max().clamp_min(1e-10)
        images = self.front_end(padded.unfold(0, block, step))[:, 0, :, MARGIN:-MARGIN]  # (blocks, F, T of a step)
        return images.transpose(0, 1).flatten(1)[:, :math.ceil(len(wave) / hop)]


def enough_for(n_pairs: int) -> float:
    """The evidence from which a pair is taken for copies, so that of `n_pairs` few are taken falsely.

    Among 141,000 pairs of real recordings by different authors 262 had more evidence than 8, 38 more than 10, 8 more
    than 12, and none had 15. So the more are compared, the more is asked for, as when sequences are searched for in a
    data base (Karlin and Altschul 1990).

    >>> [round(enough_for(n_pairs), 1) for n_pairs in (1_000, 150_000, 600_000_000)]
    [14.0, 17.9, 27.6]
    """
    return max(LEAST, math.log(max(n_pairs, 1) * CHANCES / FALSE_PAIRS) / DECAY)


def find_overlaps(prints: Mapping[str, Fingerprint], others: Mapping[str, Fingerprint] | None = None) -> list[Overlap]:
    """The pairs of recordings that hold the same sound for a second or more, by name; each pair once, at its longest.

    prints  by name, compared with each other
    others  by name: where given, each of them is compared with each of `prints` instead, and is the first of the pair

    Copies made of 489 real recordings were found among 560: more than 99 % after Ogg at its lowest quality, at a tenth
    of the volume, at 22.05 kHz, without the first 1.37 s, of 3 s cut out, and without what is below 1 kHz; 96 % after
    MP3 at its lowest quality, 95 % under mains hum and 79 % under white noise 10 dB below (half of the insects, which
    sing above the fingerprint's bands, and 89 % of the others). Of the 156,520 pairs of the originals 6 were taken for
    copies, none of them of two authors: three are so sample by sample, three are takes of one animal's steady song.

    Not found are copies played at another speed, what more than COMMON recordings share alike, and less than a second.
    5,000 recordings of 44 s take a minute on one core and 0.3 GB. Beyond about 17 hours a part of the keys is used; one
    in twenty of them, as for 340 hours, still found 99 % and 73 % of the Ogg and of the noisy copies.
    """
    index, asked = _Index(prints), prints if others is None else others
    enough = enough_for(len(prints) * (len(prints) - 1) // 2 if others is None else len(prints) * len(others))
    best: dict[tuple[str, str], Overlap] = {}
    for name, other, offset in index.candidates(asked, each_once=others is None):
        overlap = _compare(name, asked[name], other, prints[other], offset)
        if overlap.evidence >= max(enough, best[name, other].evidence if (name, other) in best else 0.0):
            best[name, other] = overlap
    return [best[pair] for pair in sorted(best)]


class _Index:
    """The keys of many fingerprints, sorted, each with the place where it occurs."""

    def __init__(self, prints: Mapping[str, Fingerprint]) -> None:
        self.names = sorted(prints)
        lengths = [int(prints[name].frames[-1]) + 1 if len(prints[name].frames) else 0 for name in self.names]
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)  # of each recording, one after another
        n_keys = sum(len(prints[name].frames) for name in self.names) * PER_PEAK
        self.share = max(math.ceil(n_keys / MOST_KEYS), 1)
        entries, filled = np.empty(n_keys, np.uint64), 0  # as many as there can be: what is not filled takes no memory
        for name, start in zip(self.names, self.starts[:-1], strict=True):
            keys, frames = self._keys(prints[name])
            entries[filled:filled + len(keys)] = keys << KEY | (frames + start).astype(np.uint64)
            filled += len(keys)
        self.entries = entries[:filled]
        self.entries.sort()

    def candidates(self, prints: Mapping[str, Fingerprint], *, each_once: bool) -> Iterator[tuple[str, str, int]]:
        """Pairs, a name of `prints` and one of the index, and the offset in frames at which they may be copies.

        each_once  only names of the index that come after the first
        """
        names = sorted(prints)
        n_keys = np.cumsum([0] + [len(prints[name].frames) * PER_PEAK for name in names])
        starts = np.searchsorted(n_keys, np.arange(0, n_keys[-1], BATCH))
        for begin, end in itertools.pairwise(np.unique([*starts, len(names)])):
            batch = names[begin:end]
            first_row = np.searchsorted(self.names, batch, side="right") if each_once else np.zeros(len(batch), int)
            for query, row, offset in self._found([prints[name] for name in batch], first_row):
                yield batch[query], self.names[row], offset

    def _found(self, prints: Sequence[Fingerprint], first_row: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """The same by numbers: of the fingerprint, of the recording in the index (from `first_row` on), and offset."""
        of_print = [self._keys(fingerprint) for fingerprint in prints]
        keys, frames = (np.concatenate(parts) for parts in zip(*of_print, strict=True))
        query = np.repeat(np.arange(len(prints)), [len(own) for own, _ in of_print])
        order = keys.argsort()
        keys, frames, query = keys[order], frames[order], query[order]
        first = np.searchsorted(self.entries, keys << KEY)
        count = np.searchsorted(self.entries, keys + np.uint64(1) << KEY) - first
        count[count > COMMON] = 0
        before = np.concatenate([[0], np.cumsum(count)])
        entry = np.arange(before[-1]) + np.repeat(first - before[:-1], count)
        place = (self.entries[entry] & PLACE).astype(np.int64)
        row, query = np.searchsorted(self.starts, place, side="right") - 1, np.repeat(query, count)
        offset = np.repeat(frames, count) - place + self.starts[row]
        wanted = row >= first_row[query]
        pair, offset = query[wanted] * len(self.names) + row[wanted], offset[wanted]
        for number, shift in _agreed(pair, offset):
            yield number // len(self.names), number % len(self.names), shift

    def _keys(self, fingerprint: Fingerprint) -> tuple[np.ndarray, np.ndarray]:
        """Keys, uint64 below 2 ** 29, and the frames of their first peaks; of too many, a part chosen by the key."""
        frames, bands = fingerprint.frames.astype(np.int64), fingerprint.bands.astype(np.int64) // 2
        keys, places = [], []
        for far in range(2, FAN + 1):
            for near in range(1, far):
                n = max(len(frames) - far, 0)
                start, middle, end = (slice(lag, lag + n) for lag in (0, near, far))
                to_end = frames[end] - frames[start]
                close = to_end <= LONGEST
                key = (bands[start] * 128 + bands[middle]) * 128 + bands[end]
                key = (key * 16 + (frames[middle] - frames[start]) // 2) * 16 + to_end // 2
                keys.append(key[close])
                places.append(frames[start][close])
        joined, where = np.concatenate(keys), np.concatenate(places)
        if self.share > 1:
            chosen = joined * 2654435761 % 2 ** 32 // 65536 % self.share == 0
            joined, where = joined[chosen], where[chosen]
        return joined.astype(np.uint64), where


def _agreed(pair: np.ndarray, offset: np.ndarray) -> Iterator[tuple[int, int]]:
    """The pairs, and the offsets on which VOTES of their keys agree to within a frame."""
    if not len(pair):
        return
    lowest, width = int(offset.min()) - 1, int(np.ptp(offset)) + 3
    codes, votes = np.unique(pair * width + (offset - lowest), return_counts=True)
    beside = np.diff(codes) == 1
    before = np.concatenate([[0], np.where(beside, votes[:-1], 0)])
    behind = np.concatenate([np.where(beside, votes[1:], 0), [0]])
    for code in codes[(votes + before + behind >= VOTES) & (votes >= before) & (votes > behind)].tolist():
        yield code // width, code % width + lowest


def _compare(name: str, one: Fingerprint, other_name: str, other: Fingerprint, offset: int) -> Overlap:
    """How sure it is that two recordings are copies where the second begins `offset` frames into the first, and where.

    Every peak of either in the time they share speaks for a copy where the other has one beside it, and against where
    not. The overlap is the stretch with the most evidence.
    """
    begin = max(one.frames[0], other.frames[0] + offset) - 1
    end = min(one.frames[-1], other.frames[-1] + offset) + 2
    here, there = _cells(one, begin, end), _cells(other, begin - offset, end - offset)
    evidence = np.zeros(max(end - begin, 0))
    for (frames, bands), others in ((here, there), (there, here)):
        speaks = np.where(_beside(frames, bands, *others, len(evidence)), FOR, AGAINST)
        evidence += np.bincount(frames, speaks, len(evidence))
    total = np.concatenate([[0.0], np.cumsum(np.minimum(evidence, LARGEST))])
    gain = total - np.minimum.accumulate(total)
    stop = int(gain.argmax())
    start = int(total[:stop + 1].argmin())
    first_s = float(begin + start) * FRAME_S
    return Overlap(name, other_name, first_s, first_s - offset * FRAME_S, (stop - start) * FRAME_S, float(gain[stop]))


def _cells(peaks: Fingerprint, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames, counted from `begin`, and bands of the peaks in a range of frames."""
    inside = slice(*np.searchsorted(peaks.frames, (begin, end)))
    return peaks.frames[inside].astype(np.int64) - begin, peaks.bands[inside].astype(np.int64)


def _beside(frames: np.ndarray, bands: np.ndarray, other_frames: np.ndarray, other_bands: np.ndarray,
            n_frames: int) -> np.ndarray:
    """Which peaks have another in one of the nine cells around them: frames of two files begin at unlike samples."""
    taken = np.zeros((n_frames + 2, FRONT_END.n_mels + 2), bool)
    for later in range(3):
        for higher in range(3):
            taken[other_frames + later, other_bands + higher] = True
    return taken[frames + 1, bands + 1]


def _peaks(decibels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, bands and strength of the peaks of (F, T) decibels, by time.

    Strength is the level less half of the band's usual level. The loudest bands alone would be the wind; bands that
    count alike whatever their level would be lost in added noise.
    """
    before = functional.max_pool1d(decibels, 2 * FRAMES + 1, 1, FRAMES)
    quiet = -functional.max_pool1d(-decibels, 2 * FRAMES + 1, 1, FRAMES)
    loudest = functional.max_pool1d(before.T, 2 * BANDS + 1, 1, BANDS).T
    frames, bands = torch.nonzero(((decibels == loudest) & (decibels - quiet > CONTRAST_DB)).T, as_tuple=True)
    strength = decibels[bands, frames] - decibels.median(1).values[bands] / 2
    return frames.numpy().astype(np.int32), bands.numpy().astype(np.uint8), strength.numpy()


def _strongest(frames: np.ndarray, bands: np.ndarray, strength: np.ndarray) -> Fingerprint:
    """Those peaks that fewer than DENSEST stronger ones are near: noise fills what calls leave free, and no more."""
    stronger = np.zeros(len(frames), np.int64)
    for lag in range(1, len(frames)):
        near = frames[lag:] - frames[:-lag] <= NEAR
        if not near.any():
            break
        later = strength[lag:] > strength[:-lag]
        stronger[:-lag] += near & later
        stronger[lag:] += near & ~later
    return Fingerprint(frames[stronger < DENSEST], bands[stronger < DENSEST])
