"""What is done to the probabilities of one soundscape after the models: pure functions on (windows, classes) arrays.

Every function takes all windows of *one* soundscape in order of time and returns an array of the same shape, float64
in [0, 1]. A run config lists members by name and `apply` runs them in that order, the same in validation,
pseudo-labelling and submission. Nothing here looks across soundscapes, so a file's rows do not depend on which others
are predicted with it.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

GATES = ("none", "multiply", "threshold")  # see `gate`
SILENCED = 1e-3  # what "threshold" leaves of a probability


class NamedOptions(Protocol):
    """A function of this module with its options, as a run config holds it."""

    @property
    def name(self) -> str:
        """A key of POSTPROCESS."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Keyword arguments of the function."""


def smooth(probabilities: np.ndarray, *, kernel: Sequence[float] = (0.1, 0.2, 0.4, 0.2, 0.1)) -> np.ndarray:
    """Each window as a weighted mean with its neighbours in time: a bird that sings goes on singing.

    (0.1, 0.2, 0.4, 0.2, 0.1) was worth +0.01 in 2024 (3rd place) and +0.005 to +0.01 in 2025, about nothing in 2026,
    where (0.075, 0.85, 0.075) gained a little. At the edges the weights that are left are scaled to sum to one.

    kernel  odd number of weights >= 0, the middle one above 0; it need not sum to one

    >>> smooth(np.array([[1.0], [0.0], [0.0]]), kernel=(1, 2, 1)).round(2).ravel()
    array([0.67, 0.25, 0.  ])
    """
    values, weights = _checked_probabilities(probabilities), np.asarray(kernel, dtype=float)
    if weights.ndim != 1 or len(weights) % 2 == 0 or not (weights >= 0).all() or not weights[len(weights) // 2] > 0:
        raise ValueError(f"kernel = {tuple(kernel)} must be an odd number of weights >= 0 with a middle one above 0")
    reach, n = len(weights) // 2, len(values)
    shift = np.arange(n)[None, :] - np.arange(n)[:, None]  # (windows, windows): how far each window is from each
    mix = np.where(abs(shift) <= reach, weights[np.clip(shift + reach, 0, 2 * reach)], 0.0)
    # The clip takes off what rounding may add to a sum of certain windows.
    return np.clip((mix / mix.sum(1, keepdims=True)) @ values, 0.0, 1.0)


def scale_by_file_top(probabilities: np.ndarray, *, k: int = 1, power: float = 1.0) -> np.ndarray:
    """Each window times the mean of the class's `k` highest windows of the file, raised to `power`.

    A class heard clearly somewhere in a minute is likelier in the rest of it; one that is nowhere clear is likely a
    mistake. k = 1 (2025 second place), k = 2 (2026 second place, +0.018 to +0.027), power 0.4 (2026, +0.002 to +0.017).
    The order of windows within a file and class never changes, only how files compare.

    >>> scale_by_file_top(np.array([[0.8, 0.1], [0.4, 0.1]]))
    array([[0.64, 0.01],
           [0.32, 0.01]])
    """
    values = _checked_probabilities(probabilities)
    if k < 1 or power < 0:
        raise ValueError(f"k = {k} must be at least 1 and power = {power} at least 0")
    top = np.sort(values, axis=0)[-k:].mean(axis=0)  # (classes,); a file shorter than k windows gives all it has
    return values * top**power


def power_of_low_ranked(probabilities: np.ndarray, *, n_top: int = 30, power: float = 2.0) -> np.ndarray:
    """Probabilities raised to `power` in all classes but the file's `n_top` with the highest peak.

    From the 2025 fifth place, who left it out of their final submission as likely to over-fit the public score.
    Classes whose peaks are equal keep their order of columns.

    >>> power_of_low_ranked(np.array([[0.9, 0.5]]), n_top=1)
    array([[0.9 , 0.25]])
    """
    values = _checked_probabilities(probabilities)
    if n_top < 0 or power <= 0:
        raise ValueError(f"n_top = {n_top} must be at least 0 and power = {power} above 0")
    low = np.argsort(-values.max(axis=0), kind="stable")[n_top:]
    changed = values.copy()
    changed[:, low] **= power
    return changed


POSTPROCESS: dict[str, Callable[..., np.ndarray]] = {
    "smooth": smooth,
    "scale_by_file_top": scale_by_file_top,
    "power_of_low_ranked": power_of_low_ranked,
}


def apply(probabilities: np.ndarray, members: Sequence[NamedOptions]) -> np.ndarray:
    """The probabilities (windows, classes) of one soundscape after every member in turn; no member changes nothing.

    Raises KeyError for a name that POSTPROCESS does not hold, TypeError for an option that its function does not take,
    ValueError for an array that is not (windows, classes) of numbers in [0, 1].

    >>> from types import SimpleNamespace
    >>> apply(np.array([[0.8], [0.4]]), [SimpleNamespace(name="scale_by_file_top", options={"k": 2})]).round(2)
    array([[0.48],
           [0.24]])
    """
    values = _checked_probabilities(probabilities)
    for member in members:
        if member.name not in POSTPROCESS:
            raise KeyError(f"no post-processing named {member.name!r}; there is: {', '.join(sorted(POSTPROCESS))}")
        function = POSTPROCESS[member.name]
        known = list(inspect.signature(function).parameters)[1:]
        unknown = sorted(set(member.options) - set(known))
        if unknown:
            raise TypeError(f"post-processing {member.name!r} takes no {', '.join(unknown)}; it takes: "
                            f"{', '.join(known)}")
        values = function(values, **member.options)
    return values


def gate(probabilities: np.ndarray, calls: np.ndarray, *, how: str, threshold: float = 0.5) -> np.ndarray:
    """The probabilities of windows, given how likely it is that anything calls in each.

    "multiply"   p * p_call: a class cannot be likelier than that anything calls at all
    "threshold"  p where p_call reaches the threshold, and a thousandth of p elsewhere. That is far below a threshold
                 on presence, so a metric on decisions takes it for 0; but silenced windows keep their order among
                 each other, which a metric on ranks would lose in a tie at 0
    "none"       as they are

    calls      (windows,) probability of a call, in [0, 1]
    threshold  in [0, 1]

    Raises ValueError for another `how`, arrays that do not fit, and what is no probability.

    >>> gate(np.array([[0.8, 0.4], [0.6, 0.2]]), np.array([1.0, 0.5]), how="multiply")
    array([[0.8, 0.4],
           [0.3, 0.1]])
    """
    if how not in GATES:
        raise ValueError(f"how = {how!r}; it must be one of {', '.join(GATES)}")
    values = _checked_probabilities(probabilities)
    if np.shape(calls) != (len(values),) or not 0 <= threshold <= 1:
        raise ValueError(f"calls {np.shape(calls)} must be one for each of {len(values)} windows, and threshold = "
                         f"{threshold} in [0, 1]")
    share = _checked_probabilities(np.reshape(calls, (-1, 1)))  # (windows, 1)
    if how == "threshold":
        share = np.where(share >= threshold, 1.0, SILENCED)
    return values if how == "none" else values * share


def _checked_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """A float64 copy of (windows, classes) in [0, 1], or ValueError: no logit or NaN may pass for a probability."""
    values = np.array(probabilities, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"probabilities {values.shape} must be (windows, classes) with at least one window")
    bad = ~((values >= 0) & (values <= 1))
    if bad.any():
        window, column = np.argwhere(bad)[0]
        raise ValueError(f"{int(bad.sum())} probabilities are not in [0, 1], the first {values[window, column]} "
                         f"in window {window}, class {column}")
    return values
