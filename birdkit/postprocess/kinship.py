"""What one class says of another, and how common each is."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from birdkit.postprocess.base import SILENCED, checked_data, checked_probabilities, register, share_of


@register
def smooth_relatives(probabilities: np.ndarray, *, classes: Sequence[str], groups: str | Mapping[str, str] = "genus",
                     weight: float = 0.15) -> np.ndarray:
    """Each class moved by `weight` towards the mean of its group in the same window: relatives sound alike.

    The BirdCLEF 2026 first place had 0.15 within a genus and 0.05 within a class of animals (groups = "class_name").

    groups  group of each class by its name, or the column of the competition's class table that says it; "genus" is the
            first word of "scientific_name". A class without a group or alone in its own stays as it is
    weight  in [0, 1]; 0 changes nothing

    >>> smooth_relatives(np.array([[0.8, 0.2, 0.5]]), classes=["a", "b", "c"], groups={"a": "Strix", "b": "Strix"},
    ...                  weight=0.5)
    array([[0.65, 0.35, 0.5 ]])
    """
    values = checked_probabilities(probabilities)
    share_of("weight", weight)
    group = checked_data("groups", groups)
    for name in {group[one] for one in classes if one in group}:
        columns = [index for index, one in enumerate(classes) if group.get(one) == name]
        if len(columns) > 1:
            own = values[:, columns]
            values[:, columns] = (1 - weight) * own + weight * own.mean(1, keepdims=True)
    return np.clip(values, 0.0, 1.0)


@register
def frequency_penalty(probabilities: np.ndarray, *, classes: Sequence[str],
                      counts: str | Mapping[str, float] = "recordings", weight: float = 0.4) -> np.ndarray:
    """p - weight * share, the share being that of the class among the recordings: common classes are said too often.

    The first seed (BirdCLEF 2022, 18th place) subtracted 0.4 times the share of each scored bird among the recordings
    of scored birds, before a threshold common to all classes; its author doubted that it helped on the private score.
    Within a class nothing changes its order, so a metric that ranks each class by itself cannot see it. Where the
    penalty is larger than the probability a thousandth of that is left, which keeps that order, too.

    counts  number of recordings of each class by its name, or "recordings": the primary labels of the competition's
            table, of its scored classes where not all are
    weight  at least 0, which changes nothing

    >>> frequency_penalty(np.array([[0.5, 0.5]]), classes=["crow", "owl"], counts={"crow": 3, "owl": 1}).round(2)
    array([[0.2, 0.4]])
    """
    values = checked_probabilities(probabilities)
    if not weight >= 0:
        raise ValueError(f"weight = {weight} must be at least 0")
    known = checked_data("counts", counts)
    total = sum(known.values())
    if min(known.values(), default=0) < 0 or not total > 0:
        raise ValueError(f"counts of {len(known)} classes must be at least 0, and not all 0")
    share = np.array([known.get(name, 0) / total for name in classes])
    return np.maximum(values - weight * share, SILENCED * values)
