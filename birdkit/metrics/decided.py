"""Metrics of decisions, heard or not: of years whose submissions hold no probabilities (2021 and 2022).

What makes decisions of probabilities is birdkit.decisions.
"""
from __future__ import annotations

import numpy as np

from birdkit.metrics.tables import checked, mean_of_rows, mean_of_scored


def row_f1(truth: np.ndarray, decisions: np.ndarray) -> float:
    """The mean over rows of the F1 of their sets of labels (BirdCLEF 2021: row-wise micro-averaged F1).

    2 TP / (2 TP + FP + FN), where a row in which nothing is heard has the one label "nocall": rightly said it scores 1,
    said of a row with birds it is one false positive, and a bird said of silence misses it.

    truth, decisions  (R, K) of 0 and 1

    Raises ValueError on shapes that differ, and values that are neither.

    >>> row_f1(np.array([[1, 1], [0, 0], [0, 0]]), np.array([[1, 0], [0, 0], [0, 1]])).__round__(3)
    0.556
    """
    return float(_row_f1(*checked(truth, decisions, decisions=True)).mean())


def balanced_accuracy(truth: np.ndarray, decisions: np.ndarray) -> float:
    """The mean over classes of (true positive rate + true negative rate) / 2 (BirdCLEF 2022).

    So true positives and true negatives of a class weigh the same, however rare it is. A class without a positive or
    without a negative row has only one of the rates and is left out. Shapes and errors as `row_f1`, and ValueError
    where no class can be scored.

    >>> balanced_accuracy(np.array([[1], [0], [0], [0]]), np.array([[1], [1], [0], [0]])).__round__(3)
    0.833
    """
    return mean_of_scored(per_class_balanced_accuracy(truth, decisions))


def macro_f1(truth: np.ndarray, decisions: np.ndarray) -> float:
    """The mean over classes of 2 TP / (2 TP + FP + FN), to which the host of 2022 compared its metric.

    A class that is neither heard nor said anywhere is left out. Shapes and errors as `balanced_accuracy`.

    >>> macro_f1(np.array([[1], [0], [0], [0]]), np.array([[1], [1], [0], [0]])).__round__(3)
    0.667
    """
    truth, decisions = checked(truth, decisions, decisions=True)
    return mean_of_scored(weighted_f1(truth, decisions, np.ones((len(truth), 1)))[0])


def per_class_balanced_accuracy(truth: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """`balanced_accuracy` of each class, (K,); NaN where a class has no positive or no negative row."""
    truth, decisions = checked(truth, decisions, decisions=True)
    return weighted_balanced_accuracy(truth, decisions, np.ones((len(truth), 1)))[0]


def weighted_row_f1(truth: np.ndarray, decisions: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`row_f1` under each column of row weights (R, D) -> (D,)."""
    return mean_of_rows(_row_f1(truth, decisions), weight)


def weighted_balanced_accuracy(truth: np.ndarray, decisions: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`balanced_accuracy` of each class under each column of row weights (R, D) -> (D, K)."""
    return (_rate(truth & decisions, truth, weight) + _rate(~truth & ~decisions, ~truth, weight)) / 2


def weighted_f1(truth: np.ndarray, decisions: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The F1 of each class under each column of row weights (R, D) -> (D, K)."""
    return _rate(2.0 * (truth & decisions), 1.0 * truth + decisions, weight)  # FP + TP are said, FN + TP are true


def _row_f1(truth: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """The F1 of each row, (R,)."""
    truth, decisions = (np.column_stack([table, ~table.any(1)]) for table in (truth, decisions))  # the last: nocall
    return 2 * (truth & decisions).sum(1) / (truth.sum(1) + decisions.sum(1))


def _rate(part: np.ndarray, whole: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weight of one count of cells in another, (D, K); NaN where that is 0."""
    of, total = weight.T @ part, weight.T @ whole
    return np.divide(of, total, out=np.full(total.shape, np.nan), where=total > 0)
