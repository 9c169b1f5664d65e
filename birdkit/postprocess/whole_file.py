"""What a whole soundscape says of its windows: an animal heard clearly once is likelier in the rest of the minute."""
from __future__ import annotations

import numpy as np

from birdkit.postprocess.base import checked_probabilities, register, share_of


@register
def scale_by_file_top(probabilities: np.ndarray, *, k: int = 1, power: float = 1.0) -> np.ndarray:
    """Each window times the mean of the class's `k` highest windows of the file, raised to `power`.

    A class heard clearly somewhere in a minute is likelier in the rest of it; one that is nowhere clear is likely a
    mistake. k = 1 (2025 second place, +0.005 to +0.01), k = 2 (2026 second place, +0.018 to +0.027), k = 1 with power
    0.4 (2026 second place, +0.002 to +0.017), k = 2 with power 0.4 (2026 third place). Power 0 changes nothing.
    The order of windows within a file and class never changes, only how files compare.

    >>> scale_by_file_top(np.array([[0.8, 0.1], [0.4, 0.1]]))
    array([[0.64, 0.01],
           [0.32, 0.01]])
    """
    values = checked_probabilities(probabilities)
    if k < 1 or power < 0:
        raise ValueError(f"k = {k} must be at least 1 and power = {power} at least 0")
    top = np.sort(values, axis=0)[-k:].mean(axis=0)  # (classes,); a file shorter than k windows gives all it has
    return values * top**power


@register
def pull_to_file_max(probabilities: np.ndarray, *, alpha: float = 0.2) -> np.ndarray:
    """Each window moved by `alpha` of the way to the class's highest window of the file (2026 first place, 0.2).

    alpha  in [0, 1]; 0 changes nothing

    >>> pull_to_file_max(np.array([[0.9], [0.4]])).round(2).ravel()
    array([0.9, 0.5])
    """
    values = checked_probabilities(probabilities)
    share_of("alpha", alpha)
    return np.clip((1 - alpha) * values + alpha * values.max(axis=0), 0.0, 1.0)


@register
def add_file_mean(probabilities: np.ndarray, *, weight: float = 0.2) -> np.ndarray:
    """Each window plus `weight` times the class's mean over the file, scaled back to at most 1.

    0.2 beside smoothing was worth +0.014 to +0.016 to the BirdCLEF 2024 sixth place.

    weight  at least 0, which changes nothing

    >>> add_file_mean(np.array([[0.9], [0.3]]), weight=1.0).ravel()
    array([0.75, 0.45])
    """
    values = checked_probabilities(probabilities)
    if not weight >= 0:
        raise ValueError(f"weight = {weight} must be at least 0")
    return np.clip((values + weight * values.mean(axis=0)) / (1 + weight), 0.0, 1.0)


@register
def power_of_low_ranked(probabilities: np.ndarray, *, n_top: int = 30, power: float = 2.0) -> np.ndarray:
    """Probabilities raised to `power` in all classes but the file's `n_top` with the highest peak.

    From the 2025 fifth place, who left it out of their final submission as likely to over-fit the public score.
    Classes whose peaks are equal keep their order of columns. Power 1 changes nothing.

    >>> power_of_low_ranked(np.array([[0.9, 0.5]]), n_top=1)
    array([[0.9 , 0.25]])
    """
    values = checked_probabilities(probabilities)
    if n_top < 0 or power <= 0:
        raise ValueError(f"n_top = {n_top} must be at least 0 and power = {power} above 0")
    low = np.argsort(-values.max(axis=0), kind="stable")[n_top:]
    values[:, low] **= power
    return values
