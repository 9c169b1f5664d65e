"""Soundscapes that the host labelled, as in BirdCLEF 2021 and 2026: from annotated spans to labelled windows.

In 2021 every window of 20 soundscapes had a row of its own, named as in the submission, that held names or "nocall".
The host's table of 2026 had every row twice, several labels in a cell, spans already pooled to 5 s, and 28 classes of
which there was no recording. A window that no span touches is not in the result: nobody said that it is empty.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from birdkit.data.tables import NOCALL, label_cells

SPAN_TABLE = ("filename", "start", "end", "primary_label")
ROW_TABLE = ("site", "audio_id", "seconds", "birds")  # 2021
WINDOW_COLUMNS = ("file", "start_s", "end_s", "labels", "split")
SEPARATOR = ";"


def parse_time_s(text: str) -> float:
    """Seconds, or hours, minutes and seconds, of a recording; ValueError for anything else.

    >>> parse_time_s("00:01:05"), parse_time_s("1:05"), parse_time_s("65.5")
    (65.0, 65.0, 65.5)
    """
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError as error:
        raise ValueError(f"{text!r} is no time") from error
    if len(parts) > 3 or not all(0 <= part < np.inf for part in parts) or any(part >= 60 for part in parts[1:]):
        raise ValueError(f"{text!r} is no time")
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def read_spans(path: Path | str, *, folder: str, files: Collection[str] = (),
               window_s: float = 5.0) -> tuple[pd.DataFrame, list[str]]:
    """The spans of a host's table, each once, and the files of the rows that repeat another.

    path    csv with the columns SPAN_TABLE: start and end as `parse_time_s` reads them; labels separated by ";", of a
            span in which nothing calls none, or "nocall"
            Or with the columns ROW_TABLE, as in 2021: seconds is where a window ends, names separated by a space
    folder  that its file names are relative to, itself relative to the competition
    files   there are, for a table of rows: it names them without their date
    window_s  what a row is about, for such a table

    Returns columns file, start_s, end_s, labels (joined by a space, in alphabetical order).
    Raises ValueError, naming the line, where columns are missing or a span is none.
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if set(ROW_TABLE) <= set(rows):
        rows = _spans_of_rows(rows, folder, files, window_s)
    missing = [name for name in SPAN_TABLE if name not in rows]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(rows.columns)}")
    found = []
    for line, (name, start, end, labels) in enumerate(rows[list(SPAN_TABLE)].itertuples(index=False), start=2):
        try:
            start_s, end_s = parse_time_s(start), parse_time_s(end)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}, {name}: {error}") from error
        if not start_s < end_s:
            raise ValueError(f"{path}, line {line}, {name}: {start!r} to {end!r} is no span")
        names = {label.strip() for label in labels.split(SEPARATOR)} - {"", NOCALL}
        found.append((f"{folder}/{name}", start_s, end_s, " ".join(sorted(names))))
    table = pd.DataFrame(found, columns=["file", "start_s", "end_s", "labels"])
    again = table.duplicated()
    return table[~again].reset_index(drop=True), table.loc[again, "file"].tolist()


def _spans_of_rows(rows: pd.DataFrame, folder: str, files: Collection[str], window_s: float) -> pd.DataFrame:
    """The table of 2021 as one of SPAN_TABLE; a file that is not there keeps the name that its rows give it."""
    known = {PurePosixPath(file).stem.rpartition("_")[0]: PurePosixPath(file).relative_to(folder).as_posix()
             for file in files if PurePosixPath(file).is_relative_to(folder)}
    stems = rows["audio_id"] + "_" + rows["site"]
    end_s = pd.to_numeric(rows["seconds"], errors="coerce")
    return pd.DataFrame({"filename": stems.map(known).fillna(stems), "start": (end_s - window_s).map("{:g}".format),
                         "end": rows["seconds"], "primary_label": rows["birds"].str.replace(" ", SEPARATOR)})


def drop_foreign(spans: pd.DataFrame, classes: Collection[str]) -> tuple[pd.DataFrame, list[str]]:
    """The spans with those labels alone that are classes, and the labels that were dropped, each as often as it was."""
    known = set(classes)
    foreign = Counter(name for names in spans["labels"] for name in names.split() if name not in known)
    kept = spans["labels"].map(lambda names: " ".join(name for name in names.split() if name in known))
    return spans.assign(labels=kept), sorted(foreign.elements())


def pool_windows(spans: pd.DataFrame, window_s: float, durations_s: dict[str, float]) -> pd.DataFrame:
    """The windows that spans touch, with the labels of all spans that do: file, start_s, end_s, labels.

    window_s     windows begin at its multiples; the last of a file ends with it
    durations_s  of the files. What lies beyond the end is left out

    >>> spans = pd.DataFrame({"file": "s", "start_s": [0, 4], "end_s": [3, 7], "labels": ["owl", "frog"]})
    >>> pool_windows(spans, 5, {"s": 8.0})["labels"].tolist()
    ['frog owl', 'frog']
    """
    labels: dict[tuple[str, int], set[str]] = {}
    for file, start_s, end_s, names in spans[["file", "start_s", "end_s", "labels"]].itertuples(index=False):
        stop_s = min(end_s, durations_s[file])
        for number in range(int((start_s + 1e-6) // window_s), int(np.ceil((stop_s - 1e-6) / window_s))):
            labels.setdefault((file, number), set()).update(names.split())
    rows = [(file, number * window_s, min((number + 1) * window_s, durations_s[file]), " ".join(sorted(names)))
            for (file, number), names in sorted(labels.items())]
    table = pd.DataFrame(rows, columns=["file", "start_s", "end_s", "labels"])
    return table.astype({"file": str, "start_s": float, "end_s": float, "labels": str})


def audit_windows(path: Path | str, soundscapes: pd.DataFrame, classes: Sequence[str], *, recorded: Collection[str],
                  folder: str, window_s: float) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The labelled windows of a competition with the split of their file, WINDOW_COLUMNS, and lists of what is odd.

    path         the host's table, see `read_spans`; window_s as for `pool_windows`
    soundscapes  those that can be used: file, duration_s, split
    recorded     primary labels of the recordings

    The lists: rows repeated, labels dropped that are no class, files that cannot be used, classes heard only here.
    """
    spans, repeated = read_spans(path, folder=folder, files=soundscapes["file"], window_s=window_s)
    spans, foreign = drop_foreign(spans, classes)
    known = soundscapes.set_index("file")
    there = spans["file"].isin(known.index)
    durations_s = dict(zip(soundscapes["file"], soundscapes["duration_s"], strict=True))
    windows = pool_windows(spans[there], window_s, durations_s)
    windows["split"] = windows["file"].map(known["split"]).astype(np.int64)
    heard = {name for names in windows["labels"] for name in names.split()} - set(recorded)
    return windows[list(WINDOW_COLUMNS)], {
        "labelled_rows_repeated": repeated, "labelled_labels_dropped": foreign,
        "labelled_files_missing": sorted(set(spans.loc[~there, "file"])),
        "classes_only_in_labelled_soundscapes": [name for name in classes if name in heard]}


def window_cells(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """What is heard in each window, (R, K) bool; DataError, naming the file, for a label that is no class."""
    return label_cells(table.assign(label=NOCALL, secondary=table["labels"]), classes)[1]


def runs_of(table: pd.DataFrame) -> pd.Series:
    """For each window of a table sorted by file and start_s, a name of the unbroken run of windows it is part of.

    >>> runs_of(pd.DataFrame({"file": "s", "start_s": [0, 5, 15], "end_s": [5, 10, 20]})).tolist()
    [1, 1, 2]
    """
    follows = (table["file"] == table["file"].shift()) & ((table["start_s"] - table["end_s"].shift()).abs() < 1e-3)
    return (~follows).cumsum()


def rarest_labels(table: pd.DataFrame, recorded: Sequence[str]) -> list[str]:
    """The label that each window counts for where classes are balanced: of its own, that with the fewest examples.

    recorded  the primary labels of the recordings

    >>> rarest_labels(pd.DataFrame({"labels": ["owl son1", "owl", ""]}), ["owl", "owl"])
    ['son1', 'owl', 'nocall']
    """
    counts = Counter(recorded) + Counter(name for names in table["labels"] for name in names.split())
    return [min(names.split(), key=lambda name: (counts[name], name), default=NOCALL) for names in table["labels"]]
