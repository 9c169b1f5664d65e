"""Soundscapes to images ahead of the network: decoding and front ends in threads, each soundscape and view once."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from birdkit.audio import AudioError
from birdkit.inference.predictor import Predictor
from birdkit.inference.soundscapes import Soundscape
from birdkit.inference.view import View

IMAGES_AT_ONCE = 24  # that go through a network in one call: a multiple of the cores there are, or some of them wait
OUT_OF_TIME = "no time was left"


@dataclass(frozen=True)
class Images:
    """What one view shows of a piece of a soundscape.

    images  (B, C, H, W)
    starts  (B,) first sample of what each is about
    needed  (B,) True for those that suffice to hear everything once
    """

    images: Tensor
    starts: np.ndarray
    needed: np.ndarray

    def plain(self) -> Images:
        """Those alone that are needed."""
        if self.needed.all():
            return self
        return Images(self.images[torch.from_numpy(self.needed)], self.starts[self.needed], self.needed[self.needed])


@dataclass(frozen=True)
class Piece:
    """One piece of a soundscape, ready for the networks; a short soundscape is its first and its last piece."""

    name: str
    soundscape: Soundscape
    images: Mapping[View, Images]
    first: bool
    last: bool


@dataclass(frozen=True)
class _Job:
    """A piece that is being prepared."""

    name: str
    soundscape: Soundscape
    images: Future[dict[View, Images]]
    first: bool
    last: bool


class ReadAhead:
    """Reads soundscapes in order and some of them ahead, while somebody works on those before.

    makers     of each view one predictor, whose front end makes the images
    workers    threads
    is_over    True when no further soundscape shall be opened
    augmented  may be set to False at any time: from then on only the clips that are needed are made
    n_lost     soundscapes so far that are entered as faults
    """

    def __init__(self, makers: Mapping[View, Predictor], workers: int, *, is_over: Callable[[], bool]) -> None:
        self.makers = makers
        self.workers = workers
        self.is_over = is_over
        self.augmented = True
        self.n_lost = 0

    def groups(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], faults: dict[str, str],
               at_once: Callable[[], int]) -> Generator[list[Piece]]:
        """Pieces in order, in groups that go through the networks together: whole soundscapes, or one piece of a long
        one.

        faults   soundscapes that cannot be read are entered with the reason, as they are met
        at_once  how many images make a group, asked before each
        """
        threads = torch.get_num_threads()
        group: list[Piece] = []  # always the same list: readers look at its length
        with ThreadPoolExecutor(self.workers, "birdkit-read") as pool:
            try:
                for job in self._ahead(self._jobs(named, faults, pool), group):
                    piece = self._finished(job, faults)
                    if piece is None:
                        continue
                    if group and not (piece.first and piece.last):
                        yield group[:]
                        group.clear()
                    group.append(piece)
                    if not (piece.first and piece.last) or _n_images(group) >= at_once():
                        yield group[:]
                        group.clear()
                if group:
                    yield group[:]
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(threads)  # the readers' setting is the default of threads begun later

    def _ahead(self, jobs: Iterator[_Job], held: Sequence[Piece]) -> Iterator[_Job]:
        """The jobs in order, so many begun that threads have work while a group as large as the last is worked off."""
        begun: deque[_Job] = deque()
        deepest = 0
        for job in jobs:
            begun.append(job)
            deepest = max(deepest, len(held))
            if len(begun) > self.workers + deepest:
                yield begun.popleft()
        yield from begun

    def _jobs(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], faults: dict[str, str],
              pool: ThreadPoolExecutor) -> Iterator[_Job]:
        """Soundscapes opened one after the other, their pieces handed to the threads."""
        for name, opened in named:
            if self.is_over():
                self._lose(name, OUT_OF_TIME, faults)
                continue
            try:
                soundscape = opened()
            except AudioError as error:
                self._lose(name, error.reason, faults)
                continue
            pieces = soundscape.pieces()
            for index, piece in enumerate(pieces):
                future = pool.submit(self._prepare, soundscape, *piece)
                yield _Job(name, soundscape, future, index == 0, index == len(pieces) - 1)

    def _prepare(self, soundscape: Soundscape, first_s: float, stop_s: float) -> dict[View, Images]:
        """Images of the clips that start in a range of time, once per view."""
        torch.set_num_threads(1)  # of this reader thread: the cores belong to the network
        prepared = {}
        augmented = self.augmented
        for view, predictor in self.makers.items():
            rate_hz = view.frontend.sample_rate_hz
            n = soundscape.n_samples(rate_hz)
            starts, needed = view.starts(n), view.is_needed(n)
            made = (starts >= first_s * rate_hz) & (starts < stop_s * rate_hz) & (needed | augmented)
            images = predictor.images(view.clips(soundscape, starts[made]))
            prepared[view] = Images(images, starts[made], needed[made])
        return prepared

    def _finished(self, job: _Job, faults: dict[str, str]) -> Piece | None:
        """The piece of a job; None where its soundscape cannot be read."""
        if job.name in faults:
            return None
        try:
            return Piece(job.name, job.soundscape, job.images.result(), job.first, job.last)
        except AudioError as error:
            self._lose(job.name, error.reason, faults)
            return None

    def _lose(self, name: str, reason: str, faults: dict[str, str]) -> None:
        """Enter a soundscape that is not heard."""
        faults[name] = reason
        self.n_lost += 1


def _n_images(group: Sequence[Piece]) -> int:
    """Images of the view that has most of them."""
    return max(sum(len(piece.images[view].starts) for piece in group) for view in group[0].images)
