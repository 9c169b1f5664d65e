"""Time and threads of a prediction: how many models the time that is left affords, and one thread for small work."""
from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

log = logging.getLogger(__name__)


class Clock(Protocol):
    """Something that knows how long there is, such as birdkit.kaggle.Deadline."""

    def remaining(self) -> float:
        """Seconds left, negative when time is up."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread of the CPU: on matrices this small, waiting for a second costs a thousandfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Pace:
    """How many predictors the time that is left affords, from the time that soundscapes have taken so far."""

    def __init__(self, n_soundscapes: int, n_predictors: int, least: int, deadline: Clock | None) -> None:
        self.n_left = n_soundscapes
        self.n_used = n_predictors
        self.least = least
        self.deadline = deadline
        self.network_s = np.zeros(n_predictors)  # spent so far, per predictor
        self.n_timed = np.zeros(n_predictors)
        self.n_done = 0
        self.begin_s = time.monotonic()

    def is_over(self) -> bool:
        """True from the deadline on."""
        return self.deadline is not None and self.deadline.remaining() <= 0

    @contextlib.contextmanager
    def timing(self, predictor: int) -> Iterator[None]:
        """Count what happens inside as time of this predictor's network."""
        begin_s = time.monotonic()
        yield
        self.network_s[predictor] += time.monotonic() - begin_s

    def soundscape_done(self) -> None:
        """One soundscape fewer to come."""
        self.n_done += 1
        self.n_left -= 1
        self.n_timed[:self.n_used] += 1

    def affordable(self) -> int:
        """The largest number of predictors, from the front of the list, that the soundscapes left have time for."""
        if self.deadline is None or not self.n_done or self.n_left <= 0:
            return self.n_used
        each_s = self.network_s / np.maximum(self.n_timed, 1)
        other_s = max(0.0, time.monotonic() - self.begin_s - self.network_s.sum()) / self.n_done
        budget_s = self.deadline.remaining() / self.n_left
        used = self.n_used
        while used > self.least and other_s + each_s[:used].sum() > budget_s:
            used -= 1
        if used < self.n_used:
            log.warning("%.0f s are left for %d soundscapes: %d of %d predictors from here on",
                        self.deadline.remaining(), self.n_left, used, self.n_used)
            self.n_used = used
        return used
