"""The metrics against hand-computed values, scikit-learn, and what must not change them."""
from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from birdkit import metrics


def table(rows: int = 120, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A truth with a class never heard, and probabilities that know something about it, with ties."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((rows, classes)) < 0.15).astype(int)
    truth[0] = 1
    truth[:, -1] = 0
    noise = generator.random((rows, classes))
    return truth, np.round(0.35 * truth + 0.65 * noise, 2)


def test_auc_of_four_rows_is_what_one_counts_by_hand() -> None:
    """Pairs (positive, negative): .8>.1, .8>.5, .4>.1, .4<.5 are 3 of 4; the second column has one tie, so half."""
    truth = np.array([[1, 1], [0, 0], [1, 0], [0, 0]])
    probabilities = np.array([[0.8, 0.3], [0.1, 0.3], [0.4, 0.1], [0.5, 0.2]])
    np.testing.assert_allclose(metrics.per_class_roc_auc(truth, probabilities), [0.75, 2.5 / 3])
    assert metrics.macro_roc_auc(truth, probabilities) == pytest.approx((0.75 + 2.5 / 3) / 2)


def test_agrees_with_scikit_learn_over_the_classes_with_positives() -> None:
    """The hosts' own code is scikit-learn's macro average over the columns whose truth is not all zero."""
    truth, probabilities = table()
    scored = truth.sum(0) > 0
    expected = roc_auc_score(truth[:, scored], probabilities[:, scored], average="macro")
    assert metrics.macro_roc_auc(truth, probabilities) == pytest.approx(expected, abs=1e-12)
    expected = average_precision_score(truth[:, scored], probabilities[:, scored], average="macro")
    assert metrics.macro_average_precision(truth, probabilities) == pytest.approx(expected, abs=1e-12)


def test_a_class_that_cannot_be_ranked_is_nan_and_left_out() -> None:
    """No positive, or no negative: neither may count as 0, 0.5 or 1."""
    truth = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]])
    probabilities = np.array([[0.9, 0.1, 0.2], [0.1, 0.5, 0.3], [0.2, 0.6, 0.4]])
    values = metrics.per_class_roc_auc(truth, probabilities)
    assert values[0] == 1 and np.isnan(values[1:]).all()
    assert metrics.macro_roc_auc(truth, probabilities) == 1
    assert np.isnan(metrics.per_class_average_precision(truth, probabilities)[1])


def test_a_strictly_increasing_map_of_each_column_changes_nothing() -> None:
    """Calibration cannot help the score: what seems to help by rescaling a column is a mistake elsewhere."""
    truth, probabilities = table()
    powers = np.linspace(0.3, 3, truth.shape[1])
    mapped = np.log(probabilities + 0.01) * powers - powers
    assert metrics.macro_roc_auc(truth, mapped) == pytest.approx(metrics.macro_roc_auc(truth, probabilities), abs=1e-12)


def test_columns_in_another_order_change_the_value() -> None:
    """Class columns matched by position instead of by name must show in the score."""
    truth, probabilities = table(rows=600)
    assert metrics.macro_roc_auc(truth, np.roll(probabilities, 1, axis=1)) < metrics.macro_roc_auc(
        truth, probabilities) - 0.1


def test_constant_probabilities_are_chance() -> None:
    """The sample submission scores exactly one half."""
    truth, probabilities = table()
    assert metrics.macro_roc_auc(truth, np.full_like(probabilities, 1 / 7)) == 0.5


def test_padding_makes_absent_classes_count() -> None:
    """2023's metric scores a class without positives as 1: five rows of ones are on top."""
    truth, probabilities = np.zeros((4, 2), int), np.full((4, 2), 0.4)
    truth[0, 0] = 1
    assert metrics.padded_cmap(truth, probabilities) == pytest.approx((1 + (5 / 6 * 1 + 1 / 6 * 6 / 9)) / 2)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_what_cannot_be_scored_is_refused_with_its_place(name: str) -> None:
    """A NaN that slips through becomes a score that means nothing."""
    metric = metrics.METRICS[name]
    truth, probabilities = table()
    broken = probabilities.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"not finite.*nan in row 3, column 2"):
        metric(truth, broken)
    with pytest.raises(ValueError, match=r"truth \(120, 7\) and probabilities \(120, 6\)"):
        metric(truth, probabilities[:, :-1])
    with pytest.raises(ValueError, match="truth must be 0 or 1, not 2 in row 5, column 1"):
        metric(np.where((np.arange(120)[:, None] == 5) & (np.arange(7) == 1), 2, truth), probabilities)
    with pytest.raises(ValueError, match="must be numbers"):
        metric(truth, probabilities.astype(str))


def test_nothing_to_score_is_an_error() -> None:
    """A truth without any positive has no ROC-AUC, not even 0."""
    with pytest.raises(ValueError, match="none of 3 classes"):
        metrics.macro_roc_auc(np.zeros((4, 3)), np.ones((4, 3)))


@pytest.mark.parametrize("name", ["macro_roc_auc", "macro_average_precision"])
def test_bootstrap_draws_are_the_metric_of_resampled_files(name: str) -> None:
    """The fast weighted path must be what copying the drawn files' rows would give, ties included."""
    truth, probabilities = table(rows=60)
    groups = np.repeat(np.arange(12), 5)
    draws = metrics.bootstrap_draws(truth, [probabilities], groups, metric=name, n_draws=20, seed=3)[0]
    generator = np.random.default_rng(3)
    for counts, value in zip(generator.multinomial(12, np.full(12, 1 / 12), size=20), draws, strict=True):
        rows = np.repeat(np.arange(60), counts[groups])
        assert value == pytest.approx(metrics.METRICS[name](truth[rows], probabilities[rows]), abs=1e-12)


def test_interval_holds_the_value_and_narrows_with_more_files() -> None:
    """An interval that does not shrink with data is not one."""
    widths = []
    for rows in (100, 1600):
        truth, probabilities = table(rows=rows)
        interval = metrics.bootstrap_interval(truth, probabilities, np.arange(rows) // 5, n_draws=300, seed=1)
        assert interval.low < interval.value < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < 0.6 * widths[0]


def test_files_with_equal_windows_have_the_interval_of_files_not_of_windows() -> None:
    """Twelve copies of each row carry no more information than one."""
    truth, probabilities = table(rows=80)
    once = metrics.bootstrap_interval(truth, probabilities, np.arange(80), n_draws=300)
    copies = metrics.bootstrap_interval(np.repeat(truth, 12, 0), np.repeat(probabilities, 12, 0),
                                        np.repeat(np.arange(80), 12), n_draws=300)
    assert (once.low, once.high) == pytest.approx((copies.low, copies.high), abs=1e-9)


def test_difference_to_itself_is_nothing_and_a_better_system_is_surely_better() -> None:
    """Paired draws: two systems are compared on the same files."""
    truth, probabilities = table(rows=400)
    groups = np.arange(400) // 8
    same = metrics.bootstrap_difference(truth, probabilities, probabilities, groups, n_draws=50)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = metrics.bootstrap_difference(truth, probabilities + 0.1 * truth, probabilities, groups, n_draws=200)
    assert 0 < better.low < better.value


def test_bootstrap_says_what_is_wrong_with_its_arguments() -> None:
    """A metric that is misspelt, groups of another table, a level in per cent."""
    truth, probabilities = table()
    with pytest.raises(KeyError, match="no metric named 'auc'; there is: macro_average_precision, macro_roc_auc"):
        metrics.bootstrap_interval(truth, probabilities, np.arange(120), metric="auc")
    with pytest.raises(ValueError, match="7 groups for 120 rows"):
        metrics.bootstrap_interval(truth, probabilities, np.arange(7))
    with pytest.raises(ValueError, match="level = 95"):
        metrics.bootstrap_interval(truth, probabilities, np.arange(120), level=95)


def test_a_thousand_draws_of_a_whole_competition_take_seconds() -> None:
    """720 rows and 206 classes are a normal truth; waiting minutes means that nobody looks at intervals."""
    generator = np.random.default_rng(0)
    truth, probabilities = generator.random((720, 206)) < 0.006, generator.random((720, 206))
    begin = time.perf_counter()
    metrics.bootstrap_interval(truth, probabilities, np.arange(720) // 12, n_draws=1000)
    assert time.perf_counter() - begin < 30
