"""Metrics of probabilities: only the order counts, of rows within a class or of classes within a row."""
from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score

from birdkit.metrics.tables import checked, mean_of_rows, mean_of_scored

PADDING = 5  # rows of ones, see `padded_cmap`


def macro_roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean one-vs-rest ROC-AUC over the classes that can be ranked (BirdCLEF 2024 to 2026).

    The hosts leave classes without a positive row out and take scikit-learn's macro average of the rest; ties count
    half. A class without a *negative* row cannot be ranked either: the hosts' code fails on it and their truths hold
    none, so here it is left out too, and shows as NaN in `per_class_roc_auc`.

    truth          (R, K) of 0 and 1
    probabilities  (R, K), finite, any scale: only the order within a column counts

    Raises ValueError on shapes that differ, truth that is not 0 or 1, numbers that are not finite, and where no class
    can be ranked.

    >>> macro_roc_auc(np.array([[1, 0], [0, 0], [0, 0]]), np.array([[.5, .1], [.2, .9], [.6, .3]]))
    0.5
    """
    return mean_of_scored(per_class_roc_auc(truth, probabilities))


def macro_average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean average precision over the classes with a positive row. Shapes and errors as `macro_roc_auc`.

    >>> macro_average_precision(np.array([[1, 0], [0, 0], [0, 0]]), np.array([[.5, .1], [.2, .9], [.6, .3]]))
    0.5
    """
    return mean_of_scored(per_class_average_precision(truth, probabilities))


def padded_cmap(truth: np.ndarray, probabilities: np.ndarray, *, padding: int = PADDING) -> float:
    """The class mean of average precision with `padding` rows of ones put under both tables (BirdCLEF 2023).

    The padding gives every class some positives, so that all classes count: one without a positive row scores 1 as
    long as nothing reaches a probability of 1. Unlike the other metrics here it is not indifferent to a column's scale:
    a probability of 1 or more ranks beside or above the padding. Errors as `macro_roc_auc`.

    >>> padded_cmap(np.array([[0], [0]]), np.array([[.3], [.2]]))
    1.0
    """
    truth, probabilities = checked(truth, probabilities)
    ones = np.ones((padding, truth.shape[1]))
    return macro_average_precision(np.concatenate([truth, ones]), np.concatenate([probabilities, ones]))


def label_ranking_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Label-ranking average precision: for each class that is heard in a row, the share of heard classes among those
    ranked as high, averaged over the classes of a row and then over rows (the second seed's, BirdCLEF 2025).

    As in scikit-learn a tie ranks last of those it is tied with, and a row in which nothing, or everything, is heard
    scores 1. Shapes and errors as `macro_roc_auc`.

    >>> label_ranking_precision(np.array([[1, 0, 0], [0, 0, 1]]), np.array([[.75, .5, 1], [1, .2, .1]])).__round__(3)
    0.417
    """
    return float(_row_precision(*checked(truth, probabilities)).mean())


def per_class_roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The one-vs-rest ROC-AUC of each class, (K,); NaN where a class has no positive or no negative row.

    >>> per_class_roc_auc(np.array([[1, 0], [0, 0], [0, 0]]), np.array([[.5, .1], [.2, .9], [.6, .3]]))
    array([0.5, nan])
    """
    truth, probabilities = checked(truth, probabilities)
    return weighted_roc_auc(truth, probabilities, np.ones((len(truth), 1)))[0]


def per_class_average_precision(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The average precision of each class, (K,), as scikit-learn defines it; NaN where a class has no positive row."""
    truth, probabilities = checked(truth, probabilities)
    values = [average_precision_score(truth[:, k], probabilities[:, k]) if truth[:, k].any() else np.nan
              for k in range(truth.shape[1])]
    return np.array(values, dtype=float)


def weighted_roc_auc(truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The ROC-AUC of each class under each column of row weights (R, D) -> (D, K); NaN where it has none.

    The share of (positive, negative) pairs in the right order, each pair counted w_p * w_n times and ties half: one
    sort of the negatives, then a running sum of their weights tells how many lie below each positive.
    """
    values = np.full((weight.shape[1], truth.shape[1]), np.nan)
    for k in range(truth.shape[1]):
        positive, negative = np.flatnonzero(truth[:, k]), np.flatnonzero(~truth[:, k])
        if not len(positive) or not len(negative):
            continue
        negative = negative[np.argsort(probabilities[negative, k], kind="stable")]
        ranked, asked = probabilities[negative, k], probabilities[positive, k]
        below, upto = np.searchsorted(ranked, asked, side="left"), np.searchsorted(ranked, asked, side="right")
        running = _running(weight[negative])
        pairs = weight[positive].sum(0) * running[-1]
        right = (weight[positive] * (running[below] + running[upto])).sum(0) / 2
        np.divide(right, pairs, out=values[:, k], where=pairs > 0)
    return values


def weighted_average_precision(truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The average precision of each class under each column of row weights (R, D) -> (D, K); NaN where it has none.

    For each positive row, the weight of positives among all rows that rank as high or higher.
    """
    values = np.full((weight.shape[1], truth.shape[1]), np.nan)
    for k in range(truth.shape[1]):
        order = np.argsort(-probabilities[:, k], kind="stable")
        positive = order[truth[order, k]]
        if not len(positive):
            continue
        asked = -probabilities[positive, k]
        # As many of all rows, and of the positive ones, rank as high as each positive row or higher.
        among = _running(weight[order])[np.searchsorted(-probabilities[order, k], asked, side="right")]
        hits = _running(weight[positive])[np.searchsorted(asked, asked, side="right")]
        precision = np.divide(hits, among, out=np.zeros_like(hits), where=among > 0)
        total = weight[positive].sum(0)
        np.divide((weight[positive] * precision).sum(0), total, out=values[:, k], where=total > 0)
    return values


def weighted_padded(truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """As `weighted_average_precision` with the padding of `padded_cmap`, which is in every draw once."""
    ones = np.ones((PADDING, truth.shape[1]))
    return weighted_average_precision(np.concatenate([truth, ones.astype(bool)]),
                                      np.concatenate([probabilities, ones]),
                                      np.concatenate([weight, np.ones((PADDING, weight.shape[1]))]))


def weighted_label_ranking(truth: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`label_ranking_precision` under each column of row weights (R, D) -> (D,)."""
    return mean_of_rows(_row_precision(truth, probabilities), weight)


def _row_precision(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The label-ranking precision of each row, (R,)."""
    values = np.ones(len(truth))
    for row in np.flatnonzero(truth.any(1) & ~truth.all(1)):
        ranked = np.sort(-probabilities[row])
        heard = np.sort(-probabilities[row, truth[row]])
        values[row] = np.mean(np.searchsorted(heard, heard, side="right")
                              / np.searchsorted(ranked, heard, side="right"))
    return values


def _running(weight: np.ndarray) -> np.ndarray:
    """The sum of the first 0, 1, ... rows, (R + 1, D)."""
    running = np.zeros((len(weight) + 1, weight.shape[1]))
    np.cumsum(weight, axis=0, out=running[1:])
    return running
