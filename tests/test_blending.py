"""Ways to make one of several models: what each must leave alone, and that a stranger to a class has no say in it."""
from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata

from birdkit.blending import BLENDS, blend, join_prepared, match_histograms, needs_all_rows, percentile_ranks, prepare

each_way = pytest.mark.parametrize("how", sorted(BLENDS))
ROWS = sorted(how for how in BLENDS if not needs_all_rows(how))


def members(n: int = 3, rows: int = 60, classes: int = 5, seed: int = 0) -> np.ndarray:
    """What n models say: probabilities around a truth that they share."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(-1, 2, (rows, classes))
    return 1 / (1 + np.exp(-(shared + rng.normal(0, 1, (n, rows, classes)))))


def order(values: np.ndarray) -> np.ndarray:
    return rankdata(values, axis=0)


@each_way
def test_one_member_alone_keeps_its_order(how: str) -> None:
    """An ensemble of one must score what its model scores, whatever the way."""
    one = members(1)
    np.testing.assert_array_equal(order(blend(one, np.ones(1), how)), order(one[0]))
    if how != "rank":
        np.testing.assert_allclose(blend(one, np.ones(1), how), one[0], rtol=1e-6)


@each_way
def test_equal_members_are_one(how: str) -> None:
    """The same model twice is no ensemble, and its weight changes nothing."""
    one = members(1)
    twice = blend(np.concatenate([one, one]), np.array([0.3, 2.0]), how)
    np.testing.assert_allclose(twice, blend(one, np.ones(1), how), rtol=1e-6)


@each_way
def test_the_order_of_members_is_irrelevant_but_for_whose_histogram_it_is(how: str) -> None:
    """A file that lists them otherwise is the same ensemble."""
    shares = np.array([1.0, 2.0, 3.0])
    expected = blend(members(), shares, how)
    for rest in itertools.permutations([1, 2]):
        swapped = [0, *rest]
        np.testing.assert_allclose(blend(members()[swapped], shares[swapped], how), expected)
    if how != "histogram":
        np.testing.assert_allclose(blend(members()[[2, 0, 1]], shares[[2, 0, 1]], how), expected)


@each_way
def test_only_the_ratio_of_weights_counts(how: str) -> None:
    """Weights of 1 and 2 are those of 10 and 20, and a weight of 0 is an absent member."""
    shares = np.array([1.0, 2.0, 0.0])
    expected = blend(members(), shares, how)
    np.testing.assert_allclose(blend(members(), 10 * shares, how), expected)
    np.testing.assert_allclose(blend(members()[:2], shares[:2], how), expected)


@each_way
def test_the_result_is_a_probability_between_the_members(how: str) -> None:
    """What is submitted lies in [0, 1], and but for ranks between what the members said."""
    said, result = members(), blend(members(), np.ones(3), how)
    assert ((result >= 0) & (result <= 1)).all()
    if how in ROWS:
        assert (result >= said.min(0) - 1e-12).all() and (result <= said.max(0) + 1e-12).all()


@each_way
def test_a_class_that_one_member_does_not_know_is_the_others(how: str) -> None:
    """A specialist knows frogs alone; counted as 0 for birds, it would halve them, and under a minimum end them."""
    some = members()
    some[1, :, 2] = np.nan
    result = blend(some, np.array([1.0, 5.0, 1.0]), how)
    np.testing.assert_allclose(result[:, 2], blend(some[[0, 2]][:, :, 2:3], np.ones(2), how)[:, 0])
    np.testing.assert_allclose(result[:, :2], blend(members(), np.array([1.0, 5.0, 1.0]), how)[:, :2])


@each_way
def test_a_class_that_only_a_specialist_knows_is_its_own(how: str) -> None:
    """The first member does not know the class: another one's values are those that are matched."""
    some = members()
    some[[0, 2], :, 4] = np.nan
    result = blend(some, np.ones(3), how)[:, 4]
    np.testing.assert_array_equal(order(result), order(some[1, :, 4]))
    if how != "rank":
        np.testing.assert_allclose(result, some[1, :, 4], rtol=1e-6)


@each_way
def test_rows_that_a_member_was_left_out_of_are_the_others(how: str) -> None:
    """When time is short the last model is left out of the last files: their rows are still whole, and comparable."""
    some = members(2)
    some[1, 40:] = np.nan
    result = blend(some, np.ones(2), how)
    assert np.isfinite(result).all()
    if how in ROWS:
        np.testing.assert_allclose(result[40:], some[0, 40:], rtol=1e-6)
        np.testing.assert_allclose(result[:40], blend(some[:, :40], np.ones(2), how))


@pytest.mark.parametrize("how", ROWS)
def test_the_other_ways_need_no_other_rows(how: str) -> None:
    """They can be written file by file: what is blended of a part is that part of what is blended."""
    np.testing.assert_allclose(blend(members(), np.ones(3), how)[7:9], blend(members()[:, 7:9], np.ones(3), how))


@pytest.mark.parametrize("how", ["rank", "histogram"])
def test_ranks_and_histograms_do_not_mind_how_a_member_is_calibrated(how: str) -> None:
    """That is what they are for: an increasing map of a member, but for the first one's histogram, changes nothing."""
    said = members()
    said[1] = said[1] ** 7
    said[2] = 0.5 + 0.01 * said[2]
    np.testing.assert_allclose(blend(said, np.ones(3), how), blend(members(), np.ones(3), how))
    said[0] = said[0] ** 3
    np.testing.assert_array_equal(order(blend(said, np.ones(3), "rank")), order(blend(members(), np.ones(3), "rank")))


def test_ranks_are_scipys() -> None:
    """Ties share their rank, and unknown rows have none."""
    said = np.random.default_rng(0).integers(0, 9, (2, 30, 3)) / 9
    said[1, 20:] = np.nan
    ranks = percentile_ranks(said)
    for member, n in ((0, 30), (1, 20)):
        np.testing.assert_allclose(ranks[member, :n], (rankdata(said[member, :n], axis=0) - 0.5) / n)
    assert np.isnan(ranks[1, 20:]).all()


def test_a_matched_member_has_the_first_ones_values() -> None:
    """Each value of the first member is given out once, in the order of the other's own."""
    matched = match_histograms(members(2))
    np.testing.assert_allclose(np.sort(matched[1], axis=0), np.sort(members(2)[0], axis=0))
    np.testing.assert_array_equal(order(matched[1]), order(members(2)[1]))
    np.testing.assert_array_equal(matched[0], members(2)[0])


def test_ways_by_hand() -> None:
    """Two members, 0.9 and 0.1, weights 3 and 1."""
    two, shares = np.array([[[0.9]], [[0.1]]]), np.array([3.0, 1.0])
    for how, expected in (("probabilities", 0.7), ("root_mean_square", ((3 * 0.81 + 0.01) / 4) ** 0.5),
                          ("minimum", 0.1), ("logits", 0.75)):
        assert blend(two, shares, how)[0, 0] == pytest.approx(expected, abs=1e-9), how
    # The mean of logits 3/4 * log 9 - 1/4 * log 9 = log 3.


def test_weights_may_differ_from_class_to_class() -> None:
    """A member counts in some of the classes it knows: 0 in the others."""
    shares = np.array([[1.0] * 5, [0.0, 1.0, 1.0, 1.0, 1.0], [1.0] * 5])
    result = blend(members(), shares, "minimum")
    np.testing.assert_array_equal(result[:, 0], members()[[0, 2], :, 0].min(0))
    np.testing.assert_array_equal(join_prepared(prepare(members(), "minimum"), shares, "minimum"), result)


@pytest.mark.parametrize(("shares", "how", "fault"), [
    (np.ones(2), "rank", r"shares \(2,\) must be numbers >= 0 for 3 members"),
    (np.array([1.0, -1.0, 1.0]), "logits", "must be numbers >= 0"),
    (np.array([1.0, np.nan, 1.0]), "logits", "must be numbers >= 0"),
    (np.zeros(3), "minimum", "300 values are known to no member with a share, the first in row 0, column 0"),
    (np.ones(3), "geometric", "'geometric'; it must be one of probabilities, logits")])
def test_what_cannot_be_blended_is_an_error(shares: np.ndarray, how: str, fault: str) -> None:
    """A weight too few would be broadcast, a NaN would spread."""
    with pytest.raises(ValueError, match=fault):
        blend(members(), shares, how)


def test_rows_may_have_weights_of_their_own() -> None:
    """A member that was left out of some rows leaves its weight there to another, and to none elsewhere."""
    members = np.random.default_rng(3).random((3, 6, 2))
    members[1, 3:] = np.nan
    shares = np.ones((3, 6, 2))
    shares[0, 3:], shares[1, 3:] = 2.0, 0.0
    blended = blend(members, shares, "probabilities")
    assert np.allclose(blended[:3], members[:, :3].mean(0))
    assert np.allclose(blended[3:], (2 * members[0, 3:] + members[2, 3:]) / 3)
    with pytest.raises(ValueError, match="or for every value"):
        blend(members, shares[:, :5], "probabilities")
