"""Tables of recordings and soundscapes to batches of (wave, target, weight), decoded straight from the files."""
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from birdkit import audio
from birdkit.batch import Batch
from birdkit.config import SOUNDSCAPES, DataConfig, RunConfig
from birdkit.sampling import class_weights, draw_epoch

TABLE_COLUMNS = ("file", "label", "secondary", "duration_s", "rating", "split")
SPAN_COLUMNS = ("start_s", "end_s")  # a table may have them, see `spans`
CALL, NOCALL = "call", "nocall"  # the class of a call detector, and the label that means none of the classes


class DataError(ValueError):
    """A table that does not fit the classes or its files; the message names the values."""


def table_hash(table: pd.DataFrame) -> str:
    """sha256 over files, spans and labels, whatever the order of the rows: what a checkpoint was trained on."""
    columns = ["file", "label", "secondary", *(name for name in SPAN_COLUMNS if name in table.columns)]
    rows = sorted(zip(*(table[name].tolist() for name in columns), strict=True))
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def make_targets(table: pd.DataFrame, classes: Sequence[str], config: DataConfig) -> np.ndarray:
    """Targets of recordings, (R, K) float32: 1 for the primary label, `secondary_target` for secondary labels.

    Columns follow `classes` by name. `label_smoothing` is added to everything and clipped at 1, as the 2021 second
    place did: positives stay 1. The label "nocall" means none of the classes, unless it is one of them. Raises
    DataError for any other label that is not a class.
    """
    columns = {name: k for k, name in enumerate(classes)}
    targets = np.zeros((len(table), len(classes)), np.float32)
    for row, (label, secondary) in enumerate(zip(table["label"], table["secondary"], strict=True)):
        names = [name for name in (*secondary.split(), label) if name != NOCALL or name in columns]
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise DataError(f"{table['file'].iloc[row]}: label {unknown[0]!r} is not one of the {len(classes)} classes")
        for name in names:
            targets[row, columns[name]] = 1.0 if name == label else config.secondary_target
    return np.minimum(targets + config.label_smoothing, 1.0)


def make_weights(table: pd.DataFrame, config: DataConfig) -> np.ndarray:
    """Weights of recordings, (R,) float32: clip(rating / 5, 0.1, 1) where asked for, `unrated_weight` for rating 0.

    A rating of 0 on Xeno-canto means that nobody rated the recording; the first seed weighed those 0.1 unnoticed.
    """
    rating = table["rating"].to_numpy(np.float32)
    if not config.rating_weights:
        return np.ones(len(table), np.float32)
    return np.where(rating > 0, np.clip(rating / 5, 0.1, 1.0), config.unrated_weight).astype(np.float32)


def spans(table: pd.DataFrame) -> np.ndarray:
    """Where in its file each recording begins and ends, (R, 2) seconds; NaN twice where it is the whole file.

    For tables whose rows are labelled spans of longer files, in the columns start_s and end_s; duration_s is the
    file's. Raises DataError where there is one of the columns without the other, or a span that is not inside its file.
    """
    known = [name for name in SPAN_COLUMNS if name in table.columns]
    if not known:
        return np.full((len(table), 2), np.nan)
    if len(known) == 1:
        raise DataError(f"the recordings table has a column {known[0]}, but a span needs {' and '.join(SPAN_COLUMNS)}")
    values = table[list(SPAN_COLUMNS)].to_numpy(float)
    start_s, end_s = values.T
    inside = (start_s >= 0) & (end_s > start_s) & (end_s <= table["duration_s"].to_numpy(float) + 1e-3)
    for row in np.flatnonzero(~inside & ~np.isnan(values).all(1))[:1]:
        raise DataError(f"{table['file'].iloc[row]}: {start_s[row]:g} to {end_s[row]:g} s is no span of a file of "
                        f"{table['duration_s'].iloc[row]:g} s")
    return values


class AudioStore:
    """Decoded audio of a set of files, kept in memory as int16 up to a limit, decoded afresh beyond it.

    Every file is kept at its own full scale: gain is removed by the front end and set by the augmentations.

    root            folder that the files are relative to
    sample_rate_hz  rate everything is resampled to
    limit_gib       memory to use at most; 0 keeps nothing
    """

    def __init__(self, root: Path | str, sample_rate_hz: int, *, limit_gib: float = 0.0) -> None:
        self.root = Path(root)
        self.sample_rate_hz = sample_rate_hz
        self.free_bytes = int(limit_gib * 2**30)
        self._kept: dict[str, tuple[np.ndarray, float]] = {}

    def whole(self, file: str) -> np.ndarray:
        """The whole file, (N,) float32. Raises birdkit.audio.AudioError."""
        if file in self._kept:
            samples, scale = self._kept[file]
            return samples.astype(np.float32) * scale
        wave = audio.load(self.root / file, self.sample_rate_hz)
        self._keep(file, wave)
        return wave

    def part(self, file: str, start_s: float, duration_s: float) -> np.ndarray:
        """`duration_s` of the file from `start_s` on, less where the file ends, (N,) float32."""
        if file not in self._kept and self.free_bytes > 0:
            self.whole(file)
        if file in self._kept:
            samples, scale = self._kept[file]
            start = round(start_s * self.sample_rate_hz)
            return samples[start:start + round(duration_s * self.sample_rate_hz)].astype(np.float32) * scale
        return audio.load(self.root / file, self.sample_rate_hz, start_s=start_s, duration_s=duration_s)

    def span(self, file: str, start_s: float, end_s: float) -> np.ndarray:
        """A span of the file, the whole of it where both ends are NaN, (N,) float32."""
        return self.whole(file) if np.isnan(start_s) else self.part(file, start_s, end_s - start_s)

    def _keep(self, file: str, wave: np.ndarray) -> None:
        if 2 * len(wave) > self.free_bytes:
            return
        scale = max(float(np.abs(wave).max()), 1e-8) / 32767
        self._kept[file] = (np.round(wave / scale).astype(np.int16), scale)
        self.free_bytes -= 2 * len(wave)


def energy_weights(wave: np.ndarray, n_samples: int, step: int) -> np.ndarray:
    """Probability of each clip start 0, step, 2 step, ... in proportion to the RMS of the clip, (starts,), sum 1.

    >>> energy_weights(np.array([0, 0, 0, 0, 1, 1], dtype=np.float32), 2, 2).round(2)
    array([0., 0., 1.])
    """
    energy = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    starts = np.arange(0, max(len(wave) - n_samples, 0) + 1, step)
    rms = np.sqrt((energy[np.minimum(starts + n_samples, len(wave))] - energy[starts]) / n_samples)
    total = rms.sum()
    return rms / total if total > 0 else np.full(len(starts), 1 / len(starts))


@dataclass(frozen=True)
class Backgrounds:
    """Soundscapes that training mixes in: whole files where nothing is known of them, else labelled windows.

    file     (R,) names
    start_s  (R,) start of the window; NaN where the row is a whole file, from which a random clip is taken
    length_s (R,) seconds of the window or file
    target   (R, K) pseudo-labels, zeros for whole files
    """

    file: np.ndarray
    start_s: np.ndarray
    length_s: np.ndarray
    target: np.ndarray

    @classmethod
    def unlabelled(cls, soundscapes: pd.DataFrame, n_classes: int) -> Backgrounds:
        """From the soundscapes table: nothing is known of what calls in them."""
        n = len(soundscapes)
        return cls(soundscapes["file"].to_numpy(object), np.full(n, np.nan), soundscapes["duration_s"].to_numpy(float),
                   np.zeros((n, n_classes), np.float32))

    @classmethod
    def pseudo_labelled(cls, table: pd.DataFrame, classes: Sequence[str], config: DataConfig,
                        clip_s: float) -> Backgrounds:
        """From a pseudo-label table, its columns matched by name: p ** pseudo_power, zero below pseudo_floor.

        A clip starts where a window starts; its target is the maximum over the windows that start inside it. A power
        above 1 lowers the unsure ones (2025 first place, from the second round on).
        """
        missing = [name for name in classes if name not in table.columns]
        if missing:
            raise DataError(f"the pseudo-label table has no column for {', '.join(missing[:5])}")
        table = table.sort_values(["file", "start_s"], ignore_index=True)
        target = table[list(classes)].to_numpy(np.float32) ** config.pseudo_power
        target[target < config.pseudo_floor] = 0.0
        start_s = table["start_s"].to_numpy(float)
        clip_target = np.empty_like(target)
        for rows in table.groupby("file").indices.values():
            inside = (start_s[rows] >= start_s[rows, None]) & (start_s[rows] < start_s[rows, None] + clip_s - 1e-6)
            clip_target[rows] = (inside[:, :, None] * target[rows]).max(1)
        return cls(table["file"].to_numpy(object), start_s, (table["end_s"] - table["start_s"]).to_numpy(float),
                   clip_target)

    def __len__(self) -> int:
        return len(self.file)


class ClipDataset(Dataset):
    """Training examples by (position, recording): everything random comes from (seed, position).

    The position counts examples since the start of the run, so the same example comes out in whatever worker, and
    after whatever restart. An example is (wave, target, weight), and a background (wave, target) where there are any.
    """

    def __init__(self, table: pd.DataFrame, classes: Sequence[str], config: RunConfig, *, store: AudioStore,
                 backgrounds: Backgrounds | None = None) -> None:
        missing = [name for name in TABLE_COLUMNS if name not in table.columns]
        if missing:
            raise DataError(f"the recordings table has no column {', '.join(missing)}")
        self.files = table["file"].tolist()
        self.duration_s = table["duration_s"].to_numpy(float)
        self.spans = spans(table)
        self.targets = make_targets(table, classes, config.data)
        self.weights = make_weights(table, config.data)
        self.crop = config.data.crop
        self.example_s = config.example_s
        self.n_samples = config.model.parts * config.frontend.n_samples
        self.seed = config.seed
        self.store = store
        self.backgrounds = backgrounds

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        position, recording = key
        rng = np.random.default_rng([self.seed, position])
        example = {"wave": torch.from_numpy(self._clip(recording, rng)),
                   "target": torch.from_numpy(self.targets[recording]),
                   "weight": torch.tensor(self.weights[recording])}
        if self.backgrounds is not None:
            row = int(rng.integers(len(self.backgrounds)))
            example["background_wave"] = torch.from_numpy(self._background(row, rng))
            example["background_target"] = torch.from_numpy(self.backgrounds.target[row])
        return example

    def _clip(self, recording: int, rng: np.random.Generator) -> np.ndarray:
        """One clip of a recording, (N,); a shorter recording is repeated from a random phase."""
        file, span = self.files[recording], self.spans[recording]
        first_s, end_s = (0.0, self.duration_s[recording]) if np.isnan(span[0]) else span
        spare_s = end_s - first_s - self.example_s
        if spare_s <= 0:
            wave = self.store.span(file, *span)
            return audio.pad_cyclic(np.roll(wave, int(rng.integers(len(wave)))), self.n_samples)
        if self.crop == "first":
            start_s = 0.0
        elif self.crop == "random":
            start_s = float(rng.uniform(0, spare_s))
        else:
            step = self.store.sample_rate_hz // 2
            odds = energy_weights(self.store.span(file, *span), self.n_samples, step)
            start_s = int(rng.choice(len(odds), p=odds)) * step / self.store.sample_rate_hz
        return audio.pad_cyclic(self.store.part(file, first_s + start_s, self.example_s), self.n_samples)

    def _background(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """The clip of a background row, (N,): from the start of the labelled window on, or a random one."""
        backgrounds = self.backgrounds
        assert backgrounds is not None
        start_s = float(backgrounds.start_s[row])
        if np.isnan(start_s):
            start_s = float(rng.uniform(0, max(backgrounds.length_s[row] - self.example_s, 0)))
        return audio.pad_cyclic(self.store.part(backgrounds.file[row], start_s, self.example_s), self.n_samples)


def _collate(examples: list[dict[str, Tensor]]) -> Batch:
    stacked = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
    sources = {}
    if "background_wave" in stacked:
        sources[SOUNDSCAPES] = Batch(stacked["background_wave"], stacked["background_target"],
                                     torch.ones(len(examples)))
    return Batch(stacked["wave"], stacked["target"], stacked["weight"], sources=sources)


def steps_per_epoch(config: RunConfig, n_recordings: int) -> int:
    """Batches in an epoch; at least one."""
    return max((config.data.samples_per_epoch or n_recordings) // config.train.batch_size, 1)


def training_batches(dataset: ClipDataset, labels: Sequence[str], config: RunConfig, *, first_step: int,
                     device: str = "cpu") -> Iterator[Batch]:
    """Batches of a run from `first_step` to its end, the same ones whether or not the run was interrupted.

    Each epoch draws recordings with the class-balanced weights count ** -balance, seeded by (seed, epoch).
    """
    per_epoch = steps_per_epoch(config, len(labels))
    size = config.train.batch_size
    weights = class_weights(labels, exponent=config.data.balance)

    def keys() -> Iterator[list[tuple[int, int]]]:
        for epoch in range(first_step // per_epoch, config.train.epochs):
            indices = draw_epoch(weights, per_epoch * size, seed=config.seed, epoch=epoch)
            for step in range(max(first_step - epoch * per_epoch, 0), per_epoch):
                position = (epoch * per_epoch + step) * size
                yield [(position + i, int(indices[step * size + i])) for i in range(size)]

    # A generator of its own: a loader draws from torch's global state when it starts, which a restarted run would not
    # have done at the same place.
    loader = DataLoader(dataset, batch_sampler=list(keys()), num_workers=config.train.workers, collate_fn=_collate,
                        pin_memory=device != "cpu", generator=torch.Generator(),
                        multiprocessing_context="fork" if config.train.workers else None)
    return iter(loader)
