"""Self-distillation: what teachers heard in a recording joins what a person wrote down of it."""
from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from birdkit.config import DistilConfig, RunConfig
from birdkit.data.tables import DataError
from birdkit.data.window_index import WindowIndex

log = logging.getLogger(__name__)


def lifted(probability: np.ndarray, threshold: float) -> np.ndarray:
    """f(p) = clip(p * [p > threshold] + p^2, 0, 1), of any shape: what teachers are sure of counts in full.

    BirdCLEF 2025 fifth place, with a threshold of 0.3.

    >>> lifted(np.array([0.2, 0.3, 0.5, 0.9]), 0.3).round(2)
    array([0.04, 0.09, 0.75, 1.  ])
    """
    return np.clip(probability * (probability > threshold) + probability**2, 0, 1)


class RecordingLabels:
    """Teachers' probabilities in windows of recordings, and the targets that clips get from them.

    table    file, start_s, end_s and a column per class, as birdkit.pseudolabel.read gives it, made by teachers that
             were not trained on these recordings
    classes  names of the K classes, by which the columns are matched

    Raises birdkit.data.DataError where a class has no column: missing means unknown, not absent.
    """

    def __init__(self, table: pd.DataFrame, classes: Sequence[str], config: DistilConfig) -> None:
        missing = [name for name in ("file", "start_s", "end_s", *classes) if name not in table.columns]
        if missing:
            raise DataError(f"the labels of the recordings have no column for {', '.join(missing[:5])}")
        self.share, self.threshold = config.self_share, config.self_threshold
        self.index = WindowIndex(*(table[name].to_numpy() for name in ("file", "start_s", "end_s")))
        self.probability = table[list(classes)].to_numpy(np.float32)

    def target(self, file: str, start_s: float, end_s: float, own: np.ndarray) -> np.ndarray:
        """The target of a clip that is `start_s` to `end_s` of a file, (K,) and (K,) -> (K,) float32 in [0, 1].

        p is the maximum over the windows that share time with the clip. A window that is not in the table, since its
        probabilities were too low to be written, says 0; a file that has no window at all keeps its `own` target.
        """
        if file not in self.index:
            return own
        rows, _ = self.index.overlapping(file, start_s, end_s)
        heard = self.probability[rows].max(0, initial=0)
        said = lifted(heard, self.threshold)
        return (self.share * said + (1 - self.share) * own).astype(np.float32)


def refuse_uncovered(config: RunConfig, splits: Sequence[int]) -> None:
    """Raise ValueError where training these splits leaves a student's recordings without any teacher, and log a
    warning where it leaves some.

    A recording is labelled by the teachers that were not trained on it, those of its own split: a student, which is
    trained on the other splits, needs teachers of those. Nothing is asked where the config distils nothing.
    """
    if not config.distil.self_share or not splits:
        return
    n_parts = 1 if config.splitting.kind == "coverage" else config.n_splits
    teachers = {split for split in splits if 0 <= split < n_parts}
    covered, of, split = min((len(teachers - {split}), n_parts - (0 <= split < n_parts), split) for split in splits)
    what = (f"distil.self_share = {config.distil.self_share:g}: of the {of} parts of the recordings that the student "
            f"of split {split} learns from, teachers that were not trained on them will label {covered}: those of the "
            f"{len(teachers)} of {n_parts} splits that are trained ({', '.join(map(str, splits))})")
    if not covered:
        raise ValueError(f"{what}. Train all splits")
    if covered < of:
        log.warning("%s", what)


def choose_recording_labels(config: DistilConfig, round: int, table: pd.DataFrame | None, files: pd.Series,
                            classes: Sequence[str]) -> RecordingLabels | None:
    """The labels of the training recordings, None where the config asks for none; in round 0 there are no teachers yet.

    table  of all recordings, or None
    files  the training recordings: the windows of others are not used

    Raises ValueError where the config and the presence of a table contradict each other, DataError where the table has
    no window of any of these files, or lacks a class.
    """
    if table is not None and not (config.self_share and round):
        raise ValueError(f"labels of the recordings were given, {len(table)} windows, but distil.self_share = "
                         f"{config.self_share:g} in round {round} does not use them")
    if not config.self_share or not round:
        return None
    if table is None:
        raise ValueError(f"distil.self_share = {config.self_share:g} in round {round} needs labels of the recordings, "
                         f"recording_labels_r{round}.parquet; notebook 02 makes them where it is told the same")
    used = table[table["file"].isin(files)]
    if not len(used):
        raise DataError(f"the labels of the recordings, {len(table)} windows, are of none of the {len(files)} training "
                        f"recordings, such as {files.iloc[0]}")
    log.info("self-distillation: %g of the targets is what teachers heard, in %d of %d recordings", config.self_share,
             used["file"].nunique(), files.nunique())
    return RecordingLabels(used, classes, config)
