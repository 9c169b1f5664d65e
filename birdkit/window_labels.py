"""From teachers' probabilities of windows to labels of clips, as the settings of DataConfig ask."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from birdkit.config import DataConfig
from birdkit.tables import DataError


def window_labels(table: pd.DataFrame, classes: Sequence[str], config: DataConfig) -> np.ndarray:
    """Labels of the windows of a pseudo-label table, its columns matched by name, (R, K) float32.

    The probabilities are raised to `pseudo_power`, and what is then below `pseudo_floor` becomes 0: a power above 1
    lowers the unsure ones (2025 first place, from the second round on). With `pseudo_hard` the teachers' probabilities
    themselves decide: from it on they become 1, below it 0.

    Raises DataError where a class has no column: missing means unknown, not absent.
    """
    missing = [name for name in classes if name not in table.columns]
    if missing:
        raise DataError(f"the pseudo-label table has no column for {', '.join(missing[:5])}")
    probability = table[list(classes)].to_numpy(np.float32)
    if config.pseudo_hard is not None:
        return (probability >= config.pseudo_hard).astype(np.float32)
    label = probability ** np.float32(config.pseudo_power)
    return np.where(label < config.pseudo_floor, np.float32(0), label)


def clip_labels(table: pd.DataFrame, labels: np.ndarray, clip_s: float) -> np.ndarray:
    """Labels of the clips that begin where a window begins: the maximum over the windows that start inside, (R, K).

    table  sorted by file and start_s. A window that is not in it, since its probabilities were too low to be written,
           adds nothing
    """
    start_s, found = table["start_s"].to_numpy(float), np.empty_like(labels)
    for rows in table.groupby("file").indices.values():  # consecutive, since the table is sorted
        stops = rows[0] + np.searchsorted(start_s[rows], start_s[rows] + clip_s - 1e-6)
        for row, stop in zip(rows, stops, strict=True):
            found[row] = labels[row:stop].max(0)
    return found


def window_odds(table: pd.DataFrame, labels: np.ndarray, config: DataConfig) -> np.ndarray:
    """How often a window is drawn, in proportion, (R,).

    `pseudo_sampler` "uniform": all alike. "sum": a file in proportion to the sum over classes of its largest label,
    and its windows alike, so that soundscapes with many and sure voices are heard more often (2025 first place).

    Raises DataError where "sum" finds no label above 0.
    """
    odds = np.ones(len(table))
    if config.pseudo_sampler == "uniform":
        return odds
    for rows in table.groupby("file").indices.values():
        odds[rows] = labels[rows].max(0).sum() / len(rows)
    if not odds.any():
        raise DataError(f"pseudo_sampler = 'sum' has nothing to draw: no label of {len(table)} windows is above 0 with "
                        f"pseudo_power = {config.pseudo_power:g}, pseudo_floor = {config.pseudo_floor:g}, pseudo_hard "
                        f"= {config.pseudo_hard}")
    return odds
