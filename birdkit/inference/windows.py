"""Which clips are cut from a soundscape, and what share of their segments lies in each window. No torch, no audio.

Everything is counted in samples, so that a grid of clips and a grid of windows that should coincide do so exactly.
"""
from __future__ import annotations

import numpy as np


def n_windows(n_samples: int, window_samples: float, *, least_samples: float = 0,
              stride_samples: float | None = None) -> int:
    """How many windows a soundscape has, at least one: up to the first that reaches its end, which may be partial.

    least_samples   a rest up to this gets no window: a decoder may give a few samples more than a minute holds
    stride_samples  from the start of one window to the next; None for windows that follow each other. A longer one
                    leaves gaps, and then all windows count that begin inside

    >>> n_windows(600, 50), n_windows(601, 50), n_windows(601, 50, least_samples=2), n_windows(7, 50)
    (12, 13, 12, 1)
    >>> n_windows(600, 50, stride_samples=25), n_windows(601, 50, stride_samples=25)
    (23, 24)
    >>> n_windows(600, 50, stride_samples=100)
    6
    """
    stride = window_samples if stride_samples is None else stride_samples
    if n_samples < 1 or window_samples <= 0 or stride <= 0:
        raise ValueError(f"{n_samples} samples cannot be divided into windows of {window_samples} samples every "
                         f"{stride} samples")
    overlap = max(window_samples - stride, 0)
    return max(1, int(np.ceil((n_samples - least_samples - overlap) / stride)))


def window_bounds(n_samples: int, window_samples: float, n: int, *, stride_samples: float | None = None) -> np.ndarray:
    """First and last sample of `n` windows, (n, 2) float64; none ends after the soundscape. Strides as in `n_windows`.

    >>> window_bounds(70, 50, 2)
    array([[ 0., 50.],
           [50., 70.]])
    >>> window_bounds(70, 50, 2, stride_samples=25)
    array([[ 0., 50.],
           [25., 70.]])
    """
    if stride_samples is None or stride_samples == window_samples:
        edges = np.arange(n + 1) * float(window_samples)  # the end of one is the start of the next to the last bit
        starts, ends = edges[:-1], edges[1:]
    else:
        starts = np.arange(n) * float(stride_samples)
        ends = starts + window_samples
    return np.stack([starts, np.minimum(ends, n_samples)], axis=1)


def clip_starts(n_samples: int, clip_samples: int, step_samples: int, *, least_samples: float = 0) -> np.ndarray:
    """First sample of each clip of a soundscape, ascending: every `step_samples`, and a last clip that ends with it.

    The last clip is shifted back instead of padded: it then holds real context, and no audio is invented. A soundscape
    shorter than a clip has one clip that starts at 0 (and is filled by repetition, which no window counts).

    step_samples   1 .. clip_samples; a longer step would leave audio that no clip hears
    least_samples  a rest shorter than this gets no clip of its own

    >>> clip_starts(600, 120, 120), clip_starts(610, 120, 120), clip_starts(130, 120, 60), clip_starts(7, 120, 120)
    (array([  0, 120, 240, 360, 480]), array([  0, 120, 240, 360, 480, 490]), array([ 0, 10]), array([0]))
    """
    if not 1 <= step_samples <= clip_samples:
        raise ValueError(f"the step from clip to clip, {step_samples} samples, must be between 1 and the clip's "
                         f"{clip_samples}, or some audio would be heard by no clip")
    last = max(0, n_samples - clip_samples)
    starts = np.arange(0, last + 1, step_samples)
    rest = last - starts[-1]
    return np.append(starts, last) if rest > 0 and rest >= least_samples else starts


def shifted_starts(n_samples: int, clip_samples: int, step_samples: int, shift_samples: int) -> np.ndarray:
    """First sample of each clip of a further grid, moved by a shift: as many as fit whole, none invented.

    >>> shifted_starts(600, 120, 120, 60), shifted_starts(130, 120, 120, 60)
    (array([ 60, 180, 300, 420]), array([], dtype=int64))
    """
    return np.arange(shift_samples, n_samples - clip_samples + 1, step_samples)


def covering(starts: np.ndarray, clip_samples: int) -> np.ndarray:
    """Which of these clips suffice to hear what all of them hear: bool for each, the fewest, from the front.

    starts  ascending, no further apart than a clip is long

    >>> covering(np.array([0, 60, 120, 180, 190]), 120)
    array([ True, False,  True, False,  True])
    """
    kept = np.zeros(len(starts), bool)
    at = 0
    kept[0] = True
    while at < len(starts) - 1:
        at = int(np.searchsorted(starts, starts[at] + clip_samples, side="right")) - 1
        kept[at] = True
    return kept


def window_coverage(bounds: np.ndarray, starts: np.ndarray, clip_samples: int, n_segments: int, *,
                    axis: str = "time") -> np.ndarray:
    """Share of each segment that lies inside each window, (W, clips * S) float32 in [0, 1].

    bounds  (W, 2) first and last sample of each window; audio outside all of them counts nowhere
    starts  first sample of each clip
    axis    "time": the S segments of a clip follow each other; "frequency": each of them lasts the whole clip

    >>> window_coverage(np.array([[0, 5], [5, 10]]), np.array([0]), 8, 2)
    array([[1.  , 0.25],
           [0.  , 0.75]], dtype=float32)
    """
    parts = n_segments if axis == "time" else 1
    edges = starts[:, None] + clip_samples * np.arange(parts + 1) / parts  # (clips, parts + 1)
    first, last = edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)
    overlap = np.minimum(bounds[:, 1:], last) - np.maximum(bounds[:, :1], first)  # (W, clips * parts)
    share = np.round(np.clip(overlap / (clip_samples / parts), 0, 1), 9)  # a whole segment is 1 and not 1 - 1e-16
    return np.repeat(share, n_segments // parts, axis=1).astype(np.float32)
