"""What speaks for and against a table of pseudo-labels: figures of it, read file by file."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from birdkit.inference import WINDOW_COLUMNS
from birdkit.pseudolabel.table import SURE, provenance, stream

BINS = 20  # of the histograms of probabilities


@dataclass(frozen=True)
class Example:
    """The window in which a class is surest."""

    name: str
    probability: float
    file: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Change:
    """What became of the labels of an earlier table, in the windows and classes that both have.

    windows        that both have
    kept           labels of both tables, (K,); gained: of the new one alone; lost: of the old one alone
    difference     mean over windows and classes of how far apart the probabilities are
    round          of the earlier table
    """

    windows: int
    kept: np.ndarray
    gained: np.ndarray
    lost: np.ndarray
    difference: float
    round: int


@dataclass(frozen=True)
class Trust:
    """Figures of a table. A label is a probability of at least SURE in one window and class.

    origin      the table's provenance
    classes     the K columns
    windows     rows
    files       with rows; labelled_files: those with a label
    histogram   (K, BINS) windows by probability, from 0 to 1
    labels      (K,) labels of each class; label_files: files with one
    spread      (files,) standard deviation of the probabilities between the windows of a file, mean over classes; NaN
                where it has one window. 0 is a file that sounds the same all the time
    examples    the surest window of each class that is heard at all, the surest first
    change      against an earlier table, None without
    """

    origin: dict[str, Any]
    classes: tuple[str, ...]
    windows: int
    files: int
    labelled_files: int
    histogram: np.ndarray
    labels: np.ndarray
    label_files: np.ndarray
    spread: np.ndarray
    examples: tuple[Example, ...]
    change: Change | None


def assess(path: Path | str, *, previous: Path | str | None = None) -> Trust:
    """The figures of a table, in memory that does not grow with it but for a number a file.

    previous  the table of the round before, to say what has changed

    Raises FileNotFoundError or PseudoLabelError as `provenance` does.
    """
    origin = provenance(path)
    classes = tuple(origin["classes"])
    earlier = None if previous is None else _Earlier(previous, classes)
    histogram = np.zeros((len(classes), BINS), int)
    labels, label_files = np.zeros(len(classes), int), np.zeros(len(classes), int)
    windows, spread, best = 0, list[float](), dict[int, Example]()
    labelled_files = 0
    for rows in stream(path):
        values = rows[list(classes)].to_numpy()
        sure = values >= SURE
        windows, labelled_files = windows + len(rows), labelled_files + bool(sure.any())
        places = np.minimum((values * BINS).astype(int), BINS - 1)
        histogram += np.stack([np.bincount(column, minlength=BINS) for column in places.T])
        labels, label_files = labels + sure.sum(0), label_files + sure.any(0)
        spread.append(float(values.std(axis=0).mean()) if len(rows) > 1 else np.nan)
        _keep_best(best, rows, values, classes)
        if earlier is not None:
            earlier.compare(rows)
    examples = sorted(best.values(), key=lambda one: -one.probability)
    return Trust(origin, classes, windows, len(spread), labelled_files, histogram, labels, label_files,
                 np.array(spread), tuple(examples), None if earlier is None else earlier.change())


def _keep_best(best: dict[int, Example], rows: pd.DataFrame, values: np.ndarray, classes: tuple[str, ...]) -> None:
    """Enter the windows that are surer of a class than all before."""
    for column, row in enumerate(values.argmax(axis=0)):
        probability = float(values[row, column])
        if probability > (best[column].probability if column in best else 0.0):
            file, start_s, end_s = rows[list(WINDOW_COLUMNS)].iloc[row]
            best[column] = Example(classes[column], probability, file, start_s, end_s)


class _Earlier:
    """The table of an earlier round: the rows of a file are looked up, and only the row groups that hold them are in
    memory."""

    def __init__(self, path: Path | str, classes: tuple[str, ...]) -> None:
        origin = provenance(path)
        self.round = int(origin["round"])
        self.classes = classes
        self.names = [name for name in classes if name in origin["classes"]]
        self.columns = [classes.index(name) for name in self.names]
        self.windows, self.distance = 0, 0.0
        self.counts = np.zeros((3, len(classes)), int)  # labels kept, gained, lost
        self._table = pq.ParquetFile(path)
        self._groups: dict[str, list[int]] = {}
        self._read: dict[int, pd.DataFrame] = {}
        for group in range(self._table.num_row_groups):
            for file in self._table.read_row_group(group, columns=["file"]).column("file").unique().to_pylist():
                self._groups.setdefault(file, []).append(group)

    def compare(self, rows: pd.DataFrame) -> None:
        """Count what has changed in a file's windows; those that only one table has count nowhere."""
        old = self._rows(str(rows["file"].iloc[0]))
        both = rows.round({"start_s": 3, "end_s": 3}).merge(
            old.round({"start_s": 3, "end_s": 3}), on=["start_s", "end_s"], suffixes=("", " before"))
        new_p, old_p = (both[[name + suffix for name in self.names]].to_numpy() for suffix in ("", " before"))
        self.windows += len(both)
        self.distance += float(np.abs(new_p - old_p).sum())
        new, before = new_p >= SURE, old_p >= SURE
        self.counts[:, self.columns] += np.stack([(new & before).sum(0), (new & ~before).sum(0),
                                                  (~new & before).sum(0)])

    def change(self) -> Change:
        """What was counted."""
        kept, gained, lost = self.counts
        cells = self.windows * len(self.names)
        return Change(self.windows, kept, gained, lost, self.distance / cells if cells else float("nan"), self.round)

    def _rows(self, file: str) -> pd.DataFrame:
        """The earlier windows of a file, with the classes that both tables have."""
        groups = self._groups.get(file, [])
        kept = {group: self._read[group] for group in groups if group in self._read}
        self._read = kept | {group: self._table.read_row_group(group).to_pandas() for group in groups
                             if group not in kept}
        found = [self._read[group] for group in groups]
        columns = ["file", "start_s", "end_s", *self.names]
        rows = pd.concat(found)[columns] if found else pd.DataFrame(columns=columns, dtype=float)
        return rows[rows["file"] == file].drop(columns="file")
