"""Where clips come from: recordings with their labels, soundscapes, noise. One kind of table for all of them.

A row of a source is a range of a file, and its targets; a clip of it is cut from inside the range. The training
examples themselves are the rows of such a source, so a second loader of recordings has the very same crops, targets and
weights.
"""
from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from birdkit import audio
from birdkit.config import (
    LABELLED,
    PSEUDO,
    SOUNDSCAPES,
    UNLABELLED,
    DataConfig,
    PseudoConfig,
    RunConfig,
    SourceConfig,
)
from birdkit.data import crops
from birdkit.data.audio_store import AudioStore
from birdkit.data.labelled_soundscapes import runs_of, window_cells
from birdkit.data.tables import (
    DataError,
    check_columns,
    choose_recordings,
    make_cell_weights,
    make_targets,
    make_weights,
    marked_centres,
    refuse_low_rated,
    spans,
)
from birdkit.data.window_choice import choose_windows, loud_enough, window_odds
from birdkit.data.window_labels import capped, clip_labels, label_lines, read_probabilities, shape_labels
from birdkit.kaggle import AUDIO_SUFFIXES

log = logging.getLogger(__name__)

READERS = 8  # threads that read headers


@dataclass(frozen=True)
class ClipSource:
    """Rows that clips are cut from.

    file         (R,) names, relative to the root of the store, or absolute
    start_s      (R,) where in the file the range begins
    length_s     (R,) how long it is; a clip is cut from inside it, and a shorter range is filled up
    target       (R, K) in [0, 1]
    weight       (R,) >= 0
    cell_weight  (R, K) in [0, 1]: 0 where nothing is known of a label
    odds         (R,) how often a row is drawn where the source is mixed in, in proportion
    centre_s     (R,) what a "marked" clip is centred on; NaN for none
    crop, short  where a clip is cut, and what fills it up, see DataConfig
    matches      (R, K) bool, the examples of which classes a row is given to, see SourceConfig.match; None: of any
    quiet        True for audio without what calls in it, see birdkit.data.quiet
    """

    file: np.ndarray
    start_s: np.ndarray
    length_s: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    cell_weight: np.ndarray
    odds: np.ndarray
    centre_s: np.ndarray
    crop: str = "random"
    short: str = "repeat"
    matches: np.ndarray | None = None
    quiet: bool = False

    @classmethod
    def recordings(cls, table: pd.DataFrame, classes: Sequence[str], config: DataConfig) -> ClipSource:
        """From a recordings table, after birdkit.data.tables.keep_rated: its targets, weights, spans and marked
        centres.

        Raises birdkit.data.DataError where it lacks a column that the config asks for, holds a label that is no
        class, or rows rated below min_rating.
        """
        check_columns(table)
        refuse_low_rated(table, config)
        first_s, end_s = spans(table).T
        start_s = np.where(np.isnan(first_s), 0.0, first_s)
        length_s = np.where(np.isnan(end_s), table["duration_s"].to_numpy(float), end_s) - start_s
        return cls(table["file"].to_numpy(object), start_s, length_s, make_targets(table, classes, config),
                   make_weights(table, config), make_cell_weights(table, classes, config), np.ones(len(table)),
                   marked_centres(table, config), config.crop, config.short)

    @classmethod
    def unlabelled(cls, table: pd.DataFrame, n_classes: int) -> ClipSource:
        """Whole files of which nothing is known, or in which nothing calls: their targets are zeros, and count.

        table  with the columns file and duration_s, such as the soundscapes table
        """
        n = len(table)
        return cls(table["file"].to_numpy(object), np.zeros(n), table["duration_s"].to_numpy(float),
                   _constant(0.0, n, n_classes), np.ones(n, np.float32), _constant(1.0, n, n_classes), np.ones(n),
                   np.full(n, np.nan))

    @classmethod
    def folder(cls, path: Path | str, n_classes: int) -> ClipSource:
        """Every audio file below a folder, without animals; a relative path is relative to the working directory.

        Durations are what the headers say. Files that cannot be read are left out and logged. Raises DataError where
        there is no folder, no audio in it, or nothing of it can be read.
        """
        folder = Path(path).absolute()
        paths = sorted(file for file in folder.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
        if not paths:
            raise DataError(f"{path}: {'no audio below it' if folder.is_dir() else 'there is no such folder'} "
                            f"({', '.join(AUDIO_SUFFIXES)})")
        with ThreadPoolExecutor(READERS) as pool:
            found = dict(zip(map(str, paths), pool.map(_duration_s, paths), strict=True))
        faults = [str(about) for about in found.values() if isinstance(about, audio.AudioError)]
        durations = {file: about for file, about in found.items() if isinstance(about, float)}
        if not durations:
            raise DataError(f"{path}: none of {len(paths)} files can be read; the first: {faults[0]}")
        if faults:
            log.warning("%d of %d files below %s cannot be read and are left out: %s", len(faults), len(paths), path,
                        "; ".join(faults))
        return cls.unlabelled(pd.DataFrame(durations.items(), columns=["file", "duration_s"]), n_classes)

    @classmethod
    def pseudo_labelled(cls, table: pd.DataFrame, classes: Sequence[str], config: PseudoConfig, clip_s: float, *,
                        match: float = 0.0) -> ClipSource:
        """From a pseudo-label table: a row per chosen window, at whose start the clip starts.

        What the settings do is in `birdkit.data.window_labels` and `birdkit.data.window_choice`; match is as in
        SourceConfig.
        Raises DataError where a class has no column, or the settings leave no window.
        """
        table = table.sort_values(["file", "start_s"], ignore_index=True)
        probability = read_probabilities(table, classes)
        used = loud_enough(probability, config)
        labels = shape_labels(probability, label_lines(probability[used], classes, config), config)
        rows = choose_windows(probability, labels, used, config)
        heard = clip_labels(table, labels, clip_s)[rows]
        rest_s = (table.groupby("file")["end_s"].transform("max") - table["start_s"]).to_numpy(float)[rows]
        target = capped(config.target * heard, config.label_sum)
        source = cls._windows(table.iloc[rows], rest_s.clip(max=clip_s), target,
                              odds=window_odds(table, labels, rows, config),
                              matches=heard >= match if match else None).weighted(config.weight)
        if config.unsure_from == config.unsure_to:
            return source
        loudest = clip_labels(table, probability, clip_s)[rows]
        known = (loudest <= config.unsure_from) | (loudest >= config.unsure_to)
        return replace(source, cell_weight=known.astype(np.float32))

    @classmethod
    def labelled(cls, table: pd.DataFrame, classes: Sequence[str], clip_s: float, *, match: float = 0.0,
                 label_sum: float = 0.0) -> ClipSource:
        """From labelled windows of soundscapes, see birdkit.data.labelled_soundscapes: a row per window, by file and
        time.

        The clip starts where the window does and ends with the last of those that follow on it: what lies beyond is
        not labelled. match and label_sum are as in SourceConfig. Raises DataError for a label that is no class.
        """
        table = table.sort_values(["file", "start_s"], ignore_index=True)
        run = table.assign(file=runs_of(table))
        heard = clip_labels(run, window_cells(table, classes).astype(np.float32), clip_s)
        rest_s = (run.groupby("file")["end_s"].transform("max") - run["start_s"]).to_numpy(float)
        return cls._windows(table, rest_s.clip(max=clip_s), capped(heard, label_sum), odds=np.ones(len(table)),
                            matches=heard >= match if match else None)

    @classmethod
    def _windows(cls, table: pd.DataFrame, length_s: np.ndarray, target: np.ndarray, *, odds: np.ndarray,
                 matches: np.ndarray | None) -> ClipSource:
        """Rows that begin where windows do; everything is known of them."""
        n = len(table)
        return cls(table["file"].to_numpy(object), table["start_s"].to_numpy(float), length_s,
                   target.astype(np.float32), np.ones(n, np.float32), _constant(1.0, n, target.shape[1]), odds,
                   np.full(n, np.nan), crop="first", matches=matches)

    def weighted(self, factor: float) -> ClipSource:
        """The same rows, their weights times a number."""
        return replace(self, weight=self.weight * np.float32(factor))

    def followed_by(self, other: ClipSource) -> ClipSource:
        """These rows and then those of another, whose ranges are no longer than a clip, so that both crop alike."""
        columns = ("file", "start_s", "length_s", "target", "weight", "cell_weight", "odds", "centre_s")
        together: dict[str, Any] = {name: np.concatenate([getattr(self, name), getattr(other, name)])
                                    for name in columns}
        return replace(self, **together)

    def within(self, store: AudioStore, clip_s: float) -> ClipSource:
        """The same rows, their ranges cut to what the store's packing holds of them.

        A marked centre outside of that is dropped, and logged. Raises DataError where less than a clip is left of a
        row that had one.
        """
        if store.packed is None:
            return self
        from_s, to_s = np.array([store.extent(file) for file in self.file]).T
        first_s, end_s = np.maximum(self.start_s, from_s), np.minimum(self.start_s + self.length_s, to_s)
        short = end_s - first_s < np.minimum(self.length_s, clip_s) - 1e-3
        for row in np.flatnonzero(short)[:1]:
            raise DataError(f"{self.file[row]}: of {self.start_s[row]:g} to {self.start_s[row] + self.length_s[row]:g} "
                            f"s only what lies in {from_s[row]:g} to {to_s[row]:g} s is packed in "
                            f"{store.packed.folder}, too little for a clip of {clip_s:g} s, as of {short.sum()} of "
                            f"{len(self)} rows; pack more `seconds`")
        lost = (self.centre_s < first_s) | (self.centre_s > end_s)
        if lost.any():
            log.warning("%d marked centres lie outside of what is packed: random clips are cut there", lost.sum())
        return replace(self, start_s=first_s, length_s=end_s - first_s,
                       centre_s=np.where(lost, np.nan, self.centre_s))

    def clip(self, row: int, *, store: AudioStore, n_samples: int, rng: np.random.Generator,
             begins_s: np.ndarray | None = None) -> tuple[np.ndarray, float, float]:
        """A clip of a row, (n_samples,) float32, and the seconds of its file that are heard in it, from and to.

        begins_s  where clips may begin: the one next to what was drawn is taken, if any is inside the range

        Raises birdkit.audio.AudioError, which names the file.
        """
        file, first_s, length_s = self.file[row], float(self.start_s[row]), float(self.length_s[row])
        clip_s = n_samples / store.sample_rate_hz
        if length_s <= clip_s:
            wave = store.part(file, first_s, length_s, quiet=self.quiet)
            if len(wave) < n_samples:
                wave = crops.fill(wave, n_samples, self.short, rng=rng)
            return wave[:n_samples], first_s, first_s + length_s
        start_s = crops.choose_start(self.crop, first_s, first_s + length_s - clip_s, clip_s, rng=rng,
                                     centre_s=float(self.centre_s[row]),
                                     energy=lambda: store.energy(file, first_s, first_s + length_s))
        if begins_s is not None:
            start_s = crops.snap(start_s, first_s, first_s + length_s - clip_s, begins_s)
        wave = store.part(file, start_s, clip_s, quiet=self.quiet)
        return audio.pad_cyclic(wave, n_samples), start_s, start_s + clip_s

    def lengths_s(self) -> dict[str, float]:
        """Each file and the second up to which it is used."""
        ends: dict[str, float] = {}
        for file, end_s in zip(self.file, self.start_s + self.length_s, strict=True):
            ends[file] = max(end_s, ends.get(file, 0.0))
        return ends

    def __len__(self) -> int:
        return len(self.file)


def choose_sources(config: RunConfig, needed: Collection[str], classes: Sequence[str], *, recordings: pd.DataFrame,
                   soundscapes: pd.DataFrame | None, pseudo_labels: pd.DataFrame | None,
                   labelled_soundscapes: pd.DataFrame | None = None) -> dict[str, ClipSource]:
    """The sources that augmentations ask for, by name; nothing else is decoded.

    "soundscapes" are pseudo-labelled windows from round 1 on, whole unlabelled soundscapes before; all others are in
    `config.data.sources`. The length of an epoch does not depend on them: each example of the main loader may get a
    clip of every source. That is the longer one of the first seed's two loaders, since a choice among the training
    recordings is never more than all of them, and the shorter was cycled, as here (birdkit.sampling.Rounds).

    needed         names, the union of `member.sources` over the augmentations
    recordings     the training rows; those of the validating split are left out again
    soundscapes    the soundscapes table without the validating split, or None
    pseudo_labels  its pseudo-label table, or None
    labelled_soundscapes  the table of labelled windows without the validating split, or None

    Raises ValueError where the round of the config and the presence of pseudo-labels contradict each other (a round may
    learn from what teachers heard in the recordings alone), a needed source is not configured, or holds nothing.
    """
    n_labels = 0 if pseudo_labels is None else len(pseudo_labels)
    if (n_labels and not config.round) or (config.round and not n_labels and not config.distil.self_share):
        why = (f" of soundscapes outside of split {config.split}: there are none, or, with labelling.out_of_fold = "
               "'all', its teachers had learnt from all of them") if config.round and config.split >= 0 else ""
        raise ValueError(f"round {config.round} {'needs' if config.round else 'takes no'} pseudo-labels, but "
                         f"{n_labels} windows were given{why}")
    configured = {source.name: source for source in config.data.sources}
    unknown = sorted(set(needed) - set(configured) - {SOUNDSCAPES})
    if unknown:
        raise ValueError(f"an augmentation mixes in the source {unknown[0]!r}, but data.sources has "
                         f"{', '.join(configured) or 'none'}: add a SourceConfig of that name, or change the "
                         "augmentation's `source`")
    if config.split >= 0 and "split" in recordings:
        recordings = recordings[recordings["split"] != config.split]
    chosen: dict[str, ClipSource] = {}
    for name in sorted(needed):
        if name == SOUNDSCAPES:
            chosen[name] = _soundscapes(config, classes, soundscapes, pseudo_labels)
        elif configured[name].kind == "folder":
            chosen[name] = ClipSource.folder(configured[name].path, len(classes))
        elif configured[name].kind == "recordings":
            rows = choose_recordings(recordings, configured[name], classes, seed=config.seed)
            chosen[name] = ClipSource.recordings(rows, classes, config.data)
        elif configured[name].kind == UNLABELLED:
            chosen[name] = _unlabelled(config, name, classes, soundscapes)
        else:
            chosen[name] = _window_source(config, configured[name], classes, pseudo_labels, labelled_soundscapes)
    chosen = {name: source.weighted(configured[name].weight) if name in configured else source
              for name, source in chosen.items()}
    labels_used = {SOUNDSCAPES, *(source.name for source in config.data.sources if source.kind == PSEUDO)}
    if n_labels and not labels_used & set(needed):
        log.warning("no augmentation mixes in the source %s: %d pseudo-labels are not used",
                    " or ".join(map(repr, sorted(labels_used))), n_labels)
    describe(chosen)
    return chosen


def describe(sources: Mapping[str, ClipSource]) -> None:
    """Log how much each source holds."""
    for name, source in sources.items():
        log.info("source %s: %d rows in %d files, %d of them with labels", name, len(source), len(set(source.file)),
                 int((source.target > 0).any(1).sum()))


def _soundscapes(config: RunConfig, classes: Sequence[str], soundscapes: pd.DataFrame | None,
                 pseudo_labels: pd.DataFrame | None) -> ClipSource:
    if pseudo_labels is not None and len(pseudo_labels):
        return ClipSource.pseudo_labelled(pseudo_labels, classes, config.pseudo, config.example_s)
    return _unlabelled(config, SOUNDSCAPES, classes, soundscapes)


def _unlabelled(config: RunConfig, name: str, classes: Sequence[str], soundscapes: pd.DataFrame | None) -> ClipSource:
    """Whole soundscapes without labels."""
    if soundscapes is None or not len(soundscapes):
        raise ValueError(f"an augmentation mixes in the source {name!r}, but there are no soundscapes to train on: "
                         "give some, or take the augmentation out")
    return replace(ClipSource.unlabelled(soundscapes, len(classes)), quiet=config.data.unlabelled == "quiet")


def _window_source(config: RunConfig, source: SourceConfig, classes: Sequence[str],
                   pseudo_labels: pd.DataFrame | None, labelled_soundscapes: pd.DataFrame | None) -> ClipSource:
    """A source of kind "labelled_soundscapes" or "pseudo_labels"."""
    table = labelled_soundscapes if source.kind == LABELLED else pseudo_labels
    if table is None or not len(table):
        raise ValueError(f"an augmentation mixes in the source {source.name!r} of kind {source.kind!r}, but there are "
                         f"none to train on in round {config.round}: "
                         + ("run notebook 01 again where the competition has some" if source.kind == LABELLED else
                            "pseudo-labels are there from round 1 on") + ", or take the augmentation out")
    if source.kind == LABELLED:
        return ClipSource.labelled(table, classes, config.example_s, match=source.match, label_sum=source.label_sum)
    return ClipSource.pseudo_labelled(table, classes, config.pseudo, config.example_s, match=source.match)


def _constant(value: float, n: int, n_classes: int) -> np.ndarray:
    """(n, n_classes) of one value, which takes no memory."""
    return np.broadcast_to(np.float32(value), (n, n_classes))


def _duration_s(path: Path) -> float | audio.AudioError:
    try:
        return audio.info(path).duration_s
    except audio.AudioError as error:
        return error
