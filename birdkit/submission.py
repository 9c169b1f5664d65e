"""Predictions to submission.csv: every row the host asks for, checked by name and scored as the host scores.

Post-processing is not done here: what is written is what was predicted.
"""
from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from birdkit import kaggle
from birdkit.metrics import METRICS, Interval, bootstrap_interval
from birdkit.profiles import ROW_ID, SAMPLE, Competition, profile, read_classes, recognise, some_of

LOG = logging.getLogger(__name__)
WINDOW_COLUMNS = ("file", "start_s", "end_s")


class SubmissionError(ValueError):
    """A submission that the host would refuse or score wrongly; the message says which rows or columns and why."""


@dataclass(frozen=True, repr=False)
class SubmissionReport:
    """What was written.

    filled     DataFrame[file, rows, reason]: files with rows that were not predicted
    left_out   predicted rows that nobody asked for, as in a rehearsal
    rehearsal  True where there are no test files yet: the rows are those of the sample submission
    """

    path: Path
    n_rows: int
    filled: pd.DataFrame
    left_out: int
    rehearsal: bool

    def __repr__(self) -> str:
        n_filled, n_files = self.filled["rows"].sum(), len(self.filled)
        filled = f", {n_filled} of them filled, of {n_files} files" if n_files else ""
        rehearsal = "; a rehearsal, there are no test files yet" if self.rehearsal else ""
        return f"{self.path}: {self.n_rows} rows{filled}{rehearsal}"


def row_id(file: str, end_s: float) -> str:
    """The row of the window of `file` that ends at `end_s`, a whole number of seconds.

    >>> row_id("test_soundscapes/soundscape_8358.ogg", 5.0)
    'soundscape_8358_5'
    """
    if float(end_s) != int(end_s):
        raise SubmissionError(f"{file}: a window ends at {end_s} s, but row ids hold whole seconds")
    return f"{PurePosixPath(file).stem}_{int(end_s)}"


def expected_rows(competition_dir: str | Path, competition: Competition) -> list[str]:
    """The row ids that a submission must have, in order.

    The sample submission's, where it knows every test file, or where there are no test files (a rehearsal).
    Otherwise (Kaggle's public copy is a stub of three rows) one per window of every test file, sorted by file name.
    Raises SubmissionError where the sample names a row twice, or two test files differ only in their suffix.
    """
    sample = Path(competition_dir) / SAMPLE
    rows = pd.read_csv(sample, usecols=[ROW_ID], dtype=str)[ROW_ID].tolist()
    files, rehearsal = kaggle.find_test_audio(competition_dir)
    if len(set(rows)) < len(rows):
        raise SubmissionError(f"{sample}: {len(rows) - len(set(rows))} row ids appear twice")
    stems = [path.stem for path in files]
    if len(set(stems)) < len(stems):
        raise SubmissionError(f"{competition_dir}: two test files have one name: "
                              f"{some_of([stem for stem in stems if stems.count(stem) > 1])}")
    known = {row.rpartition("_")[0] for row in rows}
    if rehearsal or known.issuperset(stems):
        return rows
    ends_s = [(window + 1) * competition.window_s for window in range(competition.windows)]
    return [row_id(path.name, end_s) for path in files for end_s in ends_s]


def write(predictions: pd.DataFrame, faults: pd.DataFrame, *, competition: Competition, competition_dir: str | Path,
          path: str | Path) -> SubmissionReport:
    """Write the submission: all expected rows, the sample submission's columns, matched by name.

    Rows that were not predicted, because their file cannot be read or time ran out, get each class's mean over the
    predicted rows: a value in the middle, which moves a ranking least. Without any predicted row they get 1 / K. They
    are counted in the report and logged. The file appears whole or not at all.

    predictions  DataFrame[file, start_s, end_s, <classes>], one row per window, probabilities in [0, 1]
    faults       DataFrame[file, reason] of the files that could not be predicted

    Raises SubmissionError on columns that are missing, unknown or doubled, windows predicted twice, and
    probabilities that are NaN or outside [0, 1].
    """
    if competition.row_format != "probabilities":
        raise SubmissionError(f"rows of {competition.row_format!r} ({competition.year}) cannot be written, "
                              "only probabilities")
    classes = read_classes(competition_dir)
    _unique(list(predictions.columns), "predictions", "column")
    _same_names(set(predictions.columns), {*WINDOW_COLUMNS, *classes}, "predictions", "column")
    table = predictions[list(classes)].astype(float)
    ids = [row_id(file, end_s) for file, end_s in zip(predictions["file"], predictions["end_s"], strict=True)]
    table.index = pd.Index(ids, name=ROW_ID)
    if table.index.has_duplicates:
        twice = list(table.index[table.index.duplicated()])
        raise SubmissionError(f"predictions: windows predicted twice: {some_of(twice)}")
    _check_values(table, "predictions")
    rows = expected_rows(competition_dir, competition)
    neutral = table.mean() if len(table) else pd.Series(1 / len(classes), index=list(classes))
    whole = table.reindex(rows).fillna(neutral)
    filled = _filled([row for row in rows if row not in table.index], faults)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    whole.to_csv(part, index_label=ROW_ID)
    os.replace(part, path)
    report = SubmissionReport(path, len(rows), filled, left_out=len(table.index.difference(rows)),
                              rehearsal=kaggle.find_test_audio(competition_dir)[1])
    LOG.log(logging.WARNING if len(filled) else logging.INFO, "%s", report)
    return report


def validate(path: str | Path, competition_dir: str | Path) -> pd.DataFrame:
    """Read a submission as the host would and return it, row ids as index; SubmissionError says what is wrong.

    Refused: columns missing, unknown or in another order than the sample's; rows missing, unknown or twice; cells that
    are empty, not numbers or outside [0, 1]; a constant file (but for a rehearsal, whose rows mean nothing).
    """
    table = _read(path)
    classes = read_classes(competition_dir)
    _same_names(set(table.columns), set(classes), str(path), "column")
    if list(table.columns) != list(classes):
        first = next(k for k, name in enumerate(classes) if table.columns[k] != name)
        raise SubmissionError(f"{path}: columns are in another order than {SAMPLE}: "
                              f"column {first + 2} is {table.columns[first]}, not {classes[first]}")
    _same_names(set(table.index), set(expected_rows(competition_dir, recognise(competition_dir))), str(path), "row")
    _check_values(table, str(path))
    values = table.to_numpy()
    if np.all(values == values[:1]) and not kaggle.find_test_audio(competition_dir)[1]:
        raise SubmissionError(f"{path}: all {len(table)} rows are equal, which ranks nothing")
    return table


def score(submission: str | Path, truth: str | Path, year: int) -> float:
    """The year's metric of a submission against a truth of 0/1 columns, rows and columns aligned by name."""
    labels, probabilities, _ = align(submission, truth)
    return METRICS[profile(year).metric](labels, probabilities)


def score_interval(submission: str | Path, truth: str | Path, year: int) -> Interval:
    """As `score`, with the 95 % interval of a bootstrap over soundscapes."""
    labels, probabilities = _aligned(submission, truth)
    soundscapes = [row.rpartition("_")[0] for row in labels.index]
    return bootstrap_interval(labels.to_numpy(), probabilities.to_numpy(), soundscapes, metric=profile(year).metric)


def align(submission: str | Path, truth: str | Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Truth (R, K), probabilities (R, K) and the K class names, rows and columns in the truth's order.

    Raises SubmissionError where the two files differ in rows or columns, whatever their order.
    """
    labels, probabilities = _aligned(submission, truth)
    return labels.to_numpy(), probabilities.to_numpy(), list(labels.columns)


def _aligned(submission: str | Path, truth: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth and probabilities with the same rows and columns, row ids as index."""
    labels, probabilities = _read(truth), _read(submission)
    _same_names(set(probabilities.columns), set(labels.columns), str(submission), "column")
    _same_names(set(probabilities.index), set(labels.index), str(submission), "row")
    aligned = probabilities.loc[labels.index, labels.columns]
    _check_values(aligned, str(submission))
    return labels, aligned


def _read(path: str | Path) -> pd.DataFrame:
    """A csv of row_id and numeric columns, row ids as index; column names are kept as they stand in the file."""
    raw = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)
    names = raw.iloc[0].tolist()
    if names[:1] != [ROW_ID]:
        raise SubmissionError(f"{path}: the first column is {names[0]!r}, not {ROW_ID!r}")
    _unique(names, str(path), "column")
    body = raw.iloc[1:].set_axis(names, axis=1).set_index(ROW_ID)
    _unique(body.index.tolist(), str(path), "row")
    table = body.apply(pd.to_numeric, errors="coerce").astype(float)
    wrong = table.isna().to_numpy()
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise SubmissionError(f"{path}: {int(wrong.sum())} cells hold no number, the first {body.iat[row, column]!r} "
                              f"in row {table.index[row]}, column {table.columns[column]}")
    return table


def _unique(names: list[str], where: str, what: str) -> None:
    counts = pd.Index(names)
    if counts.has_duplicates:
        twice = list(counts[counts.duplicated()].unique())
        raise SubmissionError(f"{where}: {what}s that appear twice: {some_of(twice)}")


def _same_names(have: set[str], want: set[str], where: str, what: str) -> None:
    if have != want:
        missing, extra = sorted(want - have), sorted(have - want)
        raise SubmissionError(f"{where}: {len(missing)} {what}s missing: {some_of(missing)}; "
                              f"{len(extra)} unknown: {some_of(extra)}")


def _check_values(table: pd.DataFrame, where: str) -> None:
    wrong = ~((table >= 0) & (table <= 1)).to_numpy()  # true for NaN as well
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = table.to_numpy()[row, column]
        raise SubmissionError(f"{where}: {int(wrong.sum())} values are not in [0, 1], the first {value} in row "
                              f"{table.index[row]}, column {table.columns[column]}")


def _filled(rows: list[str], faults: pd.DataFrame) -> pd.DataFrame:
    """The rows that were not predicted, counted by file, with the reason where one is known."""
    reasons = {PurePosixPath(file).stem: reason for file, reason in zip(faults["file"], faults["reason"], strict=True)}
    counts = pd.Series([row.rpartition("_")[0] for row in rows], dtype=str).value_counts(sort=False)
    return pd.DataFrame({"file": counts.index, "rows": counts.to_numpy(),
                         "reason": [reasons.get(stem, "not predicted") for stem in counts.index]})
