"""The metrics by name, as competitions' profiles, validations and commands name them."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from birdkit.metrics.decided import (
    balanced_accuracy,
    macro_f1,
    row_f1,
    weighted_balanced_accuracy,
    weighted_f1,
    weighted_row_f1,
)
from birdkit.metrics.ranking import (
    label_ranking_precision,
    macro_average_precision,
    macro_roc_auc,
    padded_cmap,
    weighted_average_precision,
    weighted_label_ranking,
    weighted_padded,
    weighted_roc_auc,
)
from birdkit.metrics.tables import nan_mean

Score = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Metric:
    """A metric, called with truth and values (R, K).

    score         what it says of two tables
    parts         the same under D columns of row weights (R, D): of each class (D, K), to be averaged over those that
                  can be scored, or of the whole (D,)
    on_decisions  True where the values are decisions, 0 or 1, and not probabilities
    """

    score: Score
    parts: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    on_decisions: bool = False

    def __call__(self, truth: np.ndarray, values: np.ndarray) -> float:
        """`score`."""
        return self.score(truth, values)

    def weighted(self, truth: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The metric under each column of row weights (R, D) -> (D,); NaN where there is nothing to score.

        truth  bool; values as birdkit.metrics.tables.checked gives them
        """
        parts = self.parts(truth, values, weight)
        return parts if parts.ndim == 1 else nan_mean(parts)


METRICS: dict[str, Metric] = {
    "macro_roc_auc": Metric(macro_roc_auc, weighted_roc_auc),
    "macro_average_precision": Metric(macro_average_precision, weighted_average_precision),
    "padded_cmap": Metric(padded_cmap, weighted_padded),
    "label_ranking_precision": Metric(label_ranking_precision, weighted_label_ranking),
    "row_f1": Metric(row_f1, weighted_row_f1, on_decisions=True),
    "balanced_accuracy": Metric(balanced_accuracy, weighted_balanced_accuracy, on_decisions=True),
    "macro_f1": Metric(macro_f1, weighted_f1, on_decisions=True),
}


def metric_of(name: str) -> Metric:
    """The metric of this name; KeyError lists those there are."""
    if name not in METRICS:
        raise KeyError(f"no metric named {name!r}; there is: {', '.join(sorted(METRICS))}")
    return METRICS[name]
