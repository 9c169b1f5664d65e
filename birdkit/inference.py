"""Soundscapes to window probabilities: the one way, for validation, pseudo-labels and submission alike.

A soundscape is cut into contiguous clips, every clip becomes an image once per distinct front end, every model gives
segment logits, and `birdkit.output.probabilities` takes them over the segments of each window. Reading and front end
of the next soundscapes run in threads beside the network of this one. Not here: writing a submission's rows.
"""
from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from birdkit import postprocess
from birdkit.audio import AudioError
from birdkit.output import SEDOutput
from birdkit.predictor import LEAST_WINDOW_S, Predictor, View, join_outputs, load_predictors
from birdkit.soundscapes import Soundscape, SoundscapeFile, SoundscapeWave
from birdkit.tables import CALL
from birdkit.windows import n_windows

__all__ = ["Clock", "Ensemble", "Pace", "PredictionError", "Predictions", "Predictor",
           "load_predictors", "predict", "predict_wave", "predict_waves"]

log = logging.getLogger(__name__)

WINDOW_COLUMNS = ("file", "start_s", "end_s")


class PredictionError(RuntimeError):
    """Probabilities that cannot be right; the message names the soundscape."""


class Clock(Protocol):
    """Something that knows how long there is, such as birdkit.kaggle.Deadline."""

    def remaining(self) -> float:
        """Seconds left, negative when time is up."""


@dataclass(frozen=True)
class Predictions:
    """What was predicted and what was not.

    table   DataFrame[file, start_s, end_s, <classes>], float32 probabilities; a row per window in the order of the
            files. end_s is start_s + window_s also where the soundscape ends earlier: it names the window
    faults  DataFrame[file, reason] of the soundscapes without rows
    """

    table: pd.DataFrame
    faults: pd.DataFrame


def predict(files: Sequence[Path | str], predictors: Sequence[Predictor], *, window_s: float,
            root: Path | str | None = None, weights: Sequence[float] | None = None,
            classes: Sequence[str] | None = None, gates: Sequence[Predictor] | None = None, gate: str = "",
            progress: bool = True, deadline: Clock | None = None, workers: int = 0) -> Predictions:
    """Predict every window of soundscape files with an ensemble. Constant memory but for the rows.

    A file that cannot be read goes to `faults` with the reason and costs nothing else.

    files     named in the result as they are given
    root      folder they are relative to
    weights   of the predictors in the mean of probabilities, None for equal; one model at several scales counts once
    classes   columns of the result, matched by name; None for all that any predictor knows, the first's first. A class
              that only some predictors know is the mean over those
    gates     call detectors: predictors of the one class "call". The mean of what they hear in each window bears on
              all classes there, before post-processing, so that a false alarm spreads to no neighbour
    gate      how, one of birdkit.postprocess.GATES; "" as the first predictor's config says, but where `gates` is
              None nothing is gated. With "none" gates are not used; anything else without one is an error
    deadline  when time grows short predictors are left out from the end of the list, and when it is up the remaining
              files go to `faults`. Gates stay: files with and without one could not be compared
    workers   threads that read and transform ahead, 0 for one per core, at most four

    Raises ValueError for files named twice, no predictors, weights that do not fit, a class nobody knows, gates that
    are no call detectors; PredictionError where a probability is not finite, naming the file.
    """
    names = [Path(file).as_posix() for file in files]
    if len(set(names)) < len(names):
        raise ValueError(f"files named twice: {sorted({name for name in names if names.count(name) > 1})[:3]}")
    folder = Path(root) if root is not None else Path()
    ensemble = Ensemble(predictors, window_s=window_s, weights=weights, classes=classes, gates=gates, gate=gate)
    bar = tqdm(names, desc="predict", unit="file", disable=not progress, mininterval=1.0)
    return ensemble.run(((name, lambda name=name: SoundscapeFile(folder / name)) for name in bar),  # type: ignore[misc]
                        len(names), deadline=deadline, workers=workers)


def predict_waves(waves: Iterable[tuple[str, np.ndarray]], predictors: Sequence[Predictor], *, window_s: float,
                  weights: Sequence[float] | None = None, classes: Sequence[str] | None = None,
                  gates: Sequence[Predictor] | None = None, gate: str = "") -> Predictions:
    """As `predict`, for named soundscapes in memory, (N,) each at the front ends' sample rate.

    `waves` is read as it is needed, so a generator keeps memory constant.
    """
    ensemble = Ensemble(predictors, window_s=window_s, weights=weights, classes=classes, gates=gates, gate=gate)
    rate_hz = predictors[0].config.frontend.sample_rate_hz
    return ensemble.run((name, lambda wave=wave: SoundscapeWave(wave, rate_hz)) for name, wave in waves)  # type: ignore[misc]


def predict_wave(wave: np.ndarray, predictors: Sequence[Predictor], *, window_s: float,
                 weights: Sequence[float] | None = None) -> np.ndarray:
    """The probabilities of the windows of one wave, (N,) -> (W, K) float32."""
    table = predict_waves([("wave", wave)], predictors, window_s=window_s, weights=weights).table
    return table.drop(columns=list(WINDOW_COLUMNS)).to_numpy()


@dataclass(frozen=True)
class Piece:
    """One piece of a soundscape on its way to the network.

    prepared  the images of its clips and their first samples, per view, when the threads are done
    """

    name: str
    soundscape: Soundscape
    prepared: Future[dict[View, tuple[Tensor, np.ndarray]]]
    first: bool
    last: bool


class Ensemble:
    """Predictors with their weights, as one thing that predicts soundscapes. See `predict` for arguments and errors."""

    def __init__(self, predictors: Sequence[Predictor], *, window_s: float, weights: Sequence[float] | None = None,
                 classes: Sequence[str] | None = None, gates: Sequence[Predictor] | None = None,
                 gate: str = "") -> None:
        if not predictors:
            raise ValueError("no predictors: nothing can be predicted")
        self.predictors = list(predictors)
        self.window_s = window_s
        self.weights = [one.share for one in predictors] if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(predictors) or min(self.weights) < 0 or not sum(self.weights) > 0:
            raise ValueError(f"weights {self.weights} must be {len(predictors)} numbers >= 0, not all 0")
        known = dict.fromkeys(name for predictor in predictors for name in predictor.classes)
        self.classes = tuple(known if classes is None else classes)
        # (predictors, K): the weight of each predictor in each class, 0 where it does not know the class
        self.shares = np.array([[weight * (name in predictor.classes) for name in self.classes]
                                for predictor, weight in zip(predictors, self.weights, strict=True)])
        nobody = [name for name, total in zip(self.classes, self.shares.sum(0), strict=True) if total <= 0]
        if nobody:
            raise ValueError(f"{len(nobody)} classes are known to no predictor with a weight: {', '.join(nobody[:5])}")
        # Fewer predictors than this would leave a class without anyone who knows it.
        self.least = 1 + int((np.cumsum(self.shares, axis=0) > 0).all(1).argmax())
        self.settings = self.predictors[0].config.inference
        self.how = gate or ("none" if gates is None else self.settings.gate)
        self.gates = _checked_gates(gates or (), self.how)
        self.makers = {one.view: one for one in reversed([*self.predictors, *self.gates])}

    def run(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], n_soundscapes: int = 0, *,
            deadline: Clock | None = None, workers: int = 0) -> Predictions:
        """Predict soundscapes that are opened one after the other, reading ahead in threads.

        n_soundscapes  how many there are, for the share of the time each may take; needed with a deadline
        """
        faults: dict[str, str] = {}
        rows: list[tuple[str, np.ndarray]] = []
        pace = Pace(n_soundscapes, len(self.predictors), self.least, deadline)
        outputs: list[list[SEDOutput]] = []
        heard: list[list[SEDOutput]] = []
        starts: list[dict[View, np.ndarray]] = []
        for piece in self._pieces(named, faults, pace, workers or min(os.cpu_count() or 1, 4)):
            if piece.first:
                outputs, heard, starts = [[] for _ in range(pace.affordable())], [[] for _ in self.gates], []
            if piece.name in faults:
                continue
            try:
                prepared = piece.prepared.result()
            except AudioError as error:
                faults[piece.name] = error.reason
                continue
            starts.append({view: first for view, (_, first) in prepared.items()})
            for index, parts in enumerate(outputs):
                predictor = self.predictors[index]
                with pace.timing(index):
                    parts.append(predictor(prepared[predictor.view][0]))
            for one, parts in zip(self.gates, heard, strict=True):
                parts.append(one(prepared[one.view][0]))
            if piece.last:
                joined = {view: np.concatenate([part[view] for part in starts]) for view in starts[0]}
                whole, calls = ([join_outputs(parts) for parts in some] for some in (outputs, heard))
                with one_thread():
                    rows.append((piece.name, self._combine(piece, whole, calls, joined)))
                pace.soundscape_done()
        return self._table(rows, faults)

    def _pieces(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], faults: dict[str, str], pace: Pace,
              workers: int) -> Iterator[Piece]:
        """Jobs in order, `workers` of them being prepared while one is worked off."""
        threads = torch.get_num_threads()
        ahead: deque[Piece] = deque()
        with ThreadPoolExecutor(workers, "birdkit-read") as pool:
            try:
                for name, opened in named:
                    if pace.is_over():
                        faults[name] = "no time was left"
                        continue
                    try:
                        soundscape = opened()
                    except AudioError as error:
                        faults[name] = error.reason
                        continue
                    pieces = soundscape.pieces()
                    for index, piece in enumerate(pieces):
                        future = pool.submit(self._prepare, soundscape, *piece)
                        ahead.append(Piece(name, soundscape, future, index == 0, index == len(pieces) - 1))
                        if len(ahead) > workers:
                            yield ahead.popleft()
                while ahead:
                    yield ahead.popleft()
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(threads)  # the readers' setting is the default of threads begun later

    def _prepare(self, soundscape: Soundscape, first_s: float, stop_s: float) -> dict[View, tuple[Tensor, np.ndarray]]:
        """Images and first samples of the clips that start in a range of time, once per view."""
        torch.set_num_threads(1)  # of this reader thread: the cores belong to the network
        prepared = {}
        for view, predictor in self.makers.items():
            rate_hz = view.frontend.sample_rate_hz
            starts = view.starts(soundscape.n_samples(rate_hz))
            starts = starts[(starts >= first_s * rate_hz) & (starts < stop_s * rate_hz)]
            prepared[view] = predictor.images(soundscape.clips(rate_hz, starts, view.frontend.n_samples)), starts
        return prepared

    def _combine(self, piece: Piece, outputs: list[SEDOutput], heard: list[SEDOutput],
                 starts: dict[View, np.ndarray]) -> np.ndarray:
        """The weighted mean of the predictors' window probabilities, gated and post-processed, (W, K) float32."""
        rate_hz = self.predictors[0].config.frontend.sample_rate_hz
        windows = n_windows(piece.soundscape.n_samples(rate_hz), self.window_s * rate_hz,
                            least_samples=LEAST_WINDOW_S * rate_hz)

        def of_windows(one: Predictor, output: SEDOutput) -> np.ndarray:
            n_samples = piece.soundscape.n_samples(one.config.frontend.sample_rate_hz)
            return one.window_probabilities(output, starts[one.view], n_samples, windows, self.window_s)

        total = np.zeros((windows, len(self.classes)))
        column = {name: index for index, name in enumerate(self.classes)}
        for predictor, output, share in zip(self.predictors, outputs, self.shares, strict=False):
            values = of_windows(predictor, output)
            pairs = [(own, column[name]) for own, name in enumerate(predictor.classes) if name in column]
            own, into = (list(side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
            total[:, into] += share[into] * values[:, own]
        total /= self.shares[:len(outputs)].sum(0)
        calls = np.ones(windows)
        if self.gates:
            calls = np.average([of_windows(one, output)[:, 0] for one, output in zip(self.gates, heard, strict=True)],
                               axis=0, weights=[one.share for one in self.gates])
        faulty = np.count_nonzero(~np.isfinite(total)) + np.count_nonzero(~np.isfinite(calls))
        if faulty:
            everyone = [*zip(self.predictors, outputs, strict=False), *zip(self.gates, heard, strict=True)]
            broken = [one.hash[:12] or one.config.name for one, output in everyone
                      if not bool(output.segment_logits.isfinite().all())]
            asked = total.size + calls.size * bool(self.gates)
            raise PredictionError(f"{piece.name}: {faulty} of {asked} probabilities are not finite, from "
                                  f"predictors {', '.join(broken) or 'unknown'}")
        gated = postprocess.gate(np.clip(total, 0, 1), np.clip(calls, 0, 1), how=self.how,
                                 threshold=self.settings.gate_threshold)
        return postprocess.apply(gated, self.settings.postprocess).astype(np.float32)

    def _table(self, rows: list[tuple[str, np.ndarray]], faults: dict[str, str]) -> Predictions:
        counts = [len(values) for _, values in rows]
        values = np.concatenate([np.zeros((0, len(self.classes)), np.float32), *(values for _, values in rows)])
        start_s = np.concatenate([np.zeros(0), *(np.arange(count) * self.window_s for count in counts)])
        windows = pd.DataFrame({"file": np.repeat(np.array([name for name, _ in rows], dtype=object), counts),
                                "start_s": start_s, "end_s": start_s + self.window_s})
        table = pd.concat([windows, pd.DataFrame(values, columns=list(self.classes))], axis=1)
        if faults:
            log.warning("%d soundscapes could not be predicted, the first: %s", len(faults), next(iter(faults.items())))
        return Predictions(table, pd.DataFrame({"file": list(faults), "reason": list(faults.values())}, dtype=object))


def _checked_gates(gates: Sequence[Predictor], how: str) -> list[Predictor]:
    """The gates that are used; ValueError where there are none to do it with, or they are no call detectors."""
    if how not in postprocess.GATES:
        raise ValueError(f"gate = {how!r}; it must be one of {', '.join(postprocess.GATES)}")
    if how == "none":
        if gates:
            log.info("%d call detectors are not used: no gate is asked for", len(gates))
        return []
    if not gates:
        raise ValueError(f"gate = {how!r}, but there is no call detector to do it with")
    for one in gates:
        if one.classes != (CALL,):
            raise ValueError(f"a gate must know the one class {CALL!r}, but {one.source or one.config.name} knows "
                             f"{len(one.classes)}: {', '.join(one.classes[:3])}")
    return list(gates)


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
