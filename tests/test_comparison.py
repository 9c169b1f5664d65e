"""Differences between runs: found where they are, not found where there are none, and with the right uncertainty."""
from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from birdkit.metrics.comparison import Comparison, Row, Validated, compare, holm

FILES, ROWS, CLASSES = 16, 6, 4
Runs = dict[str, dict[tuple[int, int], Validated]]


def world(seed: int, effects: dict[str, float], *, seeds: int = 3, spread: float = 0.3, splits: int = 1) -> Runs:
    """Runs that share which files are hard; each training has its own luck. An effect is how much better one hears."""
    rng = np.random.default_rng(seed)
    runs: Runs = {name: {} for name in effects}
    for split in range(splits):
        groups = np.repeat(np.arange(FILES), ROWS)
        truth = (rng.random((len(groups), CLASSES)) < 0.3).astype(np.uint8)
        shared = rng.normal(size=(FILES, CLASSES))[groups] + 0.7 * rng.normal(size=truth.shape)
        for name, effect in effects.items():
            for number in range(seeds):
                heard = (1.2 + effect + spread * rng.normal()) * truth
                own = 0.3 * rng.normal(size=truth.shape)
                runs[name][split, number] = Validated(truth, heard + shared + own, groups, tuple("abcd"),
                                                        "macro_roc_auc")
    return runs


def of_scores(*scores: float) -> dict[tuple[int, int], Validated]:
    """Trainings with these ROC-AUCs (multiples of 1/10) on one file, so that no draw of files changes them."""
    truth = np.array([[0]] * 10 + [[1]])
    return {(0, seed): Validated(truth, np.array([[k] for k in range(10)] + [[10 * score - 0.5]]), np.zeros(11),
                                   ("a",), "macro_roc_auc") for seed, score in enumerate(scores)}


def second(comparison: Comparison) -> Row:
    return comparison.rows[1]


def test_equal_systems_are_rarely_told_apart() -> None:
    """A setting that does nothing must not be chosen: of 300 tables without a difference about one in twenty errs.

    By the bootstrap's interval alone, which knows three seeds of each run, one in eight would.
    """
    judged = [second(compare(world(trial, {"old": 0.0, "new": 0.0}), "old", n_draws=200, seed=trial)).verdict
              for trial in range(300)]
    wrong = np.mean([verdict != "not significant" for verdict in judged])
    assert 0.0 < wrong < 0.085


@pytest.mark.parametrize(("effect", "verdict"), [(0.8, "better"), (-0.8, "worse")])
def test_a_system_that_is_better_by_a_known_margin_is_found(effect: float, verdict: str) -> None:
    """A table that never finds anything would be safe and useless."""
    rows = [second(compare(world(trial, {"old": 0.0, "new": effect}, spread=0.1), "old", n_draws=200))
            for trial in range(20)]
    assert np.mean([row.verdict == verdict for row in rows]) >= 0.9
    assert all(np.sign(row.difference.value) == np.sign(effect) for row in rows if row.difference)


def test_paired_is_surer_than_unpaired() -> None:
    """Files that are hard for everybody say nothing about the difference: an unpaired interval would drown it."""
    runs = world(0, {"old": 0.0, "new": 0.3}, spread=0.05)
    old, new = compare(runs, "old").rows
    assert new.difference is not None
    unpaired = math.hypot(old.score.high - old.score.low, new.score.high - new.score.low)
    assert new.difference.high - new.difference.low < 0.5 * unpaired


def test_a_copy_differs_by_nothing_whatever_is_drawn() -> None:
    """The same predictions twice, one seed each: 0 in every draw only if the same files are drawn for both."""
    one = world(0, {"old": 0.0}, seeds=1)["old"]
    row = second(compare({"old": one, "copy": one}, "old"))
    assert row.difference is not None and row.difference.low == row.difference.high == row.difference.value == 0
    assert row.p == row.p_holm == 1 and row.above == 0


def test_the_score_is_scikit_learns() -> None:
    """Mean over splits of the mean over seeds of the host's metric."""
    runs = world(3, {"old": 0.0}, splits=2, seeds=3)
    row = compare(runs, "old", n_draws=50).rows[0]
    by_hand = {key: roc_auc_score(one.truth, one.probabilities, average="macro") for key, one in runs["old"].items()}
    assert row.trainings == pytest.approx(by_hand)
    assert row.score.value == pytest.approx(np.mean([[by_hand[split, seed] for seed in range(3)] for split in (0, 1)]))
    assert row.score.low < row.score.value < row.score.high


def test_the_noise_floor_by_hand() -> None:
    """Three seeds of .4, .5, .6 and of .5, .5, .8: variances .01 and .03, pooled .02 with four degrees of freedom."""
    comparison = compare({"old": of_scores(0.4, 0.5, 0.6), "new": of_scores(0.5, 0.5, 0.8)}, "old", n_draws=50)
    assert comparison.baseline_sd == pytest.approx(0.1)
    assert comparison.pooled_sd == pytest.approx(math.sqrt(0.02))
    assert comparison.floor == pytest.approx(2.776445 * math.sqrt(0.02) * math.sqrt(2 / 3), rel=1e-6)
    assert second(comparison).floor == pytest.approx(comparison.floor)


def test_the_floor_falls_with_seeds_and_splits() -> None:
    """More trainings can show smaller differences: with n of one and m of the other by sqrt(1/n + 1/m)."""
    one = {(0, seed): next(iter(of_scores(score).values())) for seed, score in enumerate([0.4, 0.5, 0.6, 0.7])}
    two = {(split, seed): training for split in (0, 1) for (_, seed), training in one.items()}
    sd = float(np.std([0.4, 0.5, 0.6, 0.7], ddof=1))
    few = {key: one[key] for key in [(0, 1), (0, 2)]}
    uneven = second(compare({"old": one, "new": few}, "old", n_draws=20))
    pooled = math.sqrt((3 * sd**2 + 0.1**2 / 2) / 4)
    assert uneven.floor == pytest.approx(stats.t.ppf(0.975, 4) * pooled * math.sqrt(1 / 4 + 1 / 2))
    on_two = second(compare({"old": two, "new": two}, "old", n_draws=20))
    assert on_two.floor == pytest.approx(stats.t.ppf(0.975, 12) * sd * math.sqrt(2 / 4 / 2))


def test_seeds_are_resampled_with_their_full_spread() -> None:
    """Two seeds of .4 and .6: a draw has both or one twice, .5 or .5 -+ .1, which sqrt(2) scales to the full spread."""
    row = compare({"old": of_scores(0.4, 0.6)}, "old").rows[0]
    assert (row.score.low, row.score.value, row.score.high) == pytest.approx(
        (0.5 - 0.1 * math.sqrt(2), 0.5, 0.5 + 0.1 * math.sqrt(2)))


def test_a_sure_difference_below_the_floor_is_not_significant() -> None:
    """Where every draw of files agrees, two lucky seeds still prove nothing."""
    clear = compare({"old": of_scores(0.4, 0.4, 0.4), "new": of_scores(0.6, 0.6, 0.6)}, "old", n_draws=100)
    assert second(clear).verdict == second(clear).verdict_holm == "better"
    noisy = compare({"old": of_scores(0.4, 0.4), "new": of_scores(0.5, 0.5), "wild": of_scores(0.1, 0.9)}, "old",
                    n_draws=100)
    row = second(noisy)
    assert row.difference is not None and row.difference.low > 0 and row.floor > 0.1
    assert row.verdict == row.verdict_holm == "not significant"


def test_one_seed_each_leaves_it_open() -> None:
    """A single run that is .02 better was the second seed's reason for many a decision."""
    comparison = compare(world(0, {"old": 0.0, "new": 2.0}, seeds=1), "old", n_draws=100)
    assert second(comparison).verdict == second(comparison).verdict_holm == "unknown (one seed)"
    assert math.isnan(comparison.floor) and math.isnan(comparison.pooled_sd)


def test_what_is_not_trained_yet_is_left_out() -> None:
    """A matrix is looked at before it is complete; a difference is over the splits that both runs have."""
    runs = world(1, {"old": 0.0, "new": 0.5, "late": 0.0}, splits=2)
    del runs["new"][1, 0], runs["new"][1, 1], runs["new"][1, 2], runs["late"][0, 2]
    alone = {name: {key: one for key, one in trainings.items() if key[0] == 0} for name, trainings in runs.items()}
    new = second(compare(runs, "old", n_draws=200))
    same = second(compare(alone, "old", n_draws=200))
    assert new.difference is not None and same.difference is not None
    assert new.difference.value == pytest.approx(same.difference.value)
    without = compare({"new": runs["new"]}, "old", n_draws=50)
    assert without.comparisons == 0 and without.rows[0].difference is None and without.rows[0].verdict == ""
    with pytest.raises(ValueError, match="no trainings of empty"):
        compare({**runs, "empty": {}}, "old")


def test_the_files_of_two_splits_are_drawn_independently() -> None:
    """Drawn alike, two splits would be no surer than one."""
    one = world(5, {"old": 0.0}, seeds=1)["old"]
    twice = {**one, (1, 0): one[0, 0]}
    narrow, wide = (compare({"old": runs}, "old").rows[0].score for runs in (twice, one))
    assert (narrow.high - narrow.low) / (wide.high - wide.low) == pytest.approx(math.sqrt(0.5), abs=0.08)


@pytest.mark.parametrize("part", ["truth", "groups", "classes", "metric"])
def test_runs_with_another_exam_are_refused(part: str) -> None:
    """The difference of two scores on different rows is not a difference of the runs."""
    runs = world(0, {"old": 0.0, "new": 0.0})
    one = runs["new"][0, 1]
    others = {"truth": 1 - one.truth, "groups": one.groups[::-1], "classes": tuple("abce"), "metric": "padded_cmap"}
    runs["new"][0, 1] = dataclasses.replace(one, **{part: others[part]})
    with pytest.raises(ValueError, match="new and old were not validated on the same rows of split 0"):
        compare(runs, "old", n_draws=10)


def test_holm_keeps_the_order_and_lies_between_p_and_n_p() -> None:
    """The more is compared the more is asked of each; the smallest p pays for all, the largest for itself."""
    p = np.random.default_rng(0).random(8) * 0.3
    adjusted = np.array(holm(p.tolist()))
    assert adjusted.min() == pytest.approx(8 * p.min()) and (adjusted >= p).all() and (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all() and holm([0.2]) == [0.2] and holm([]) == []


def steady(runs: Runs) -> Runs:
    """The same runs as if every seed gave the same: no noise floor, and all that is left is which files there are."""
    return {name: {(0, seed): trainings[0, 0] for seed in range(3)} for name, trainings in runs.items()}


def test_without_any_noise_of_seeds_the_files_still_decide() -> None:
    """A validation of few soundscapes proves little, however exactly a training can be repeated."""
    runs = steady(world(8, {"old": 0.0, **{f"idle{n}": 0.0 for n in range(40)}}, spread=0.0))
    comparison = compare(runs, "old", n_draws=1000)
    idle = comparison.rows[1:]
    assert comparison.floor == pytest.approx(0.0, abs=1e-12)
    assert 0 < sum(row.verdict != "not significant" for row in idle) <= 6
    for row in idle:
        assert row.difference is not None
        assert (row.verdict == "not significant") == (row.difference.low <= 0 <= row.difference.high)


def test_many_comparisons_ask_for_more() -> None:
    """Of forty settings that do nothing two look better or worse; after Holm none does, and a real one still does."""
    runs = steady(world(8, {"old": 0.0, **{f"idle{n}": 0.0 for n in range(40)}, "good": 1.0}, spread=0.0))
    comparison = compare(runs, "old", n_draws=4000)
    *idle, good = comparison.rows[1:]
    assert comparison.comparisons == 41 and good.verdict_holm == "better"
    assert all(row.verdict_holm == "not significant" for row in idle)
    assert not all(row.verdict == "not significant" for row in idle)


def test_p_is_two_sided() -> None:
    """Nobody says beforehand that a setting can only help: twice the share of the draws on the other side of 0."""
    for row in compare(world(4, {"old": 0.0, "a": 0.1, "b": -0.1}), "old", n_draws=500).rows[1:]:
        assert 0 < row.above < 1
        assert row.p == pytest.approx(2 * (500 * min(row.above, 1 - row.above) + 1) / 501)


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    """A comparison of next month is made from these files alone; an interrupted write leaves no half of one."""
    one = dataclasses.replace(world(0, {"old": 0.0})["old"][0, 0], origin={"config": {"seed": 3}, "seconds": 1.5})
    one.save(tmp_path / "predictions.npz")
    read = Validated.read(tmp_path / "predictions.npz")
    assert np.array_equal(read.truth, one.truth) and np.array_equal(read.probabilities, one.probabilities)
    assert np.array_equal(read.groups, one.groups) and read.score == one.score
    assert (read.classes, read.metric, read.origin) == (one.classes, one.metric, one.origin)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def test_the_same_seed_gives_the_same_table() -> None:
    """A figure in a README is reproduced to its last digit."""
    runs = world(2, {"old": 0.0, "new": 0.1})
    assert compare(runs, "old", n_draws=100) == compare(runs, "old", n_draws=100)
    assert compare(runs, "old", n_draws=100) != compare(runs, "old", n_draws=100, seed=1)


def test_runs_are_compared_by_their_decisions_where_the_metric_judges_those() -> None:
    """Two models of one ranking and different thresholds are not equal in 2022."""
    truth = (np.random.default_rng(0).random((40, 2)) < 0.4).astype(int)
    probabilities = 0.2 + 0.1 * truth
    runs = {name: {(0, seed): Validated(truth, probabilities, np.arange(40) // 4, ("a", "b"), "balanced_accuracy", {},
                                        heard) for seed in (0, 1)}
            for name, heard in (("all", np.ones((40, 2), bool)), ("right", truth.astype(bool)))}
    rows = {row.run: row for row in compare(runs, "all", n_draws=200).rows}
    assert rows["all"].score.value == 0.5 and rows["right"].score.value == 1.0
    assert rows["right"].difference is not None and rows["right"].difference.low > 0
