"""The audio of a training run, by file name: decoded by seeking, from memory, or from a packing."""
from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from birdkit import audio
from birdkit.data.crops import Energy
from birdkit.data.packed import Int16Wave, Packed, PackingError
from birdkit.data.quiet import BLOCK, FRAME, HOP, noise_of, quietened

PIECE_S = 60.0  # of a long recording are measured at a time


class AudioStore:
    """Decoded audio of a set of files. What a call returns depends on the file alone, not on what was read before.

    Three ways, in this order: a packed recording is read from its packing under its original name; one that is
    reserved is decoded once and kept in memory as int16 with its scale; of any other just the asked part is decoded.

    root            folder that the files are relative to
    sample_rate_hz  rate everything is resampled to
    limit_gib       memory for reserved files, of this process; 0 keeps nothing
    packed          folder of a packing (birdkit.data.packing); raises PackingError where it is of another sample rate.
                    One of int16 files needs no memory: the system keeps what is read, once for all processes
    """

    def __init__(self, root: Path | str, sample_rate_hz: int, *, limit_gib: float = 0.0,
                 packed: Path | str | None = None) -> None:
        self.root = Path(root)
        self.sample_rate_hz = sample_rate_hz
        self.free_bytes = int(limit_gib * 2**30)
        self.packed = None if packed is None else Packed(packed)
        if self.packed is not None and self.packed.settings.sample_rate_hz != sample_rate_hz:
            raise PackingError(f"{packed} is packed at {self.packed.settings.sample_rate_hz} Hz, not at "
                               f"{sample_rate_hz} Hz")
        self._reserved: set[tuple[str, bool]] = set()  # files, and whether without what calls in them
        self._kept: dict[tuple[str, bool], Int16Wave] = {}
        self._noise: dict[tuple[str, int], np.ndarray] = {}
        self._energy: dict[tuple[str, float, float], Energy] = {}
        self._lock = threading.Lock()

    def reserve(self, file: str, duration_s: float, *, quiet: bool = False) -> bool:
        """Keep this file in memory from its first reading on, if there is room for it; whether there is.

        quiet  as `part` gives it with the same setting
        """
        if (file, quiet) in self._reserved:
            return True
        size = 2 * round(duration_s * self.sample_rate_hz)
        mapped = self.packed is not None and file in self.packed and self.packed.settings.format == "int16"
        if size > self.free_bytes or (mapped and not quiet):
            return False
        self.free_bytes -= size
        self._reserved.add((file, quiet))
        return True

    def whole(self, file: str, *, quiet: bool = False) -> np.ndarray:
        """All that there is of a file, (N,) float32. Raises birdkit.audio.AudioError or PackingError."""
        if (file, quiet) in self._reserved:
            return self._keep(file, quiet).wave()
        wave = self._decode(file, self.extent(file)[0], None)
        return quietened(wave) if quiet else wave

    def part(self, file: str, start_s: float, duration_s: float, *, quiet: bool = False) -> np.ndarray:
        """`duration_s` of the file from `start_s` on, less where the file ends, (N,) float32.

        quiet  without what stands out of its noise, see birdkit.data.quiet
        """
        from_first = round(start_s * self.sample_rate_hz) - round(self.extent(file)[0] * self.sample_rate_hz)
        count = max(round(duration_s * self.sample_rate_hz), 1)
        if (file, quiet) in self._reserved:
            kept = self._keep(file, quiet)
            if 0 <= from_first < len(kept):
                return kept.wave(from_first, from_first + count)
        if quiet and from_first >= 0 and len(wave := self._quiet_part(file, from_first, count)):
            return wave
        return self._decode(file, start_s, duration_s)  # which says what is wrong with a range outside the file

    def span(self, file: str, start_s: float, end_s: float) -> np.ndarray:
        """A span of the file, all that there is of it where both ends are NaN, (N,) float32."""
        return self.whole(file) if np.isnan(start_s) else self.part(file, start_s, end_s - start_s)

    def extent(self, file: str) -> tuple[float, float]:
        """The seconds of a file that can be read: those that were packed, or from 0 to wherever the file ends."""
        if self.packed is not None and file in self.packed:
            return self.packed.extent(file)
        return 0.0, np.inf

    def energy(self, file: str, start_s: float, end_s: float) -> Energy:
        """How the energy of a range of a file is spread; measured at the first call, and kept (32 bytes a second)."""
        key = (file, start_s, end_s)
        if key not in self._energy:
            self._energy[key] = Energy.measure(self._pieces(*key), self.sample_rate_hz, start_s=start_s)
        return self._energy[key]

    def _pieces(self, file: str, start_s: float, end_s: float) -> Iterator[np.ndarray]:
        n = max(math.ceil((end_s - start_s) / PIECE_S - 1e-6), 1)
        for at_s in start_s + PIECE_S * np.arange(n):
            yield self.part(file, float(at_s), min(PIECE_S, end_s - float(at_s)))

    def _decode(self, file: str, start_s: float, duration_s: float | None) -> np.ndarray:
        if self.packed is not None and file in self.packed:
            rate = self.sample_rate_hz
            count = None if duration_s is None else max(round(duration_s * rate), 1)
            return self.packed.read(file, round(start_s * rate), count)
        return audio.load(self.root / file, self.sample_rate_hz, start_s=start_s, duration_s=duration_s)

    def _quiet_part(self, file: str, first: int, count: int) -> np.ndarray:
        """Samples of a file as they are in `whole(file, quiet=True)`, from as little of it as that takes."""
        begin = max(first // HOP - 1, 0) * HOP
        wave = self._samples(file, begin, first - begin + count + FRAME)
        return quietened(wave, first=begin, noise=lambda block: self._noise_of(file, block))[first - begin:][:count]

    def _noise_of(self, file: str, block: int) -> np.ndarray:
        """The noise of a block of a file; measured at the first call, and kept (2 KB a minute)."""
        if (file, block) not in self._noise:
            self._noise[file, block] = noise_of(self._samples(file, block * BLOCK, BLOCK + FRAME))
        return self._noise[file, block]

    def _samples(self, file: str, first: int, count: int) -> np.ndarray:
        """Samples of what there is of a file."""
        return self._decode(file, self.extent(file)[0] + first / self.sample_rate_hz, count / self.sample_rate_hz)

    def _keep(self, file: str, quiet: bool) -> Int16Wave:
        """A reserved file; training and validation may ask at the same time."""
        with self._lock:
            if (file, quiet) not in self._kept:
                wave = self._decode(file, self.extent(file)[0], None)
                self._kept[file, quiet] = Int16Wave.of(quietened(wave) if quiet else wave)
            return self._kept[file, quiet]

