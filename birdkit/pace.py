"""Time and threads of a prediction: what the time that is left affords, and one thread for small work."""
from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

log = logging.getLogger(__name__)

MEASURED = 3  # soundscapes before the first plan; the first of them, in which everything warms up, does not count
RECENT = 32  # groups of soundscapes over which costs are averaged
GROUP_S = 2.0  # that images which go through the networks together may take: no plan is made while they do
SPARE = 0.9  # of the time there is, within which what was left out may come back


class Clock(Protocol):
    """Something that knows how long there is, such as birdkit.kaggle.Deadline."""

    def remaining(self) -> float:
        """Seconds left, negative when time is up."""


def n_cores() -> int:
    """Cores of the processor that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread of the CPU: on matrices this small, waiting for a second costs a thousandfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Plan:
    """With what a soundscape is predicted.

    used       places in the list of the predictors that are asked
    augmented  False leaves out the clips that test-time augmentation adds
    """

    used: tuple[int, ...]
    augmented: bool = True


def plans(models: Sequence[int], least: int) -> list[Plan]:
    """All plans for models that have so many predictors each, from everything to the first predictors of `least`.

    >>> [plan.used for plan in plans([2, 1], 1)]
    [(0, 1, 2), (0, 1, 2), (0, 2), (0,)]
    """
    ends = np.cumsum(models).tolist()
    firsts = [end - n for end, n in zip(ends, models, strict=True)]
    fewer = [tuple(firsts[:n]) for n in range(len(firsts), least - 1, -1)]
    everyone = tuple(range(ends[-1]))
    return [Plan(everyone), *(Plan(used, False) for used in dict.fromkeys([everyone, *fewer]))]


@dataclass(frozen=True)
class Taken:
    """Seconds of the clock that one second of sound took, with everything that was asked for.

    network_s  in the network of each predictor, in the order of the list
    other_s    in all that networks waited for: reading, call detectors, what is done with the probabilities
    sound_s    seconds of sound that this was measured on, without the first soundscape where there are others
    cores      of the processor that there were
    """

    network_s: tuple[float, ...]
    other_s: float
    sound_s: float
    cores: int


class Costs:
    """Seconds per piece of work, over the last RECENT measurements."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)

    def add(self, seconds: float, count: int) -> None:
        """One measurement of `count` pieces."""
        self._recent.append((seconds, count))

    def each_s(self) -> float:
        """The mean, 0 where nothing was measured."""
        seconds, counts = (sum(column) for column in zip(*self._recent, strict=True)) if self._recent else (0.0, 0)
        return seconds / max(counts, 1)

    def forget(self) -> None:
        """Start anew."""
        self._recent.clear()


class Pace:
    """What the time that is left affords, from the time that soundscapes have taken so far.

    In this order, as far as it must be: everything; no test-time augmentation; of each model the first predictor alone,
    its first scale; fewer and fewer models, from the end of the list. What was left out comes back where time turns out
    to be ample. Never fewer than `least` models, and no plan without a deadline.

    n_soundscapes  to come
    models         of each model, how many predictors it has in the list, one at every scale
    """

    def __init__(self, n_soundscapes: int, models: Sequence[int], least: int, deadline: Clock | None) -> None:
        self.n_left = n_soundscapes
        self.n_done = 0
        self.deadline = deadline
        n_predictors = sum(models)
        self.now = Plan(tuple(range(n_predictors)))
        self.plans = plans(models, least)
        self._network = [Costs() for _ in range(n_predictors)]
        self._other = Costs()
        self._images = np.zeros((2, n_predictors))  # of a soundscape, with augmentation and without
        self._begin_s = time.monotonic()
        self._in_networks_s = 0.0
        self._group_s = np.zeros(n_predictors + 1)  # since the last soundscapes were done; the last one is all the rest
        self._taken_s, self._sound_s = np.zeros(n_predictors + 1), 0.0
        self._n_groups, self._is_whole = 0, True

    def is_over(self) -> bool:
        """True from the deadline on."""
        return self.deadline is not None and self.deadline.remaining() <= 0

    @contextlib.contextmanager
    def timing(self, predictor: int, images: int) -> Iterator[None]:
        """Count what happens inside as time that this predictor's network takes for as many images."""
        begin_s = time.monotonic()
        yield
        taken_s = time.monotonic() - begin_s
        self._network[predictor].add(taken_s, images)
        self._in_networks_s += taken_s
        self._group_s[predictor] += taken_s

    def done(self, n_soundscapes: int, images: Sequence[tuple[int, int]], sound_s: float = 0.0) -> None:
        """So many soundscapes fewer to come.

        images  how many each predictor of the plan had in all of them, with test-time augmentation and without; the
                first number is that of the second where nobody made the others
        sound_s  how long they are together
        """
        now_s = time.monotonic()
        other_s = max(0.0, now_s - self._begin_s - self._in_networks_s)
        self._other.add(other_s, n_soundscapes)
        self._take(other_s, sound_s)
        self._begin_s, self._in_networks_s = now_s, 0.0
        each, used = np.array(images, dtype=float).T / n_soundscapes, list(self.now.used)  # (2, predictors used)
        self._images[:, used] = np.maximum(each, self._images[:, used])
        if self.n_done == 0:  # the first one waited for memory, threads and caches
            for costs in (*self._network, self._other):
                costs.forget()
        self.n_done += n_soundscapes
        self.n_left -= n_soundscapes

    def _take(self, other_s: float, sound_s: float) -> None:
        """Remember what soundscapes took that were predicted with everything, until something was first left out: what
        comes back then has partly been read without."""
        if self._is_whole:
            if self._n_groups == 1:  # what the first one took is forgotten as soon as there is another
                self._taken_s[:], self._sound_s = 0.0, 0.0
            self._n_groups += 1
            self._taken_s += self._group_s
            self._taken_s[-1] += other_s
            self._sound_s += sound_s
        self._group_s[:] = 0.0

    def taken(self) -> Taken | None:
        """What sound has taken so far; None before any was heard."""
        if not self._sound_s > 0:
            return None
        each_s = (self._taken_s / self._sound_s).tolist()
        return Taken(tuple(each_s[:-1]), each_s[-1], self._sound_s, n_cores())

    def lost(self, n_soundscapes: int) -> None:
        """So many fewer to come that cost nothing: they cannot be read."""
        self.n_left -= n_soundscapes

    def is_measuring(self) -> bool:
        """True while nothing is known yet of what soundscapes cost, and something must be."""
        return self.deadline is not None and self.n_done < MEASURED

    def images_at_once(self, most: int) -> int:
        """How many images may go through the networks together, at most `most`, so that a plan is kept to."""
        if self.deadline is None:
            return most
        if self.is_measuring():
            return 1
        each_s = sum(self._network[index].each_s() for index in self.now.used)
        return int(min(most, max(1.0, GROUP_S / max(each_s, 1e-9))))

    def plan(self) -> Plan:
        """What to predict the next soundscapes with; a change is logged."""
        if self.deadline is None or self.is_measuring() or self.n_left <= 0:
            return self.now
        budget_s = self.deadline.remaining() / self.n_left
        before = self.plans.index(self.now)
        fitting = (number for number, plan in enumerate(self.plans)
                   if self.cost_s(plan) <= budget_s * (SPARE if number < before else 1.0))
        chosen = self.plans[next(fitting, len(self.plans) - 1)]
        same = chosen.used == self.now.used and (self._images[0] == self._images[1]).all()
        if chosen != self.now and not same:
            log.warning("%.0f s are left for %d soundscapes: from here on %d of %d predictors, test-time augmentation "
                        "%s", self.deadline.remaining(), self.n_left, len(chosen.used), len(self._network),
                        "as asked for" if chosen.augmented else "left out")
            self.now, self._is_whole = chosen, False
        return self.now

    def cost_s(self, plan: Plan) -> float:
        """Seconds that a soundscape takes with this plan, as far as it is known."""
        images = self._images[0 if plan.augmented else 1]
        networks_s = sum(self._network[index].each_s() * images[index] for index in plan.used)
        # Reading costs the same whatever is predicted, front ends in proportion to the clips: the larger is assumed.
        share = 1.0 if plan.augmented or not self.now.augmented else images[0] / max(self._images[0, 0], 1)
        return networks_s + self._other.each_s() * share
