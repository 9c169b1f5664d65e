"""Which recordings belong together, and which part of the cross-validation each belongs to. Files are not opened here.

Two recordings of one animal on one afternoon are nearly the same sound: a split that has one in training and the other
in validation measures memory. Recordings that must stay together share a `group`; `assign_splits` never cuts a group.
"""
from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

LEVELS = ("author", "place", "original", "file")  # from the widest group to the narrowest
TAKE = re.compile(r"(?<=.)[-_ ](?:\d{1,3}[A-Za-z]?|[A-Za-z]|wav|mp3|flac|ogg)$")
SESSION = re.compile(r"(?<!\d)\d{8}[-_T ]?\d{6}(?!\d)")
NOBODY = re.compile(r"[-?]*|n/?a|nan|none|null|unknown.*|anon(ymous)?|no rights reserved.*")


def original_of(stem: str) -> str:
    """The original recording that a file name without extension shows: several clips may be cut from one.

    Two rules. A date with a time, yyyymmdd-hhmmss, names the session: all clips of it share it, whatever stands
    around it. Otherwise take marks are stripped from the end, as many as there are: a number of up to three digits
    with or without a letter, a single letter, or a left-over extension, after a hyphen, underscore or space. Longer
    numbers are ids and stay.

    >>> [original_of(stem) for stem in ("ESC1-30226-A", "IS32-dat008-019-M", "Die-Koo-6b", "XC134896")]
    ['ESC1-30226', 'IS32-dat008', 'Die-Koo', 'XC134896']
    >>> original_of("QUT-Female10-HoneymoonBay-StBees-20081027-023000")
    '20081027-023000'
    """
    session = SESSION.search(stem)
    if session:
        return session.group()
    while TAKE.search(stem):
        stem = TAKE.sub("", stem)
    return stem


def group_recordings(table: pd.DataFrame, n_splits: int) -> pd.Series:
    """The group of each recording, by the widest of four levels that leaves its class `n_splits` groups.

    author    everything by one author, in whatever class; an unknown author's recordings go by original
    place     what one author recorded at one place, coordinates to 0.01 degrees; by original where they are unknown
    original  clips cut from one original (`original_of`) of one author
    file      each recording of an unknown author alone, since nothing shows what belongs together

    A class that one author recorded alone could not be split by author, so it goes by a narrower level, and its
    validation is the more optimistic for it. A class too small at every level goes by original. Whatever the
    level, recordings of one original and recordings with equal `content` share a group.

    table    columns file, label, author, content; latitude and longitude as text, "" where unknown
    returns  names that start with their level, such as "author:jane doe", on the index of `table`
    """
    keys = _keys(table)
    level = np.full(len(table), LEVELS.index("original"))
    decided = np.zeros(len(table), bool)
    for number, name in enumerate(LEVELS):
        enough = (keys[name].groupby(table["label"]).transform("nunique") >= n_splits).to_numpy()
        level[~decided & enough] = number
        decided |= enough
    chosen = pd.Series(keys.to_numpy()[np.arange(len(keys)), level], index=table.index)
    # A class that goes by file has given up on its originals, so they must not tie it together again.
    original = keys["original"].where(level != LEVELS.index("file"), keys["file"])
    return _tie(chosen, [chosen, original, "content:" + table["content"]])


def assign_splits(table: pd.DataFrame, n_splits: int, *, seed: int, min_per_class: int = 1) -> np.ndarray:
    """The split that validates each recording, stratified by `label`, never cutting a `group`.

    A class with fewer than `n_splits` groups or fewer than `min_per_class` recordings is rare: its recordings are -1,
    always in training. A group that holds one of those is -1 as a whole, which can make further classes rare.
    The same table and seed give the same splits, whatever the order of its rows.

    table  columns file, label, group
    Shape: -> (R,) int64, -1 or 0 to n_splits - 1. Raises ValueError for fewer than two splits or a repeated file.
    """
    if n_splits < 2:
        raise ValueError(f"n_splits = {n_splits}: cross-validation needs at least two")
    if table["file"].duplicated().any():
        raise ValueError(f"{table['file'][table['file'].duplicated()].iloc[0]} is in the table more than once")
    rows = table[["file", "label", "group"]].reset_index(drop=True).sort_values("file")
    free = rows
    while True:
        classes = free.groupby("label")["group"].agg(["nunique", "size"])
        rare = classes.index[(classes["nunique"] < n_splits) | (classes["size"] < min_per_class)]
        tied = free["group"].isin(free.loc[free["label"].isin(rare), "group"])
        if not tied.any():
            break
        free = free[~tied]
    splits = np.full(len(table), -1, np.int64)
    if len(free):
        # scikit-learn 1.6 shuffles the counts of the groups without the groups, which undoes the stratification:
        # equal groups are put into a random order here, and it does not shuffle.
        number, names = pd.factorize(free["group"], sort=True)
        order = np.random.default_rng(seed).permutation(len(names))
        folds = StratifiedGroupKFold(n_splits).split(free, free["label"], order[number])
        for split, (_, validating) in enumerate(folds):
            splits[free.index[validating]] = split
    return splits


def assign_soundscapes(files: Sequence[str], n_splits: int, *, seed: int) -> np.ndarray:
    """A split for each unlabelled soundscape: random, and equal in number to within one.

    Shape: -> (len(files),) int64, 0 to n_splits - 1; the same for the same names and seed, whatever their order.

    >>> sorted(assign_soundscapes(["a", "b", "c", "d"], 2, seed=0).tolist())
    [0, 0, 1, 1]
    """
    if n_splits < 1:
        raise ValueError(f"n_splits = {n_splits} must be at least one")
    splits = np.empty(len(files), np.int64)
    by_name = np.argsort(np.asarray(files, dtype=str), kind="stable")
    splits[np.random.default_rng(seed).permutation(by_name)] = np.arange(len(files)) % n_splits
    return splits


def check_splits(table: pd.DataFrame) -> None:
    """Raise ValueError where a group, or recordings of equal content, are in more than one split; -1 counts as one.

    table  columns file, group, split; content where it is known
    """
    for column in ("group", "content"):
        if column not in table:
            continue
        crossing = table.groupby(column)["split"].transform("nunique") > 1
        if crossing.any():
            rows = table[table[column] == table.loc[crossing, column].iloc[0]]
            files = [f"{file} ({split})" for file, split in zip(rows["file"], rows["split"], strict=True)]
            raise ValueError(f"{column} {rows[column].iloc[0]!r} is in {rows['split'].nunique()} splits: "
                             f"{', '.join(files[:6])}{', ...' if len(files) > 6 else ''}; "
                             f"{table.loc[crossing, column].nunique()} such {column}s in all")


def _author(name: str) -> str:
    """An author's name whatever the case and the order of its words, "" where it names nobody."""
    name = name.casefold().strip()
    return "" if NOBODY.fullmatch(name) else " ".join(sorted(name.replace(",", " ").split()))


def _keys(table: pd.DataFrame) -> pd.DataFrame:
    """What each recording would be grouped by, a column for each of LEVELS."""
    rows = []
    for file, label, name, latitude, longitude in zip(
            table["file"], table["label"], table["author"], table["latitude"], table["longitude"], strict=True):
        author = _author(name)
        original = f"original:{author or label}/{original_of(file.rsplit('/', 1)[-1].rsplit('.', 1)[0])}"
        place = f"place:{author}@{_degrees(latitude)},{_degrees(longitude)}" if latitude and longitude else original
        if author:
            rows.append((f"author:{author}", place, original, original))
        else:
            rows.append((original, original, original, f"file:{file}"))
    return pd.DataFrame(rows, columns=list(LEVELS), index=table.index, dtype=object)


def _degrees(text: str) -> str:
    try:
        return f"{float(text):.2f}"
    except ValueError:
        return text


def _tie(names: pd.Series, keys: Sequence[pd.Series]) -> pd.Series:
    """One group for all rows that any of `keys` ties together, directly or through others; its first name in order."""
    n_rows = len(names)
    codes, values = pd.factorize(pd.concat(list(keys), ignore_index=True))
    links = coo_matrix((np.ones(len(codes)), (np.tile(np.arange(n_rows), len(keys)), n_rows + codes)),
                       shape=(n_rows + len(values), n_rows + len(values)))
    _, component = connected_components(links, directed=False)
    return names.groupby(component[:n_rows]).transform("min")
