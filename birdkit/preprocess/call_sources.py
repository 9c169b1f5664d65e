"""Where the examples of a call detector come from: tables of recordings with the labels "call" and "nocall".

Every function gives a table in the format of the recordings table: file (relative to `root`), label, secondary,
duration_s (of the file), rating, split, start_s and end_s (of a labelled span; NaN for the whole file), and group. No
file, and no original recording that shows in its name, is in two splits. `join` puts tables together.
"""
from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit import audio, splits
from birdkit.data import DataError
from birdkit.data.tables import CALL, NOCALL, SPAN_COLUMNS, TABLE_COLUMNS, spans
from birdkit.kaggle import AUDIO_SUFFIXES

log = logging.getLogger(__name__)

COLUMNS = (*TABLE_COLUMNS, *SPAN_COLUMNS, "group")
LEAST_SPAN_S = 1.0  # the rest of a soundscape that is no whole window is left out below this
READERS = 8  # threads that read headers


def labelled_folder(labels: Path | str, folder: Path | str, *, root: Path | str, n_splits: int = 5,
                    seed: int = 0) -> pd.DataFrame:
    """Short files that somebody has labelled as with or without a bird: freefield1010, warblrb10k, BirdVox-DCASE-20k.

    labels  csv with the columns itemid and hasbird (0 or 1), and perhaps datasetid
    folder  holds <itemid>.wav, or another format, at any depth
    root    folder that the table's files are relative to; `folder` lies in it

    Raises DataError naming the csv or the file where columns are missing or unknown, an item is named twice, labelled
    with anything else, or has no audio; birdkit.audio.AudioError for a file that is none.
    """
    rows = _read_csv(labels, needed=("itemid", "hasbird"), known=("datasetid",))
    items = rows["itemid"].tolist()
    _refuse_repeated(labels, items)
    odd = rows[~rows["hasbird"].isin(["0", "1"])]
    if len(odd):
        raise DataError(f"{labels}: hasbird of item {odd['itemid'].iloc[0]} is {odd['hasbird'].iloc[0]!r}, "
                        "which is neither 0 nor 1")
    there: dict[str, list[Path]] = {}
    for path in _audio_below(folder):
        there.setdefault(path.stem, []).append(path)
    _refuse_unmatched(labels, {f"item {item}": there.get(item, []) for item in items}, folder)
    unlisted = len(there.keys() - set(items))
    if unlisted:
        log.warning("%s: %d audio files are not in %s and are left out", folder, unlisted, labels)
    label = np.where(rows["hasbird"] == "1", CALL, NOCALL)
    return _whole_files([there[item][0] for item in items], label, root=root, n_splits=n_splits, seed=seed)


def noise(folder: Path | str, *, root: Path | str, n_splits: int = 5, seed: int = 0) -> pd.DataFrame:
    """All audio below a folder in which nothing calls: rain, wind, traffic, machines. See `labelled_folder`."""
    paths = _audio_below(folder)
    return _whole_files(paths, np.full(len(paths), NOCALL), root=root, n_splits=n_splits, seed=seed)


def labelled_soundscapes(labels: Path | str, folder: Path | str, *, root: Path | str, window_s: float = 5.0,
                         n_splits: int = 5, seed: int = 0) -> pd.DataFrame:
    """Soundscapes labelled window by window as in BirdCLEF 2021, each window a span: "nocall" or "call".

    labels  csv with the columns row_id, site, audio_id, seconds (the window's end) and birds, which is "nocall" or
            names of birds
    folder  holds <audio_id>_<site>_<date> in any audio format, directly

    Raises DataError naming the csv or the file where columns are missing or unknown, a window is named twice or lies
    outside its file, or not exactly one file fits; birdkit.audio.AudioError for a file that is none.
    """
    rows = _read_csv(labels, needed=("row_id", "site", "audio_id", "seconds", "birds"))
    _refuse_repeated(labels, rows["row_id"].tolist())
    end_s = pd.to_numeric(rows["seconds"], errors="coerce")
    if end_s.isna().any():
        raise DataError(f"{labels}: seconds of {rows.loc[end_s.isna(), 'row_id'].iloc[0]} is no number")
    stems = rows["audio_id"] + "_" + rows["site"] + "_"
    there = {stem: [path for path in _audio_in(folder) if path.name.startswith(stem)] for stem in stems.unique()}
    _refuse_unmatched(labels, {f"soundscape {stem}*": paths for stem, paths in there.items()}, folder)
    paths = {stem: found[0] for stem, found in there.items()}
    length_s = dict(zip(paths, _durations_s(list(paths.values())), strict=True))
    names = {stem: _relative(path, root) for stem, path in paths.items()}
    split = dict(zip(names, splits.assign_soundscapes(list(names.values()), n_splits, seed=seed), strict=True))
    return _checked_table(pd.DataFrame({
        "file": stems.map(names), "label": np.where(rows["birds"].str.strip() == NOCALL, NOCALL, CALL), "secondary": "",
        "duration_s": stems.map(length_s), "rating": 0.0, "split": stems.map(split), "start_s": end_s - window_s,
        "end_s": end_s, "group": "file:" + stems.map(names)}))


def competition(recordings: pd.DataFrame, soundscapes: pd.DataFrame, pseudo_labels: pd.DataFrame, *,
                quiet_below: float = 0.05, quiet_share: float = 0.1, call_from: float = 0.8) -> pd.DataFrame:
    """What a competition has itself: recordings as "call"; of its unlabelled soundscapes, the windows in which teachers
    hear next to nothing as "nocall", and those in which they surely hear something as "call", too.

    Splits are those of notebook 01: a detector of a split has not heard what it is validated on. The teachers may have:
    its score says how well it agrees with them.

    recordings, soundscapes  the tables of notebook 01, whose folder is `root`
    pseudo_labels            a table of birdkit.pseudolabel, with all its windows (least_peak = 0)
    quiet_below, call_from   bounds of a window's largest probability
    quiet_share              of all windows that are quiet at least, the lowest, as far as they are below call_from: how
                             low teachers go in silence depends on how long they have learnt

    Raises DataError where a pseudo-labelled file is no soundscape, or no window is quiet.
    """
    if not 0 <= quiet_below <= call_from <= 1 or not 0 <= quiet_share <= 1:
        raise ValueError(f"0 <= quiet_below {quiet_below} <= call_from {call_from} <= 1 and 0 <= quiet_share "
                         f"{quiet_share} <= 1 do not hold")
    known = soundscapes.set_index("file")
    strange = pseudo_labels.loc[~pseudo_labels["file"].isin(known.index), "file"]
    if len(strange):
        raise DataError(f"{strange.iloc[0]}: pseudo-labelled, but not in the soundscapes table")
    peak = pseudo_labels.drop(columns=["file", "start_s", "end_s"]).max(axis=1)
    quiet = (peak < quiet_below) | ((peak.rank(method="min") <= quiet_share * len(peak)) & (peak < call_from))
    if not quiet.any():
        raise DataError(f"none of {len(peak)} pseudo-labelled windows is quiet: the lowest maximum of all "
                        f"probabilities in one is {peak.min():.3g}, with quiet_below = {quiet_below}, quiet_share = "
                        f"{quiet_share} and call_from = {call_from}")
    windows = pseudo_labels[quiet | (peak >= call_from)]
    file = windows["file"]
    length_s = file.map(known["duration_s"])
    table = pd.DataFrame({
        "file": file, "label": np.where(quiet[windows.index], NOCALL, CALL), "secondary": "",
        "duration_s": length_s, "rating": 0.0, "split": file.map(known["split"]), "start_s": windows["start_s"],
        "end_s": np.minimum(windows["end_s"], length_s), "group": "file:" + file})
    table = table[table["end_s"] - table["start_s"] >= LEAST_SPAN_S]
    whole = recordings.assign(label=CALL, secondary="", start_s=np.nan, end_s=np.nan)
    if "group" not in whole:
        whole["group"] = "file:" + whole["file"]
    return join(whole, table)


def join(*tables: pd.DataFrame) -> pd.DataFrame:
    """Several tables as one.

    Raises DataError where a file has two labels, ValueError where a file or group is in two splits. Both name the file.
    """
    table = pd.concat([one[list(COLUMNS)] for one in tables], ignore_index=True)
    twice = table.duplicated(["file", *SPAN_COLUMNS])
    if twice.any():
        raise DataError(f"{table.loc[twice, 'file'].iloc[0]}: the same audio is in the tables twice")
    splits.check_splits(table.drop(columns="group").assign(group="file:" + table["file"]))
    return _checked_table(table)


def _whole_files(paths: Sequence[Path], label: np.ndarray, *, root: Path | str, n_splits: int,
                 seed: int) -> pd.DataFrame:
    """The table of files that have one label each."""
    table = pd.DataFrame({
        "file": [_relative(path, root) for path in paths], "label": label, "secondary": "",
        "duration_s": _durations_s(paths), "rating": 0.0, "start_s": np.nan, "end_s": np.nan,
        "group": [f"original:{_relative(path.parent, root)}/{splits.original_of(path.stem)}" for path in paths]})
    table["split"] = splits.assign_splits(table, n_splits, seed=seed)
    return _checked_table(table)


def _checked_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in order, after the checks that training relies on."""
    spans(table)
    splits.check_splits(table)
    counts = table["label"].value_counts()
    log.info("%d examples of a call, %d of none, in %d files", counts.get(CALL, 0), counts.get(NOCALL, 0),
             table["file"].nunique())
    return table[list(COLUMNS)].reset_index(drop=True)


def _read_csv(path: Path | str, *, needed: tuple[str, ...], known: tuple[str, ...] = ()) -> pd.DataFrame:
    """A csv as text; DataError where it cannot be read, or its columns are not the ones that are known."""
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    missing = [name for name in needed if name not in rows.columns]
    unknown = [name for name in rows.columns if name not in (*needed, *known)]
    if missing or unknown:
        raise DataError(f"{path}: columns missing: {', '.join(missing) or 'none'}; unknown: "
                        f"{', '.join(unknown) or 'none'}")
    if not len(rows):
        raise DataError(f"{path} has no rows")
    return rows


def _refuse_repeated(path: Path | str, names: Sequence[str]) -> None:
    twice = pd.Series(names)[pd.Series(names).duplicated()]
    if len(twice):
        raise DataError(f"{path}: {len(twice)} rows repeat an earlier one, the first is {twice.iloc[0]}")


def _refuse_unmatched(path: Path | str, found: dict[str, list[Path]], folder: Path | str) -> None:
    """DataError where something that a table names has no audio, or more than one file."""
    absent = [name for name, paths in found.items() if not paths]
    if absent:
        raise DataError(f"{path}: {len(absent)} of {len(found)} have no audio in {folder}, the first is {absent[0]}")
    for name, paths in found.items():
        if len(paths) > 1:
            raise DataError(f"{path}: {name} could be {paths[0]} or {paths[1]}")


def _audio_in(folder: Path | str) -> list[Path]:
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in AUDIO_SUFFIXES)


def _audio_below(folder: Path | str) -> list[Path]:
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: no audio in it ({', '.join(AUDIO_SUFFIXES)})")
    return paths


def _durations_s(paths: Sequence[Path]) -> list[float]:
    """What the headers say, in the order of the paths; AudioError for a file that is no audio."""
    with ThreadPoolExecutor(READERS) as pool:
        return [about.duration_s for about in pool.map(audio.info, paths)]


def _relative(path: Path, root: Path | str) -> str:
    """The file as a table names it; DataError where it is not below `root`."""
    try:
        return path.absolute().relative_to(Path(root).absolute()).as_posix()
    except ValueError as error:
        raise DataError(f"{path} is not in {root}, the folder that the table's files are relative to") from error
