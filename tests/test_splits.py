"""Groups and splits: what belongs together stays together, and every class is shared out."""
from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, combinations

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from birdkit import splits
from birdkit.config import SplitConfig


def recordings(rows: list[tuple[str, str, str]], **columns: list[str]) -> pd.DataFrame:
    """A table from (file, label, author)."""
    table = pd.DataFrame(rows, columns=["file", "label", "author"])
    blank = [""] * len(table)
    return table.assign(latitude=columns.get("latitude", blank), longitude=columns.get("longitude", blank),
                        content=columns.get("content", [f"hash {i}" for i in range(len(table))]))


def made_up(classes: int = 8, seed: int = 0) -> pd.DataFrame:
    """A long tail of classes, in groups of one to four."""
    rng = np.random.default_rng(seed)
    rows = [(f"{label}/{group}-{take}.ogg", str(label), f"{label}, {group}")
            for label in range(classes) for group in range(6 + 40 // (label + 1)) for take in range(rng.integers(1, 5))]
    return pd.DataFrame(rows, columns=["file", "label", "group"])


@pytest.mark.parametrize(("stem", "original"), [
    ("ESC1-30226-A", "ESC1-30226"), ("ESC1-30226-B", "ESC1-30226"),
    ("IS32-dat008-019-M", "IS32-dat008"), ("IS32-dat001-020-M-wav-M", "IS32-dat001"),
    ("Steydtlerville-5a", "Steydtlerville"), ("frog_12", "frog"), ("Take 3", "Take"),
    ("XC134896", "XC134896"), ("XC134896-2", "XC134896"), ("iNat1109254", "iNat1109254"), ("CSA-36385", "CSA-36385"),
    ("Female10-Bay-20081027-023000", "20081027-023000"), ("Female2-Bay-20081027-023000", "20081027-023000"),
    ("H02_20230420_074000", "20230420_074000"), ("7", "7"), ("A", "A"), ("", ""),
])
def test_the_original_is_what_is_left_without_take_marks(stem: str, original: str) -> None:
    """Clips cut from one recording are nearly the same sound; ids and dates are not take marks."""
    assert splits.original_of(stem) == original


def test_one_author_is_one_group_however_the_name_is_written() -> None:
    """One person's recordings share birds, places and a microphone."""
    table = recordings([(f"a/XC{i}.ogg", "a", f"Author {i}") for i in range(5)]
                       + [("a/XC8.ogg", "a", "Buhl, Johannes"), ("a/XC9.ogg", "a", "johannes  buhl")])
    group = splits.group_recordings(table, 5)
    assert group.nunique() == 6 and group.iloc[5] == group.iloc[6] == "author:buhl johannes"


def test_a_class_of_one_author_goes_by_place_then_by_original() -> None:
    """Grouped by author, the class could never be validated."""
    by_place = recordings([(f"a/XC{i}.ogg", "a", "Ann") for i in range(4)],
                          latitude=["1.001", "1.002", "5", "6"], longitude=["2", "2", "2", "2"])
    assert splits.group_recordings(by_place, 3).tolist() == [
        "place:ann@1.00,2.00", "place:ann@1.00,2.00", "place:ann@5.00,2.00", "place:ann@6.00,2.00"]
    by_original = by_place.assign(file=["a/dat008-018-M.ogg", "a/dat008-019.ogg", "a/dat010-1.ogg", "a/Take07.ogg"],
                                  latitude="", longitude="")
    group = splits.group_recordings(by_original, 3)
    assert group.nunique() == 3 and group[0] == group[1] == "original:ann/dat008"


@pytest.mark.parametrize("nobody", ["", "unknown", "Anonymous", "N/A", "?", "no rights reserved (CC0)"])
def test_recordings_of_an_unknown_author_are_not_one_group(nobody: str) -> None:
    """"unknown" is not a person: half of a class would hang together by it."""
    apart = splits.group_recordings(recordings([(f"a/XC{i}.ogg", "a", nobody) for i in range(5)]), 5)
    assert apart.nunique() == 5
    takes = splits.group_recordings(recordings([(f"a/XC{i // 2}-{i}.ogg", "a", nobody) for i in range(8)]), 4)
    assert takes.nunique() == 4 and takes[0] == takes[1]
    numbered = splits.group_recordings(recordings([(f"a/owl_{i}.ogg", "a", nobody) for i in range(8)]), 4)
    assert numbered.nunique() == 8


def test_equal_audio_and_equal_originals_tie_across_classes() -> None:
    """The same sound under two labels, in training and in validation, is a leak as well."""
    table = recordings([(f"a/XC{i}.ogg", "a", f"Author {i}") for i in range(5)]
                       + [(f"b/tape{i}.ogg", "b", "Ann") for i in range(4)]
                       + [("b/XC3-B.ogg", "b", "Author 3")],
                       content=[*"01234", "0", *"6789"])
    group = splits.group_recordings(table, 5)
    assert group[0] == group[5]
    assert group[3] == group[9]
    assert group.nunique() == 8


def test_no_group_is_cut_and_every_class_is_in_every_split() -> None:
    """A class that a split does not hold cannot be scored there."""
    table = made_up()
    table["split"] = splits.assign_splits(table, 5, seed=0)
    assert table.groupby("group")["split"].nunique().max() == 1
    assert table.groupby("label")["split"].nunique().min() == 5
    splits.check_splits(table)


def test_classes_are_shared_out_as_evenly_as_scikit_learn_does() -> None:
    """Shuffled in scikit-learn 1.6, stratification is lost: the deviation would be several times as large."""
    table = made_up()
    folds = StratifiedGroupKFold(5).split(table, table["label"], table["group"])
    reference = np.empty(len(table), int)
    for fold, (_, rows) in enumerate(folds):
        reference[rows] = fold

    def unevenness(split: np.ndarray) -> float:
        return pd.crosstab(table["label"], split).std(axis=1).mean()

    for seed in range(3):
        assert unevenness(splits.assign_splits(table, 5, seed=seed)) < unevenness(reference) + 0.3


def test_splits_depend_on_the_seed_and_not_on_the_order_of_rows() -> None:
    """A run that is repeated elsewhere must hold out the same recordings."""
    table = made_up()
    first = splits.assign_splits(table, 4, seed=0)
    shuffled = table.sample(frac=1, random_state=1)
    again = pd.Series(splits.assign_splits(shuffled, 4, seed=0), shuffled.index).sort_index()
    np.testing.assert_array_equal(again, first)
    assert (splits.assign_splits(table, 4, seed=1) != first).any()


def test_rare_classes_are_always_in_training() -> None:
    """Three recordings cannot be learnt from if any of them is held out."""
    table = pd.concat([made_up(3), pd.DataFrame({
        "file": [f"r/{i}.ogg" for i in range(10)], "label": ["few groups"] * 6 + ["few recordings"] * 4,
        "group": ["g1", "g2", "g3", "g3", "g3", "g3", "h1", "h2", "h3", "h4"]})], ignore_index=True)
    split = splits.assign_splits(table, 4, seed=0, config=SplitConfig(min_per_class=5))
    assert (split[-10:] == -1).all()
    assert (split[:-10] >= 0).all()


def test_a_group_with_a_rare_class_is_in_training_as_a_whole() -> None:
    """The author of a rare class's recordings must not validate with others: the group would be on both sides."""
    table = made_up(2)
    author = table["group"].iloc[0]
    table.loc[len(table)] = {"file": "rare.ogg", "label": "rare", "group": author}
    table["split"] = splits.assign_splits(table, 4, seed=0)
    assert (table["split"][table["group"] == author] == -1).all()
    splits.check_splits(table)


def test_a_table_of_rare_classes_only_is_all_training() -> None:
    """The smallest competitions must not crash the audit."""
    table = pd.DataFrame({"file": ["a", "b"], "label": ["x", "y"], "group": ["1", "2"]})
    assert splits.assign_splits(table, 5, seed=0).tolist() == [-1, -1]
    assert splits.assign_splits(table.iloc[:0], 5, seed=0).tolist() == []


def test_impossible_requests_are_refused() -> None:
    """One split has nothing to train on; a file listed twice could be on both sides."""
    table = made_up(1)
    with pytest.raises(ValueError, match="n_splits = 1"):
        splits.assign_splits(table, 1, seed=0)
    with pytest.raises(ValueError, match=r"0/0-0\.ogg is in the table more than once"):
        splits.assign_splits(pd.concat([table, table]), 3, seed=0)


def test_a_crossing_group_or_duplicate_is_named() -> None:
    """Whoever edits the table by hand learns which files leak."""
    table = pd.DataFrame({"file": ["a.ogg", "b.ogg", "c.ogg"], "group": ["g", "g", "h"], "split": [0, -1, 1]})
    with pytest.raises(ValueError, match=r"group 'g' is in 2 splits: a\.ogg \(0\), b\.ogg \(-1\)"):
        splits.check_splits(table)
    with pytest.raises(ValueError, match=r"content 'y' is in 2 splits: b\.ogg \(-1\), c\.ogg \(1\)"):
        splits.check_splits(table.assign(group=["1", "2", "3"], content=["x", "y", "y"]))


def test_soundscapes_are_shared_out_equally() -> None:
    """Each split's teachers need as many soundscapes that they have not seen."""
    files = [f"train_soundscapes/{i}.ogg" for i in range(23)]
    split = splits.assign_soundscapes(files, 5, seed=0)
    assert sorted(np.bincount(split)) == [4, 4, 5, 5, 5]
    np.testing.assert_array_equal(splits.assign_soundscapes(files[::-1], 5, seed=0), split[::-1])
    assert (splits.assign_soundscapes(files, 5, seed=1) != split).any()
    assert len(splits.assign_soundscapes([], 5, seed=0)) == 0


def kilometres(one: pd.DataFrame, other: pd.DataFrame) -> np.ndarray:
    """Distances over the ground between all recordings of two tables, by the haversine formula."""
    (lat, lon), (lat_2, lon_2) = (np.radians(part[["latitude", "longitude"]].astype(float).to_numpy()).T
                                  for part in (one, other))
    half = (np.sin((lat[:, None] - lat_2) / 2) ** 2
            + np.cos(lat[:, None]) * np.cos(lat_2) * np.sin((lon[:, None] - lon_2) / 2) ** 2)
    return 2 * 6371 * np.arcsin(np.sqrt(half))


def scattered(seed: int) -> pd.DataFrame:
    """Recordings of six classes in clusters of a few kilometres around twelve villages, two at the date line."""
    random = np.random.default_rng(seed)
    village = np.column_stack([random.uniform(-60, 60, 12), random.uniform(-170, 170, 12)])
    village[:2] = (10, 179.99), (10.02, -179.99)
    place = village[random.integers(12, size=150)] + random.normal(0, 0.02, (150, 2))
    return pd.DataFrame({
        "file": [f"XC{number}.ogg" for number in range(150)], "label": random.choice(list("abcdef"), 150),
        "author": random.choice(["Ann", "Bob", "Eve"], 150), "content": [f"hash {number}" for number in range(150)],
        "latitude": [f"{north:.4f}" for north, _ in place], "longitude": [f"{east:.4f}" for _, east in place]})


def split_up(table: pd.DataFrame, config: SplitConfig, n: int, *, seed: int = 0,
             scored: tuple[str, ...] | None = None) -> pd.DataFrame:
    table = table.assign(group=splits.group_recordings(table, n, config=config, scored=scored))
    table["split"] = splits.assign_splits(table, n, seed=seed, config=config, scored=scored)
    splits.check_splits(table)
    return table


@pytest.mark.parametrize("seed", range(3))
def test_nothing_validates_near_to_what_is_trained_on(seed: int) -> None:
    """The score on unheard places is worth what the distance is worth; the world is round."""
    table = split_up(scattered(seed), SplitConfig("site"), 3)
    for split in range(3):
        here = table["split"] == split
        assert here.any() and kilometres(table[here], table[~here]).min() > splits.SITE_KM
    assert table["group"].str.startswith("site:").all() and table["group"].nunique() > 9
    assert table.loc[table["longitude"].astype(float).abs() > 179.5, "group"].nunique() == 1


def test_sites_are_dealt_out_evenly() -> None:
    """A split of three recordings says nothing; more than the largest site apart is never needed."""
    for seed in range(5):
        table = split_up(scattered(1), SplitConfig("site"), 4, seed=seed)
        sizes = table[table["split"] >= 0].groupby("split").size()
        assert len(sizes) == 4 and sizes.max() - sizes.min() <= table["group"].value_counts().max()


def test_a_class_is_not_lost_from_training_with_its_sites() -> None:
    """Two sites of a class may fall to one split: training on the others would never hear it."""
    table = pd.DataFrame([(f"{label}{site}{take}", label, f"site {site}") for label, sites in {
        "rare": "ab", "few": "abc", "common": "abcdefgh"}.items() for site in sites for take in range(3)],
        columns=["file", "label", "group"])
    for seed in range(20):
        table["split"] = splits.assign_splits(table, 2, seed=seed, config=SplitConfig("site"))
        for split in range(2):
            assert set(table.loc[table["split"] != split, "label"]) == {"rare", "few", "common"}


def test_without_coordinates_recordings_go_by_author() -> None:
    """A place nobody wrote down may be the author's usual one."""
    table = scattered(0)
    table.loc[:40, ["latitude", "longitude"]] = ""
    groups = splits.group_recordings(table, 3, config=SplitConfig("site"))
    assert set(groups[:41]) == {"author:ann", "author:bob", "author:eve"}
    assert groups[41:].str.startswith("site:").all()


def subsets(groups: Iterable[str]) -> Iterable[tuple[str, ...]]:
    groups = list(groups)
    return chain.from_iterable(combinations(groups, n) for n in range(len(groups) + 1))


def test_coverage_is_near_to_the_smallest_there_is() -> None:
    """Every recording that validates needlessly is one less to learn from; all subsets are tried."""
    held_out, smallest = 0, 0
    for seed in range(8):
        random = np.random.default_rng(seed)
        table = pd.DataFrame([(f"{group}{take}", random.choice(list("abcde")), f"g{group}")
                              for group in range(8) for take in range(random.integers(1, 7))],
                             columns=["file", "label", "group"])
        table["split"] = splits.assign_splits(table, 2, seed=seed, config=SplitConfig("coverage"))
        everything, size = set(table["label"]), table.groupby("group").size()
        assert set(table.loc[table["split"] == -1, "label"]) == everything
        labels = table.groupby("group")["label"].agg(set)

        def of(groups: Iterable[str], labels: pd.Series = labels) -> set[str]:
            return set().union(*(labels[group] for group in groups))

        covered = {chosen: of(chosen) for chosen in subsets(labels.index)
                   if of(set(labels.index) - set(chosen)) == everything}
        most = max(len(found) for found in covered.values())
        smallest += min(int(size[list(chosen)].sum()) for chosen, found in covered.items() if len(found) == most)
        taken = set(table.loc[table["split"] == 0, "group"])
        held_out += int(size[list(taken)].sum())
        assert len(of(taken)) == most
        assert all(of(taken - {group}) < of(taken) for group in taken)
    assert held_out <= 1.2 * smallest


def test_a_class_of_one_group_is_never_covered() -> None:
    """What is held out of a class that has nothing else could not be learnt."""
    table = pd.DataFrame({"file": list("abcdef"), "label": ["one", "one", "two", "two", "two", "one"],
                          "group": ["g", "g", "h", "i", "g", "g"]})
    split = splits.assign_splits(table, 2, seed=0, config=SplitConfig("coverage"))
    assert split[[0, 1, 4, 5]].tolist() == [-1] * 4 and sorted(split[[2, 3]]) == [-1, 0]


def test_covering_others_never_takes_the_last_group_of_a_class() -> None:
    """The cheapest groups for the moth and for the frog are all there is of the owl."""
    rows = [("g", "owl"), ("g", "moth"), ("h", "owl"), ("h", "frog"), *[("i", "moth")] * 5, *[("j", "frog")] * 5]
    table = pd.DataFrame(rows, columns=["group", "label"]).assign(file=[f"{number}" for number in range(len(rows))])
    for seed in range(5):
        table["split"] = splits.assign_splits(table, 2, seed=seed, config=SplitConfig("coverage"))
        assert set(table.loc[table["split"] == -1, "label"]) == set(table.loc[table["split"] == 0, "label"]) == {
            "owl", "moth", "frog"}
        assert (table["split"] == 0).sum() == 7


@pytest.mark.parametrize("kind", ["site", "coverage"])
def test_two_authors_are_enough_to_validate(kind: str) -> None:
    """Five splits need not each hold a class: whom one split validates, the others train."""
    table = recordings([(f"owl/XC{number}.ogg", "owl", "Ann" if number < 3 else "Bob") for number in range(6)])
    done = split_up(table, SplitConfig(kind), 5)
    assert set(done["group"]) == {"author:ann", "author:bob"} and done["split"].nunique() == 2
    assert (splits.assign_splits(done, 5, seed=0) == -1).all()


@pytest.mark.parametrize("kind", ["site", "coverage"])
def test_a_class_with_few_recordings_trains_whatever_the_kind(kind: str) -> None:
    """Three recordings are too few to give one away."""
    table = made_up(3)
    few = table["label"] == "2"
    config = SplitConfig(kind, min_per_class=int(few.sum()) + 1)
    split = splits.assign_splits(table, 3, seed=0, config=config)
    assert (split[few] == -1).all() and (split[~few] >= 0).any()


@pytest.mark.parametrize("kind", ["stratified", "site", "coverage"])
def test_who_recorded_other_classes_too_may_validate(kind: str) -> None:
    """21 of 152 classes were scored in 2022: nearly everybody recorded some of the others, or beside them."""
    table = scattered(2).assign(author=[f"person {number % 20}" for number in range(150)])
    scored = ("a", "b")
    done = split_up(table, SplitConfig(kind, scored_only=True), 3, scored=scored)
    validating = done[done["split"] >= 0]
    assert set(validating["label"]) == {"a", "b"}
    both = set(validating["author"]) & set(done.loc[~done["label"].isin(scored), "author"])
    assert both, "whoever has a scored recording that validates has others that train"


def test_scored_recordings_that_are_heard_in_other_classes_train() -> None:
    """The same audio under an unscored label always trains: it must not validate as well."""
    table = recordings([(f"owl/XC{number}.ogg", "owl", f"Author {number}") for number in range(8)]
                       + [(f"moth/XC{number + 50}.ogg", "moth", f"Author {number}") for number in range(8)],
                       content=[*"abcdefgh", *"a1234567"])
    done = split_up(table, SplitConfig(scored_only=True), 3, scored=("owl",))
    assert done["split"].iloc[0] == -1 and (done["split"].iloc[1:8] >= 0).all()


def test_pairs_join_into_sets() -> None:
    """Three recordings that overlap in a chain are one set, whoever is listed first."""
    files = ["e", "a", "d", "b", "c"]
    assert splits.join_pairs(files, [("d", "b"), ("c", "d")]) == ["", "", "b", "b", "b"]
    assert splits.join_pairs(files, []) == [""] * 5 and splits.join_pairs([], []) == []
    with pytest.raises(KeyError):
        splits.join_pairs(files, [("a", "x")])
