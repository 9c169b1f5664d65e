"""Centres of clips that people marked by hand, as the second seed (2025) did for 20,255 of its recordings."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

MARK_COLUMNS = ("filename", "centre_s")


def read_marks(path: Path | str, *, listed: Collection[str], folder: str) -> dict[str, float]:
    """The centre of each marked recording, in seconds from its start.

    path    csv with MARK_COLUMNS, a row per recording
    listed  the recordings there are, as `folder`/filename

    Raises ValueError, naming the line, where a recording is not listed or is marked twice, or its centre is no number.
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    missing = [name for name in MARK_COLUMNS if name not in rows]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(rows.columns)}")
    file, centre_s = folder + "/" + rows["filename"], pd.to_numeric(rows["centre_s"], errors="coerce")
    for fault, faulty in (("is not in the train table", ~file.isin(list(listed))),
                          ("is marked more than once", file.duplicated()),
                          ("has a centre_s that is no number", ~np.isfinite(centre_s))):
        if faulty.any():
            row = int(faulty.to_numpy().argmax())
            raise ValueError(f"{path}, line {row + 2}: {rows['filename'][row]!r} {fault} ({rows['centre_s'][row]!r}); "
                             f"{int(faulty.sum())} such rows in all")
    return dict(zip(file, centre_s.astype(float), strict=True))


def centres_of(table: pd.DataFrame, marks: Mapping[str, float]) -> pd.Series:
    """The centre of each recording, NaN where none is marked; ValueError where one lies outside of its recording.

    table  columns file, duration_s
    """
    centre_s = table["file"].map(dict(marks)).astype(float)
    outside = (centre_s < 0) | (centre_s > table["duration_s"])
    if outside.any():
        row = table[outside].iloc[0]
        raise ValueError(f"{row['file']}: its marked centre_s = {marks[row['file']]:g} is not inside the recording, "
                         f"which is {row['duration_s']:g} s long; {int(outside.sum())} such marks in all")
    return centre_s
