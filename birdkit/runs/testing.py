"""What a trained model says of the test soundscapes, where somebody has their truth: for the end, not for choosing."""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit import kaggle, profiles
from birdkit.decisions import decide
from birdkit.inference import load_predictors, predict
from birdkit.metrics import METRICS
from birdkit.metrics.comparison import Validated
from birdkit.profiles import Competition
from birdkit.settings import to_dict
from birdkit.submission import read_submission, window_id

log = logging.getLogger(__name__)


def tested(checkpoint: Path, competition_dir: Path, truth_path: Path, *, year: int = 0) -> Validated:
    """A checkpoint's rows of the test soundscapes, as a submission of it alone would hold them, beside their truth.

    They are kept beside the checkpoint, and predicted again only where it or the truth has changed.

    Raises birdkit.kaggle.MissingInputError where there is no test audio, ValueError where a truth holds rows that were
    not predicted or lacks a scored class, birdkit.submission.SubmissionError where it cannot be read.
    """
    competition = profiles.recognise(competition_dir, year=year, say=False)
    predictors = load_predictors([checkpoint])
    origin = {"config": to_dict(predictors[0].config), "checkpoint": predictors[0].hash,
              "runtime": predictors[0].runtime, "truth": hashlib.sha256(truth_path.read_bytes()).hexdigest()}
    kept = checkpoint.with_name(f"{checkpoint.stem}_test.npz")
    if kept.is_file() and (before := Validated.read(kept)).origin == origin:
        return before
    classes = profiles.read_scored(competition_dir, competition)
    paths, _ = kaggle.find_test_audio(competition_dir)
    found = predict(paths, predictors, window_s=competition.window_s, classes=classes, progress=False)
    for fault in found.faults.itertuples():
        log.warning("%s is left out: %s", fault.file, fault.reason)
    values = found.table[list(classes)].to_numpy()
    files = np.array([Path(name).name for name in found.table["file"]])
    labels, asked = truth_of_windows(truth_path, files, found.table["end_s"].to_numpy(float), classes, competition)
    decision = predictors[0].config.inference.decision if METRICS[competition.metric].on_decisions else None
    decisions = decide(values, classes, decision)[asked] if decision else None
    groups = np.unique(files[asked], return_inverse=True)[1]
    result = Validated(labels, values[asked], groups, tuple(classes), competition.metric, origin, decisions)
    result.save(kept)
    return result


def truth_of_windows(truth_path: Path, files: np.ndarray, end_s: np.ndarray, classes: Sequence[str],
                     competition: Competition) -> tuple[np.ndarray, np.ndarray]:
    """The truth of the windows that it has rows for, (R, K) of 0 and 1, and which windows these are, (W,) bool.

    files, end_s  (W,) each, name and end of every window that was predicted

    Raises ValueError where the truth holds rows of other windows, or lacks a class.
    """
    truth = read_submission(truth_path, classes=classes)
    ids = pd.Index([window_id(file, end, competition) for file, end in zip(files, end_s, strict=True)])
    missing, columns = truth.index.difference(ids), [name for name in classes if name not in truth.columns]
    if len(missing) or columns:
        raise ValueError(f"{truth_path}: {len(missing)} rows were not predicted: {profiles.some_of(list(missing))}; "
                         f"{len(columns)} classes are missing: {profiles.some_of(columns)}")
    asked = ids.isin(truth.index)
    return truth.loc[ids[asked], list(classes)].to_numpy(), asked
