"""From predictions to submission.csv: every row the host asks for, in the form it asks for."""
from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow.csv import WriteOptions, write_csv  # type: ignore[import-untyped]

from birdkit.decisions import NamedOptions, decide
from birdkit.profiles import PROBABILITIES, ROW_ID, TRUE_FALSE, Competition, read_classes, read_scored, some_of
from birdkit.submission.asking import Asked, ask
from birdkit.submission.checking import refuse_values
from birdkit.submission.forms import (
    SubmissionError,
    lay_out,
    refuse_others,
    refuse_twice,
    stem_of,
    window_id,
    windows_of,
)

LOG = logging.getLogger(__name__)
WINDOW_COLUMNS = ("file", "start_s", "end_s")


@dataclass(frozen=True, repr=False)
class SubmissionReport:
    """What was written.

    filled     DataFrame[file, rows, reason]: files with rows that were not predicted
    left_out   predicted rows that nobody asked for, as in a rehearsal
    rehearsal  True where there are no test files yet: the rows are those of the sample submission
    guessed    what was guessed of a competition of no known year, see birdkit.profiles.Competition
    labels     labels a window on average where the form is of decisions; None for probabilities
    """

    path: Path
    n_rows: int
    filled: pd.DataFrame
    left_out: int
    rehearsal: bool
    guessed: tuple[str, ...] = ()
    labels: float | None = None

    def __repr__(self) -> str:
        n_filled, n_files = self.filled["rows"].sum(), len(self.filled)
        filled = f", {n_filled} of them filled, of {n_files} files" if n_files else ""
        labels = "" if self.labels is None else f"; {self.labels:.2f} labels a window"
        rehearsal = "; a rehearsal, there are no test files yet" if self.rehearsal else ""
        guessed = f"; of no known year, guessed: {', '.join(self.guessed)}" if self.guessed else ""
        return f"{self.path}: {self.n_rows} rows{filled}{labels}{rehearsal}{guessed}"


def write(predictions: pd.DataFrame, faults: pd.DataFrame, *, competition: Competition, competition_dir: str | Path,
          path: str | Path, decision: NamedOptions | None = None, asked: Asked | None = None) -> SubmissionReport:
    """Write the submission: all expected rows in the year's form, columns matched by name.

    Rows that were not predicted, because their file cannot be read or time ran out, get each class's mean over the
    predicted rows: a value in the middle, which moves a ranking least. Without any predicted row they get 1 / K. In a
    form of decisions nothing is heard in them. They are counted in the report and logged. The file appears whole or not
    at all; probabilities stand in it with as many digits as float32 has. Where the host adds rows that hold 1 in every
    class (2023), the highest probability is the next below 1, or it would share their rank.

    predictions  DataFrame[file, start_s, end_s, <classes>], one row per window, probabilities in [0, 1]; of a year that
                 scores only some classes, at least those
    faults       DataFrame[file, reason] of the files that could not be predicted
    decision     what makes decisions of probabilities, needed where the year's form is of those (2021, 2022), such as
                 InferenceConfig.decision
    asked        what `ask` says, by who writes again and again; None to ask

    Raises SubmissionError on columns that are missing, unknown or doubled, windows predicted twice, probabilities that
    are NaN or outside [0, 1], and a missing decision.
    """
    form = competition.row_format
    if form != PROBABILITIES and decision is None:
        raise SubmissionError(f"a submission of {competition.year} holds {form}: write() needs to be told the decision "
                              "that makes them of probabilities")
    table = _by_window(predictions, competition, competition_dir)
    asked = asked or ask(competition_dir, competition)
    rows = list(asked.rows)
    windows = windows_of(rows, form)
    if form == PROBABILITIES:
        neutral = table.mean() if len(table) else pd.Series(1 / len(table.columns), index=table.columns)
        whole, labels = table.reindex(windows).fillna(neutral), None
    else:
        known = table.loc[[window for window in windows if window in table.index]]
        heard = decide(known.to_numpy(), list(table.columns), decision) if decision else known.to_numpy()
        whole = pd.DataFrame(heard, known.index, table.columns).reindex(windows, fill_value=False).astype(float)
        labels = float(whole.sum(axis=1).mean()) if len(whole) else 0.0
    filled = _filled([row for row in windows if row not in table.index], faults, len(rows) // max(len(windows), 1),
                     competition)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    if form == PROBABILITIES:
        _write_numbers(_below_padding(whole.loc[rows], competition), part)
    else:
        lay_out(whole, rows, form).to_csv(part, index_label=ROW_ID)
    os.replace(part, path)
    report = SubmissionReport(path, len(rows), filled, left_out=len(table.index.difference(windows)),
                              rehearsal=asked.rehearsal, guessed=competition.guessed,
                              labels=labels)
    LOG.log(logging.WARNING if len(filled) else logging.INFO, "%s", report)
    return report


def _below_padding(table: pd.DataFrame, competition: Competition) -> pd.DataFrame:
    """The probabilities as float32; below 1 where the metric is one that pads with ones."""
    highest = float(np.nextafter(np.float32(1), np.float32(0))) if competition.metric == "padded_cmap" else 1.0
    return table.astype(np.float32).clip(upper=highest)


def _write_numbers(table: pd.DataFrame, path: Path) -> None:
    """A float32 table as a csv, much faster than pandas does it: a whole year's file is written every few minutes."""
    rows = table.index.astype(str).tolist()
    quoted = any(mark in row for row in rows for mark in ',"\r\n')
    columns = [pa.array(rows), *(pa.array(values) for values in np.ascontiguousarray(table.to_numpy().T))]
    with path.open("wb") as file:
        file.write((",".join([ROW_ID, *table.columns]) + "\n").encode())
        write_csv(pa.table(columns, names=[ROW_ID, *table.columns]), file,
                  WriteOptions(include_header=False, quoting_style="needed" if quoted else "none"))


def _by_window(predictions: pd.DataFrame, competition: Competition, competition_dir: str | Path) -> pd.DataFrame:
    """The probabilities of the classes that a submission is about, windows as index; SubmissionError as `write`."""
    classes = read_classes(competition_dir, competition)
    asked = read_scored(competition_dir, competition) if competition.row_format == TRUE_FALSE else classes
    refuse_twice(list(predictions.columns), "predictions", "column")
    beside = set(classes) - set(asked)  # may be there, and are not asked for
    refuse_others(set(predictions.columns) - beside, {*WINDOW_COLUMNS, *asked}, "predictions", "column")
    table = predictions[list(asked)].astype(float)
    ids = [window_id(file, end_s, competition)
           for file, end_s in zip(predictions["file"], predictions["end_s"], strict=True)]
    table.index = pd.Index(ids, name=ROW_ID)
    if table.index.has_duplicates:
        twice = list(table.index[table.index.duplicated()])
        raise SubmissionError(f"predictions: windows predicted twice: {some_of(twice)}")
    refuse_values(table, "predictions")
    return table


def _filled(windows: list[str], faults: pd.DataFrame, rows_each: int, competition: Competition) -> pd.DataFrame:
    """The rows that were not predicted, counted by file, with the reason where one is known."""
    reasons = {PurePosixPath(file).stem: reason for file, reason in zip(faults["file"], faults["reason"], strict=True)}
    if "{id}" in competition.row_id:
        reasons = {stem.rpartition("_")[0]: reason for stem, reason in reasons.items()}
    counts = pd.Series([stem_of(row, PROBABILITIES) for row in windows], dtype=str).value_counts(sort=False)
    return pd.DataFrame({"file": counts.index, "rows": counts.to_numpy() * rows_each,
                         "reason": [reasons.get(stem, "not predicted") for stem in counts.index]})
