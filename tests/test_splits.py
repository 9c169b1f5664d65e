"""Groups and splits: what belongs together stays together, and every class is shared out."""
from __future__ import annotations

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
