"""Pack recordings for fast repeated reading: decoded, resampled and cut once, written as FLAC or int16.

Training reads a recording dozens of times. As FLAC a clip decodes with less work than from Ogg and without resampling,
as int16 there is nothing to decode at all, at several times the size. `estimate` says how large it would become before
anything is written: Kaggle gives 20 GB.
"""
from __future__ import annotations

import json
import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import soundfile as sf
from tqdm import tqdm

from birdkit import audio
from birdkit.data.crops import Energy
from birdkit.data.packed import (
    INDEX,
    SETTINGS,
    Packed,
    PackedFile,
    PackingError,
    PackingSettings,
    full_scale,
    index_line,
    read_settings,
    to_int16,
)
from birdkit.kaggle.disk import free_bytes, gib
from birdkit.settings import to_dict

log = logging.getLogger(__name__)

SAMPLED = 16  # files whose FLAC size is measured for an estimate
PROVEN = 20  # one file in as many is read back and compared with what was packed


@dataclass(frozen=True)
class Estimate:
    """How large a packing would become.

    files       recordings that are not packed yet
    packed      bytes that are
    int16, flac bytes that those files would take, by format
    flac_ratio  FLAC to int16, measured on a sample of the files
    free        bytes on the disk
    """

    files: int
    packed: int
    int16: int
    flac: int
    flac_ratio: float
    free: int

    def refuse(self, format: str, limit_gib: float | None, folder: Path | str) -> None:
        """Raise PackingError where a packing of this format would exceed the limit, or the disk."""
        more = self.int16 if format == "int16" else self.flac
        room = self.free if limit_gib is None else min(self.free, int(limit_gib * 2**30) - self.packed)
        if more > room:
            limit = "no limit" if limit_gib is None else f"a limit of {limit_gib:g} GiB"
            raise PackingError(
                f"{folder}: {self.files} files would take {gib(more)} as {format}, beside {gib(self.packed)} "
                f"that are packed, with {limit} and {gib(self.free)} free on the disk. int16 would take "
                f"{gib(self.int16)}, flac {gib(self.flac)} (measured ratio {self.flac_ratio:.2f}); fewer `seconds` "
                "take less")


def estimate(table: pd.DataFrame, root: Path | str, out_dir: Path | str, *, sample_rate_hz: int,
             seconds: float | None = None, part: str = "first") -> Estimate:
    """How large a packing of a table would become, from its durations and the FLAC size of a few of its files.

    Raises birdkit.audio.AudioError where one of those few cannot be read. Arguments are those of `pack`.
    """
    settings = PackingSettings("flac", sample_rate_hz, seconds, part)
    there = Packed(out_dir) if (Path(out_dir) / SETTINGS).exists() else None
    todo = _unpacked(table, Path(root), there)
    kept_s = todo["duration_s"].clip(upper=np.inf if seconds is None else seconds).sum()
    raw, flac = 0, 0
    for file in todo["file"].iloc[::max(math.ceil(len(todo) / SAMPLED), 1)]:
        _, steps, _ = _cut(Path(root) / file, settings)
        raw, flac = raw + steps.nbytes, flac + len(_flac(steps, sample_rate_hz))
    ratio = flac / raw if raw else 1.0
    int16 = int(2 * kept_s * sample_rate_hz)
    paths = [] if there is None else [there.path(file) for file in there.files.keys() - set(todo["file"])]
    packed = sum(path.stat().st_size for path in paths if path.is_file())
    free = free_bytes(out_dir)
    return Estimate(len(todo), packed, int16, int(ratio * int16), ratio, free)


def pack(table: pd.DataFrame, root: Path | str, out_dir: Path | str, *, format: str = "flac",
         seconds: float | None = None, part: str = "first", sample_rate_hz: int, workers: int = 2,
         limit_gib: float | None = None, progress: bool = True) -> Packed:
    """Pack every file of a table; `AudioStore(root, rate, packed=out_dir)` then reads them under their old names.

    Can be stopped and started again: what is packed and has not changed since is not packed again, a file appears once
    it is whole, and another table adds to the folder. One file in twenty is read back and compared.

    table        recordings or soundscapes: file, relative to `root`, and duration_s
    format       "flac" (16 bits; about half the size) or "int16" (read by memory map, shared by all processes)
    seconds      of each recording to keep, None for all: clips then come from there alone. Validation through the same
                 folder hears no more, either
    part         which: "first", or "loudest", the range of the highest RMS
    workers      threads that decode
    limit_gib    most that the folder may hold, such as 19 on Kaggle

    Raises PackingError, with the numbers, where that or the disk would not do, the folder holds a packing of other
    settings, or a file does not read back as it was packed; birdkit.audio.AudioError for one that cannot be read.
    """
    settings, folder = PackingSettings(format, sample_rate_hz, seconds, part), Path(out_dir)
    if (folder / SETTINGS).exists() and read_settings(folder / SETTINGS) != settings:
        raise PackingError(f"{folder} holds a packing of other settings, {read_settings(folder / SETTINGS)}, not "
                           f"{settings}: choose another folder")
    expected = estimate(table, root, folder, sample_rate_hz=sample_rate_hz, seconds=seconds, part=part)
    expected.refuse(format, limit_gib, folder)
    log.info("packing %d of %d files: about %s as %s (FLAC ratio %.2f), %s free", expected.files,
             table["file"].nunique(), gib(getattr(expected, format)), format, expected.flac_ratio, gib(expected.free))
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(folder / SETTINGS, json.dumps(to_dict(settings)).encode())
    packed = Packed(folder)
    todo, size = _unpacked(table, Path(root), packed)["file"].tolist(), expected.packed
    with (folder / INDEX).open("a", encoding="utf-8") as index, ThreadPoolExecutor(max(workers, 1)) as pool:
        coming = pool.map(partial(_pack_one, packed, Path(root)), todo, np.arange(len(todo)) % PROVEN == 0)
        try:
            for entry in tqdm(coming, "packing", len(todo), unit="file", disable=not progress):
                index.write(index_line(entry))
                index.flush()
                size += packed.path(entry.file).stat().st_size
                if limit_gib is not None and size > limit_gib * 2**30:
                    raise PackingError(f"{folder} has reached {gib(size)} of {limit_gib:g} GiB before all of "
                                       f"{len(todo)} files were packed: the estimate was {gib(expected.packed)} and "
                                       f"{gib(getattr(expected, format))}")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    packed = Packed(folder)
    log.info("%s holds %d files in %s", folder, len(packed), gib(size))
    return packed


def _unpacked(table: pd.DataFrame, root: Path, packed: Packed | None) -> pd.DataFrame:
    """The files of a table that are not packed, or changed since, once each and in order."""
    table = table.drop_duplicates("file").sort_values("file")
    outside = [file for file in table["file"] if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts]
    if outside:
        raise PackingError(f"{outside[0]}: not a file below {root}, it cannot be packed under its name")
    if packed is None:
        return table
    there = packed.files
    done = [file in there and packed.path(file).is_file() and (
        not (root / file).exists() or there[file].source_bytes == (root / file).stat().st_size)
        for file in table["file"]]
    return table[~np.array(done, bool)]


def _pack_one(packed: Packed, root: Path, file: str, prove: bool) -> PackedFile:
    """Write one recording; its entry."""
    settings, source = packed.settings, root / file
    first, steps, scale = _cut(source, settings)
    entry = PackedFile(file, first, len(steps), scale, source.stat().st_size)
    if settings.format == "flac":
        content = _flac(steps, settings.sample_rate_hz)
    else:
        buffer = BytesIO()
        np.save(buffer, steps)
        content = buffer.getvalue()
    _write_whole(packed.path(file), content)
    if prove:
        packed.files[file] = entry
        read = packed.read(file, first, None)
        if not np.array_equal(read, steps.astype(np.float32) * np.float32(scale)):
            raise PackingError(f"{packed.path(file)} does not read back as it was packed: {len(read)} of {len(steps)} "
                               "samples")
    return entry


def _cut(path: Path, settings: PackingSettings) -> tuple[int, np.ndarray, float]:
    """What is packed of a file: its first sample, the samples as int16, and what a step is worth."""
    rate, seconds = settings.sample_rate_hz, settings.seconds
    first = 0
    if seconds is None or settings.part == "first":
        wave = audio.load(path, rate, duration_s=seconds)
    else:
        wave = audio.load(path, rate)
        count = round(seconds * rate)
        if len(wave) > count:
            starts, odds = Energy.measure([wave], rate).loud_starts(0.0, (len(wave) - count) / rate, seconds)
            first = round(float(starts[odds.argmax()]) * rate)
            wave = wave[first:first + count]
    scale = full_scale(wave)
    return first, to_int16(wave, scale), scale


def _flac(steps: np.ndarray, rate_hz: int) -> bytes:
    buffer = BytesIO()
    sf.write(buffer, steps, rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name first, so that there is never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(path.name + ".partial")
    partial_path.write_bytes(content)
    os.replace(partial_path, path)
