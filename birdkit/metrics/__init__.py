"""The hosts' metrics, per class and with confidence intervals. For scoring only: nothing here chooses a threshold.

hosts       each year's metric, by name
ranking     ROC-AUC, average precision and padded cmAP
decided     F1 and balanced accuracy of what is heard or not
bootstrap   confidence intervals, and those of differences
comparison  which of several runs is better, and whether that can be known
tables      checks and means that the others share
"""
from birdkit.metrics.bootstrap import (
    Interval,
    bootstrap_difference,
    bootstrap_draws,
    bootstrap_interval,
    percentile_interval,
)
from birdkit.metrics.decided import balanced_accuracy, macro_f1, per_class_balanced_accuracy, row_f1
from birdkit.metrics.hosts import METRICS, Metric, metric_of
from birdkit.metrics.ranking import (
    label_ranking_precision,
    macro_average_precision,
    macro_roc_auc,
    padded_cmap,
    per_class_average_precision,
    per_class_roc_auc,
)

__all__ = ["METRICS", "Interval", "Metric", "balanced_accuracy", "bootstrap_difference", "bootstrap_draws",
           "bootstrap_interval", "label_ranking_precision", "macro_average_precision", "macro_f1", "macro_roc_auc",
           "metric_of", "padded_cmap", "per_class_average_precision", "per_class_balanced_accuracy",
           "per_class_roc_auc", "percentile_interval", "row_f1"]
