"""A soundscape as something clips are cut from: a file of any length, or a wave in memory."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from birdkit import audio

PIECE_S = 600.0  # a longer soundscape is worked off in pieces, so that memory does not grow with its length


class Soundscape:
    """What inference needs to know of a soundscape. A member implements the length and the reading of a part.

    duration_s  its length
    """

    duration_s: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it, in words, once it has been read."""
        return ()

    def n_samples(self, rate_hz: int) -> int:
        """Its length in samples of this rate."""
        raise NotImplementedError

    def read(self, rate_hz: int, first: int, stop: int) -> np.ndarray:
        """Samples `first` to `stop` at this rate, (stop - first,) float32."""
        raise NotImplementedError

    def pieces(self) -> list[tuple[float, float]]:
        """Consecutive ranges of time in seconds, each at least PIECE_S long but for a shorter soundscape's only one."""
        n = max(1, int(self.duration_s // PIECE_S))
        return [(i * PIECE_S, (i + 1) * PIECE_S if i + 1 < n else math.inf) for i in range(n)]

    def clips(self, rate_hz: int, starts: np.ndarray, clip_samples: int) -> np.ndarray:
        """Clips from these samples on, (len(starts), clip_samples); a soundscape shorter than a clip is repeated."""
        first, stop = int(starts[0]), min(int(starts[-1]) + clip_samples, self.n_samples(rate_hz))
        wave = self.read(rate_hz, first, stop)
        if len(wave) < clip_samples:
            return audio.pad_cyclic(wave, clip_samples)[None]
        return np.stack([wave[start - first:start - first + clip_samples] for start in starts])


    def doubled(self, rate_hz: int, starts: np.ndarray, clip_samples: int, context: int) -> np.ndarray:
        """Clips that show the audio from each start on twice, (len(starts), clip_samples): one half of the clip begins
        `context` samples before the start, the other at the start.

        Beyond the edges the first and last `context` samples are repeated, as in the second seed (2025); a soundscape
        shorter than that is repeated as a whole.
        """
        n, half = self.n_samples(rate_hz), clip_samples // 2
        first, stop = max(int(starts[0]) - context, 0), min(int(starts[-1]) + half, n)
        wave = self.read(rate_hz, first, stop)
        offsets = np.concatenate([np.arange(-context, half - context), np.arange(half)])
        clips = np.empty((len(starts), clip_samples), np.float32)
        for clip, start in zip(clips, starts, strict=True):
            index = offsets + start
            index[index < 0] += context
            index[index >= n] -= context
            np.take(wave, index % n - first, out=clip, mode="wrap")
        return clips


class SoundscapeFile(Soundscape):
    """A file, decoded once per sample rate where it is short and by seeking where it is long.

    Raises AudioError, which names the file and the reason, where it cannot be opened, and on reading.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = audio.info(path)
        claimed_s = header.duration_s
        self._notes = [f"{header.channels} channels"] * (header.channels != 1)
        self._native_hz = header.sample_rate_hz
        # Headers can lie: before a long file is read in pieces, its true length is counted by decoding it.
        self.duration_s = audio.check(path).duration_s if claimed_s > PIECE_S else claimed_s
        self._whole = claimed_s <= PIECE_S
        self._waves: dict[int, np.ndarray] = {}

    def n_samples(self, rate_hz: int) -> int:
        """Its length in samples of this rate: of what decodes, whatever the header says."""
        return len(self._wave(rate_hz)) if self._whole else round(self.duration_s * rate_hz)

    def read(self, rate_hz: int, first: int, stop: int) -> np.ndarray:
        """Samples `first` to `stop` at this rate; AudioError where fewer can be decoded."""
        if self._whole:
            return self._wave(rate_hz)[first:stop]
        wave = audio.load(self.path, rate_hz, start_s=first / rate_hz, duration_s=(stop - first) / rate_hz)
        if len(wave) < stop - first - 1:  # one less where a rate's rounding takes it
            raise audio.AudioError(self.path, f"decoding ends at {(first + len(wave)) / rate_hz:.1f} s, "
                                              f"before its {self.duration_s:.1f} s")
        return np.pad(wave, (0, stop - first - len(wave)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Channels that were mixed, a rate that was changed, a length that the header did not say, silence."""
        return tuple(self._notes)

    def _wave(self, rate_hz: int) -> np.ndarray:
        if rate_hz not in self._waves:
            wave = self._waves[rate_hz] = audio.load(self.path, rate_hz)
            decoded_s = len(wave) / rate_hz
            self._notes += [f"{self._native_hz} Hz, resampled"] * (rate_hz != self._native_hz)
            self._notes += ["digital silence"] * (not wave[::100].any() and not wave.any())
            if abs(decoded_s - self.duration_s) > 0.1:
                self._notes.append(f"{decoded_s:.1f} s decode, its header says {self.duration_s:.1f} s")
            self.duration_s = decoded_s
        return self._waves[rate_hz]


class SoundscapeWave(Soundscape):
    """A wave in memory, (N,) at one sample rate. Raises ValueError where it is not one finite channel."""

    def __init__(self, wave: np.ndarray, rate_hz: int) -> None:
        if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
            raise ValueError(f"a soundscape must be one channel of finite samples, (N,), not {wave.shape} "
                             f"with {np.count_nonzero(~np.isfinite(wave))} of {wave.size} not finite")
        self.wave = np.asarray(wave, np.float32)
        self.rate_hz = rate_hz
        self.duration_s = len(wave) / rate_hz

    def n_samples(self, rate_hz: int) -> int:
        """Its length; ValueError at another rate than its own."""
        if rate_hz != self.rate_hz:
            raise ValueError(f"a wave at {self.rate_hz} Hz cannot be given to a front end at {rate_hz} Hz")
        return len(self.wave)

    def read(self, rate_hz: int, first: int, stop: int) -> np.ndarray:
        """Samples `first` to `stop`."""
        return self.wave[first:stop]
