"""Training runs from the files on disk, as notebook 03 makes them: one here, or several at once, a process each."""
from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from birdkit import kaggle, profiles, pseudolabel, recipes, training
from birdkit.config import RunConfig
from birdkit.data.tables import CALL
from birdkit.ensembles import bind
from birdkit.runs.call_detector import call_config, call_table
from birdkit.runs.jobs import Job, check_outcomes, run_jobs
from birdkit.settings import as_arguments, replace
from birdkit.training import material
from birdkit.training.run_files import COLUMNS, HISTORY

log = logging.getLogger(__name__)

LOG = "train.log"


@dataclass(frozen=True)
class Run:
    """What to train, and from what.

    recipe         a name in birdkit.recipes
    changes        to the recipe's config, as for birdkit.settings.with_settings
    noise          folders of the recipe's sources by name, as for birdkit.recipes.for_competition; for call detectors,
                   of audio in which nothing calls
    out_dir        where checkpoints and history go; None for the work folder's round<round>_split<split>, or
                   call_split<split>
    pseudo_labels  the table of a round from 1 on; None for the work folder's. Of a table of teachers that may not all
                   teach this student it learns from the one beside it, see birdkit.pseudolabel.table_for. A call
                   detector learns from its round's which windows are silent, and else as in round 0
    resume_from    what an earlier session has left: the folder of its run, or the one that this lies in; "" for none
    year           of the competition, stated; 0 to recognise it, see birdkit.profiles.recognise
    ends_s         time.time() at which the run saves its state and stops; 0 for what the config says
    labelled       for call detectors, folders of short files with and without birds, see
                   birdkit.runs.call_detector.call_table
    """

    competition_dir: Path
    work_dir: Path
    recipe: str
    round: int = 0
    split: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, str | Path] = field(default_factory=dict)
    out_dir: Path | None = None
    pseudo_labels: Path | None = None
    resume_from: Path | str = ""
    ends_s: float = 0.0
    year: int = 0
    labelled: Mapping[str, str | Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where checkpoints and history go."""
        work = kaggle.Workspace(self.work_dir)
        own = work.call_dir(self.split) if self.calls else work.run_dir(self.round, self.split)
        return self.out_dir or own

    @property
    def calls(self) -> bool:
        """Whether it trains a call detector."""
        return recipes.get(self.recipe).calls

    def config(self) -> RunConfig:
        """The run config; ValueError, TypeError or KeyError where the recipe or a change is none."""
        if self.labelled and not self.calls:
            raise ValueError(f"labelled = {dict(self.labelled)} is for call detectors, which {self.recipe} trains none")
        if self.calls:
            return call_config(self._recipe_config(), self.competition_dir, year=self.year)
        config = recipes.for_competition(self._recipe_config(), self.competition_dir, year=self.year,
                                         folders=self.noise)
        bound = bind(config.inference.postprocess, self.competition_dir, year=self.year)
        return replace(config, inference__postprocess=bound)

    def classes(self) -> tuple[str, ...]:
        """The class names; birdkit.profiles.ProfileError where the competition's files do not fit."""
        return profiles.read_classes(self.competition_dir,
                                     profiles.recognise(self.competition_dir, year=self.year, say=False))

    def _recipe_config(self) -> RunConfig:
        return recipes.get(self.recipe).changed(0 if self.calls else self.round, self.split, self.changes)

    def pseudo_label_table(self) -> Path | None:
        """The pseudo-labels to train on: None in round 0, MissingInputError where there are none yet.

        Of a table of teachers that may not all teach it, the one beside it, see birdkit.pseudolabel.table_for.
        """
        path = self.pseudo_labels or kaggle.Workspace(self.work_dir).pseudo_labels(self.round)
        return pseudolabel.table_for(path, self._recipe_config()) if path is not None and path.is_file() else path

    def recording_label_table(self) -> Path | None:
        """What teachers say of the recordings: beside the pseudo-labels that are given, or the work folder's; None in
        round 0, and where there is none."""
        work = kaggle.Workspace(self.work_dir)
        beside = [] if self.pseudo_labels is None else [
            self.pseudo_labels.with_name(work.recording_labels_path(self.round).name)]
        return next((path for path in beside if path.is_file()), work.recording_labels(self.round))

    def labels(self, config: RunConfig) -> dict[str, pd.DataFrame | None]:
        """The tables of labels beside people's of recordings, as birdkit.training.fit takes them, checked.

        Those of the recordings themselves only where the config learns from them. Raises what
        birdkit.pseudolabel.read_for_training raises.
        """
        classes, work = self.classes(), kaggle.Workspace(self.work_dir)

        def read(path: Path | None) -> pd.DataFrame | None:
            return None if path is None else pseudolabel.read_for_training(
                path, classes=classes, expected_round=self.round, config=config.labelling)

        windows = work.labelled_soundscapes()
        return {"pseudo_labels": read(self.pseudo_label_table()),
                "labelled_soundscapes": None if windows is None else pd.read_parquet(windows),
                "recording_labels": read(self.recording_label_table() if config.distil.self_share else None)}

    def learnt(self, config: RunConfig) -> dict[str, str]:
        """Hashes of those tables and of the teacher, see birdkit.training.material.learnt."""
        return material.learnt(config, self.classes(), self.labels(config))

    def earlier(self) -> Path | None:
        """The folder that an earlier session has left of this run; None where it had not begun."""
        if not self.resume_from:
            return None
        given = Path(self.resume_from)
        inside = given / self.folder.name
        if not inside.is_dir() and any(given.glob("*_split*")):
            log.warning("%s holds no %s: it begins anew", given, self.folder.name)
            return None
        return inside if inside.is_dir() else given

    def sharing(self, at_once: int) -> Run:
        """The run with no more workers than its share of the cores, for where so many runs go on at once."""
        share = max(1, (os.cpu_count() or 1) // at_once)
        if at_once == 1 or self._recipe_config().train.workers <= share:
            return self
        return dataclasses.replace(self, changes={**self.changes, "train__workers": share})

    def command(self) -> list[str]:
        """The command that trains this run in a process of its own."""
        command = [sys.executable, "-m", "birdkit", "train", str(self.competition_dir), str(self.work_dir), "--recipe",
                   self.recipe, "--round", str(self.round), "--split", str(self.split)]
        command += ["--ends", str(self.ends_s)] if self.ends_s else []
        command += ["--year", str(self.year)] if self.year else []
        for option, path in (("--out", self.out_dir), ("--pseudo-labels", self.pseudo_labels),
                             ("--resume-from", self.resume_from)):
            command += [option, str(path)] if path else []
        command += as_arguments(self.changes)
        if self.noise:
            command += ["--noise", *(f"{name}={folder}" for name, folder in self.noise.items())]
        if self.labelled:
            command += ["--labelled", *(f"{table}={folder}" for table, folder in self.labelled.items())]
        return command


def train(run: Run, *, progress: bool = True) -> training.FitResult:
    """Train a run to its end, or go on with it.

    Raises birdkit.kaggle.MissingInputError before notebook 01, TimeoutError where its time is over before it begins,
    and what birdkit.training.fit raises.
    """
    config, work = run.config(), kaggle.Workspace(run.work_dir)
    if run.ends_s:
        left_s = run.ends_s - time.time()
        if left_s <= 0:
            raise TimeoutError(f"split {run.split}: the session's time was over {-left_s:.0f} s before it began")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, session_s=left_s))
    if run.calls:
        labels = run.pseudo_labels or work.pseudo_labels(run.round)
        table, root = call_table(config, run.competition_dir, work, round=run.round, pseudo_labels=labels,
                                 labelled=run.labelled, noise=run.noise)
        return training.fit(config, table, [CALL], root=root, out_dir=run.folder, resume_from=run.earlier(),
                            progress=progress)
    classes = run.classes()
    recordings = pd.read_parquet(work.recordings())
    soundscapes = pd.read_parquet(work.soundscapes())
    return training.fit(config, recordings, classes, root=run.competition_dir, out_dir=run.folder,
                        soundscapes=soundscapes, packed=work.packed(), resume_from=run.earlier(), progress=progress,
                        **run.labels(config))


def train_splits(run: Run, splits: int | Sequence[int], *, session_h: float | None = None,
                 progress: bool = True) -> list[pd.DataFrame]:
    """Train one split here, or several, each in a process of its own; returns their histories.

    Of several, as many run at once as there are GPUs; without a GPU they take turns, since one alone keeps all cores
    busy. What a process says is in train.log in its run's folder.

    splits     a number, or several
    session_h  hours from now after which every run saves its state and stops; 0 for no limit, None for none but on
               Kaggle, which drops the output of a session of 12 hours: kaggle.SESSION_H there

    Raises birdkit.runs.jobs.JobsError, after the others have ended, where one of several fails; for one, as `train`.
    """
    if session_h is None:
        session_h = kaggle.SESSION_H if kaggle.is_kaggle() else 0.0
    if session_h:
        run = dataclasses.replace(run, ends_s=time.time() + 3600 * session_h)
    if isinstance(splits, int):
        return [train(dataclasses.replace(run, split=splits), progress=progress).history]
    at_once = max(1, torch.cuda.device_count())
    runs = [dataclasses.replace(run, split=split).sharing(at_once) for split in splits]
    jobs = [Job(f"split {one.split}", one.command(), one.folder / LOG) for one in runs]
    check_outcomes(run_jobs(jobs, places(at_once), label=f"round {run.round}", progress=progress))
    return [pd.read_csv(one.folder / HISTORY) if (one.folder / HISTORY).is_file() else pd.DataFrame(columns=COLUMNS)
            for one in runs]


def places(at_once: int) -> list[dict[str, str]]:
    """The environments of as many processes: a GPU for each, in turn, and without a GPU a share of the CPU's threads.

    Processes that all use every core are many times slower than one: OpenMP's threads wait for each other busily.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if at_once == 1:
        return [{}]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once)), "GOMP_SPINCOUNT": "0"}
    if not torch.cuda.is_available():
        return [threads] * at_once
    return [{**threads, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(at_once)]

