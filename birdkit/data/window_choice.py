"""Which pseudo-labelled windows training draws, and how often: the settings of PseudoConfig that choose rows."""
from __future__ import annotations

import numpy as np
import pandas as pd

from birdkit.config import PseudoConfig
from birdkit.data.tables import DataError


def loud_enough(probability: np.ndarray, config: PseudoConfig) -> np.ndarray:
    """Which windows reach `least_peak`, (R,) bool; DataError where none of them does."""
    peak = probability.max(1, initial=0)
    loud = peak >= config.least_peak
    if len(peak) and not loud.any():
        raise DataError(f"pseudo.least_peak = {config.least_peak:g} leaves none of {len(peak)} windows: the largest "
                        f"probability is {peak.max():.3g}")
    return loud


def choose_windows(probability: np.ndarray, labels: np.ndarray, used: np.ndarray, config: PseudoConfig) -> np.ndarray:
    """The rows that are drawn from, ascending: those used, with a label unless `keep_empty`, the rarest classes first.

    probability, labels  (R, K), as the teachers gave them and as `birdkit.data.window_labels.shape_labels` made them
    used                 (R,) bool

    Raises DataError where no row is left.
    """
    labelled = labels.max(1, initial=0) > 0
    rows = np.flatnonzero(used if config.keep_empty else used & labelled)
    if config.least_per_class or config.most_windows:
        rows = rows[_rarest_first(probability[rows], labels[rows] > 0, config.least_per_class, config.most_windows)]
    if not len(rows):
        raise DataError(f"the settings of pseudo choose none of {len(used)} windows, of which {int(used.sum())} reach "
                        f"least_peak and {int((used & labelled).sum())} of those have a label: {config}")
    return rows


def _rarest_first(probability: np.ndarray, heard: np.ndarray, per_class: int, most: int) -> np.ndarray:
    """Rows chosen class by class, ascending; see PseudoConfig. 0 for no limit of either kind.

    A window that was chosen for one class counts for all others it holds.
    """
    counts = heard.sum(0)
    chosen = np.zeros(len(heard), bool)
    most = most or len(heard)
    for k in np.argsort(counts, kind="stable"):
        rows = np.flatnonzero(heard[:, k] & ~chosen)
        wanted = len(rows) if not per_class else max(per_class - int((heard[:, k] & chosen).sum()), 0)
        surest = rows[np.argsort(-probability[rows, k], kind="stable")]
        chosen[surest[:min(wanted, most - int(chosen.sum()))]] = True
    return np.flatnonzero(chosen)


def window_odds(table: pd.DataFrame, labels: np.ndarray, rows: np.ndarray, config: PseudoConfig) -> np.ndarray:
    """How often each of the chosen rows is drawn, in proportion, (len(rows),).

    `sampler` "uniform": all alike. "sum": a file in proportion to the sum over classes of its largest label, and its
    chosen windows alike, so that soundscapes with many and sure voices are heard more often (2025 first place).

    table   with the column file
    labels  (R, K) of its windows

    Raises DataError where "sum" finds no label above 0.
    """
    odds = np.ones(len(rows))
    if config.sampler == "uniform":
        return odds
    of_row = np.full(len(table), -1)
    of_row[rows] = np.arange(len(rows))
    for members in table.groupby("file").indices.values():
        drawn = of_row[members][of_row[members] >= 0]
        if len(drawn):
            odds[drawn] = labels[members].max(0).sum() / len(drawn)
    if not odds.any():
        raise DataError(f"pseudo.sampler = 'sum' has nothing to draw: no label of {len(rows)} windows is above 0 with "
                        f"{config}")
    return odds
