"""From probabilities to heard or not heard, for the years whose submissions hold no probabilities (2021 and 2022).

Everything here needs the whole table at once, unlike birdkit.postprocess: a threshold that is a quantile of all
probabilities does not care how a model is calibrated. Pure functions on (rows, classes) arrays; a run config names one.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from birdkit.postprocess.base import NamedOptions


def by_threshold(probabilities: np.ndarray, classes: Sequence[str], *, threshold: float = 0.5,
                 thresholds: Mapping[str, float] | None = None) -> np.ndarray:
    """Heard where the probability reaches a fixed threshold, or the class's own.

    The third place of 2022 had 0.05, and 0.35 for a species that was heard everywhere; the first seed's reproduction of
    2021 had 0.02.

    thresholds  by class name; `threshold` holds for all others

    >>> by_threshold(np.array([[0.3, 0.3]]), ["owl", "finch"], threshold=0.05, thresholds={"finch": 0.35})
    array([[ True, False]])
    """
    own = dict(thresholds or {})
    unknown = sorted(set(own) - set(classes))
    if unknown:
        raise ValueError(f"thresholds for what is no class: {', '.join(unknown)}")
    return probabilities >= np.array([own.get(name, threshold) for name in classes])


def by_quantile(probabilities: np.ndarray, classes: Sequence[str], *, q: float = 0.85,
                per: str = "table") -> np.ndarray:
    """Heard where the probability is above the quantile of all of them: the share 1 - q of all cells.

    0.85 over the 21 scored birds (first seed, 2022), which are 3 birds a row; about 0.9987 over 397 (second place of
    2021), half a bird a row; the others of 2022 had 0.75 to 0.91. Strictly increasing maps of all probabilities change
    nothing; cells that tie with the quantile are not heard.

    q    in [0, 1]
    per  "table": one quantile of everything. "class": of each class its own, so that every class is heard as often

    >>> by_quantile(np.array([[0.1, 0.2], [0.3, 0.4]]), ["owl", "frog"], q=0.5)
    array([[False, False],
           [ True,  True]])
    """
    if not 0 <= q <= 1 or per not in ("table", "class"):
        raise ValueError(f"q = {q} must be in [0, 1] and per = {per!r} must be table or class")
    # A number of the table, not one between two of them: so rounding cannot move a cell over it.
    return probabilities > np.quantile(probabilities, q, axis=None if per == "table" else 0, method="lower")


def by_labels_per_row(probabilities: np.ndarray, classes: Sequence[str], *, labels: float = 0.5) -> np.ndarray:
    """As `by_quantile` over the table, with the quantile that gives so many labels a row on average.

    It holds for any number of classes: 0.5 is what the second place of 2021 had among 397 birds.

    labels  at least 0; more than there are classes is all of them

    >>> by_labels_per_row(np.array([[0.1, 0.9], [0.3, 0.4]]), ["owl", "frog"], labels=0.5)
    array([[False,  True],
           [False, False]])
    """
    if labels < 0:
        raise ValueError(f"labels = {labels} must be at least 0")
    most = round(labels * len(probabilities))
    if most >= probabilities.size:
        return np.ones(probabilities.shape, bool)
    return probabilities > np.sort(probabilities, axis=None)[-most - 1]


DECISIONS: dict[str, Callable[..., np.ndarray]] = {
    "threshold": by_threshold,
    "quantile": by_quantile,
    "labels_per_row": by_labels_per_row,
}
_PENALTY = ("penalty", "shares")  # options of every one of them, see `decide`


def check_decision(how: NamedOptions) -> None:
    """Raise KeyError for a name that DECISIONS does not hold, TypeError for an option that it does not take."""
    if how.name not in DECISIONS:
        raise KeyError(f"no decision named {how.name!r}; there is: {', '.join(sorted(DECISIONS))}")
    known = [*list(inspect.signature(DECISIONS[how.name]).parameters)[2:], *_PENALTY]
    unknown = sorted(set(how.options) - set(known))
    if unknown:
        raise TypeError(f"decision {how.name!r} takes no {', '.join(unknown)}; it takes: {', '.join(known)}")


def decide(probabilities: np.ndarray, classes: Sequence[str], how: NamedOptions) -> np.ndarray:
    """Which classes are heard in which row, (R, K) bool, from probabilities (R, K) of a whole submission.

    Every decision takes two options besides its own. `penalty` times the class's share of the recordings is taken off
    its probabilities first (first seed, 2022: 0.4), since a model says what it was taught most; and `shares` by class
    name, which birdkit.recipes.for_competition fills in from the competition's files.

    Raises KeyError, TypeError or ValueError for a decision or options that are none, a penalty without the share of
    every class, and probabilities that are not (R, K) numbers for K classes.

    >>> from types import SimpleNamespace
    >>> how = SimpleNamespace(name="threshold", options={"penalty": 0.4, "shares": {"owl": 0.9, "frog": 0.1}})
    >>> decide(np.array([[0.8, 0.8]]), ["owl", "frog"], how)
    array([[False,  True]])
    """
    check_decision(how)
    values = np.asarray(probabilities, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(classes) or not np.isfinite(values).all():
        raise ValueError(f"probabilities {values.shape}, {int((~np.isfinite(values)).sum())} of them not finite, must "
                         f"be numbers in rows of {len(classes)} classes")
    options = {name: value for name, value in how.options.items() if name not in _PENALTY}
    penalty, shares = float(how.options.get("penalty", 0.0)), how.options.get("shares") or {}
    if penalty:
        without = [name for name in classes if name not in shares]
        if without:
            raise ValueError(f"penalty = {penalty} needs the share of every class; {len(without)} have none, the first "
                             f"{without[0]}: birdkit.recipes.for_competition reads them from the competition's files")
        values = values - penalty * np.array([shares[name] for name in classes])
    return DECISIONS[how.name](values, classes, **options) if values.size else np.zeros(values.shape, bool)
