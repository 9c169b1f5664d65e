"""Recordings packed for fast repeated reading: a folder of FLAC or int16 files and the index that says what is where.

`birdkit.data.packing` writes it. A packed recording keeps its name and its own time: second 12 is second 12 of the
original, also where only a part of it was packed.
"""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from birdkit import audio
from birdkit.settings import from_dict

SETTINGS = "packing.json"  # written first
INDEX = "index.jsonl"  # a line per recording, written once its file is whole
FULL_SCALE = 32767
FORMATS = {"flac": ".flac", "int16": ".npy"}


class PackingError(ValueError):
    """A packing that cannot be made or read; the message names the folder or file and the numbers."""


@dataclass(frozen=True)
class PackedFile:
    """What the index says of a recording.

    file      its original name, relative to the original root
    first     the first packed sample, counted from the start of the original at the packing's rate
    samples   how many were packed
    scale     what one step of 16 bits is worth: the recording's peak is 32767 steps
    source_bytes  size of the original, by which a changed one is noticed
    """

    file: str
    first: int
    samples: int
    scale: float
    source_bytes: int


@dataclass(frozen=True)
class PackingSettings:
    """How recordings were packed.

    format          "flac" (16 bits) or "int16" (a .npy file that is read by memory map)
    sample_rate_hz  of all files
    seconds         of each recording at most; None for all
    part            which `seconds`: "first" or "loudest"
    """

    format: str
    sample_rate_hz: int
    seconds: float | None = None
    part: str = "first"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise PackingError(f"format = {self.format!r}; it must be one of {', '.join(FORMATS)}")
        if self.part not in ("first", "loudest"):
            raise PackingError(f"part = {self.part!r}; it must be one of first, loudest")
        if self.sample_rate_hz < 1 or (self.seconds is not None and self.seconds < audio.MIN_S):
            raise PackingError(f"sample_rate_hz = {self.sample_rate_hz}, seconds = {self.seconds}: at least 1 Hz and "
                               f"{audio.MIN_S} s")


class Packed:
    """An index and the reading of what it names. Files may be added to the folder later; open it again to see them.

    folder    the folder with the index; raises PackingError where there is none, or it cannot be read
    settings  how its recordings were packed
    files     PackedFile by original name
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.settings = read_settings(self.folder / SETTINGS)
        self.files = read_index(self.folder / INDEX)

    def path(self, file: str) -> Path:
        """Where a recording is packed."""
        return self.folder / (file + FORMATS[self.settings.format])

    def extent(self, file: str) -> tuple[float, float]:
        """The seconds of the original that were packed, from and to."""
        entry, rate = self.files[file], self.settings.sample_rate_hz
        return entry.first / rate, (entry.first + entry.samples) / rate

    def read(self, file: str, first: int, count: int | None) -> np.ndarray:
        """`count` samples of the original from `first` on, all that there are for None, (N,) float32.

        Raises PackingError where they begin before or after what was packed, or the packed file is not what the index
        says.
        """
        entry, path = self.files[file], self.path(file)
        skip = first - entry.first
        if not 0 <= skip < entry.samples:
            raise PackingError(f"{path}: sample {first} is asked for, but samples {entry.first} to "
                               f"{entry.first + entry.samples} of {file} were packed")
        count = entry.samples - skip if count is None else min(count, entry.samples - skip)
        if self.settings.format == "flac":
            rate = self.settings.sample_rate_hz
            steps = audio.load(path, rate, start_s=skip / rate, duration_s=count / rate) * np.float32(FULL_SCALE + 1)
        else:
            steps = _open_map(path)[skip:skip + count].astype(np.float32)
        if len(steps) != count:
            raise PackingError(f"{path} holds {skip + len(steps)} samples, the index says {entry.samples}")
        return steps * np.float32(entry.scale)

    def __contains__(self, file: object) -> bool:
        return file in self.files

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class Int16Wave:
    """A wave in memory as 16 bits at its own full scale, which comes back at the level that it had.

    steps  (N,) int16
    scale  what a step is worth
    """

    steps: np.ndarray
    scale: np.float32

    @classmethod
    def of(cls, wave: np.ndarray) -> Int16Wave:
        """From a wave (N,), with an error of half a step at most: 96 dB below its peak."""
        scale = full_scale(wave)
        return cls(to_int16(wave, scale), np.float32(scale))

    def wave(self, first: int = 0, end: int | None = None) -> np.ndarray:
        """Its samples from `first` to before `end`, (n,) float32."""
        return np.multiply(self.steps[first:end], self.scale, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.steps)


def full_scale(wave: np.ndarray) -> float:
    """What one step of 16 bits is worth where the peak is to be 32767 of them; that of a silent wave is not 0."""
    return max(float(wave.max()), -float(wave.min()), 1e-8) / FULL_SCALE


def to_int16(wave: np.ndarray, scale: float) -> np.ndarray:
    """A wave in steps of `scale`, (N,) int16.

    >>> to_int16(np.array([0.5, -0.25], np.float32), full_scale(np.array([0.5, -0.25], np.float32)))
    array([ 32767, -16384], dtype=int16)
    """
    return np.round(wave / scale).astype(np.int16)


def read_index(path: Path) -> dict[str, PackedFile]:
    """The entries by original name, the latest of each; a line that was cut short by a stop is left out."""
    entries: dict[str, PackedFile] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = PackedFile(**json.loads(line))
        except (ValueError, TypeError):
            continue
        entries[entry.file] = entry
    return entries


def index_line(entry: PackedFile) -> str:
    """The line of an entry. It begins with the line break, so that a line cut short before it spoils no other."""
    return "\n" + json.dumps(asdict(entry))


def read_settings(path: Path) -> PackingSettings:
    """The settings of a packing; PackingError where there is none, or it cannot be read."""
    if not path.is_file():
        raise PackingError(f"{path.parent} holds no packing: there is no {path.name}")
    try:
        return from_dict(PackingSettings, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise PackingError(f"{path} cannot be read: {error}") from error


def _open_map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise PackingError(f"{path} cannot be read: {error}") from error
