"""Which recordings belong together, and which part of the cross-validation each belongs to. Files are not opened here.

Two recordings of one animal on one afternoon are nearly the same sound: a split that has one in training and the other
in validation measures memory. Recordings that must stay together share a `group`; `assign_splits` never cuts a group.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from sklearn.model_selection import StratifiedGroupKFold

from birdkit.config import SplitConfig

LEVELS = ("author", "place", "original", "file")  # from the widest group to the narrowest
TIES = ("group", "content", "near_duplicate")  # columns whose equal values may not be in two splits; "" ties nothing
STRATIFIED = SplitConfig()
SITE_KM = 5.0  # recordings no further apart are of one site, and so are those that a chain of such steps joins
EARTH_KM = 6371.0
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


def join_pairs(files: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """For each file the set that pairs join it to, named by its first file in order; "" for a file in no pair.

    >>> join_pairs(["a", "b", "c", "d", "e"], [("d", "b"), ("c", "d")])
    ['', 'b', 'b', 'b', '']
    """
    row = {file: number for number, file in enumerate(files)}
    ends = np.array([(row[one], row[other]) for one, other in pairs], np.int64).reshape(-1, 2)
    component = _components(len(files), ends)
    size = np.bincount(component, minlength=1)
    first: dict[int, str] = {}
    for file, number in zip(files, component, strict=True):
        first[number] = min(first.get(number, file), file)
    return [first[number] if size[number] > 1 else "" for number in component]


def group_recordings(table: pd.DataFrame, n_splits: int, *, config: SplitConfig = STRATIFIED,
                     scored: Collection[str] | None = None) -> pd.Series:
    """The group of each recording, by the widest of four levels that leaves its class enough groups.

    author    everything by one author, in whatever class; an unknown author's recordings go by original
    place     what one author recorded at one place, coordinates to 0.01 degrees; by original where they are unknown
    original  clips cut from one original (`original_of`) of one author
    file      each recording of an unknown author alone, since nothing shows what belongs together

    Enough are `n_splits` for stratified splits, and two otherwise: one to validate on and one to train on. A class
    that one author recorded alone could not be split by author, so it goes by a narrower level, and its validation is
    the more optimistic for it. A class too small at every level goes by original. Whatever the level, recordings of
    one original and those with equal `content` or of one set of near-duplicates share a group.

    For splits by "site", recordings with coordinates go by site instead, whoever made them: all that a chain of steps
    of up to SITE_KM joins is one group. With `scored_only`, recordings of other classes go by original: they are
    always trained on, and what merely shares an author or a site with them may still validate.

    table    columns file, label, author, content; latitude and longitude as text, "" where unknown; near_duplicate
             where near-duplicates were looked for: the name of the set, "" for none
    scored   the classes that `scored_only` lets validate
    returns  names that start with their level, such as "author:jane doe" or "site:-1.23,4.56", on the index of `table`
    """
    validates = _may_validate(table["label"], config, scored)
    keys, alone = _keys(table), "file:" + table["file"]
    if config.kind == "site":
        site = _sites(table)
        keys["author"], keys["place"] = (keys[name].where(site == "", site) for name in ("author", "place"))
        site = site.where((site != "") & validates, alone)
    else:
        site = alone
    level = np.full(len(table), LEVELS.index("original"))
    decided = ~validates
    for number, name in enumerate(LEVELS):
        n_groups = keys[name].groupby(table["label"]).transform("nunique")
        enough = (n_groups >= _least_groups(n_splits, config)).to_numpy()
        level[~decided & enough] = number
        decided |= enough
    chosen = pd.Series(keys.to_numpy()[np.arange(len(keys)), level], index=table.index)
    # A class that goes by file has given up on its originals, so they must not tie it together again.
    original = keys["original"].where(level != LEVELS.index("file"), keys["file"])
    ties = [chosen, original, "content:" + table["content"], site]
    if "near_duplicate" in table:
        ties.append(("near:" + table["near_duplicate"]).where(table["near_duplicate"] != "", alone))
    return _tie(chosen, ties)


def assign_splits(table: pd.DataFrame, n_splits: int, *, seed: int, config: SplitConfig = STRATIFIED,
                  scored: Collection[str] | None = None) -> np.ndarray:
    """The split that validates each recording, never cutting a `group`; -1 for those that are always trained on.

    stratified  each split has about its share of every class. A class with fewer than `n_splits` groups always trains
    site        groups are dealt out at random, each to the split with fewest recordings, so that splits differ by no
                more than the largest group. A class of one group always trains, and where all groups of a class came
                to one split, the smallest of them trains after all
    coverage    split 0 is a small set of groups that has at least one recording of every class that has a group to
                spare: by greedy choice, the group with most classes still missing for its recordings first (Chvatal
                1979), then without those that later ones made needless. There are no other splits

    Whatever the kind, a class with fewer recordings than `min_per_class`, and with `scored_only` one that is not
    `scored`, is always trained on; and a group that holds a recording of any such class is -1 as a whole, which can
    make further classes of stratified splits too rare. The same table and seed give the same splits, whatever the
    order of its rows.

    table  columns file, label, group, the groups by `group_recordings` with the same config
    Shape: -> (R,) int64, -1 or 0 to n_splits - 1. Raises ValueError for fewer than two splits, a repeated file, or
    `scored_only` without `scored`.
    """
    if n_splits < 2:
        raise ValueError(f"n_splits = {n_splits}: cross-validation needs at least two")
    if table["file"].duplicated().any():
        raise ValueError(f"{table['file'][table['file'].duplicated()].iloc[0]} is in the table more than once")
    rows = table[["file", "label", "group"]].reset_index(drop=True).sort_values("file")
    free = _free(rows, n_splits, config, scored)
    splits = np.full(len(table), -1, np.int64)
    if len(free):
        deal = {"stratified": _stratify, "site": _deal, "coverage": _cover}[config.kind]
        of_group = deal(rows, free, n_splits, np.random.default_rng(seed))
        splits[free.index] = free["group"].map(of_group)
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
    """Raise ValueError where recordings that belong together are in more than one split; -1 counts as one.

    Together belong a group, recordings of equal content, and a set of near-duplicates.

    table  columns file, group, split; content and near_duplicate where they are known
    """
    for column in (name for name in TIES if name in table):
        tied = table[table[column] != ""]
        crossing = tied.groupby(column)["split"].transform("nunique") > 1
        if crossing.any():
            rows = tied[tied[column] == tied.loc[crossing, column].iloc[0]]
            files = [f"{file} ({split})" for file, split in zip(rows["file"], rows["split"], strict=True)]
            raise ValueError(f"{column} {rows[column].iloc[0]!r} is in {rows['split'].nunique()} splits: "
                             f"{', '.join(files[:6])}{', ...' if len(files) > 6 else ''}; "
                             f"{tied.loc[crossing, column].nunique()} such {column}s in all")


def _least_groups(n_splits: int, config: SplitConfig) -> int:
    """Groups a class needs to validate: one for each split, or one that validates and one that trains."""
    return n_splits if config.kind == "stratified" else 2


def _may_validate(labels: pd.Series, config: SplitConfig, scored: Collection[str] | None) -> np.ndarray:
    """Which recordings are of classes that may validate, (R,) bool."""
    if not config.scored_only:
        return np.ones(len(labels), bool)
    if scored is None:
        raise ValueError("scored_only = True, but it is not said which classes are scored")
    return labels.isin(list(scored)).to_numpy()


def _free(rows: pd.DataFrame, n_splits: int, config: SplitConfig, scored: Collection[str] | None) -> pd.DataFrame:
    """The rows of the groups that may validate."""
    least = _least_groups(n_splits, config)
    free = rows
    barred = rows.loc[~_may_validate(rows["label"], config, scored), "group"]
    while True:
        # What always trains is of no use to stratified splits, where each must have its share, but serves the others.
        classes = (free if config.kind == "stratified" else rows).groupby("label")["group"].agg(["nunique", "size"])
        rare = classes.index[(classes["nunique"] < least) | (classes["size"] < config.min_per_class)]
        tied = free["group"].isin(barred) | free["group"].isin(free.loc[free["label"].isin(rare), "group"])
        if not tied.any():
            return free
        free = free[~tied]


def _stratify(rows: pd.DataFrame, free: pd.DataFrame, n_splits: int, generator: np.random.Generator) -> dict[str, int]:
    """Split of each free group: about its share of every class to each."""
    # scikit-learn 1.6 shuffles the counts of the groups without the groups, which undoes the stratification:
    # equal groups are put into a random order here, and it does not shuffle.
    number, names = pd.factorize(free["group"], sort=True)
    order = generator.permutation(len(names))
    folds = StratifiedGroupKFold(n_splits).split(free, free["label"], order[number])
    return {group: split for split, (_, validating) in enumerate(folds) for group in free["group"].iloc[validating]}


def _deal(rows: pd.DataFrame, free: pd.DataFrame, n_splits: int, generator: np.random.Generator) -> dict[str, int]:
    """Split of each free group: in random order, each to the split with fewest recordings."""
    size, filled = free.groupby("group").size(), np.zeros(n_splits, np.int64)
    of_group: dict[str, int] = {}
    for group in size.index[generator.permutation(len(size))]:
        of_group[group] = int(filled.argmin())
        filled[of_group[group]] += size[group]
    groups = rows.groupby("label")["group"].unique()
    for label in free["label"].drop_duplicates().sort_values():
        if {of_group.get(group, -1) for group in groups[label]} in [{split} for split in range(n_splits)]:
            of_group[min(groups[label], key=lambda group: (size[group], group))] = -1
    return of_group


def _cover(rows: pd.DataFrame, free: pd.DataFrame, n_splits: int, generator: np.random.Generator) -> dict[str, int]:
    """Split of each free group: 0 for a small set that holds every class that can spare a group, -1 for the others."""
    size, holds = free.groupby("group").size(), free.groupby("group")["label"].agg(frozenset)
    trained = Counter(rows.groupby("label")["group"].nunique().to_dict())  # groups left to train on
    order = holds.index[generator.permutation(len(holds))]
    missing, taken = set(free["label"]), []
    while True:
        gain = {group: len(holds[group] & missing) / size[group] for group in order
                if holds[group] & missing and min(trained[label] for label in holds[group]) > 1}
        if not gain:
            break
        taken.append(max(gain, key=gain.__getitem__))  # the first of equals, in random order
        trained.subtract(holds[taken[-1]])
        missing -= holds[taken[-1]]
    times = Counter(label for group in taken for label in holds[group])
    for group in sorted(taken, key=lambda group: -size[group]):
        if min(times[label] for label in holds[group]) > 1:
            taken.remove(group)
            times.subtract(holds[group])
    return dict.fromkeys(order, -1) | dict.fromkeys(taken, 0)


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


def _sites(table: pd.DataFrame) -> pd.Series:
    """The site of each recording, such as "site:-1.23,4.56" by its first recording in order, "" without coordinates."""
    degrees = table[["latitude", "longitude"]].apply(pd.to_numeric, errors="coerce")
    located = (degrees["latitude"].abs() <= 90) & (degrees["longitude"].abs() <= 360)
    places, place = np.unique(degrees[located].round(4).to_numpy(float), axis=0, return_inverse=True)
    latitude, longitude = np.radians(places).T
    points = EARTH_KM * np.column_stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude),
                                         np.sin(latitude)])
    near = cKDTree(points).query_pairs(SITE_KM, output_type="ndarray") if len(points) else np.zeros((0, 2), np.int64)
    of_place = _components(len(places), near)
    first = np.array([of_place.tolist().index(number) for number in range(len(set(of_place)))], np.int64)
    names = np.array([f"site:{north:.2f},{east:.2f}" for north, east in places[first]], dtype=object)
    site = pd.Series("", index=table.index, dtype=object)
    site[located] = names[of_place[place.reshape(-1)]]
    return site


def _tie(names: pd.Series, keys: Sequence[pd.Series]) -> pd.Series:
    """One group for all rows that any of `keys` ties together, directly or through others; its first name in order."""
    n_rows = len(names)
    codes, values = pd.factorize(pd.concat(list(keys), ignore_index=True))
    links = np.column_stack([np.tile(np.arange(n_rows), len(keys)), n_rows + codes])
    return names.groupby(_components(n_rows + len(values), links)[:n_rows]).transform("min")


def _components(n: int, links: np.ndarray) -> np.ndarray:
    """A number for each of `n` things, the same for those that links (L, 2) join, directly or through others."""
    matrix = coo_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(n, n))
    return connected_components(matrix, directed=False)[1]
