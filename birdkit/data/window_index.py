"""Windows of files, found by file and time. No torch, no audio."""
from __future__ import annotations

import numpy as np

TOUCHING_S = 1e-6  # what two spans may share by rounding alone


class WindowIndex:
    """The rows of a table of windows, by what they cover.

    file     (R,) names
    start_s  (R,) where in its file each window begins
    end_s    (R,) and ends

    >>> index = WindowIndex(np.array(["a", "a", "b"]), np.array([5.0, 0.0, 0.0]), np.array([10.0, 5.0, 5.0]))
    >>> index.overlapping("a", 4.0, 9.0)
    (array([1, 0]), array([1., 4.]))
    >>> index.begins("a"), index.begins("c")
    (array([0., 5.]), array([], dtype=float64))
    """

    def __init__(self, file: np.ndarray, start_s: np.ndarray, end_s: np.ndarray) -> None:
        self.start_s, self.end_s = np.asarray(start_s, float), np.asarray(end_s, float)
        names, inverse = np.unique(np.asarray(file, str), return_inverse=True)
        order = np.lexsort((self.start_s, inverse))
        edges = np.searchsorted(inverse[order], np.arange(len(names) + 1))
        self._rows = {str(name): order[edges[k]:edges[k + 1]] for k, name in enumerate(names)}

    def __contains__(self, file: str) -> bool:
        return file in self._rows

    def begins(self, file: str) -> np.ndarray:
        """Seconds at which windows of a file begin, ascending; none of a file without windows."""
        return self.start_s[self._rows[file]] if file in self._rows else np.empty(0)

    def overlapping(self, file: str, start_s: float, end_s: float) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a file's windows that share time with a span, in order, and how many seconds they share."""
        if file not in self._rows:
            return np.empty(0, int), np.empty(0)
        rows = self._rows[file]
        shared_s = np.minimum(self.end_s[rows], end_s) - np.maximum(self.start_s[rows], start_s)
        inside = shared_s > TOUCHING_S
        return rows[inside], shared_s[inside]
