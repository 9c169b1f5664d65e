"""Pseudo-label settings: each does what it says, in the order that PseudoConfig gives."""
import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from birdkit.config import PseudoConfig
from birdkit.data import ClipSource, DataError
from birdkit.data.window_choice import choose_windows, window_odds
from birdkit.data.window_labels import capped, clip_labels, label_lines, shape_labels

CLASSES = ("ant", "bee", "crow")
# Six windows of three files: ants everywhere, a bee now and then, one crow.
PROBABILITY = np.float32([[.9, .1, .0], [.8, .6, .0], [.7, .0, .0], [.6, .7, .0], [.3, .2, .0], [.5, .0, .4]])
FILES = ["a", "a", "b", "b", "c", "c"]


def table_of(probability: np.ndarray = PROBABILITY) -> pd.DataFrame:
    return pd.DataFrame({"file": FILES, "start_s": [0.0, 5.0] * 3, "end_s": [5.0, 10.0] * 3,
                         **dict(zip(CLASSES, probability.T, strict=True))})


def source(clip_s: float = 5.0, match: float = 0.0, **settings: Any) -> ClipSource:
    return ClipSource.pseudo_labelled(table_of(), CLASSES, PseudoConfig(**{"floor": 0.0} | settings), clip_s,
                                      match=match)


def rows_of(chosen: ClipSource) -> list[int]:
    """Which of the six windows a source holds."""
    return [2 * "abc".index(file) + int(start_s // 5)
            for file, start_s in zip(chosen.file, chosen.start_s, strict=True)]


def test_the_default_uses_all_windows_and_the_probabilities_but_low_ones() -> None:
    """A setting that is not asked for must not change a label."""
    plain = ClipSource.pseudo_labelled(table_of(), CLASSES, PseudoConfig(), 5.0)
    assert rows_of(plain) == list(range(6)) and plain.matches is None and set(plain.odds) == {1.0}
    np.testing.assert_array_equal(plain.target, np.where(PROBABILITY < 0.1, 0, PROBABILITY))


def test_least_peak_leaves_out_windows_and_changes_no_label_of_the_others() -> None:
    """2025 second place: windows above .5 are kept with all that the teacher heard in them."""
    chosen = source(least_peak=0.6)
    assert rows_of(chosen) == [0, 1, 2, 3]
    np.testing.assert_array_equal(chosen.target, PROBABILITY[:4])
    with pytest.raises(DataError, match=r"least_peak = 0\.95 leaves none of 6 windows: the largest .* is 0\.9"):
        source(least_peak=0.95)


def test_thresholds_are_per_class_and_take_the_place_of_the_common_one() -> None:
    """The second seed's common classes needed .7 where .5 was enough for all others."""
    np.testing.assert_allclose(label_lines(PROBABILITY, CLASSES, PseudoConfig(threshold=0.5, thresholds={"ant": 0.75})),
                               [0.75, 0.5, 0.5])
    target = source(threshold=0.5, thresholds={"ant": 0.75}).target
    np.testing.assert_array_equal(target > 0, [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(target[target > 0], np.float32([0.9, 0.8, 0.6, 0.7]))


def test_a_threshold_of_no_class_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A mistyped class would keep its labels, and nobody would know."""
    label_lines(PROBABILITY, CLASSES, PseudoConfig(thresholds={"dove": 0.7}))
    assert "pseudo.thresholds of dove: not one of the 3 classes" in caplog.text


def test_a_quantile_keeps_the_same_share_of_every_class() -> None:
    """Top 10 % per class (2025 ninth): a class that the teacher never dares to claim is learnt, too."""
    rng = np.random.default_rng(0)
    probability = rng.random((1000, 3)).astype(np.float32) * np.float32([1, 0.3, 0.01])
    lines = label_lines(probability, CLASSES, PseudoConfig(quantile=0.9))
    np.testing.assert_array_equal((probability >= lines).sum(0), [100, 100, 100])
    used = source(quantile=0.5, least_peak=0.55).target[:, 0]  # over the four windows that are used
    np.testing.assert_array_equal(used, np.float32([0.9, 0.8, 0, 0]))


def test_a_cap_per_class_is_the_kth_largest_probability_but_not_below_its_floor() -> None:
    """800 of a class and not 6,769: the ones that the teacher is surest of, if it is sure of any."""
    config = PseudoConfig(most_per_class=2, most_floor=0.5)
    lines = label_lines(PROBABILITY, CLASSES, config)
    np.testing.assert_allclose(lines, [0.8, 0.6, 0.5])
    np.testing.assert_array_equal((lines <= PROBABILITY).sum(0), [2, 2, 0])
    few = label_lines(PROBABILITY, CLASSES, dataclasses.replace(config, most_per_class=99))
    np.testing.assert_allclose(few, [0.5, 0.5, 0.5])
    assert (source(most_per_class=2).target > 0).sum() == 4


def test_the_highest_line_counts() -> None:
    """Two cuts together must not be laxer than one of them."""
    config = PseudoConfig(threshold=0.65, quantile=0.5, most_per_class=3, most_floor=0.1)
    single = [label_lines(PROBABILITY, CLASSES, PseudoConfig(**one)) for one in (
        {"threshold": 0.65}, {"quantile": 0.5}, {"most_per_class": 3, "most_floor": 0.1})]
    np.testing.assert_allclose(label_lines(PROBABILITY, CLASSES, config), np.max(single, axis=0))


def test_a_power_above_one_lowers_the_unsure_and_the_floor_is_applied_after_it() -> None:
    """The direction of 2025's 1 / .65: turned round, every doubt of a teacher would become a label."""
    none = np.zeros(3, np.float32)
    raised = shape_labels(PROBABILITY, none, PseudoConfig(power=1 / 0.65, floor=0.0))
    inside = (PROBABILITY > 0) & (PROBABILITY < 1)
    assert (raised[inside] < PROBABILITY[inside]).all()
    np.testing.assert_allclose(raised, PROBABILITY ** (1 / 0.65), rtol=1e-6)
    floored = shape_labels(PROBABILITY, none, PseudoConfig(power=2.0, floor=0.3))
    np.testing.assert_allclose(floored[:, 0], [0.81, 0.64, 0.49, 0.36, 0, 0], rtol=1e-6)


def test_lines_are_of_the_probability_and_not_of_its_power() -> None:
    """A threshold is read off the teachers' histogram; a round's power must not move it."""
    label = shape_labels(PROBABILITY, np.full(3, 0.6, np.float32), PseudoConfig(power=3.0, floor=0.0))
    np.testing.assert_array_equal(label > 0, PROBABILITY >= 0.6)


def test_hard_labels_need_their_class_s_line_too() -> None:
    """Second seed: .5 for all but a few classes, and then 1."""
    target = source(hard=0.5, thresholds={"ant": 0.75}, keep_empty=False)
    assert rows_of(target) == [0, 1, 3]
    np.testing.assert_array_equal(target.target, [[1, 0, 0], [1, 1, 0], [0, 1, 0]])


def test_windows_without_a_label_stay_unless_they_are_not_wanted() -> None:
    """What a place sounds like when nothing calls is worth learning; the second seed dropped it."""
    assert rows_of(source(threshold=0.65)) == list(range(6))
    assert rows_of(source(threshold=0.65, keep_empty=False)) == [0, 1, 2, 3]
    with pytest.raises(DataError, match="choose none of 6 windows, of which 6 reach least_peak and 0"):
        source(threshold=1.0, keep_empty=False)


def test_rare_classes_choose_first_and_each_takes_its_surest_windows() -> None:
    """Drawn at random, 500 windows hold the commonest bird 500 times and the rare frog never."""
    assert rows_of(source(floor=0.15, least_per_class=1)) == [3, 5]  # crow 5, bee 3; both hold ants
    assert rows_of(source(floor=0.15, least_per_class=2)) == [1, 3, 5]
    assert rows_of(source(floor=0.15, least_per_class=4)) == [1, 3, 4, 5]
    assert rows_of(source(floor=0.15, most_windows=1)) == [5]
    assert rows_of(source(floor=0.15, least_per_class=2, most_windows=2)) == [3, 5]
    assert rows_of(source(floor=0.15, most_windows=5)) == [0, 1, 3, 4, 5]


def test_a_clip_holds_what_follows_whether_or_not_it_was_chosen() -> None:
    """A clip of 10 s over a chosen window also holds the next one: to call that silent would be a wrong label."""
    chosen = source(clip_s=10.0, most_windows=1, floor=0.15)
    assert rows_of(chosen) == [5]
    longer = source(clip_s=10.0, least_peak=0.85)
    assert rows_of(longer) == [0]
    np.testing.assert_array_equal(longer.target, np.float32([[0.9, 0.6, 0]]))


def test_overlapping_windows_add_nothing_that_lies_beyond_the_clip() -> None:
    """Labelled every 2.5 s, a clip of 5 s would get the labels of calls up to 2.5 s after its end."""
    rng = np.random.default_rng(0)
    labels = rng.random((12, 3)).astype(np.float32)
    dense = pd.DataFrame({"file": "a", "start_s": 2.5 * np.arange(12), "end_s": 2.5 * np.arange(12) + 5})
    np.testing.assert_array_equal(clip_labels(dense, labels, 5.0), labels)
    np.testing.assert_array_equal(clip_labels(dense, labels, 10.0)[:10], np.maximum(labels[:10], labels[2:]))
    apart = dense.iloc[::2].reset_index(drop=True)
    np.testing.assert_array_equal(clip_labels(apart, labels[::2], 12.0)[0], labels[[0, 2, 4]].max(0))
    np.testing.assert_array_equal(clip_labels(dense, labels, 12.0)[0], labels[[0, 2, 4]].max(0))


def test_target_then_the_cap_on_the_sum_is_the_last_word() -> None:
    """2026 first place: a soundscape of ten species must not outweigh the recording it is laid under."""
    plain, both = source(floor=0.0).target, source(floor=0.0, target=0.9, label_sum=0.75).target
    assert both.sum(1).max() == pytest.approx(0.75)
    scaled = 0.9 * plain
    free = scaled.sum(1) <= 0.75
    np.testing.assert_allclose(both[free], scaled[free], rtol=1e-6)
    np.testing.assert_allclose(both[~free] / both[~free].sum(1, keepdims=True),
                               plain[~free] / plain[~free].sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(capped(plain, 0.0), plain)


def test_matching_looks_at_labels_before_target_and_cap() -> None:
    """Two birds at .9 are both surely there, however little of them is let into the loss."""
    found = source(match=0.6, target=0.5, label_sum=0.1)
    np.testing.assert_array_equal(found.matches, PROBABILITY >= 0.6)


def test_the_sampler_draws_files_by_what_is_heard_in_them() -> None:
    """Sum over classes of the file's largest label, shared out among the windows that were chosen."""
    config = PseudoConfig(sampler="sum")
    odds = window_odds(table_of(), PROBABILITY, np.array([0, 2, 3, 5]), config)
    np.testing.assert_allclose(odds, [0.9 + 0.6, (0.7 + 0.7) / 2, (0.7 + 0.7) / 2, 0.5 + 0.2 + 0.4], rtol=1e-6)
    with pytest.raises(DataError, match=r"pseudo\.sampler = 'sum' has nothing to draw: no label of 6 windows"):
        window_odds(table_of(), np.zeros((6, 3)), np.arange(6), config)


def test_nothing_depends_on_the_order_of_the_table() -> None:
    """Files are labelled in whatever order: the same table must give the same examples."""
    config = PseudoConfig(most_per_class=2, least_per_class=1, sampler="sum", label_sum=0.75)
    first = ClipSource.pseudo_labelled(table_of(), CLASSES, config, 10.0, match=0.5)
    second = ClipSource.pseudo_labelled(table_of().sample(frac=1, random_state=3), CLASSES, config, 10.0, match=0.5)
    for entry in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, entry.name), getattr(second, entry.name))


def test_an_empty_choice_is_an_error_that_says_why() -> None:
    """A source without rows would fail in the sampler, where nobody knows what set it."""
    with pytest.raises(DataError, match="choose none of 6 windows"):
        choose_windows(PROBABILITY, np.zeros_like(PROBABILITY), np.ones(6, bool), PseudoConfig(keep_empty=False))


@pytest.mark.parametrize("wrong", [{"power": 0.0}, {"sampler": "max"}, {"threshold": 1.5}, {"thresholds": {"ant": -1}},
                                   {"quantile": 2.0}, {"most_per_class": -1}, {"label_sum": -0.5}, {"hard": 3.0},
                                   {"least_peak": -0.1}, {"most_floor": 2.0}, {"most_windows": -1}])
def test_settings_that_make_no_sense_are_refused_with_their_value(wrong: dict[str, Any]) -> None:
    """The error comes when the run is set up and names the setting, not in its first epoch."""
    with pytest.raises(ValueError, match=rf"pseudo\.{next(iter(wrong))}.*"):
        PseudoConfig(**wrong)
