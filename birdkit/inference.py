"""Soundscapes to window probabilities: the one way, for validation, pseudo-labels and submission alike.

A soundscape is cut into contiguous clips, every clip becomes an image once per distinct front end, every model gives
segment logits, and `birdkit.output.probabilities` takes them over the segments of each window. Reading and front end
of the next soundscapes run in threads beside the network of this one. Not here: writing a submission's rows.
"""
from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from birdkit import blending, postprocess
from birdkit.audio import AudioError
from birdkit.config import MEANS, Member
from birdkit.config.base import one_of
from birdkit.output import SEDOutput
from birdkit.pace import Clock, Pace, one_thread
from birdkit.predictor import LEAST_WINDOW_S, Predictor, View, join_outputs, load_predictors
from birdkit.soundscapes import Soundscape, SoundscapeFile, SoundscapeWave
from birdkit.tables import CALL
from birdkit.windows import n_windows

__all__ = ["Ensemble", "Heard", "PredictionError", "Predictions", "Predictor", "load_predictors", "predict",
           "predict_wave", "predict_waves"]

log = logging.getLogger(__name__)

WINDOW_COLUMNS = ("file", "start_s", "end_s")


class PredictionError(RuntimeError):
    """Probabilities that cannot be right; the message names the soundscape."""


@dataclass(frozen=True)
class Predictions:
    """What was predicted and what was not.

    table   DataFrame[file, start_s, end_s, <classes>], float32 probabilities; a row per window in the order of the
            files. end_s is start_s + window_s also where the soundscape ends earlier: it names the window
    faults  DataFrame[file, reason] of the soundscapes without rows
    """

    table: pd.DataFrame
    faults: pd.DataFrame


@dataclass(frozen=True)
class Apart:
    """What the predictors of an ensemble hear in one soundscape, each alone.

    apart       (P, W, K) float32, after what each predictor does to its own windows and before anything that is done to
                all; NaN in classes in which it has no say, and where it was left out because time was short
    calls       (W,) probability of a call, 1 without a gate
    duration_s  length of the soundscape
    """

    name: str
    apart: np.ndarray
    calls: np.ndarray
    duration_s: float


@dataclass(frozen=True)
class Heard:
    """What an ensemble hears in one soundscape.

    probabilities  (W, K) float32
    apart          (P, W, K) float32 as `Apart` has it; without predictors, (0, W, K), where nobody asked for it
    duration_s     length of the soundscape
    """

    name: str
    probabilities: np.ndarray
    apart: np.ndarray
    duration_s: float


def predict(files: Sequence[Path | str], predictors: Sequence[Predictor], *, window_s: float,
            root: Path | str | None = None, weights: Sequence[float] | None = None,
            classes: Sequence[str] | None = None, gates: Sequence[Predictor] | None = None, gate: str = "",
            stride_s: float | None = None, mean: str = MEANS[0], members: Sequence[Member] | None = None,
            progress: bool = True, deadline: Clock | None = None, workers: int = 0) -> Predictions:
    """Predict every window of soundscape files with an ensemble. Constant memory but for the rows.

    A file that cannot be read goes to `faults` with the reason and costs nothing else.

    files     named in the result as they are given
    root      folder they are relative to
    weights   of the predictors in the mean, None for equal; one model at several scales counts once
    classes   columns of the result, matched by name; None for all that any predictor knows, the first's first. A class
              that only some predictors know is the mean over those
    gates     call detectors: predictors of the one class "call". The mean of what they hear in each window bears on
              all classes there, before post-processing, so that a false alarm spreads to no neighbour
    gate      how, one of birdkit.postprocess.GATES; "" as the first predictor's config says, but where `gates` is
              None nothing is gated. With "none" gates are not used; anything else without one is an error
    stride_s  from the start of one window to the next; None for window_s, windows that follow each other. The last one
              is the first that reaches the end
    mean      how what the predictors say of a window becomes one, a name in birdkit.blending.BLENDS. "rank" and
              "histogram" keep every predictor's rows until the last file is predicted
    members   of birdkit.postprocess, done to what is blended; None for what the first predictor's config says
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
    ensemble = Ensemble(predictors, window_s=window_s, weights=weights, classes=classes, gates=gates, gate=gate,
                        stride_s=stride_s, mean=mean, members=members)
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
                 classes: Sequence[str] | None = None, gates: Sequence[Predictor] | None = None, gate: str = "",
                 stride_s: float | None = None, mean: str = MEANS[0],
                 members: Sequence[Member] | None = None) -> None:
        if not predictors:
            raise ValueError("no predictors: nothing can be predicted")
        one_of("mean", mean, tuple(blending.BLENDS))
        if stride_s is not None and not stride_s > 0:
            raise ValueError(f"stride_s = {stride_s} must be above 0")
        self.mean = mean
        self.stride_s = window_s if stride_s is None else stride_s
        self.predictors = list(predictors)
        self.window_s = window_s
        self.weights = [one.share for one in predictors] if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(predictors) or min(self.weights) < 0 or not sum(self.weights) > 0:
            raise ValueError(f"weights {self.weights} must be {len(predictors)} numbers >= 0, not all 0")
        known = dict.fromkeys(name for predictor in predictors for name in predictor.classes)
        self.classes = tuple(known if classes is None else classes)
        # (predictors, K): the weight of each predictor in each class, 0 where it has no say
        self.shares = np.array([[weight * (name in predictor.speaks_for) for name in self.classes]
                                for predictor, weight in zip(predictors, self.weights, strict=True)])
        nobody = [name for name, total in zip(self.classes, self.shares.sum(0), strict=True) if total <= 0]
        if nobody:
            raise ValueError(f"{len(nobody)} classes are known to no predictor with a weight: {', '.join(nobody[:5])}")
        # Fewer predictors than this would leave a class without anyone who knows it.
        self.least = 1 + int((np.cumsum(self.shares, axis=0) > 0).all(1).argmax())
        self.settings = self.predictors[0].config.inference
        self.members = self.settings.postprocess if members is None else tuple(members)
        postprocess.check_members(self.members)
        self.how = gate or ("none" if gates is None else self.settings.gate)
        self.gates = _checked_gates(gates or (), self.how)
        self.makers = {one.view: one for one in reversed([*self.predictors, *self.gates])}

    def run(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], n_soundscapes: int = 0, *,
            deadline: Clock | None = None, workers: int = 0) -> Predictions:
        """Predict soundscapes that are opened one after the other, reading ahead in threads.

        n_soundscapes  how many there are, for the share of the time each may take; needed with a deadline
        """
        faults: dict[str, str] = {}
        apart = self.listen(named, n_soundscapes, faults=faults, deadline=deadline, workers=workers)
        if not blending.needs_all_rows(self.mean):
            return self._table([(one.name, self._joined(one)) for one in apart], faults)
        every = list(apart)
        if not every:
            return self._table([], faults)
        ends = np.cumsum([len(one.calls) for one in every])
        blended = blending.blend(np.concatenate([one.apart for one in every], axis=1), self.shares, self.mean)
        return self._table([(one.name, self._finished(one, rows))
                            for one, rows in zip(every, np.split(blended, ends[:-1]), strict=True)], faults)

    def stream(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], n_soundscapes: int = 0, *,
               faults: dict[str, str], apart: bool = False, deadline: Clock | None = None,
               workers: int = 0) -> Iterator[Heard]:
        """As `run`, one soundscape after the other: nothing of those before is kept.

        faults  soundscapes that cannot be predicted are entered with the reason, as they are met
        apart   True also says what each predictor hears alone

        Raises ValueError for a way of blending that needs the rows of all soundscapes, which only `run` has.
        """
        if blending.needs_all_rows(self.mean):
            raise ValueError(f"mean = {self.mean!r} needs the rows of all soundscapes, but one is asked for at a time")
        for one in self.listen(named, n_soundscapes, faults=faults, deadline=deadline, workers=workers):
            yield Heard(one.name, self._joined(one), one.apart if apart else one.apart[:0], one.duration_s)

    def listen(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], n_soundscapes: int = 0, *,
               faults: dict[str, str], deadline: Clock | None = None, workers: int = 0) -> Iterator[Apart]:
        """What each predictor hears, one soundscape after the other; arguments as for `stream`."""
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
                    one_by_one = self._apart(piece, whole, calls, joined)
                pace.soundscape_done()
                yield one_by_one

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

    def _apart(self, piece: Piece, outputs: list[SEDOutput], heard: list[SEDOutput],
               starts: dict[View, np.ndarray]) -> Apart:
        """The window probabilities of each predictor, in the ensemble's columns, and of the call detectors' mean."""
        rate_hz = self.predictors[0].config.frontend.sample_rate_hz
        windows = n_windows(piece.soundscape.n_samples(rate_hz), self.window_s * rate_hz,
                            least_samples=LEAST_WINDOW_S * rate_hz, stride_samples=self.stride_s * rate_hz)

        def of_windows(one: Predictor, output: SEDOutput) -> np.ndarray:
            n_samples = piece.soundscape.n_samples(one.config.frontend.sample_rate_hz)
            values = one.window_probabilities(output, starts[one.view], n_samples, windows, self.window_s,
                                              stride_s=self.stride_s)
            faulty = np.count_nonzero(~np.isfinite(values))
            if faulty:
                raise PredictionError(f"{piece.name}: {faulty} of {values.size} probabilities are not finite, from "
                                      f"predictors {one.hash[:12] or one.config.name}")
            if not one.postprocess:
                return values
            return postprocess.apply(np.clip(values, 0, 1), one.postprocess, classes=one.classes, file=piece.name)

        apart = np.full((len(self.predictors), windows, len(self.classes)), np.nan, np.float32)
        column = {name: index for index, name in enumerate(self.classes)}
        for into, predictor, output in zip(apart, self.predictors, outputs, strict=False):
            pairs = [(column[name], own) for own, name in enumerate(predictor.classes)
                     if name in column and name in predictor.speaks_for]
            values = of_windows(predictor, output)
            for to, own in pairs:
                into[:, to] = values[:, own]
        calls = np.ones(windows)
        if self.gates:
            calls = np.average([of_windows(one, output)[:, 0] for one, output in zip(self.gates, heard, strict=True)],
                               axis=0, weights=[one.share for one in self.gates])
        return Apart(piece.name, apart, calls, piece.soundscape.duration_s)

    def _joined(self, one: Apart) -> np.ndarray:
        """The probabilities of one soundscape's windows, (W, K) float32, blended by a way that needs no others."""
        return self._finished(one, blending.blend(one.apart, self.shares, self.mean))

    def _finished(self, one: Apart, blended: np.ndarray) -> np.ndarray:
        """What is blended, gated and post-processed, (W, K) float32."""
        gated = postprocess.gate(np.clip(blended, 0, 1), np.clip(one.calls, 0, 1), how=self.how,
                                 threshold=self.settings.gate_threshold)
        return postprocess.apply(gated, self.members, classes=self.classes, file=one.name).astype(np.float32)

    def _table(self, rows: list[tuple[str, np.ndarray]], faults: dict[str, str]) -> Predictions:
        counts = [len(values) for _, values in rows]
        values = np.concatenate([np.zeros((0, len(self.classes)), np.float32), *(values for _, values in rows)])
        start_s = np.concatenate([np.zeros(0), *(np.arange(count) * self.stride_s for count in counts)])
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
