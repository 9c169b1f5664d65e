"""What the windows before and after say of a window: a bird that sings goes on singing."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from birdkit.postprocess.base import checked_data, checked_probabilities, register, share_of


@register
def smooth(probabilities: np.ndarray, *, kernel: Sequence[float] = (0.1, 0.2, 0.4, 0.2, 0.1)) -> np.ndarray:
    """Each window as a weighted mean with its neighbours in time.

    (0.1, 0.2, 0.4, 0.2, 0.1) was worth +0.01 in 2024 (3rd place) and +0.005 to +0.01 in 2025, (0.2, 0.6, 0.2) the same
    in 2025 (9th place), both about nothing in 2026. At the edges the weights that are left are scaled to sum to one.

    kernel  odd number of weights >= 0, the middle one above 0; it need not sum to one. (1,) changes nothing

    >>> smooth(np.array([[1.0], [0.0], [0.0]]), kernel=(1, 2, 1)).round(2).ravel()
    array([0.67, 0.25, 0.  ])
    """
    values, weights = checked_probabilities(probabilities), np.asarray(kernel, dtype=float)
    if weights.ndim != 1 or len(weights) % 2 == 0 or not (weights >= 0).all() or not weights[len(weights) // 2] > 0:
        raise ValueError(f"kernel = {tuple(kernel)} must be an odd number of weights >= 0 with a middle one above 0")
    reach, n = len(weights) // 2, len(values)
    shift = np.arange(n)[None, :] - np.arange(n)[:, None]  # (windows, windows): how far each window is from each
    mix = np.where(abs(shift) <= reach, weights[np.clip(shift + reach, 0, 2 * reach)], 0.0)
    # The clip takes off what rounding may add to a sum of certain windows.
    return np.clip((mix / mix.sum(1, keepdims=True)) @ values, 0.0, 1.0)


@register
def smooth_by_group(probabilities: np.ndarray, *, classes: Sequence[str],
                    groups: str | Mapping[str, str] = "class_name",
                    kernels: Mapping[str, Sequence[float]] | None = None,
                    kernel: Sequence[float] = (0.2, 0.6, 0.2)) -> np.ndarray:
    """`smooth` with a kernel of its own for each group of classes: insects and frogs go on longer than birds.

    The BirdCLEF 2026 first place had thirds for Amphibia and Insecta, the default here, and (0.2, 0.6, 0.2) for the
    rest.

    groups   group of each class by its name, or the column of the competition's class table that says it
    kernels  by group; None for the first place's
    kernel   of all other groups, and of classes without one

    >>> probabilities = np.array([[1.0, 1.0], [0.0, 0.0]])
    >>> smooth_by_group(probabilities, classes=["owl", "frog"], groups={"frog": "Amphibia"}).round(2)
    array([[0.75, 0.5 ],
           [0.25, 0.5 ]])
    """
    group = checked_data("groups", groups)
    chosen = dict.fromkeys(("Amphibia", "Insecta"), (1 / 3, 1 / 3, 1 / 3)) if kernels is None else kernels
    values = smooth(probabilities, kernel=kernel)
    for name, own in chosen.items():
        columns = [index for index, one in enumerate(classes) if group.get(one) == name]
        values[:, columns] = smooth(np.asarray(probabilities)[:, columns], kernel=own)
    return values


@register
def delta_shift(probabilities: np.ndarray, *, alpha: float = 0.15, adaptive: bool = False) -> np.ndarray:
    """Each window moved by `alpha` towards the mean of the one before and the one after; the ends are their own.

    0.15 is (0.075, 0.85, 0.075) of the BirdCLEF 2026 second place: +0.003 to +0.007 on its validation, nothing on the
    leaderboard. `adaptive` is the third place's of that year with alpha = 0.2.

    alpha     in [0, 1]; 0 changes nothing
    adaptive  True moves a window by alpha * (1 - p), p its most probable class: what is sure stays

    >>> delta_shift(np.array([[1.0], [0.0], [0.0]]), alpha=0.5).ravel()
    array([0.75, 0.25, 0.  ])
    """
    values = checked_probabilities(probabilities)
    share_of("alpha", alpha)
    padded = np.concatenate([values[:1], values, values[-1:]])
    beside = (padded[:-2] + padded[2:]) / 2
    step = alpha * (1 - values.max(1, keepdims=True)) if adaptive and values.shape[1] else alpha
    return (1 - step) * values + step * beside
