"""Teachers label files: one after the other, each kept as soon as it is done, checked before anything is written."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile as sf
import torch
from tqdm import tqdm

from birdkit import audio, checkpoint
from birdkit.blending import needs_all_rows
from birdkit.config import PEOPLE, LabelConfig, Member
from birdkit.data.filecache import FileCache
from birdkit.ensembles import Prepared, load_ensemble
from birdkit.inference import Ensemble, Heard, SoundscapeFile, load_predictors
from birdkit.inference.repetition import TOLERANCE, spread_of_probabilities
from birdkit.kaggle import Workspace
from birdkit.pseudolabel.agreement import Agreement
from birdkit.pseudolabel.guards import (
    Teacher,
    refuse_dominant,
    refuse_foreign_classes,
    refuse_late,
    refuse_repeated,
)
from birdkit.pseudolabel.parts import Part, Parts
from birdkit.pseudolabel.students import beside, groups_of, may_teach
from birdkit.pseudolabel.table import STEADY, SURE, PseudoLabelError, TableWriter, empty, frontend_hash, read
from birdkit.settings import to_dict

log = logging.getLogger(__name__)

# Settings that change no probability.
LATE = ("floor", "least_peak", "most_share", "share_from", "recordings", "teachers")
AHEAD = ("clip_step_s", "batch_size", "precision")  # settings of the teachers' own InferenceConfig


@dataclass(frozen=True)
class EnsembleTeachers:
    """Teachers as a file of birdkit.ensembles lists them: with their weights, and blended as it says.

    competition_dir  whose files say what post-processing needs
    work             where members that are not beside the file are looked for
    year             of the competition, stated; 0 to recognise it
    """

    path: Path
    competition_dir: Path
    work: Workspace | None = None
    year: int = 0


@dataclass(frozen=True)
class Labelled:
    """What was labelled.

    path      of the table
    windows   rows that were written
    files     that have rows
    left_out  files that every teacher was trained on
    faults    files that could not be read, with the reason
    """

    path: Path
    windows: int = 0
    files: int = 0
    left_out: tuple[str, ...] = ()
    faults: Mapping[str, str] = dataclasses.field(default_factory=dict)


def label(files: Sequence[Path | str], teachers: Sequence[Path | str], *, path: Path | str, round: int,
          classes: Sequence[str] | None = None, **options: Any) -> pd.DataFrame:
    """As `label_files`, for tables that fit into memory: returns the table as `read` does."""
    label_files(files, teachers, path=path, round=round, classes=classes, **options)
    return read(path, classes=classes, expected_round=round)


def label_files(files: Sequence[Path | str], teachers: Sequence[Path | str] | EnsembleTeachers, *,
                path: Path | str, round: int,
                config: LabelConfig | None = None, window_s: float = 5.0, root: Path | str | None = None,
                classes: Sequence[str] | None = None, contents: Mapping[str, str] | None = None,
                leave_out_seen: bool = True, backend: str | None = None, device: str = "auto",
                progress: bool = True) -> Labelled:
    """Label files with teachers and write the table with its provenance. Memory does not grow with their number, but
    for some bytes a file.

    A file is labelled by the mean of those teachers that were not trained on it. Where the config's `teachers` keeps
    students from some of them, the tables of birdkit.pseudolabel.students are written beside, in the same pass.
    Files that cannot be read are left out, logged, and listed with the reason in the provenance. Without teachers,
    which is how the first round begins, and without files the table is empty. A run that was killed goes on with the
    next file; files that were labelled by other teachers or with other settings are then labelled anew. A table is
    there whole or not at all, and that of all teachers last.

    files           relative to `root`, as the training tables name them, since that is how a teacher knows them
    teachers        checkpoints of a round before `round`, or an ensemble's file, whose way of blending then holds
                    instead of the config's; one that needs the rows of all files is a ValueError
    round           the round that will train on these labels
    config          how to label; its `recordings` says nothing here: `files` may be recordings
    window_s        the competition's, where the config has none
    classes         columns, matched by name: the taxonomy; None for all that any teacher knows
    contents        what files hold, by name, see birdkit.data.tables.contents_of; others are decoded once more to know
                    it, where a teacher remembers what it was trained on by content
    leave_out_seen  True leaves out and counts a file that every teacher was trained on, False raises
    backend         of the networks on a CPU, None for the teachers' own; on a GPU it is torch
    device          "auto" (a GPU where there is one), "cpu" or "cuda"

    Raises PseudoLabelError where all windows of a soundscape, or a teacher's outputs for all clips of it, are equal
    though it does not sound the same all the time, a class takes too many labels, a teacher is of this or a later round
    or knows a class that is none, or nothing is left to label; ValueError where students of some group would have no
    teacher, or none for a class.
    """
    config = config or LabelConfig()
    path = Path(path)
    if not teachers or not len(files):
        log.warning("round %d: there are no %s, %s holds no labels", round,
                    "files to label" if teachers else "teachers yet", path)
        empty(path, classes or (), round=round)
        return Labelled(path)
    names = [_name(file, root) for file in files]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"files named twice: {twice[:3]}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    prepared = _load(teachers, config, backend=backend if device == "cpu" else "torch", device=device)
    if needs_all_rows(prepared.mean):
        raise ValueError(f"blend = {prepared.mean!r} needs the rows of all files, but labels are made file by file")
    chosen = [Teacher(own) for own in prepared.models]
    refuse_late(chosen, round)
    if classes is not None:
        refuse_foreign_classes(chosen, classes)
    columns = tuple(dict.fromkeys(name for one in chosen for name in one.one.classes)) if classes is None else classes
    labeller = _Labeller(chosen, config, tuple(columns), Path(root or ""), window_s=config.window_s or window_s,
                         round=round, backend=backend, progress=progress, mean=prepared.mean,
                         members=prepared.members)
    groups = _unseen(names, chosen, labeller.contents(names, contents or {}, path),
                     by_people=config.out_of_fold == PEOPLE)
    seen_by_all = groups.pop((), [])
    if seen_by_all:
        what = f"{len(seen_by_all)} of {len(names)} soundscapes were seen in training by every teacher"
        if not leave_out_seen:
            raise PseudoLabelError(f"{what}: {', '.join(seen_by_all[:3])}")
        log.warning("%s; they are left out: %s", what, ", ".join(seen_by_all[:3]))
    return labeller.run(path, names, groups)


class _Labeller:
    """The teachers with everything that decides what they say."""

    def __init__(self, teachers: Sequence[Teacher], config: LabelConfig, classes: tuple[str, ...], root: Path, *,
                 window_s: float, round: int, backend: str | None, progress: bool, mean: str,
                 members: tuple[Member, ...] | None) -> None:
        self.teachers = teachers
        self.mean = mean
        self.members = members
        self.config = config
        self.window_s = window_s
        self.stride_s = config.stride_s or window_s
        self.classes = classes
        self.root = root
        self.round = round
        self.backend = backend
        self.progress = progress
        self.tables = {"": tuple(range(len(teachers)))}
        kinds = [(one.one.config.split, one.one.config.model.family) for one in teachers]
        for group in groups_of(config.teachers, kinds):
            own = tuple(index for index, kind in enumerate(kinds) if may_teach(group, *kind))
            if not own:
                raise ValueError(f"labelling.teachers = {config.teachers!r} needs teachers of two backbones at least, "
                                 f"but all {len(kinds)} are {kinds[0][1]}")
            self._ensemble(own)  # refuses classes that nobody knows
            self.tables[group] = own

    def contents(self, names: Sequence[str], known: Mapping[str, str], table: Path) -> dict[str, str]:
        """What the files hold, "" where nobody asks or they cannot be read; what is found out is kept on disk."""
        asked = any(one.one.seen_content for one in self.teachers)
        todo = [name for name in names if asked and name not in known and (self.root / name).is_file()]
        if not todo:
            return dict(known)
        table.parent.mkdir(parents=True, exist_ok=True)
        store = FileCache(_content, table.with_name(f".{table.name}.contents.jsonl"), version=sf.__libsndfile_version__,
                          write=str, read=str)
        found = store.get(self.root, todo, label="contents", workers=min(os.cpu_count() or 1, 4))
        return {**known, **found}

    def run(self, path: Path, names: Sequence[str], groups: Mapping[tuple[int, ...], list[str]]) -> Labelled:
        """Label what is not labelled yet, then write the tables; what is in that of all teachers."""
        parts = Parts(path.with_name(f".{path.name}.parts"), self._identity(), (len(self.tables), len(self.classes)))
        written = False
        try:
            if parts.discarded:
                log.info("%d files were labelled by other teachers or settings: they are labelled anew",
                         parts.discarded)
            faults = self._label(parts, groups)
            for group in self.tables:
                self._check(path, parts, group, names, groups, faults)
            for group in reversed(self.tables):  # that of all teachers last: once it is there, all are
                result = self._write(beside(path, group), parts, group, names, groups, faults)
            written = True
        finally:
            parts.close(remove=written)
        log.info("%s: %d windows of %d files, %d left out as seen, %d not readable", path, result.windows,
                 result.files, len(result.left_out), len(faults))
        return result

    def _identity(self) -> str:
        """A hash of all that changes a probability."""
        settings = {name: value for name, value in to_dict(self.config).items() if name not in LATE}
        says = [[own.share, sorted(own.speaks_for), to_dict(own.postprocess), to_dict(own.config.inference)]
                for one in self.teachers for own in one.predictors]
        what = [settings, self.window_s, [one.one.hash for one in self.teachers], self.classes, self.backend,
                str(self.root), checkpoint.versions(), says, self.mean, to_dict(self.members), list(self.tables)]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _label(self, parts: Parts, groups: Mapping[tuple[int, ...], list[str]]) -> dict[str, str]:
        """Label the files that no earlier run has labelled; those that could not be read, with the reason."""
        stamps = {name: _stamp(self.root / name) for group in groups.values() for name in group}
        known, faults = parts.known(stamps), dict[str, str]()
        agreement = Agreement(len(self.teachers), len(self.classes))
        with tqdm(total=len(stamps), initial=len(known), desc="label", unit="file", disable=not self.progress,
                  mininterval=1.0, smoothing=0.05) as bar:
            for members, group in groups.items():
                todo = [name for name in group if name not in known]
                before = len(faults)
                own = [tuple(index for index in members if index in table) for table in self.tables.values()]
                ensembles = {some: self._ensemble(some) for some in own if some}
                with closing(self._hear(ensembles[members], todo, faults)) as heard:
                    for one in heard:
                        refuse_repeated(one, ensembles[members].predictors, self.root / one.name)
                        said = {some: self._of_some(one, members, some, ensemble)
                                for some, ensemble in ensembles.items()}
                        nothing = np.full_like(one.probabilities, np.nan)
                        sums = agreement.of(self._of_teachers(one.apart, members), members)
                        parts.add(Part(one.name, np.stack([said.get(some, nothing) for some in own]), sums),
                                  stamps[one.name])
                        bar.update()
                bar.update(len(faults) - before)
        return faults

    def _ensemble(self, members: Sequence[int]) -> Ensemble:
        """Some of the teachers as one."""
        predictors = [one for index in members for one in self.teachers[index].predictors]
        return Ensemble(predictors, window_s=self.window_s, stride_s=self.stride_s, classes=self.classes,
                        mean=self.mean, members=self.members)

    def _hear(self, ensemble: Ensemble, names: Sequence[str], faults: dict[str, str]) -> Generator[Heard]:
        """What some of the teachers hear in files, one file after the other."""
        opened = ((name, lambda name=name: SoundscapeFile(self.root / name)) for name in names)  # type: ignore[misc]
        yield from ensemble.stream(opened, len(names), faults=faults, apart=len(ensemble.predictors) > 1)

    def _of_some(self, heard: Heard, members: Sequence[int], some: Sequence[int], ensemble: Ensemble) -> np.ndarray:
        """(W, K) of some of the `members` that were heard."""
        if some == members:
            return heard.probabilities
        whose = np.repeat(members, [len(self.teachers[index].predictors) for index in members])
        return ensemble.join(heard.name, heard.apart[np.isin(whose, some)])

    def _of_teachers(self, apart: np.ndarray, members: Sequence[int]) -> np.ndarray:
        """(P, W, K) of predictors -> (M, W, K) of teachers: the mean over the scales of each."""
        if len(members) < 2:
            return apart
        counts = [len(self.teachers[index].predictors) for index in members]
        return np.stack([scales.mean(0) for scales in np.split(apart, np.cumsum(counts)[:-1])])

    def _check(self, path: Path, parts: Parts, group: str, names: Sequence[str],
               groups: Mapping[tuple[int, ...], list[str]], faults: Mapping[str, str]) -> None:
        """Refuse a table that would be full of one class, or empty; one of some students alone may be that."""
        counts, number, found = np.zeros(len(self.classes), int), list(self.tables).index(group), 0
        wanted, seen = self._wanted(group, names, groups, faults)
        for part in parts.of(wanted):
            counts += (part.probabilities[number] >= SURE).sum(0)
            found += 1
        if not found:
            what = (f"none of {len(names)} soundscapes could be labelled: {len(seen)} were seen by every teacher, "
                    f"{len(faults)} could not be read: {list(faults.items())[:3]}")
            if not group:
                raise PseudoLabelError(what)
            log.warning("students of %s have nothing to learn from: %s", group, what)
        refuse_dominant(counts, self.classes, self.config, of=beside(path, group))

    def _wanted(self, group: str, names: Sequence[str], groups: Mapping[tuple[int, ...], list[str]],
                faults: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """The files that a table holds, and those that every teacher of its group has seen, in their order."""
        own = set(self.tables[group])
        asked = {name for members, files in groups.items() if own & set(members) for name in files}
        return ([name for name in names if name in asked and name not in faults],
                [name for name in names if name not in asked])

    def _write(self, path: Path, parts: Parts, group: str, names: Sequence[str],
               groups: Mapping[tuple[int, ...], list[str]], faults: Mapping[str, str]) -> Labelled:
        """Write the table of a group of students, in the order of the files."""
        own, number = self.tables[group], list(self.tables).index(group)
        wanted, seen = self._wanted(group, names, groups, faults)
        labelled_by: dict[tuple[int, ...], int] = {}
        for members, files in groups.items():
            some = tuple(own.index(index) for index in members if index in own)
            labelled_by[some] = labelled_by.get(some, 0) + len(files)
        agreement, steady = Agreement(len(self.teachers), len(self.classes)), list[str]()
        tolerance = max(TOLERANCE[one.precision] for index in own for one in self.teachers[index].predictors)
        for part in parts.of(wanted):
            if not group:
                agreement.add(part.agreement)
            if spread_of_probabilities(_threshold(part.probabilities[number], self.config)[1]) <= tolerance:
                steady.append(part.file)
        origin = {
            "round": self.round, "window_s": self.window_s, "stride_s": self.stride_s, "students": group,
            "settings": to_dict(self.config), "backend": self.backend, "mean": self.mean,
            "thresholds": {"floor": self.config.floor, "least_peak": self.config.least_peak},
            "teachers": [_describe(self.teachers[index]) for index in own],
            "labelled_by": [{"teachers": list(some), "files": count} for some, count in labelled_by.items() if some],
            "agreement": agreement.to_dict(self.classes) if len(self.teachers) > 1 and not group else None,
            "seen_by_all_teachers": seen, "faults": dict(faults),
            STEADY: {"files": steady, "tolerance": tolerance}}
        windows = n_files = 0
        with TableWriter(path, self.classes, origin) as writer:
            for part in parts.of(wanted):
                kept, values = _threshold(part.probabilities[number], self.config)
                start_s = kept * self.stride_s
                writer.add(part.file, start_s, start_s + self.window_s, values)
                windows, n_files = windows + len(values), n_files + bool(len(values))
        return Labelled(path, windows, n_files, tuple(seen), faults)


def _load(teachers: Sequence[Path | str] | EnsembleTeachers, config: LabelConfig, *, backend: str | None,
          device: str) -> Prepared:
    """The teachers, with what the settings change of how they predict."""
    how: dict[str, Any] = {"backend": backend, "device": device, "changes": {
        name: getattr(config, name) for name in AHEAD if getattr(config, name) is not None}}
    if isinstance(teachers, EnsembleTeachers):
        return load_ensemble(teachers.path, competition_dir=teachers.competition_dir, year=teachers.year,
                             work=teachers.work, **how)
    return Prepared(tuple(tuple(load_predictors([path], **how)) for path in teachers), tuple(map(str, teachers)),
                    config.mean)


def _threshold(probabilities: np.ndarray, config: LabelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and probabilities of the windows that are written, (W,) and (W, K)."""
    kept = np.flatnonzero(probabilities.max(axis=1) >= np.float32(config.least_peak))
    return kept, np.where(probabilities < np.float32(config.floor), np.float32(0), probabilities)[kept]


def _unseen(names: Sequence[str], teachers: Sequence[Teacher], contents: Mapping[str, str], *,
            by_people: bool) -> dict[tuple[int, ...], list[str]]:
    """The files by the teachers that were not trained on them, or not on what people said of them."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        content = contents.get(name, "")
        members = tuple(index for index, one in enumerate(teachers) if not one.saw(name, content, by_people=by_people))
        groups.setdefault(members, []).append(name)
    return groups


def _describe(teacher: Teacher) -> dict[str, Any]:
    """What a table remembers of a teacher."""
    one = teacher.one
    return {"file": Path(one.source).name, "hash": one.hash, "name": one.config.name, "split": one.config.split,
            "round": one.config.round, "model": one.config.model.name, "family": one.config.model.family,
            "frontend": frontend_hash(one.config.frontend), "inference": to_dict(one.config.inference)}


def _name(file: Path | str, root: Path | str | None) -> str:
    """The name a training table has for the file: relative to `root`."""
    path = Path(file)
    return (path.relative_to(root) if root is not None and path.is_absolute() else path).as_posix()


def _stamp(path: Path) -> str:
    """Size and time of change of a file, "" where there is none."""
    if not path.is_file():
        return ""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _content(path: Path) -> str:
    """What a file holds, "" where it cannot be read: then it is not labelled either."""
    try:
        return audio.check(path).content
    except audio.AudioError:
        return ""
