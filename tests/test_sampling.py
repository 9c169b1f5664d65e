"""Sampling: shares of classes, and that an epoch can be drawn again."""
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from birdkit.sampling import MatchedRounds, Rounds, class_weights, draw_epoch, draw_rows, limit_classes

LABELS = ["owl"] * 400 + ["frog"] * 100 + ["cricket"] * 25


def shares(labels: list[str], drawn: np.ndarray) -> dict[str, float]:
    counts = Counter(np.asarray(labels)[drawn].tolist())
    return {label: counts[label] / len(drawn) for label in dict.fromkeys(labels)}


@pytest.mark.parametrize(("exponent", "sizes"), [(0.0, (400, 100, 25)), (0.5, (20, 10, 5)), (1.0, (1, 1, 1))])
def test_classes_have_the_shares_that_the_exponent_says(exponent: float, sizes: tuple[int, ...]) -> None:
    """0 leaves the long tail as it is, 1 makes all classes alike, 0.5 takes the square root of their sizes."""
    weights = class_weights(LABELS, exponent=exponent)
    assert weights.sum() == pytest.approx(1)
    found = shares(LABELS, draw_epoch(weights, 3500, seed=1, epoch=0))
    assert list(found.values()) == pytest.approx([size / sum(sizes) for size in sizes], abs=0.01)


def test_equal_weights_draw_every_recording_once() -> None:
    """Plain training is a special case: nothing missed, nothing twice."""
    drawn = draw_epoch(class_weights(LABELS, exponent=0.0), len(LABELS), seed=0, epoch=3)
    assert sorted(drawn.tolist()) == list(range(len(LABELS)))
    assert drawn.tolist() != sorted(drawn.tolist())


def test_recordings_of_a_class_are_drawn_alike() -> None:
    """Over many epochs no recording of a class is favoured by its place in the table."""
    weights = class_weights(LABELS, exponent=0.5)
    counts = np.bincount(np.concatenate([draw_epoch(weights, 350, seed=0, epoch=e) for e in range(300)]), minlength=525)
    for part, share in ((slice(0, 400), 4 / 7), (slice(400, 500), 2 / 7), (slice(500, 525), 1 / 7)):
        expected = 300 * 350 * share / len(LABELS[part])
        assert counts[part].mean() == pytest.approx(expected, rel=0.02)
        assert abs(counts[part] - expected).max() < 5 * np.sqrt(expected)


def test_neighbours_in_the_table_are_drawn_independently() -> None:
    """Tables are sorted by class and author: an even comb through them would bind recordings to each other."""
    epochs = [set(draw_epoch(np.ones(10), 5, seed=0, epoch=epoch).tolist()) for epoch in range(300)]
    assert len({frozenset(epoch) for epoch in epochs}) > 100
    assert np.mean([{0, 1} <= epoch for epoch in epochs]) == pytest.approx(5 / 10 * 4 / 9, abs=0.08)


def test_an_epoch_can_be_drawn_again_and_differs_from_the_next() -> None:
    """A run that was stopped goes on with the examples it would have seen."""
    weights = class_weights(LABELS, exponent=0.5)
    first = draw_epoch(weights, 100, seed=5, epoch=2)
    assert first.dtype == np.int64
    np.random.seed(0)
    assert (first == draw_epoch(weights, 100, seed=5, epoch=2)).all()
    assert (first != draw_epoch(weights, 100, seed=5, epoch=3)).any()
    assert (first != draw_epoch(weights, 100, seed=6, epoch=2)).any()
    assert set(first.tolist()) != set(draw_epoch(weights, 100, seed=5, epoch=3).tolist())


def test_a_recording_of_weight_zero_is_never_drawn() -> None:
    """Weight zero is how a recording is switched off."""
    drawn = draw_epoch([0.0, 1.0, 0.0, 3.0, 0.0], 1000, seed=0, epoch=0)
    assert np.bincount(drawn, minlength=5).tolist() == [0, 250, 0, 750, 0]


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [[1.0]]])
def test_weights_that_make_no_sense_are_refused(weights: list[float]) -> None:
    """NaN weights come from an empty class; the error should name them."""
    with pytest.raises(ValueError, match="weights must be"):
        draw_epoch(weights, 4, seed=0, epoch=0)


def test_empty_requests_are_refused() -> None:
    """An empty epoch or table would train nothing and report success."""
    with pytest.raises(ValueError, match="at least one example"):
        draw_epoch([1.0], 0, seed=0, epoch=0)
    with pytest.raises(ValueError, match="no labels"):
        class_weights([], exponent=0.5)
    with pytest.raises(ValueError, match="exponent"):
        class_weights(["owl"], exponent=-1.0)


def test_classes_are_capped_and_raised() -> None:
    """No class above the cap, none below the floor, and the repeats spread evenly over its recordings."""
    kept = limit_classes(LABELS, least=60, most=200, seed=0)
    counts = Counter(np.asarray(LABELS)[kept].tolist())
    assert counts == {"owl": 200, "frog": 100, "cricket": 60}
    repeats = np.bincount(kept, minlength=525)
    assert repeats[:400].max() == 1
    assert set(repeats[500:].tolist()) == {2, 3}
    assert (kept == limit_classes(LABELS, least=60, most=200, seed=0)).all()
    assert (kept[:200] != limit_classes(LABELS, least=60, most=200, seed=1)[:200]).any()
    assert limit_classes(LABELS, seed=0).tolist() == list(range(525))
    with pytest.raises(ValueError, match="does not hold"):
        limit_classes(LABELS, least=5, most=2, seed=0)


def test_an_epoch_is_drawn_as_the_settings_say() -> None:
    """Shares follow the limited sizes: 100 owls at most, 60 crickets at least, balanced by the exponent after that."""
    drawn = draw_rows(LABELS, 2600, balance=0.0, least=60, most=100, seed=0, epoch=0)
    assert shares(LABELS, drawn) == pytest.approx({"owl": 100 / 260, "frog": 100 / 260, "cricket": 60 / 260}, abs=0.002)
    drawn = draw_rows(LABELS, 2600, balance=1.0, least=60, most=100, seed=0, epoch=0)
    assert list(shares(LABELS, drawn).values()) == pytest.approx([1 / 3] * 3, abs=0.002)
    plain = draw_rows(LABELS, 500, balance=0.5, seed=3, epoch=4)
    assert (plain == draw_epoch(class_weights(LABELS, exponent=0.5), 500, seed=3, epoch=4)).all()


def test_a_capped_class_is_heard_whole_over_the_epochs() -> None:
    """Undersampling to 20 of 400 owls once would throw 380 recordings away for good."""
    heard: set[int] = set()
    for epoch in range(60):
        drawn = draw_rows(LABELS, 145, balance=0.0, most=20, seed=0, epoch=epoch)
        owls = set(drawn[drawn < 400].tolist())
        assert len(owls) <= 20
        heard |= owls
    assert len(heard) > 370
    first, second, again = (draw_rows(LABELS, 145, balance=0.0, most=20, seed=0, epoch=e) for e in (7, 8, 7))
    assert (first == again).all() and set(first.tolist()) != set(second.tolist())


def test_a_source_is_cycled_row_by_row() -> None:
    """As the first seed's second loader was: nothing comes a third time before all came twice; rounds differ."""
    rounds = Rounds(np.ones(10), seed=0, name="noise")
    drawn = [rounds[position] for position in range(30)]
    thirds = [drawn[:10], drawn[10:20], drawn[20:]]
    assert all(sorted(third) == list(range(10)) for third in thirds)
    assert thirds[0] != thirds[1] != thirds[2]
    backwards = Rounds(np.ones(10), seed=0, name="noise")
    assert [backwards[position] for position in range(29, -1, -1)] == drawn[::-1]
    for other in (Rounds(np.ones(10), seed=1, name="noise"), Rounds(np.ones(10), seed=0, name="rain")):
        assert [other[position] for position in range(30)] != drawn


def test_rows_of_a_source_are_drawn_by_their_odds() -> None:
    """Soundscapes with many sure voices are heard more often; one with none, never."""
    rounds = Rounds([0.0, 1.0, 3.0, 4.0], seed=0, name="soundscapes")
    counts = np.bincount([rounds[position] for position in range(4000)], minlength=4)
    assert counts[0] == 0 and counts[1:] / 4000 == pytest.approx([1 / 8, 3 / 8, 4 / 8], abs=0.02)


def test_matched_rounds_give_rows_of_the_class_alone_and_each_as_often_as_its_odds() -> None:
    """An owl that is replaced by a window without an owl is a wrong label."""
    matches = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], bool)
    matched = MatchedRounds(matches, [1, 1, 1, 0], seed=0, name="windows")
    rows = [matched.row(position, 0) for position in range(400)]
    assert Counter(rows) == {0: 200, 1: 200}  # the fourth has odds 0
    assert matched.row(0, 2) is None
    again = MatchedRounds(matches, [1, 1, 1, 0], seed=0, name="windows")
    assert [again.row(position, 0) for position in reversed(range(400))] == rows[::-1]
    other = MatchedRounds(matches, [1, 1, 1, 0], seed=0, name="others")
    assert [other.row(position, 0) for position in range(400)] != rows
