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
        self._reserved: set[str] = set()
        self._kept: dict[str, Int16Wave] = {}
        self._energy: dict[tuple[str, float, float], Energy] = {}
        self._lock = threading.Lock()

    def reserve(self, file: str, duration_s: float) -> bool:
        """Keep this file in memory from its first reading on, if there is room for it; whether there is."""
        if file in self._reserved:
            return True
        size = 2 * round(duration_s * self.sample_rate_hz)
        mapped = self.packed is not None and file in self.packed and self.packed.settings.format == "int16"
        if size > self.free_bytes or mapped:
            return False
        self.free_bytes -= size
        self._reserved.add(file)
        return True

    def whole(self, file: str) -> np.ndarray:
        """All that there is of a file, (N,) float32. Raises birdkit.audio.AudioError or PackingError."""
        if file in self._reserved:
            return self._keep(file).wave()
        return self._decode(file, self.extent(file)[0], None)

    def part(self, file: str, start_s: float, duration_s: float) -> np.ndarray:
        """`duration_s` of the file from `start_s` on, less where the file ends, (N,) float32."""
        if file in self._reserved:
            kept = self._keep(file)
            first = round(start_s * self.sample_rate_hz) - round(self.extent(file)[0] * self.sample_rate_hz)
            if 0 <= first < len(kept):
                return kept.wave(first, first + max(round(duration_s * self.sample_rate_hz), 1))
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

    def _keep(self, file: str) -> Int16Wave:
        """A reserved file; training and validation may ask at the same time."""
        with self._lock:
            if file not in self._kept:
                self._kept[file] = Int16Wave.of(self._decode(file, self.extent(file)[0], None))
            return self._kept[file]

