"""What a metric is given, checked; and how it averages over what it cannot score."""
from __future__ import annotations

import numpy as np


def checked(truth: np.ndarray, values: np.ndarray, *, decisions: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Both tables as arrays (R, K), the truth bool, or ValueError saying what is wrong with them.

    decisions  True asks for values of 0 and 1, and gives bool
    """
    said = "decisions" if decisions else "probabilities"
    truth, values = np.asarray(truth), np.asarray(values)
    if truth.ndim != 2 or truth.shape != values.shape or not truth.size:
        raise ValueError(f"truth {truth.shape} and {said} {values.shape} must be equal (rows, classes)")
    for name, table in (("truth", truth), (said, values)):
        if table.dtype.kind not in "biuf":
            raise ValueError(f"{name} must be numbers, not {table.dtype}")
        bad = ~np.isfinite(table)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(f"{name} hold {int(bad.sum())} numbers that are not finite, "
                             f"the first {table[row, column]} in row {row}, column {column}")
    for name, table in (("truth", truth), *(((said, values),) if decisions else ())):
        other = (table != 0) & (table != 1)
        if other.any():
            row, column = np.argwhere(other)[0]
            raise ValueError(f"{name} must be 0 or 1, not {table[row, column]} in row {row}, column {column}")
    return truth.astype(bool), values.astype(bool) if decisions else values


def nan_mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not NaN; NaN where nothing is left."""
    known = np.isfinite(values)
    mean = np.full(values.shape[:-1], np.nan)
    return np.divide(np.where(known, values, 0).sum(-1), known.sum(-1), out=mean, where=known.any(-1))


def mean_of_scored(values: np.ndarray) -> float:
    """The mean over the classes that are not NaN; ValueError where there is none."""
    if not np.isfinite(values).any():
        raise ValueError(f"none of {len(values)} classes has both a positive and a negative row: nothing to score")
    return float(np.nanmean(values))


def mean_of_rows(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The mean of the rows' values (R,) under each column of row weights (R, D) -> (D,)."""
    return (values @ weight) / weight.sum(0)
