"""Training a call detector from the files on disk, as `birdkit train-calls` does it: the gate of a submission.

The second place of BirdCLEF 2021 had three, trained on freefield1010, BirdVox and warblrb10k; where the host labelled
soundscapes window by window, as in 2021, those are what the detector will meet.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from birdkit import kaggle, profiles, pseudolabel, recipes, training
from birdkit.config import RunConfig, TaskConfig
from birdkit.data.labelled_soundscapes import ROW_TABLE
from birdkit.data.tables import CALL
from birdkit.preprocess import call_sources
from birdkit.settings import replace, with_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CallRun:
    """What to train, and from what.

    recipe    a name in birdkit.recipes
    changes   to the recipe's config, as for birdkit.settings.with_settings
    labelled  tables of short files with and without birds, and the folders these lie in, as
              birdkit.preprocess.call_sources.labelled_folder reads them: freefield1010, warblrb10k, BirdVox-DCASE-20k
    noise     folders of audio in which nothing calls
    year      of the competition, stated; 0 to recognise it
    """

    competition_dir: Path
    work_dir: Path
    recipe: str = "call_detector"
    split: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    labelled: Sequence[tuple[Path | str, Path | str]] = ()
    noise: Sequence[Path | str] = ()
    year: int = 0

    def config(self) -> RunConfig:
        """The run config; it validates on calls alone, by ROC-AUC, whatever the year's metric."""
        competition = profiles.recognise(self.competition_dir, year=self.year)
        config = with_settings(recipes.get(self.recipe).run(0, self.split), self.changes)
        return replace(config, year=competition.year, task=TaskConfig(competition.window_s, competition.soundscape_s,
                                                                      "macro_roc_auc"))

    def table(self, config: RunConfig) -> tuple[pd.DataFrame, Path]:
        """The examples, and the folder that their files are relative to.

        The windows of soundscapes that the host labelled with names of birds or "nocall"; without those, the recordings
        and what the teachers of round 1 heard in the unlabelled soundscapes; and what is given besides.

        Raises ValueError where there is none of it, birdkit.data.DataError where tables do not fit.
        """
        folders = [Path(self.competition_dir), *(Path(folder) for _, folder in self.labelled), *map(Path, self.noise)]
        root = Path(os.path.commonpath([folder.absolute() for folder in folders]))
        how: dict[str, Any] = {"root": root, "n_splits": config.n_splits, "seed": config.seed}
        parts = [*self._of_competition(config, how),
                 *(call_sources.labelled_folder(labels, folder, **how) for labels, folder in self.labelled),
                 *(call_sources.noise(folder, **how) for folder in self.noise)]
        if not parts:
            raise ValueError(f"{self.competition_dir} has no soundscapes with calls and silence told apart: label them "
                             "first (birdkit label --round 1), or give labelled files or noise")
        return call_sources.join(*parts), root

    def _of_competition(self, config: RunConfig, how: dict[str, Any]) -> list[pd.DataFrame]:
        """What the competition itself holds, as one table or none."""
        folder, competition = Path(self.competition_dir).absolute(), config.competition
        table, work = folder / competition.labelled, kaggle.Workspace(self.work_dir)
        if competition.labelled and set(ROW_TABLE) <= set(pd.read_csv(table, nrows=0).columns):
            return [call_sources.labelled_soundscapes(table, folder / competition.labelled_in,
                                                      window_s=competition.window_s, **how)]
        if not work.look(work.pseudo_labels_path(1).name):
            return []
        labels = pseudolabel.read_for_training(work.look(work.pseudo_labels_path(1).name)[0],
                                               classes=profiles.read_classes(folder), expected_round=1,
                                               config=config.labelling)
        recordings, soundscapes = (pd.read_parquet(path) for path in (work.recordings(), work.soundscapes()))
        found = call_sources.competition(recordings, soundscapes, labels)
        inside = folder.relative_to(how["root"])
        return [found.assign(file=[(inside / file).as_posix() for file in found["file"]])]


def train_calls(run: CallRun, *, progress: bool = True) -> training.FitResult:
    """Train a call detector into the work folder's call_split<split>, where notebook 04 looks for its gates.

    Goes on where it was if it was stopped. Raises what `CallRun.table` and birdkit.training.fit raise.
    """
    config = run.config()
    table, root = run.table(config)
    log.info("%d spans, %d of them without a call", len(table), int((table["label"] != CALL).sum()))
    return training.fit(config, table, [CALL], root=root, out_dir=kaggle.Workspace(run.work_dir).call_dir(run.split),
                        progress=progress)
