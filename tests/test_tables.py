"""What a table says: labels by name, weights with a reason, and no class lost on the way."""
import logging

import numpy as np
import pandas as pd
import pytest

from birdkit.config import DataConfig, SourceConfig
from birdkit.data import DataError
from birdkit.data.tables import (
    check_columns,
    choose_recordings,
    keep_rated,
    make_cell_weights,
    make_targets,
    make_weights,
    marked_centres,
    refuse_low_rated,
    spans,
    table_hash,
)

CLASSES = ("ant", "bee", "crow")


@pytest.fixture
def table() -> pd.DataFrame:
    """Three recordings of 10 s, 6 s and 1 s."""
    return pd.DataFrame({"file": ["a.wav", "b.wav", "c.wav"], "label": ["ant", "bee", "crow"],
                         "secondary": ["bee crow", "", ""], "duration_s": [10.0, 6.0, 1.0], "rating": [0.0, 5.0, 2.5],
                         "split": [0, 1, -1]})


def test_a_table_of_another_kind_is_refused() -> None:
    """Say what is missing before the first epoch."""
    with pytest.raises(DataError, match="no column duration_s"):
        check_columns(pd.DataFrame(columns=["file", "label", "secondary", "rating", "split"]))


def test_secondary_labels_stay_soft(table) -> None:
    """The second seed cast its 0.3 to an integer: no secondary label was ever trained on."""
    targets = make_targets(table, CLASSES, DataConfig(secondary_target=0.3))
    assert targets.dtype == np.float32
    assert np.allclose(targets, [[1, 0.3, 0.3], [0, 1, 0], [0, 0, 1]])
    assert (make_cell_weights(table, CLASSES, DataConfig()) == 1).all()


def test_a_masked_secondary_label_is_neither_present_nor_absent(table) -> None:
    """Masked, but with a target of 0 that counts, it would teach that the species is not there."""
    config = DataConfig(secondary="mask", secondary_target=0.3, label_smoothing=0.1)
    assert make_cell_weights(table, CLASSES, config).tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert np.allclose(make_targets(table, CLASSES, config), [[1, 0, 0], [0.1, 1, 0.1], [0.1, 0.1, 1]])
    twice = table.assign(secondary=["ant bee", "", ""])  # the primary label again is still the primary label
    assert make_cell_weights(twice, CLASSES, config)[0].tolist() == [1, 0, 1]


def test_targets_follow_class_names_not_positions(table) -> None:
    """Several of the second seed's experiments trained on labels shifted by one class."""
    plain = make_targets(table, CLASSES, DataConfig())
    turned = make_targets(table, CLASSES[::-1], DataConfig())
    assert np.array_equal(plain, turned[:, ::-1])


def test_label_smoothing_keeps_positives_at_one(table) -> None:
    """Added and clipped, as the 2021 second place did."""
    targets = make_targets(table, CLASSES, DataConfig(label_smoothing=0.01))
    assert targets[1].tolist() == pytest.approx([0.01, 1.0, 0.01])


def test_the_target_of_recordings_scales_labels_and_not_the_smoothing(table) -> None:
    """The second seed's 0.8 reached every recording; smoothing is added to every target after it."""
    targets = make_targets(table, CLASSES, DataConfig(recording_target=0.8, secondary_target=0.5, label_smoothing=0.05))
    assert targets[0].tolist() == pytest.approx([0.85, 0.45, 0.45])
    assert targets[1].tolist() == pytest.approx([0.05, 0.85, 0.05])


def test_a_label_outside_the_classes_is_named_with_its_file(table) -> None:
    """A label that is dropped in silence is a class that is never learnt."""
    with pytest.raises(DataError, match=r"a\.wav: label 'bee' is not one of the 2 classes"):
        make_targets(table, ("ant", "crow"), DataConfig())


def test_nocall_is_the_absence_of_all_classes(table) -> None:
    """Noise is what a detector of calls learns silence from; where "nocall" is a class (2021), it stays one."""
    noise_too = table.assign(label=["ant", "nocall", "crow"], secondary=["nocall", "", ""])
    assert make_targets(noise_too, CLASSES, DataConfig()).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    named = make_targets(noise_too, ("nocall", "ant", "crow"), DataConfig(secondary_target=0.5))
    assert named.tolist() == [[0.5, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_unrated_recordings_have_a_weight_of_their_own(table) -> None:
    """Rating 0 means unrated; the first seed weighed those 0.1 without knowing."""
    assert make_weights(table, DataConfig()).tolist() == [1, 1, 1]
    config = DataConfig(rating_weights=True, unrated_weight=0.7)
    assert make_weights(table, config).tolist() == pytest.approx([0.7, 1, 0.5])
    assert make_weights(table.assign(rating=0.2), config).tolist() == pytest.approx([0.1] * 3)


def test_collections_have_weights_and_multiply_with_ratings(table, caplog) -> None:
    """iNaturalist's phone recordings may count half; a collection nobody named counts whole."""
    known = table.assign(collection=["iNat", "XC", None])
    config = DataConfig(collection_weights={"iNat": 0.5, "CSA": 0.1}, rating_weights=True)
    assert make_weights(known, config).tolist() == pytest.approx([0.5, 1.0, 0.5])
    assert "CSA" in caplog.text and "iNat" not in caplog.text
    with pytest.raises(DataError, match="need a column 'collection'"):
        make_weights(table, config)


def rated(labels: str, ratings: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"file": [f"{i}.ogg" for i in range(len(ratings))], "label": list(labels), "secondary": "",
                         "duration_s": 5.0, "rating": ratings, "split": 0})


def test_low_ratings_are_left_out_and_counted(caplog) -> None:
    """The 2021 second place left out what was rated below 2; unrated recordings may be the best there are."""
    table = rated("aaaab", [1.0, 2.0, 0.0, 1.5, 4.0])
    with caplog.at_level(logging.INFO):
        kept = keep_rated(table, DataConfig(min_rating=2.0))
    assert kept["file"].tolist() == ["1.ogg", "2.ogg", "4.ogg"] and kept.index.tolist() == [0, 1, 2]
    assert "2 of 5 recordings are rated below 2" in caplog.text
    assert keep_rated(table, DataConfig())["file"].tolist() == table["file"].tolist()


def test_no_class_is_lost_to_a_rating(caplog) -> None:
    """A class with one poor recording is one class of the score; a filter that deletes it costs more than it gains."""
    table = rated("aabbb", [5.0, 1.0, 1.0, 1.5, 1.5])
    kept = keep_rated(table, DataConfig(min_rating=3.0))
    assert kept["file"].tolist() == ["0.ogg", "3.ogg", "4.ogg"]
    assert "nothing of 1 classes" in caplog.text and "stay: b" in caplog.text
    refuse_low_rated(kept, DataConfig(min_rating=3.0))  # and these are not refused later


def test_a_table_that_was_not_filtered_is_refused() -> None:
    """A setting that nobody applies looks like one that does not help."""
    with pytest.raises(DataError, match=r"1\.ogg: rated below min_rating = 2, as are 1 of 2 rows"):
        refuse_low_rated(rated("aa", [3.0, 1.0]), DataConfig(min_rating=2.0))


def test_chosen_classes_are_found_in_primary_and_secondary_labels() -> None:
    """As in the first seed: every partner of selective mixup holds a scored bird somewhere in its labels."""
    rows = pd.DataFrame({"file": list("abcde"), "label": ["ant", "bee", "crow", "ant", "ant"],
                         "secondary": ["bee crow", "crow", "", "", "bee"]})

    def files(**options) -> str:
        return "".join(choose_recordings(rows, SourceConfig("rare", "recordings", **options), CLASSES, seed=0)["file"])

    assert files(classes=("crow",)) == "abc"
    assert files(classes=("bee",)) == "abe"
    assert files() == "abcde"
    assert len(files(most_per_class=1)) == 3 and len(files(most_per_class=2)) == 4
    assert len(files(classes=("crow",), most_per_class=1)) == 1
    with pytest.raises(DataError, match="source 'rare': scored is not one of the 3 classes"):
        files(classes=("scored",))
    with pytest.raises(DataError, match="source 'rare': none of 2 recordings has a label among bee"):
        choose_recordings(rows.iloc[2:4],
                          SourceConfig("rare", "recordings", classes=("bee",)), CLASSES, seed=0)


def test_the_cap_of_a_class_keeps_a_random_choice() -> None:
    """No class above the cap, every one of its recordings with a chance, and the same ones after a restart."""
    rows = pd.DataFrame({"file": [str(i) for i in range(60)], "label": ["ant"] * 50 + ["crow"] * 10, "secondary": "",
                         "duration_s": 5.0, "rating": 0.0, "split": 0})
    source = SourceConfig("few", "recordings", classes=("ant", "crow"), most_per_class=15)
    chosen = [choose_recordings(rows, source, CLASSES, seed=seed) for seed in (0, 0, 1)]
    assert [dict(one["label"].value_counts()) for one in chosen] == [{"ant": 15, "crow": 10}] * 3
    assert chosen[0].equals(chosen[1]) and not chosen[0].equals(chosen[2])


def test_a_span_that_cannot_be_is_refused(table) -> None:
    """It would be cut from somewhere else, or be nothing."""
    assert np.isnan(spans(table)).all()
    for start_s, end_s in ((3.0, 2.0), (-1.0, 2.0), (2.0, 7.0), (np.nan, 2.0)):
        rows = table.assign(start_s=[0.0, start_s, np.nan], end_s=[10.0, end_s, np.nan])
        with pytest.raises(DataError, match=r"b\.wav: .* is no span of a file of 6 s"):
            spans(rows)
    with pytest.raises(DataError, match="has a column start_s, but a span needs start_s and end_s"):
        spans(table.assign(start_s=0.0))


def test_marked_centres_must_lie_in_their_recordings(table) -> None:
    """A mark in another unit, or of another file, would teach whatever happens to be there."""
    marked = table.assign(centre_s=[8.0, np.nan, 0.5])
    config = DataConfig(crop="marked")
    np.testing.assert_array_equal(marked_centres(marked, config), [8.0, np.nan, 0.5])
    assert np.isnan(marked_centres(table, DataConfig())).all()  # nobody asked
    with pytest.raises(DataError, match="needs a column 'centre_s'"):
        marked_centres(table, config)
    with pytest.raises(DataError, match=r"a\.wav: centre_s = 10\.5 s is not inside the recording of 10 s"):
        marked_centres(table.assign(centre_s=[10.5, 1.0, 0.5]), config)
    spanned = marked.assign(start_s=[2.0, np.nan, np.nan], end_s=[7.0, np.nan, np.nan])
    with pytest.raises(DataError, match=r"a\.wav: centre_s = 8 s"):
        marked_centres(spanned, config)


def test_the_table_hash_knows_labels_and_spans_but_not_order(table) -> None:
    """Two runs on the same recordings have one hash; one changed label or span makes another."""
    changed = table.assign(label=["ant", "bee", "bee"])
    assert table_hash(table) == table_hash(table.iloc[::-1]) != table_hash(changed)
    one, other = (table.assign(start_s=start_s, end_s=start_s + 1) for start_s in (0.0, 2.0))
    assert len({table_hash(one), table_hash(other), table_hash(table)}) == 3
    assert table_hash(one) == table_hash(one.iloc[::-1])
