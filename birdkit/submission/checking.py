"""What the host will check, checked before; and its metric where a truth is known."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.metrics import (
    Interval,
    bootstrap_interval,
    metric_of,
    per_class_average_precision,
    per_class_balanced_accuracy,
    per_class_roc_auc,
)
from birdkit.profiles import (
    NAMES,
    PROBABILITIES,
    ROW_ID,
    SAMPLE,
    Competition,
    form_of,
    nearest,
    read_classes,
    recognise,
)
from birdkit.profiles.tables import header
from birdkit.submission.asking import ask
from birdkit.submission.forms import SubmissionError, read_raw, read_submission, refuse_others, stem_of


def validate(path: str | Path, competition_dir: str | Path, competition: Competition | None = None, *,
             may_be_constant: bool = False) -> pd.DataFrame:
    """Read a submission as the host would and return it, a row for each window and a column for each class.

    competition      whose rules hold; None to recognise it
    may_be_constant  True where a file whose rows are all equal is the best there is

    Raises SubmissionError, saying what is wrong: columns missing, unknown or in another order than the sample's; rows
    missing, unknown, twice or in another order; cells that are empty, not numbers or outside [0, 1], or of a form of
    decisions no such words; a constant file (but for a rehearsal, whose rows mean nothing).
    """
    competition = competition or recognise(competition_dir, say=False)
    raw = read_raw(path)
    sample = read_raw(Path(competition_dir) / SAMPLE)
    refuse_others(raw.columns, sample.columns, str(path), "column")
    _refuse_order(list(raw.columns), list(sample.columns), str(path), "column", 2)
    asked = ask(competition_dir, competition)
    refuse_others(raw.index, asked.rows, str(path), "row")
    _refuse_order(list(raw.index), asked.rows, str(path), "row", 1)
    table = read_submission(path, classes=read_classes(competition_dir, competition))
    refuse_values(table, str(path))
    if not may_be_constant and not asked.rehearsal and is_constant(table):
        raise SubmissionError(f"{path}: all {len(table)} rows are equal, which "
                              f"{'ranks' if competition.row_format == PROBABILITIES else 'tells'} nothing")
    return table


def is_constant(table: pd.DataFrame) -> bool:
    """Whether all windows of a wide table say the same."""
    values = table.to_numpy()
    return bool((values == values[:1]).all())


def score(submission: str | Path, truth: str | Path, year: int, *, metric: str = "") -> float:
    """The year's metric of a submission against a truth of the same form, rows and columns aligned by name.

    year    one that nobody knows is scored as the latest whose submissions have this form, which is logged
    metric  another one, a name in birdkit.metrics.METRICS
    """
    labels, values, _ = align(submission, truth)
    return metric_of(metric or metric_name(submission, year))(labels, values)


def score_interval(submission: str | Path, truth: str | Path, year: int, *, metric: str = "") -> Interval:
    """As `score`, with the 95 % interval of a bootstrap over soundscapes."""
    labels, values = _aligned(submission, truth)
    soundscapes = [stem_of(row, PROBABILITIES) for row in labels.index]
    return bootstrap_interval(labels.to_numpy(), values.to_numpy(), soundscapes,
                              metric=metric or metric_name(submission, year))


def metric_name(submission: str | Path, year: int) -> str:
    """By which the year's host scores a submission of this form, see birdkit.profiles.nearest."""
    return nearest(year, form_of(header(Path(submission)))).metric


def score_classes(submission: str | Path, truth: str | Path) -> pd.DataFrame:
    """A row for each class, worst first: class, positives (windows), roc_auc, average_precision, balanced_accuracy.

    The last only of decisions; NaN where a class cannot be scored.
    """
    labels, values, names = align(submission, truth)
    table = pd.DataFrame({"class": names, "positives": labels.sum(0).astype(int),
                          "roc_auc": per_class_roc_auc(labels, values),
                          "average_precision": per_class_average_precision(labels, values)})
    if np.isin(values, (0, 1)).all():
        table["balanced_accuracy"] = per_class_balanced_accuracy(labels, values)
    return table.sort_values("roc_auc", ignore_index=True)


def align(submission: str | Path, truth: str | Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Truth (R, K), probabilities or decisions (R, K) and the K class names, in the truth's order.

    Raises SubmissionError where the two files differ in form, rows or columns, whatever their order.
    """
    labels, values = _aligned(submission, truth)
    return labels.to_numpy(), values.to_numpy(), list(labels.columns)


def refuse_values(table: pd.DataFrame, where: str) -> None:
    """Raise SubmissionError for what is not in [0, 1], NaN included."""
    wrong = ~((table >= 0) & (table <= 1)).to_numpy()
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = table.to_numpy()[row, column]
        raise SubmissionError(f"{where}: {int(wrong.sum())} values are not in [0, 1], the first {value} in row "
                              f"{table.index[row]}, column {table.columns[column]}")


def _aligned(submission: str | Path, truth: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth and probabilities, or decisions, with the same rows and columns, windows as index."""
    forms = [form_of([ROW_ID, *read_raw(path).columns]) for path in (submission, truth)]
    if forms[0] != forms[1]:
        raise SubmissionError(f"{submission} holds {forms[0]}, but {truth} holds {forms[1]}")
    labels, values = read_submission(truth), read_submission(submission)
    if forms[0] == NAMES:  # what neither names is heard nowhere and said nowhere
        names = sorted({*labels.columns, *values.columns})
        labels, values = (table.reindex(columns=names, fill_value=0.0) for table in (labels, values))
    refuse_others(values.columns, labels.columns, str(submission), "column")
    refuse_others(values.index, labels.index, str(submission), "row")
    aligned = values.loc[labels.index, labels.columns]
    refuse_values(aligned, str(submission))
    return labels, aligned


def _refuse_order(have: Sequence[str], want: Sequence[str], where: str, what: str, first: int) -> None:
    """Raise SubmissionError where the same names stand in another order; `first` is the number of the first."""
    if list(have) != list(want):
        place = next(k for k, name in enumerate(want) if have[k] != name)
        raise SubmissionError(f"{where}: {what}s are in another order than the host's: "
                              f"{what} {place + first} is {have[place]}, not {want[place]}")
