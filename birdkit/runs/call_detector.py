"""What call detectors, the gate of a submission, learn from, by the files on disk; birdkit.runs.training trains them.

The second place of BirdCLEF 2021 had three, trained on freefield1010, BirdVox and warblrb10k; where the host labelled
soundscapes window by window, as in 2021, those are what the detector will meet.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from birdkit import kaggle, profiles, pseudolabel
from birdkit.config import RunConfig, TaskConfig
from birdkit.data import DataError
from birdkit.data.labelled_soundscapes import ROW_TABLE
from birdkit.preprocess import call_sources
from birdkit.settings import replace


def call_config(config: RunConfig, competition_dir: Path, *, year: int = 0) -> RunConfig:
    """A recipe's config for one competition: validated on calls alone, by ROC-AUC, whatever the year's metric.

    year  of the competition, stated; 0 to recognise it, see birdkit.profiles.recognise
    """
    competition = profiles.recognise(competition_dir, year=year)
    return replace(config, year=competition.year, task=TaskConfig(competition.window_s, competition.soundscape_s,
                                                                  "macro_roc_auc"))


def call_table(config: RunConfig, competition_dir: Path, work: kaggle.Workspace, *, round: int = 0,
               pseudo_labels: Path | None = None, labelled: Mapping[str, str | Path] | None = None,
               noise: Mapping[str, str | Path] | None = None) -> tuple[pd.DataFrame, Path]:
    """The examples, and the folder that their files are relative to.

    The windows of soundscapes that the host labelled with names of birds or "nocall"; without those, the recordings and
    what teachers heard in the unlabelled soundscapes; and what is given besides.

    pseudo_labels  a table of notebook 02, of that `round`; None for none
    labelled       folders of short files with and without birds, by the table that says which is which, as
                   birdkit.preprocess.call_sources.labelled_folder reads them: freefield1010, warblrb10k, BirdVox
    noise          folders of audio in which nothing calls, by any name

    Raises ValueError where there is none of it, birdkit.data.DataError where tables do not fit.
    """
    labelled, noise = labelled or {}, noise or {}
    folders = [Path(competition_dir), *map(Path, labelled.values()), *map(Path, noise.values())]
    root = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    how: dict[str, Any] = {"root": root, "n_splits": config.n_splits, "seed": config.seed}
    parts = [*_of_competition(config, competition_dir, work, round, pseudo_labels, how),
             *(call_sources.labelled_folder(labels, folder, **how) for labels, folder in labelled.items()),
             *(call_sources.noise(folder, **how) for folder in noise.values())]
    if not parts:
        raise ValueError(f"{competition_dir} has no soundscapes with calls and silence told apart: label them first "
                         "(notebook 02, birdkit label) and give the round of these labels, or give labelled files or "
                         "noise")
    return call_sources.join(*parts), root


def _of_competition(config: RunConfig, competition_dir: Path, work: kaggle.Workspace, round: int,
                    pseudo_labels: Path | None, how: dict[str, Any]) -> list[pd.DataFrame]:
    """What the competition itself holds, as one table or none."""
    folder, competition = Path(competition_dir).absolute(), config.competition
    table = folder / competition.labelled
    if competition.labelled and set(ROW_TABLE) <= set(pd.read_csv(table, nrows=0).columns):
        return [call_sources.labelled_soundscapes(table, folder / competition.labelled_in,
                                                  window_s=competition.window_s, **how)]
    if pseudo_labels is None:
        return []
    least_peak = pseudolabel.provenance(pseudo_labels).get("settings", {}).get("least_peak", 0.0)
    if least_peak > 0:
        raise DataError(f"{pseudo_labels} was made with least_peak = {least_peak}: the windows in which teachers hear "
                        "nothing are not in it, and a call detector learns from these what silence is")
    labels = pseudolabel.read_for_training(pseudo_labels, classes=profiles.read_classes(folder, competition),
                                           expected_round=round, config=config.labelling)
    recordings, soundscapes = (pd.read_parquet(path) for path in (work.recordings(), work.soundscapes()))
    found = call_sources.competition(recordings, soundscapes, labels)
    inside = folder.relative_to(how["root"])
    return [found.assign(file=[(inside / file).as_posix() for file in found["file"]])]
