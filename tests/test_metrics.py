"""The metrics against hand-computed values, scikit-learn, and what must not change them."""
from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    label_ranking_average_precision_score,
    roc_auc_score,
)

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
    with pytest.raises(ValueError, match=r"truth \(120, 7\) and (probabilities|decisions) \(120, 6\)"):
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
    with pytest.raises(KeyError, match=r"no metric named 'auc'; there is: .* macro_f1, macro_roc_auc"):
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


DECIDED = sorted(name for name, metric in metrics.METRICS.items() if metric.on_decisions)
RANKED = sorted(set(metrics.METRICS) - set(DECIDED))


def said(name: str, probabilities: np.ndarray) -> np.ndarray:
    """What a metric judges: probabilities, or decisions at one half."""
    return probabilities >= 0.5 if name in DECIDED else probabilities


def test_the_f1_of_rows_is_what_one_counts_by_hand() -> None:
    """2021: owl and frog, heard owl: 2/3. Silence, silence said: 1. Silence, frog said: 0. Frog, silence said: 0.
    Owl, owl and frog said: 2/3. A silence that is not a label of its own would give 0 of 0 in the second."""
    truth = np.array([[1, 1], [0, 0], [0, 0], [0, 1], [1, 0]])
    heard = np.array([[1, 0], [0, 0], [0, 1], [0, 0], [1, 1]])
    assert metrics.row_f1(truth, heard) == pytest.approx((2 / 3 + 1 + 0 + 0 + 2 / 3) / 5)


def test_the_balanced_accuracy_is_what_one_counts_by_hand() -> None:
    """2022: of 2 owls 1 heard, of 3 rows without one 1 false alarm: (1/2 + 2/3) / 2. Frogs: all right."""
    truth = np.array([[1, 1], [1, 0], [0, 0], [0, 0], [0, 1]])
    heard = np.array([[1, 1], [0, 0], [1, 0], [0, 0], [0, 1]])
    assert metrics.balanced_accuracy(truth, heard) == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
    assert metrics.macro_f1(truth, heard) == pytest.approx((2 / (2 + 1 + 1) + 1) / 2)


def test_metrics_of_decisions_agree_with_scikit_learn() -> None:
    """An independent implementation of each, over rows or over the classes that can be scored."""
    truth, probabilities = table()
    heard = probabilities > 0.4
    beside = [np.column_stack([one, ~one.astype(bool).any(1)]) for one in (truth, heard)]  # nocall, a class like any
    assert metrics.row_f1(truth, heard) == pytest.approx(f1_score(*beside, average="samples"), abs=1e-12)
    scored = np.flatnonzero(truth.any(0))
    each = [balanced_accuracy_score(truth[:, k], heard[:, k]) for k in scored]
    assert metrics.balanced_accuracy(truth, heard) == pytest.approx(np.mean(each), abs=1e-12)
    np.testing.assert_allclose(metrics.per_class_balanced_accuracy(truth, heard)[scored], each)
    f1 = f1_score(truth, heard, average="macro", zero_division=np.nan)
    assert metrics.macro_f1(truth, heard) == pytest.approx(f1, abs=1e-12)


def test_label_ranking_agrees_with_scikit_learn_with_ties_and_empty_rows() -> None:
    """The second seed's validation; rows without a label count 1, and ties rank last."""
    truth, probabilities = table()
    truth[5:20] = 0
    assert len(np.unique(probabilities)) < probabilities.size / 2
    assert metrics.label_ranking_precision(truth, probabilities) == pytest.approx(
        label_ranking_average_precision_score(truth, probabilities), abs=1e-12)


def test_padding_has_its_closed_form() -> None:
    """2023: a class with n positives scores (5 + sum of (5 + k) / (5 + rank of the k-th)) / (5 + n), if nothing
    reaches 1. Four of ten public copies of this metric pad something else."""
    generator = np.random.default_rng(4)
    truth, probabilities = generator.random((40, 6)) < 0.2, generator.random((40, 6)) * 0.99
    truth[:, 3] = False
    expected = []
    for k in range(6):
        ranks = np.flatnonzero(truth[np.argsort(-probabilities[:, k]), k]) + 1
        n = len(ranks)
        expected.append((5 + sum((5 + place) / (5 + rank) for place, rank in enumerate(ranks, 1))) / (5 + n))
    assert expected[3] == 1 and metrics.padded_cmap(truth, probabilities) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_the_order_of_rows_and_of_classes_does_not_matter(name: str) -> None:
    """A score that depends on how a file is sorted is a bug of the metric."""
    truth, probabilities = table()
    generator, metric = np.random.default_rng(1), metrics.METRICS[name]
    rows, columns = generator.permutation(len(truth)), generator.permutation(truth.shape[1])
    shuffled = metric(truth[rows][:, columns], said(name, probabilities[rows][:, columns]))
    assert shuffled == pytest.approx(metric(truth, said(name, probabilities)), abs=1e-12)


@pytest.mark.parametrize("name", sorted(set(metrics.METRICS) - {"padded_cmap"}))
def test_two_copies_of_every_row_score_what_one_does(name: str) -> None:
    """Metrics are of shares, not of counts. (2023's five rows of padding weigh half as much beside twice the rows.)"""
    truth, probabilities = table()
    metric = metrics.METRICS[name]
    twice = metric(np.repeat(truth, 2, 0), said(name, np.repeat(probabilities, 2, 0)))
    assert twice == pytest.approx(metric(truth, said(name, probabilities)), abs=1e-12)


@pytest.mark.parametrize("name", RANKED)
def test_one_increasing_map_of_everything_changes_no_ranking(name: str) -> None:
    """Square roots keep the order inside rows and columns, and 1 at 1."""
    truth, probabilities = table()
    metric = metrics.METRICS[name]
    assert metric(truth, probabilities**0.5) == pytest.approx(metric(truth, probabilities), abs=1e-12)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_the_truth_scores_one_and_its_opposite_less_than_anything(name: str) -> None:
    """A metric upside down would choose the worst epoch."""
    truth, probabilities = table()
    metric = metrics.METRICS[name]
    assert metric(truth, truth) == pytest.approx(1)
    assert metric(truth, 1 - truth) < metric(truth, said(name, probabilities)) < 1


@pytest.mark.parametrize("name", DECIDED)
def test_probabilities_are_no_decisions(name: str) -> None:
    """Taken for decisions, every probability above 0 would be a bird."""
    truth, probabilities = table()
    with pytest.raises(ValueError, match=r"decisions must be 0 or 1, not 0\.\d+ in row 0"):
        metrics.METRICS[name](truth, probabilities)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_every_metric_has_its_bootstrap(name: str) -> None:
    """Draws are taken by weights, for speed: each must be the metric of the rows that were drawn."""
    truth, probabilities = table(rows=60)
    values, groups = said(name, probabilities), np.arange(60) // 6
    draws = metrics.bootstrap_draws(truth, [values], groups, metric=name, n_draws=20, seed=3)[0]
    counts = np.random.default_rng(3).multinomial(10, np.full(10, 0.1), size=20)
    for draw, count in zip(draws, counts, strict=True):
        rows = np.repeat(np.arange(60), count[groups])
        if name == "padded_cmap":  # padded once, whatever was drawn
            assert draw == pytest.approx(metrics.padded_cmap(truth[rows], values[rows]), abs=1e-12)
        else:
            assert draw == pytest.approx(metrics.METRICS[name](truth[rows], values[rows]), abs=1e-12)
    interval = metrics.bootstrap_interval(truth, values, groups, metric=name, n_draws=50)
    assert interval.low <= interval.value <= interval.high


def test_a_thousand_draws_of_2023s_metric_take_seconds() -> None:
    """Every epoch's interval is drawn: scikit-learn, class by class and draw by draw, would take minutes."""
    generator = np.random.default_rng(0)
    truth, probabilities = generator.random((480, 264)) < 0.006, generator.random((480, 264))
    begin = time.perf_counter()
    metrics.bootstrap_interval(truth, probabilities, np.arange(480) // 12, metric="padded_cmap", n_draws=500)
    assert time.perf_counter() - begin < 30
