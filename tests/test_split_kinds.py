"""Which recordings validate: unheard places, as many classes as can be spared, scored classes alone."""
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from birdkit import splits
from birdkit.config import SplitConfig

PLACES = {"river": ("-1.0000", "30.0000"), "river bank": ("-1.0200", "30.0100"), "hill": ("-1.5000", "30.6000"),
          "coast": ("4.0000", "39.0000"), "town": ("12.0000", "50.0000")}


def recordings() -> pd.DataFrame:
    """Owls and frogs of five places by many authors, and a moth of one place."""
    random = np.random.default_rng(0)
    rows = [{"file": f"{label}{number}.ogg", "label": label, "place": random.choice(list(PLACES))}
            for label in ("owl", "frog") for number in range(40)]
    rows += [{"file": f"moth{number}.ogg", "label": "moth", "place": "coast"} for number in range(6)]
    table = pd.DataFrame(rows)
    table["author"] = [f"person {number % 17}" for number in range(len(table))]
    table["content"] = table["file"]
    table["latitude"], table["longitude"] = zip(*(PLACES[place] for place in table["place"]), strict=True)
    return table


def split(table: pd.DataFrame, config: SplitConfig, *, scored: tuple[str, ...] | None = None,
          n: int = 3) -> pd.DataFrame:
    """The table with groups and splits."""
    grouped = table.assign(group=splits.group_recordings(table, n, config=config, scored=scored))
    return grouped.assign(split=splits.assign_splits(grouped, n, seed=1, config=config, scored=scored))


def test_splits_by_site_validate_on_places_that_training_has_not_heard() -> None:
    """A score on a known river says little of an unknown coast; two kilometres along the bank are the same river."""
    table = split(recordings(), SplitConfig("site"))
    river = table["place"].isin(["river", "river bank"])
    for _, rows in [(None, table[river]), *table[~river].groupby("place")]:
        assert rows["split"].nunique() == 1
    assert set(table["split"]) >= {0, 1}
    stratified = split(recordings(), SplitConfig())
    assert stratified.groupby("place")["split"].nunique().max() > 1


def test_a_class_of_one_site_is_always_trained_on() -> None:
    """It cannot be validated on an unknown place and be learnt: without recordings it would be lost."""
    table = split(recordings(), SplitConfig("site"))
    assert set(table.loc[table["label"] == "moth", "split"]) == {-1}
    for number in range(3):
        assert {"owl", "frog", "moth"} <= set(table.loc[table["split"] != number, "label"])


def test_coverage_validates_every_class_that_can_spare_a_group_on_few_recordings() -> None:
    """One small split that hears all classes leaves nearly everything to train on."""
    table = split(recordings(), SplitConfig("coverage"))
    held_out = table[table["split"] == 0]
    assert set(table["split"]) == {-1, 0} and set(held_out["label"]) == {"owl", "frog", "moth"}
    assert len(held_out) < len(table) / 4
    assert set(table.loc[table["split"] == -1, "label"]) == {"owl", "frog", "moth"}
    assert not set(held_out["group"]) & set(table.loc[table["split"] == -1, "group"])


@pytest.mark.parametrize("kind", ["stratified", "site", "coverage"])
def test_only_scored_classes_validate_where_that_is_asked_for(kind: str) -> None:
    """The first seed's rule (2022): 21 of 152 classes were scored, and everything else always trained."""
    table = split(recordings(), SplitConfig(kind, scored_only=True), scored=("owl",))
    assert set(table.loc[table["split"] >= 0, "label"]) == {"owl"}
    assert set(table.loc[table["label"] != "owl", "split"]) == {-1}
    with pytest.raises(ValueError, match="not said which classes are scored"):
        split(recordings(), SplitConfig(kind, scored_only=True))


@pytest.mark.parametrize("config", [SplitConfig("site"), SplitConfig("coverage"), SplitConfig()])
def test_the_order_of_the_rows_changes_nothing(config: SplitConfig) -> None:
    """Tables come from files in any order; the splits of a run that goes on must not."""
    table = split(recordings(), config).set_index("file")["split"]
    other = split(recordings().sample(frac=1, random_state=5), config).set_index("file")["split"]
    assert other.sort_index().equals(table.sort_index())


@pytest.mark.parametrize("config", [SplitConfig("site"), SplitConfig("coverage"), SplitConfig()])
def test_near_duplicates_never_cross(config: SplitConfig) -> None:
    """The same sound under two names, one heard in training, is a score from memory."""
    table = recordings()
    table["near_duplicate"] = splits.join_pairs(
        table["file"].tolist(), [("owl1.ogg", "owl30.ogg"), ("owl30.ogg", "owl7.ogg"), ("frog2.ogg", "frog9.ogg")])
    done = split(table, config)
    for name, rows in done[done["near_duplicate"] != ""].groupby("near_duplicate"):
        assert rows["split"].nunique() == 1, name
    splits.check_splits(done)
    crossing = done.assign(split=np.arange(len(done)) % 2, group=done["file"])
    with pytest.raises(ValueError, match=r"near_duplicate '(owl1|frog2)\.ogg' is in 2 splits"):
        splits.check_splits(crossing)


def test_equal_degrees_in_other_words_are_one_site() -> None:
    """Hosts write coordinates as text; what cannot be read as a number goes by its author."""
    table = recordings().iloc[:4].assign(latitude=["1.5", "1.50", "north", "95"], longitude=["2", "2.0", "3", "3"])
    table["author"] = ["a", "b", "c", "d"]
    groups = splits.group_recordings(table.assign(label="owl"), 2, config=SplitConfig("site")).tolist()
    assert groups[0] == groups[1] == "site:1.50,2.00" and len({groups[1], groups[2], groups[3]}) == 3
