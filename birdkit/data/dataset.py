"""Training examples and batches: clips of recordings, with clips of the sources that augmentations mix in."""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from birdkit.batch import Batch
from birdkit.config import RunConfig
from birdkit.data.audio_store import AudioStore
from birdkit.data.feeding import feed
from birdkit.data.labelled_soundscapes import rarest_labels
from birdkit.data.recording_labels import RecordingLabels
from birdkit.data.sources import ClipSource
from birdkit.data.teacher_table import TeacherTable
from birdkit.sampling import MatchedRounds, Rounds, draw_rows

log = logging.getLogger(__name__)

Key = tuple[int, int]  # position in the run, and row of the recordings table
FIELDS = ("wave", "target", "weight", "cell_weight")


class ClipDataset(Dataset):
    """Training examples by (position, recording): everything random comes from (seed, position).

    The position counts examples since the start of the run, so the same example comes out in whatever worker, and
    after whatever restart; what a source adds depends on (seed, position, name of the source). An example is a dict of
    tensors: wave (N,), target (K,), weight () and cell_weight (K,), and in "sources" such a dict for each source; with
    a teacher's table also what that says of the clip, teacher (W,).

    table             recordings, without those that `birdkit.data.tables.keep_rated` takes out
    sources           what is mixed in, by name, see birdkit.data.choose_sources
    shares            of the examples that get a clip of a source, by its name, if not all: drawn for each position, as
                      everything else. The others get silence of weight 0, and "p_factor" says which is which, see
                      birdkit.batch.Batch; nothing is decoded for them
    labelled          windows of soundscapes that are examples, too, after the recordings; without those of the
                      validating split
    recording_labels  what teachers heard in recordings, which joins the targets of their clips
    teacher           what a teacher says of the recordings' windows; their clips begin where those do
    labels            what each example counts for where classes are balanced: a recording's primary label, a window's
                      rarest

    Raises birdkit.data.DataError for a table that does not fit, or of which the store's packing holds too little.
    """

    def __init__(self, table: pd.DataFrame, classes: Sequence[str], config: RunConfig, *, store: AudioStore,
                 sources: Mapping[str, ClipSource] | None = None, shares: Mapping[str, float] | None = None,
                 labelled: pd.DataFrame | None = None, recording_labels: RecordingLabels | None = None,
                 teacher: TeacherTable | None = None) -> None:
        self.n_samples = config.model.parts * config.frontend.n_samples
        self.seed = config.seed
        self.store = store
        self.recording_labels, self.teacher = recording_labels, teacher
        examples, self.labels = ClipSource.recordings(table, classes, config.data), table["label"].tolist()
        if labelled is not None:
            labelled = labelled.sort_values(["file", "start_s"], ignore_index=True)
            windows = ClipSource.labelled(labelled, classes, config.example_s)
            smooth = np.minimum(windows.target + np.float32(config.data.label_smoothing), 1)
            examples = examples.followed_by(replace(windows, target=smooth).weighted(config.data.labelled_weight))
            self.labels += rarest_labels(labelled, self.labels)
        self.recordings = examples.within(store, config.example_s)
        self.columns = {name: k for k, name in enumerate(classes)}
        self.sources = {name: source.within(store, config.example_s) for name, source in (sources or {}).items()}
        self.shares = {name: (shares or {}).get(name, 1.0) for name in self.sources}
        self.rounds = {name: Rounds(source.odds, seed=config.seed, name=name) for name, source in self.sources.items()}
        self.matched = {name: MatchedRounds(source.matches, source.odds, seed=config.seed, name=name)
                        for name, source in self.sources.items() if source.matches is not None}
        log.info("%d recordings of %d of %d classes, %.1f hours", len(table), table["label"].nunique(), len(classes),
                 self.recordings.length_s[:len(table)].sum() / 3600)
        if labelled is not None:
            log.info("%d labelled windows of %d soundscapes", len(labelled), labelled["file"].nunique())
        self._reserve()

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One example. Raises birdkit.audio.AudioError, which names the file."""
        return _first(self.make([key]))

    def make(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The examples of a batch, each tensor with a row for every key."""
        return _tensors(_stack([self._example(key) for key in keys]))

    def __len__(self) -> int:
        return len(self.recordings)

    def _example(self, key: Key) -> dict[str, Any]:
        position, recording = key
        mixed = {name: self._mixed_in(name, position, recording) for name in self.sources}
        own = self._cut(self.recordings, recording, [self.seed, position], teacher=self.teacher)
        return {**own, "sources": mixed}

    def _mixed_in(self, name: str, position: int, recording: int) -> dict[str, Any]:
        """A clip of a source, if this example is one of its share; of a source that matches examples, one that holds
        the example's class, if any does."""
        source, rounds, share = self.sources[name], self.rounds[name], self.shares[name]
        there = share >= 1 or np.random.default_rng([rounds.seed, position, 2]).random() < share
        p_factor = np.float64(1 / share if there else 0)
        row = self._row(name, position, recording) if there else None
        if row is not None:
            return {**self._cut(source, row, [rounds.seed, position, 1]), "p_factor": p_factor}
        n_classes = len(self.columns)
        return {"wave": np.zeros(self.n_samples, np.float32), "target": np.zeros(n_classes, np.float32),
                "weight": np.float32(0), "cell_weight": np.ones(n_classes, np.float32), "p_factor": p_factor}

    def _row(self, name: str, position: int, recording: int) -> int | None:
        """Which row of a source an example gets; None where it must match and none does."""
        if name not in self.matched:
            return self.rounds[name][position]
        k = self.columns.get(self.labels[recording])
        return None if k is None else self.matched[name].row(position, k)

    def _cut(self, source: ClipSource, row: int, seed: list[int], *,
             teacher: TeacherTable | None = None) -> dict[str, Any]:
        file, target = source.file[row], source.target[row]
        wave, start_s, end_s = source.clip(row, store=self.store, n_samples=self.n_samples,
                                           rng=np.random.default_rng(seed),
                                           begins_s=None if teacher is None else teacher.begins(file))
        if self.recording_labels is not None:
            target = self.recording_labels.target(file, start_s, end_s, target)
        example = {"wave": wave, "target": target, "weight": source.weight[row], "cell_weight": source.cell_weight[row]}
        return example if teacher is None else {**example, "teacher": teacher.at(file, start_s, end_s)}

    def _reserve(self) -> None:
        """Choose the files to keep in memory once, here, so that they are the same ones in every worker."""
        if self.store.free_bytes > 0:
            files: dict[tuple[str, bool], float] = {}
            for source in (self.recordings, *self.sources.values()):
                for file, end_s in source.lengths_s().items():
                    files[file, source.quiet] = max(end_s, files.get((file, source.quiet), 0.0))
            kept = sum(self.store.reserve(file, end_s, quiet=quiet) for (file, quiet), end_s in files.items())
            log.info("%d of %d files are kept in memory once they are decoded", kept, len(files))


def _stack(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Dicts of arrays as one dict of arrays, each with a row per example."""
    return {name: _stack([example[name] for example in examples]) if isinstance(value, dict) else
            np.stack([example[name] for example in examples]) for name, value in examples[0].items()}


def _tensors(parts: dict[str, Any]) -> dict[str, Any]:
    """Dicts of arrays as dicts of tensors."""
    return {name: _tensors(value) if isinstance(value, dict) else torch.from_numpy(value)
            for name, value in parts.items()}


def _first(parts: dict[str, Any]) -> dict[str, Any]:
    """The first example of a batch."""
    return {name: _first(value) if isinstance(value, dict) else value[0] for name, value in parts.items()}


def _batch(parts: Mapping[str, Any]) -> Batch:
    """A batch from what `ClipDataset.make` made."""
    wave, target, weight, cell_weight = (parts[name] for name in FIELDS)
    return Batch(wave, target, weight, cell_weight, p_factor=parts.get("p_factor"), teacher=parts.get("teacher"),
                 sources={name: _batch(source) for name, source in parts.get("sources", {}).items()})


def steps_per_epoch(config: RunConfig, n_recordings: int) -> int:
    """Batches in an epoch; at least one."""
    return max((config.data.samples_per_epoch or n_recordings) // config.train.batch_size, 1)


@dataclass(frozen=True)
class _KeysOfRun:
    """The keys of each batch of a run from `first_step` on, of one process: drawn epoch by epoch as they are needed."""

    config: RunConfig
    labels: Sequence[str]
    first_step: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[Key]]:
        data, size = self.config.data, self.config.train.batch_size
        per_epoch = steps_per_epoch(self.config, len(self.labels))
        own = range(self.rank * size // self.world_size, (self.rank + 1) * size // self.world_size)
        for epoch in range(self.first_step // per_epoch, self.config.train.epochs):
            rows = draw_rows(self.labels, per_epoch * size, balance=data.balance, least=data.least_per_class,
                                   most=data.most_per_class, seed=self.config.seed, epoch=epoch)
            for step in range(max(self.first_step - epoch * per_epoch, 0), per_epoch):
                position = (epoch * per_epoch + step) * size
                yield [(position + i, int(rows[step * size + i])) for i in own]


def training_batches(dataset: ClipDataset, labels: Sequence[str], config: RunConfig, *, first_step: int,
                     device: str = "cpu", rank: int = 0, world_size: int = 1) -> Generator[Batch]:
    """Batches of a run from `first_step` to its end, the same ones whether or not the run was interrupted.

    Each epoch draws recordings as the sampling settings of the config say, seeded by (seed, epoch). The batches do not
    depend on the number of workers, and are made ahead of the step, see `birdkit.data.feeding.feed`: close the
    generator (contextlib.closing) where the run may end before it.

    labels      one per row of the dataset, whose classes are balanced: its `labels`
    device      of the step; tensors for a GPU lie in page-locked memory
    rank        of this process among `world_size`: each gets its slice of every batch of `batch_size` examples, so
                that together they see exactly the examples of one process

    Raises ValueError where labels and dataset differ in length, or a batch cannot be shared out evenly.
    """
    if len(labels) != len(dataset):
        raise ValueError(f"{len(labels)} labels for a dataset of {len(dataset)} recordings")
    if config.train.batch_size % world_size or not 0 <= rank < world_size:
        raise ValueError(f"batch_size = {config.train.batch_size} cannot be shared out evenly to rank {rank} of "
                         f"{world_size} processes")
    parts = feed(dataset.make, _KeysOfRun(config, labels, first_step, rank, world_size), workers=config.train.workers,
                 pin=device != "cpu")
    return _batches(parts)


def _batches(made: Generator[dict[str, Any]]) -> Generator[Batch]:
    with contextlib.closing(made):
        yield from map(_batch, made)
