"""The three forms of a submission: probabilities, True or False, names. Each as one table of windows and classes.

Inside, a submission is always wide: a row for each window, named as the host names it without a bird, and a column of
each class, with probabilities or, of the two forms of decisions, 0 and 1.
"""
from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from birdkit.profiles import BIRDS, NAMES, PROBABILITIES, ROW_ID, TARGET, TRUE_FALSE, Competition, form_of, some_of

NOCALL = "nocall"  # in a form of names: none of the classes
_TRUTH = {"True": 1.0, "False": 0.0}


class SubmissionError(ValueError):
    """A submission that the host would refuse or score wrongly; the message says which rows or columns and why."""


def window_id(file: str, end_s: float, competition: Competition | None = None) -> str:
    """The window of `file` that ends at `end_s`, a whole number of seconds, as the host names it.

    >>> from birdkit.profiles import profile
    >>> window_id("test_soundscapes/soundscape_8358.ogg", 5.0)
    'soundscape_8358_5'
    >>> window_id("test_soundscapes/2782_SSW_20170701.ogg", 5.0, profile(2021))
    '2782_SSW_5'

    Raises SubmissionError where it ends at no whole second, or the file's name has not the parts the id is made of.
    """
    if float(end_s) != int(end_s):
        raise SubmissionError(f"{file}: a window ends at {end_s} s, but row ids hold whole seconds")
    stem = PurePosixPath(file).stem
    if competition is None or "{id}" not in competition.row_id:
        return f"{stem}_{int(end_s)}"
    parts = stem.split("_")
    if len(parts) != 3:
        raise SubmissionError(f"{file}: in {competition.year} files are named id_site_date, and rows id_site_second")
    return f"{parts[0]}_{parts[1]}_{int(end_s)}"


def row_ids(windows: Sequence[str], scored: Sequence[str], competition: Competition) -> list[str]:
    """The rows of windows: as many, or one for each scored class of each window, class by class as in 2022.

    >>> from birdkit.profiles import profile
    >>> row_ids(["soundscape_1_5", "soundscape_1_10"], ["akiapo", "aniani"], profile(2022))[:3]
    ['soundscape_1_akiapo_5', 'soundscape_1_akiapo_10', 'soundscape_1_aniani_5']
    """
    if competition.row_format != TRUE_FALSE:
        return list(windows)
    ends: dict[str, list[str]] = {}
    for window in windows:
        stem, _, end = window.rpartition("_")
        ends.setdefault(stem, []).append(end)
    return [f"{stem}_{bird}_{end}" for stem, own in ends.items() for bird in scored for end in own]


def stem_of(row: str, form: str) -> str:
    """What a row id says of its file: the id without the second, and without the bird where rows are of a bird.

    >>> stem_of("soundscape_1_akiapo_5", "true_false"), stem_of("2782_SSW_5", "names")
    ('soundscape_1', '2782_SSW')
    """
    return row.rsplit("_", 2 if form == TRUE_FALSE else 1)[0]


def read_raw(path: Path | str) -> pd.DataFrame:
    """A csv as text, row ids as index; column names are kept as they stand in the file.

    Raises SubmissionError where the file is empty or no csv, a line has more cells than the first one, the first column
    is another, or a column or a row appears twice.
    """
    try:
        raw = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise SubmissionError(f"{path} is no csv of a submission: {str(error).strip()}") from error
    names = raw.iloc[0].tolist()
    if names[:1] != [ROW_ID]:
        raise SubmissionError(f"{path}: the first column is {names[0]!r}, not {ROW_ID!r}")
    refuse_twice(names, str(path), "column")
    body = raw.iloc[1:].set_axis(names, axis=1).set_index(ROW_ID)
    refuse_twice(body.index.tolist(), str(path), "row")
    return body


def read_submission(path: Path | str, *, classes: Collection[str] | None = None) -> pd.DataFrame:
    """A submission, or a truth, of any form as a wide table of numbers, windows as index.

    classes  of a form of names: the columns; None for all that the file names

    Raises SubmissionError, naming the row, for cells that are not of the form that the columns say.
    """
    return _parsed(read_raw(path), classes, str(path))


def read_truth(path: Path | str) -> pd.DataFrame:
    """As `read_submission`; a table of names or of True and False may have more columns, as the host's labels of 2021
    (train_soundscape_labels.csv: row_id, site, audio_id, seconds, birds)."""
    raw = read_raw(path)
    return _parsed(next((raw[[name]] for name in (BIRDS, TARGET) if name in raw), raw), None, str(path))


def lay_out(table: pd.DataFrame, rows: list[str], form: str) -> pd.DataFrame:
    """A wide table as the host wants it, with just these rows: probabilities as they are, decisions in words."""
    if form == PROBABILITIES:
        return table.reindex(rows)
    if form == NAMES:
        cells = [" ".join(table.columns[heard]) or NOCALL for heard in table.reindex(rows).to_numpy() > 0]
        return pd.DataFrame({BIRDS: cells}, index=pd.Index(rows, name=ROW_ID))
    parts = [row.rsplit("_", 2) for row in rows]
    line = table.index.get_indexer(pd.Index([f"{stem}_{end}" for stem, _, end in parts]))
    column = table.columns.get_indexer(pd.Index([bird for _, bird, _ in parts]))
    return pd.DataFrame({TARGET: table.to_numpy()[line, column] > 0}, index=pd.Index(rows, name=ROW_ID))


def windows_of(rows: Sequence[str], form: str) -> list[str]:
    """The windows that rows are of, each once, in order.

    >>> windows_of(["s_1_owl_5", "s_1_frog_5"], "true_false")
    ['s_1_5']
    """
    if form != TRUE_FALSE:
        return list(rows)
    return list(dict.fromkeys(f"{stem}_{end}" for stem, _, end in (row.rsplit("_", 2) for row in rows)))


def refuse_twice(names: Sequence[str], where: str, what: str) -> None:
    """Raise SubmissionError for names that are not all different."""
    counts = pd.Index(names)
    if counts.has_duplicates:
        twice = list(counts[counts.duplicated()].unique())
        raise SubmissionError(f"{where}: {what}s that appear twice: {some_of(twice)}")


def refuse_others(have: Collection[str], want: Collection[str], where: str, what: str) -> None:
    """Raise SubmissionError where names are missing or unknown."""
    if set(have) != set(want):
        missing, extra = sorted(set(want) - set(have)), sorted(set(have) - set(want))
        raise SubmissionError(f"{where}: {len(missing)} {what}s missing: {some_of(missing)}; "
                              f"{len(extra)} unknown: {some_of(extra)}")


def _parsed(raw: pd.DataFrame, classes: Collection[str] | None, where: str) -> pd.DataFrame:
    """A csv of one of the forms as a wide table of numbers."""
    form = form_of([ROW_ID, *raw.columns])
    if form == NAMES:
        return _of_names(raw[BIRDS], classes, where)
    if form == TRUE_FALSE:
        return _of_truths(raw[TARGET], where)
    table = raw.apply(pd.to_numeric, errors="coerce").astype(float)
    wrong = table.isna().to_numpy()
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise SubmissionError(f"{where}: {int(wrong.sum())} cells hold no number, the first {raw.iat[row, column]!r} "
                              f"in row {table.index[row]}, column {table.columns[column]}")
    return table


def _of_names(cells: pd.Series, classes: Collection[str] | None, where: str) -> pd.DataFrame:
    """Names in each row as 0 and 1 of each class."""
    said = [cell.split() for cell in cells]
    for row, names in zip(cells.index, said, strict=True):
        if not names or len(set(names)) < len(names) or (NOCALL in names and len(names) > 1):
            raise SubmissionError(f"{where}: row {row} holds {' '.join(names)!r}, which must be different names "
                                  f"separated by a space, or {NOCALL!r} alone")
    named = {name for names in said for name in names} - {NOCALL}
    unknown = sorted(named - set(named if classes is None else classes))
    if unknown:
        raise SubmissionError(f"{where}: {len(unknown)} names that are no class: {some_of(unknown)}")
    columns = sorted(named) if classes is None else list(classes)
    return pd.DataFrame([[float(name in names) for name in columns] for names in map(set, said)], columns=columns,
                        index=cells.index)


def _of_truths(cells: pd.Series, where: str) -> pd.DataFrame:
    """True and False of each window and class as 1 and 0 in a row for each window, a column for each class."""
    for row, cell in cells.items():
        if cell not in _TRUTH or str(row).count("_") < 2:
            raise SubmissionError(f"{where}: row {row} holds {cell!r}; a row must be named file_bird_second and hold "
                                  "True or False")
    parts = pd.DataFrame([row.rsplit("_", 2) for row in cells.index], columns=["stem", "bird", "end"])
    windows, birds = parts["stem"] + "_" + parts["end"], parts["bird"]
    table = pd.DataFrame(np.nan, index=pd.Index(windows.unique(), name=ROW_ID), columns=list(birds.unique()))
    values = table.to_numpy(copy=True)
    line, column = table.index.get_indexer(pd.Index(windows)), table.columns.get_indexer(pd.Index(birds))
    values[line, column] = cells.map(_TRUTH).to_numpy()
    if np.isnan(values).any():
        row, column = np.argwhere(np.isnan(values))[0]
        raise SubmissionError(f"{where}: {int(np.isnan(values).sum())} rows are missing, the first of window "
                              f"{table.index[row]} and {table.columns[column]}")
    return pd.DataFrame(values, index=table.index, columns=table.columns)
