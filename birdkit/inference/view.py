"""Which clips of a soundscape a network is shown, and where in time their segments lie. No network, no torch."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from birdkit.config import FrontEndConfig, RunConfig
from birdkit.inference.soundscapes import Soundscape
from birdkit.inference.windows import clip_starts, covering, shifted_starts, window_coverage

LEAST_WINDOW_S = 0.1  # a rest of the file up to this is no window of its own, and below half of it no clip


@dataclass(frozen=True)
class View:
    """What predictors must have in common to share their images: front end, which clips, device.

    step_s     from clip to clip
    shifts_s   of further grids of clips
    context_s  with which each clip shows its audio twice, None where clips are contiguous audio

    Raises ValueError where clips would leave audio that none of them hears, or the numbers fit no samples.
    """

    frontend: FrontEndConfig
    step_s: float
    device: str
    shifts_s: tuple[float, ...] = ()
    context_s: float | None = None

    def __post_init__(self) -> None:
        clip_s, step_s = self.frontend.clip_s, self.step_s
        longest_s = clip_s if self.context_s is None else clip_s / 2
        if not 0 < step_s <= longest_s:
            raise ValueError(f"clip_step_s = {step_s} must be above 0 and at most {longest_s}, of clip_s = {clip_s}")
        wrong = [shift for shift in self.shifts_s if not 0 < shift < step_s]
        if wrong:
            raise ValueError(f"clip_shifts_s = {self.shifts_s}: {wrong} must be above 0 and below the step, {step_s} s")
        if self.context_s is not None and self.frontend.n_samples % 2:
            raise ValueError(f"doubled_context: a clip of {self.frontend.n_samples} samples has no halves")

    @classmethod
    def of(cls, config: RunConfig, device: str) -> View:
        """The clips that a run config asks for; with a doubled context the half clip's rest is the context."""
        asked, clip_s = config.inference, config.frontend.clip_s
        step_s = clip_s if asked.clip_step_s is None else asked.clip_step_s
        return cls(config.frontend, step_s, device, tuple(asked.clip_shifts_s),
                   clip_s / 2 - step_s if asked.doubled_context else None)

    @property
    def own_samples(self) -> int:
        """Samples of a soundscape that a clip is about: all of its own, or those that it shows twice."""
        return self.frontend.n_samples if self.context_s is None else round(self.step_s * self.frontend.sample_rate_hz)

    @property
    def context_samples(self) -> int:
        """Samples before them that it shows, too."""
        return round((self.context_s or 0) * self.frontend.sample_rate_hz)

    def starts(self, n_samples: int) -> np.ndarray:
        """First sample of what each clip of a soundscape of this length is about, ascending."""
        rate_hz = self.frontend.sample_rate_hz
        step = round(self.step_s * rate_hz)
        grids = [self._grid(n_samples), *(shifted_starts(n_samples, self.own_samples, step, round(shift_s * rate_hz))
                                          for shift_s in self.shifts_s)]
        return np.unique(np.concatenate(grids))

    def is_needed(self, n_samples: int) -> np.ndarray:
        """Which of `starts` suffice to hear everything once: the others are test-time augmentation."""
        grid = self._grid(n_samples)
        return np.isin(self.starts(n_samples), grid[covering(grid, self.own_samples)])

    def clips(self, soundscape: Soundscape, starts: np.ndarray) -> np.ndarray:
        """The audio of these clips, (len(starts), N)."""
        config = self.frontend
        if self.context_s is None:
            return soundscape.clips(config.sample_rate_hz, starts, config.n_samples)
        return soundscape.doubled(config.sample_rate_hz, starts, config.n_samples, self.context_samples)

    def coverage(self, bounds: np.ndarray, starts: np.ndarray, n_segments: int, axis: str) -> np.ndarray:
        """Share of each segment of these clips that lies inside each window, see
        birdkit.inference.windows.window_coverage."""
        if self.context_s is None or axis != "time":
            return window_coverage(bounds, starts, self.own_samples, n_segments, axis=axis)
        halves = [window_coverage(bounds, starts - before, self.frontend.n_samples // 2, n_segments // 2)
                  for before in (self.context_samples, 0)]
        by_clip = [half.reshape(len(bounds), len(starts), -1) for half in halves]
        return np.concatenate(by_clip, 2).reshape(len(bounds), -1)

    def _grid(self, n_samples: int) -> np.ndarray:
        rate_hz = self.frontend.sample_rate_hz
        return clip_starts(n_samples, self.own_samples, round(self.step_s * rate_hz),
                           least_samples=LEAST_WINDOW_S / 2 * rate_hz)
