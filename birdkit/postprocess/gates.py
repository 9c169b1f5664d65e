"""What a detector of calls says of all classes alike."""
from __future__ import annotations

import numpy as np

from birdkit.postprocess.base import SILENCED, checked_probabilities, share_of

GATES = ("none", "multiply", "threshold")  # see `gate`


def gate(probabilities: np.ndarray, calls: np.ndarray, *, how: str, threshold: float = 0.5) -> np.ndarray:
    """The probabilities of windows, given how likely it is that anything calls in each.

    "multiply"   p * p_call: a class cannot be likelier than that anything calls at all
    "threshold"  p where p_call reaches the threshold, and a thousandth of p elsewhere. That is far below a threshold
                 on presence, so a metric on decisions takes it for 0; but silenced windows keep their order among
                 each other, which a metric on ranks would lose in a tie at 0 (the 2021 first and second places had a
                 detector of calls before their networks of birds)
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
    values = checked_probabilities(probabilities)
    share_of("threshold", threshold)
    if np.shape(calls) != (len(values),):
        raise ValueError(f"calls {np.shape(calls)} must be one for each of {len(values)} windows")
    share = checked_probabilities(np.reshape(calls, (-1, 1)))  # (windows, 1)
    if how == "threshold":
        share = np.where(share >= threshold, 1.0, SILENCED)
    return values if how == "none" else values * share
