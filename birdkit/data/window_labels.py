"""From teachers' probabilities of windows to labels of clips: the settings of PseudoConfig, in its order.

What is drawn from a table, and how often, is `birdkit.data.window_choice`.
"""
from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from birdkit.config import PseudoConfig
from birdkit.data.tables import DataError

log = logging.getLogger(__name__)


def read_probabilities(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """The probabilities of a pseudo-label table, its columns matched by name, (R, K) float32.

    Raises DataError where a class has no column: missing means unknown, not absent.
    """
    missing = [name for name in classes if name not in table.columns]
    if missing:
        raise DataError(f"the pseudo-label table has no column for {', '.join(missing[:5])}")
    return table[list(classes)].to_numpy(np.float32)


def label_lines(probability: np.ndarray, classes: Sequence[str], config: PseudoConfig) -> np.ndarray:
    """From which probability on a class is a label, (K,) float32: the highest of the lines that the config draws.

    probability  (R, K) of the windows that are used

    A class in `thresholds` that is not one of the classes is logged, since thresholds are of one competition.

    >>> label_lines(np.float32([[.9, .2], [.8, .1], [.7, .0]]), ["owl", "frog"], PseudoConfig(most_per_class=2))
    array([0.8, 0.5], dtype=float32)
    """
    strange = sorted(set(config.thresholds) - set(classes))
    if strange:
        log.warning("pseudo.thresholds of %s: not one of the %d classes", ", ".join(strange[:5]), len(classes))
    lines = [np.array([config.thresholds.get(name, config.threshold) for name in classes], np.float32)]
    n = len(probability)
    if config.quantile and n:
        lines.append(np.quantile(probability, config.quantile, axis=0).astype(np.float32))
    if config.most_per_class:
        last = n - config.most_per_class
        kth = np.partition(probability, last, axis=0)[last] if last >= 0 else np.zeros(len(classes), np.float32)
        lines.append(np.maximum(kth, np.float32(config.most_floor)))
    return np.max(lines, axis=0)


def shape_labels(probability: np.ndarray, lines: np.ndarray, config: PseudoConfig) -> np.ndarray:
    """Labels of windows, (R, K) float32: what reaches its class's line, made hard, or raised to a power and floored.

    >>> probability, none = np.float32([[.9, .6, .1]]), np.zeros(3, np.float32)
    >>> shape_labels(probability, none, PseudoConfig(power=2.0, floor=.1)).round(2)
    array([[0.81, 0.36, 0.  ]], dtype=float32)
    >>> shape_labels(probability, np.float32([0, .7, 0]), PseudoConfig(hard=.5))
    array([[1., 0., 0.]], dtype=float32)
    """
    heard = probability >= lines
    if config.hard is not None:
        return (heard & (probability >= config.hard)).astype(np.float32)
    label = probability ** np.float32(config.power)
    return np.where(heard & (label >= config.floor), label, np.float32(0))


def clip_labels(table: pd.DataFrame, labels: np.ndarray, clip_s: float) -> np.ndarray:
    """Labels of the clips that begin where a window begins, (R, K): the maximum over that window and those after it.

    Where windows overlap, only those count that follow on each other from the clip's start: a window half of which
    lies beyond the clip says nothing of it. The last one that begins inside the clip counts whole.

    table  columns file, start_s, end_s; sorted by file and start_s. A window that is not in it, since its probabilities
           were too low to be written, adds nothing

    >>> half_overlapping = pd.DataFrame({"file": "s", "start_s": [0, 2.5, 5], "end_s": [5, 7.5, 10]})
    >>> clip_labels(half_overlapping, np.array([[.1], [.9], [.4]]), 10).ravel()
    array([0.4, 0.9, 0.4])
    """
    start_s, end_s = table["start_s"].to_numpy(float), table["end_s"].to_numpy(float)
    found = labels.copy()
    for rows in table.groupby("file").indices.values():  # consecutive, since the table is sorted
        following = np.searchsorted(start_s[rows], end_s[rows] - 1e-6)
        place = following
        while len(inside := np.flatnonzero(np.append(start_s[rows], np.inf)[place] < start_s[rows] + clip_s - 1e-6)):
            found[rows[inside]] = np.maximum(found[rows[inside]], labels[rows[place[inside]]])
            place = np.append(following, len(rows))[place]
    return found


def capped(labels: np.ndarray, label_sum: float) -> np.ndarray:
    """Labels (R, K) of which no row sums to more than `label_sum`, rows above it scaled down; 0 for no cap.

    >>> capped(np.float32([[1, 1, 1], [.5, 0, 0]]), .75)
    array([[0.25, 0.25, 0.25],
           [0.5 , 0.  , 0.  ]], dtype=float32)
    """
    if not label_sum:
        return labels
    total = labels.sum(1, keepdims=True)
    return labels * np.where(total > label_sum, label_sum / np.maximum(total, 1e-12), 1).astype(np.float32)
