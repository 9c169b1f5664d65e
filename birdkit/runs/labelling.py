"""Labelling from the files on disk, as notebook 02 and `birdkit label` do it: tables, and the page to judge them by."""
from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from birdkit import checkpoint, kaggle, profiles, pseudolabel, recipes
from birdkit.backends import bundles
from birdkit.config import ALL, LabelConfig, RunConfig
from birdkit.data.tables import contents_of
from birdkit.pseudolabel import Trust, trust_page
from birdkit.settings import as_arguments, from_dict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRun:
    """What to label, and with what.

    recipe    a name in birdkit.recipes, whose `labelling` settings hold
    round     the round that will train on the labels; its teachers were trained in the round before
    changes   to the recipe's config, as for birdkit.settings.with_settings
    teachers  checkpoints or bundles; none for all of the round before, in the work folder
    ensemble  a file of birdkit.ensembles that lists them instead, with weights and a way to blend; "" for none
    root      folder of one's own audio to label, all of it, whatever its folders; None for the competition's unlabelled
              soundscapes
    files     only these, relative to `root` or to the competition; none for all
    out       the table; None for the work folder's pseudo_labels_r<round>.parquet
    device    "auto" (a GPU where there is one), "cpu" or "cuda"
    year      of the competition, stated; 0 to recognise it, see birdkit.profiles.recognise
    """

    competition_dir: Path
    work_dir: Path
    recipe: str = "small"
    round: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict)
    teachers: Sequence[Path | str] = ()
    ensemble: Path | str = ""
    root: Path | None = None
    files: Sequence[Path | str] = ()
    out: Path | None = None
    device: str = "auto"
    year: int = 0

    def config(self) -> LabelConfig:
        """How to label, with the recordings where the round learns from them; ValueError, TypeError or KeyError where
        the recipe or a change is none."""
        config = recipes.get(self.recipe).changed(self.round, 0, self.changes)
        asked = self.round > 0 and config.distil.self_share > 0
        return dataclasses.replace(config.labelling, recordings=config.labelling.recordings or asked)

    def check_teachers(self, teachers: Sequence[Path | str]) -> None:
        """Raise ValueError where nobody may label some of the competition's soundscapes, see LabelConfig.check_splits.

        A teacher of round 0, which has learnt from none of them, may label all.
        """
        origins = [_config_of(path) for path in teachers]
        if self.root is None and not self.files and origins and all(origin.round for origin in origins):
            self.config().check_splits(self.round, {origin.split for origin in origins},
                                       max(origin.n_splits for origin in origins))

    @property
    def table(self) -> Path:
        """Where the labels go."""
        return self.out or kaggle.Workspace(self.work_dir).pseudo_labels_path(self.round)

    def command(self) -> list[str]:
        """The command that labels this in a process of its own."""
        command = [sys.executable, "-m", "birdkit", "label", str(self.competition_dir), str(self.work_dir), "--round",
                   str(self.round), "--recipe", self.recipe, "--device", self.device]
        for option, paths in (("--teachers", self.teachers), ("--files", self.files),
                              ("--root", [self.root] if self.root else []), ("--out", [self.out] if self.out else [])):
            command += [option, *map(str, paths)] if paths else []
        command += ["--ensemble", str(self.ensemble)] if self.ensemble else []
        command += ["--year", str(self.year)] if self.year else []
        return command + as_arguments(self.changes)


@dataclass(frozen=True)
class RoundLabels:
    """What a labelling has left.

    table             the labels of the soundscapes
    recording_labels  those of the train recordings, beside them; None where the config asks for none
    page              the page to judge them by
    trust             the figures on it
    pictures          those of the soundscapes, by title
    """

    table: Path
    recording_labels: Path | None
    page: Path
    trust: Trust
    pictures: Mapping[str, trust_page.Picture]


def label_round(run: LabelRun, *, progress: bool = True) -> RoundLabels:
    """Label what a run asks for; write the tables and, beside the first, the page of the same name.

    Goes on where it was if it was killed. Raises birdkit.kaggle.MissingInputError where there are no tables of notebook
    01, no checkpoints of the round before, or no audio, ValueError where the teachers do not fit the settings, and what
    birdkit.pseudolabel.label_files raises.
    """
    config, work = run.config(), kaggle.Workspace(run.work_dir)
    competition = profiles.recognise(run.competition_dir, year=run.year)
    classes = profiles.read_classes(run.competition_dir, competition)
    teachers: Any = list(run.teachers) or (work.teachers(run.round) if not run.ensemble else [])
    if run.ensemble:
        if teachers:
            raise ValueError(f"{run.ensemble} lists the teachers: give no others")
        teachers = pseudolabel.EnsembleTeachers(Path(run.ensemble), run.competition_dir, work, run.year)
    else:
        run.check_teachers(teachers)
    recordings = _read_table(work.recordings, needed=config.recordings)
    soundscapes = _read_table(work.soundscapes, needed=run.root is None and not run.files)
    root, files = run.root or run.competition_dir, list(run.files) or _files_to_label(run, soundscapes)
    options: dict[str, Any] = {"round": run.round, "config": config, "window_s": competition.window_s,
                               "classes": classes, "device": run.device, "progress": progress}
    contents = {} if run.root else contents_of(set(map(str, files)), soundscapes)
    pseudolabel.label_files(files, teachers, path=run.table, root=root, contents=contents, **options)
    tables, of_recordings = {"soundscapes": (run.table, root)}, None
    if config.recordings and recordings is not None:
        of_recordings = run.table.with_name(work.recording_labels_path(run.round).name)
        names = recordings["file"].tolist()
        # The teachers of its split have learnt from all recordings that a student learns from.
        for_all = {**options, "config": dataclasses.replace(config, teachers=ALL)}
        pseudolabel.label_files(names, teachers, path=of_recordings, root=run.competition_dir, **for_all,
                                contents=contents_of(names, recordings))
        tables["train recordings"] = (of_recordings, run.competition_dir)
    counts = None if recordings is None else recordings["label"].value_counts()
    previous = _previous(work, run)
    sections, trusts = {}, {}
    for name, (path, folder) in tables.items():
        trusts[name] = pseudolabel.assess(path, previous=previous if name == "soundscapes" else None)
        sections[name] = trust_page.pictures(trusts[name], root=folder, train_counts=counts)
    page = trust_page.write_page(run.table.with_suffix(".html"), trusts, sections, origin=run.competition_dir)
    log.info("%s shows whether to trust these labels", page)
    return RoundLabels(run.table, of_recordings, page, trusts["soundscapes"], sections["soundscapes"])


def _config_of(teacher: Path | str) -> RunConfig:
    """The run config of a checkpoint, or of a bundle."""
    if bundles.is_bundle(teacher):
        return bundles.read_bundle(teacher).config
    return from_dict(RunConfig, checkpoint.read_info(teacher)["config"])


def _read_table(find: Callable[[], Path], *, needed: bool) -> pd.DataFrame | None:
    """A table of notebook 01; None where there is none: one's own soundscapes can be labelled without."""
    try:
        return pd.read_parquet(find())
    except kaggle.MissingInputError:
        if needed:
            raise
        return None


def _files_to_label(run: LabelRun, soundscapes: pd.DataFrame | None) -> list[Path | str]:
    """All files to label."""
    if run.root is None:
        return [] if soundscapes is None else soundscapes["file"].tolist()
    files = sorted(path.relative_to(run.root).as_posix() for path in run.root.rglob("*")
                   if path.suffix.lower() in kaggle.AUDIO_SUFFIXES and not path.name.startswith("."))
    if not files:
        raise kaggle.MissingInputError(f"no audio ({', '.join(kaggle.AUDIO_SUFFIXES)}) below {run.root}")
    return [*files]


def _previous(work: kaggle.Workspace, run: LabelRun) -> Path | None:
    """The table of the round before, where there is one to compare with: beside the new one, or as another notebook's
    output, unless one's own audio is labelled."""
    if run.round < 2:
        return None
    name = work.pseudo_labels_path(run.round - 1).name
    beside = run.table.with_name(name)
    elsewhere = work.look(name) if run.root is None else []
    return beside if beside.is_file() else next(iter(elsewhere), None)
