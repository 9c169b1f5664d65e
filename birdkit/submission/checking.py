"""What the host will check, checked before; and its metric where a truth is known."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from birdkit import kaggle
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
    TRUE_FALSE,
    Competition,
    form_of,
    profile,
    read_classes,
    read_scored,
    recognise,
    some_of,
)
from birdkit.submission.forms import (
    SubmissionError,
    read_raw,
    read_submission,
    refuse_others,
    row_ids,
    stem_of,
    window_id,
)


def expected_rows(competition_dir: str | Path, competition: Competition) -> list[str]:
    """The row ids that a submission must have, in order.

    The sample submission's, where it knows every test file, or where there are no test files (a rehearsal).
    Otherwise (Kaggle's public copy is a stub of three rows) those of each window of every test file, sorted by file
    name. Raises SubmissionError where the sample names a row twice, or two test files have rows of one name.
    """
    sample = Path(competition_dir) / SAMPLE
    rows = pd.read_csv(sample, usecols=[ROW_ID], dtype=str)[ROW_ID].tolist()
    files, rehearsal = kaggle.find_test_audio(competition_dir)
    if len(set(rows)) < len(rows):
        raise SubmissionError(f"{sample}: {len(rows) - len(set(rows))} row ids appear twice")
    known = {stem_of(row, competition.row_format) for row in rows}
    if rehearsal:
        return rows
    stems = [window_id(path.name, 0.0, competition).rpartition("_")[0] for path in files]
    if len(set(stems)) < len(stems):
        raise SubmissionError(f"{competition_dir}: two test files have one name: "
                              f"{some_of([stem for stem in stems if stems.count(stem) > 1])}")
    if known.issuperset(stems):
        return rows
    ends_s = [round((window + 1) * competition.window_s) for window in range(competition.windows)]
    windows = [f"{stem}_{end_s}" for stem in stems for end_s in ends_s]
    scored = read_scored(competition_dir, competition) if competition.row_format == TRUE_FALSE else ()
    return row_ids(windows, scored, competition)


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
    rows = expected_rows(competition_dir, competition)
    refuse_others(raw.index, rows, str(path), "row")
    _refuse_order(list(raw.index), rows, str(path), "row", 1)
    table = read_submission(path, classes=read_classes(competition_dir, competition))
    refuse_values(table, str(path))
    values = table.to_numpy()
    if not may_be_constant and np.all(values == values[:1]) and not kaggle.find_test_audio(competition_dir)[1]:
        raise SubmissionError(f"{path}: all {len(table)} rows are equal, which "
                              f"{'ranks' if competition.row_format == PROBABILITIES else 'tells'} nothing")
    return table


def score(submission: str | Path, truth: str | Path, year: int, *, metric: str = "") -> float:
    """The year's metric of a submission against a truth of the same form, rows and columns aligned by name.

    metric  another one, a name in birdkit.metrics.METRICS
    """
    labels, values, _ = align(submission, truth)
    return metric_of(metric or profile(year).metric)(labels, values)


def score_interval(submission: str | Path, truth: str | Path, year: int, *, metric: str = "") -> Interval:
    """As `score`, with the 95 % interval of a bootstrap over soundscapes."""
    labels, values = _aligned(submission, truth)
    soundscapes = [stem_of(row, PROBABILITIES) for row in labels.index]
    return bootstrap_interval(labels.to_numpy(), values.to_numpy(), soundscapes,
                              metric=metric or profile(year).metric)


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


def _refuse_order(have: list[str], want: list[str], where: str, what: str, first: int) -> None:
    """Raise SubmissionError where the same names stand in another order; `first` is the number of the first."""
    if have != want:
        place = next(k for k, name in enumerate(want) if have[k] != name)
        raise SubmissionError(f"{where}: {what}s are in another order than the host's: "
                              f"{what} {place + first} is {have[place]}, not {want[place]}")
