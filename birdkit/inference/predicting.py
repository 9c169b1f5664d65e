"""Soundscapes to window probabilities: the one way, for validation, pseudo-labels and submission alike.

A soundscape is cut into contiguous clips, every clip becomes an image once per distinct front end, every model gives
segment logits, and `birdkit.output.probabilities` takes them over the segments of each window. Reading and front end
of the next soundscapes run in threads beside the network of this one. Not here: writing a submission's rows.
"""
from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from birdkit import blending, postprocess
from birdkit.config import MEANS, Member
from birdkit.config.base import one_of
from birdkit.data.tables import CALL
from birdkit.inference.levels import Levels, shares_of
from birdkit.inference.listening import Listened, Listener
from birdkit.inference.predictor import Predictor, models_of
from birdkit.inference.repetition import Spread
from birdkit.inference.soundscapes import Soundscape, SoundscapeFile, SoundscapeWave
from birdkit.inference.view import LEAST_WINDOW_S
from birdkit.inference.windows import n_windows
from birdkit.output import SEDOutput
from birdkit.pace import Clock, Taken, one_thread, plans

log = logging.getLogger(__name__)

WINDOW_COLUMNS = ("file", "start_s", "end_s")
NOT_FINITE = "not finite"
INTERIM_SHARE = 30  # times as long as a call of `interim` took, until the next: it may take 3 % of the time


class PredictionError(RuntimeError):
    """Probabilities that cannot be right; the message holds the soundscape and the reason, `reason` that alone."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[PredictionError], tuple[str, str]]:
        return type(self), (self.name, self.reason)


@dataclass(frozen=True)
class Predictions:
    """What was predicted and what was not.

    table   DataFrame[file, start_s, end_s, <classes>], float32 probabilities; a row per window in the order of the
            files. end_s is start_s + window_s also where the soundscape ends earlier: it names the window
    faults  DataFrame[file, reason] of the soundscapes without rows
    durations_s  length of each soundscape that has rows
    notes   what is unusual about some of these
    dropped  what was left out because time was short, and from which soundscape on, in words
    taken   how long it took; None where nothing was predicted
    """

    table: pd.DataFrame
    faults: pd.DataFrame
    durations_s: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    taken: Taken | None = None


@dataclass(frozen=True)
class Apart:
    """What the predictors of an ensemble hear in one soundscape, each alone.

    apart       (P, W, K) float32, after what each predictor does to its own windows and before anything that is done to
                all; NaN in classes in which it has no say, and where it was left out because time was short
    calls       (W,) probability of a call, 1 without a gate
    duration_s  length of the soundscape
    notes       what is unusual about it
    used        places in the list of the predictors that heard it
    spreads     of each of those, how far apart its rows lie
    """

    name: str
    apart: np.ndarray
    calls: np.ndarray
    duration_s: float
    notes: tuple[str, ...]
    used: tuple[int, ...]
    spreads: tuple[Spread, ...] = ()


@dataclass(frozen=True)
class Heard:
    """What an ensemble hears in one soundscape.

    probabilities  (W, K) float32
    apart          (P, W, K) float32 as `Apart` has it; without predictors, (0, W, K), where nobody asked for it
    duration_s     length of the soundscape
    spreads        of each predictor, how far apart its rows lie
    """

    name: str
    probabilities: np.ndarray
    apart: np.ndarray
    duration_s: float
    spreads: tuple[Spread, ...]


def predict(files: Sequence[Path | str], predictors: Sequence[Predictor], *, window_s: float,
            root: Path | str | None = None, weights: Sequence[float] | None = None,
            classes: Sequence[str] | None = None, gates: Sequence[Predictor] | None = None, gate: str = "",
            stride_s: float | None = None, mean: str = MEANS[0], members: Sequence[Member] | None = None,
            progress: bool = True, deadline: Clock | None = None, workers: int = 0,
            interim: Callable[[Predictions], object] | None = None, every_s: float = 180.0,
            spare: bool = False) -> Predictions:
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
    deadline  when time grows short, test-time augmentation (overlapping and shifted clips) is left out, then all scales
              of a model but its first, then models from the end of the list (see birdkit.pace.Pace), and when it is up
              the remaining files go to `faults`. What fewer predictors heard is made comparable, see
              birdkit.inference.levels. Gates stay: files with and without one could not be compared
    workers   threads that read and transform ahead, 0 for one per core, at most four
    interim   called with what is predicted so far, each time that `every_s` seconds have passed, and INTERIM_SHARE
              times as long as its last call took
    spare     True enters a soundscape with a probability that is not finite in `faults`, instead of raising

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
                        len(names), deadline=deadline, workers=workers, interim=interim, every_s=every_s, spare=spare)


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
        self.models = models_of(self.predictors)
        # Fewer models than this would leave a class without anyone who knows it.
        self.least = 1 + self.models[int((np.cumsum(self.shares, axis=0) > 0).all(1).argmax())]
        self.settings = self.predictors[0].config.inference
        self.members = self.settings.postprocess if members is None else tuple(members)
        postprocess.check_members(self.members)
        overruled = [one for one in self.predictors if one.config.inference.postprocess != self.members]
        if members is None and overruled:
            log.warning("%d of %d predictors were trained with another post-processing than the first, which holds: "
                        "%s, not %s (%s)", len(overruled), len(self.predictors), self.members,
                        overruled[0].config.inference.postprocess, overruled[0].label)
        self.how = gate or ("none" if gates is None else self.settings.gate)
        self.gates = _checked_gates(gates or (), self.how)
        self.listener = Listener(self.predictors, self.gates, self.least)

    def run(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], n_soundscapes: int = 0, *,
            deadline: Clock | None = None, workers: int = 0, interim: Callable[[Predictions], object] | None = None,
            every_s: float = 180.0, spare: bool = False) -> Predictions:
        """Predict soundscapes that are opened one after the other, reading ahead in threads.

        n_soundscapes  how many there are, for the share of the time each may take; needed with a deadline
        """
        faults: dict[str, str] = {}
        dropped: list[str] = []
        levels = self._levels(deadline)
        rows: list[tuple[Apart, np.ndarray | None]] = []
        next_s = time.monotonic() + every_s
        for one in self.listen(named, n_soundscapes, faults=faults, dropped=dropped, deadline=deadline,
                               workers=workers, spare=spare):
            if blending.needs_all_rows(self.mean):
                rows.append((one, None))
            else:
                rows.append((dataclasses.replace(one, apart=one.apart[:0], calls=one.calls[:0]),
                             self._joined(one, levels)))
            begin_s = time.monotonic()
            if interim is not None and begin_s >= next_s:
                interim(self._predictions(rows, faults, dropped))
                end_s = time.monotonic()
                next_s = end_s + max(every_s, INTERIM_SHARE * (end_s - begin_s))
        if faults:
            log.warning("%d soundscapes could not be predicted, the first: %s", len(faults), next(iter(faults.items())))
        return self._predictions(rows, faults, dropped)

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
        levels = self._levels(deadline)
        for one in self.listen(named, n_soundscapes, faults=faults, deadline=deadline, workers=workers):
            yield Heard(one.name, self._joined(one, levels), one.apart if apart else one.apart[:0], one.duration_s,
                        one.spreads)

    def join(self, name: str, apart: np.ndarray) -> np.ndarray:
        """(P, W, K) of its predictors in one soundscape, as `Heard.apart` -> (W, K) float32, as `stream` gives it.

        For who has heard more predictors at once than these. Without call detectors. Raises ValueError as `stream`.
        """
        if blending.needs_all_rows(self.mean):
            raise ValueError(f"mean = {self.mean!r} needs the rows of all soundscapes, but one is given")
        return self._joined(Apart(name, apart, np.ones(apart.shape[1]), 0.0, (), tuple(range(len(apart)))), None)

    def _levels(self, deadline: Clock | None) -> Levels | None:
        """What keeps soundscapes comparable that fewer predictors hear; nothing where that cannot happen, and where
        blending itself compares rows by their ranks."""
        _, *fewer = dict.fromkeys(plan.used for plan in plans(list(Counter(self.models).values()), self.least))
        if deadline is None or not fewer or blending.needs_all_rows(self.mean):
            return None
        return Levels(self.shares, self.mean, self.models, fewer)

    def listen(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], n_soundscapes: int = 0, *,
               faults: dict[str, str], dropped: list[str] | None = None, deadline: Clock | None = None,
               workers: int = 0, spare: bool = False) -> Iterator[Apart]:
        """What each predictor hears, one soundscape after the other; arguments as for `stream`.

        dropped  what is left out because time is short, and from where on, is entered in words
        spare    as for `predict`
        """
        for one in self.listener.listen(named, n_soundscapes, faults=faults, dropped=[] if dropped is None else dropped,
                                        deadline=deadline, workers=workers):
            try:
                with one_thread():
                    apart = self._apart(one)
            except PredictionError as error:
                if not spare:
                    raise
                log.error("%s", error)
                faults[error.name] = error.reason
                continue
            yield apart

    def _apart(self, heard: Listened) -> Apart:
        """The window probabilities of each predictor, in the ensemble's columns, and of the call detectors' mean."""
        rate_hz = self.predictors[0].config.frontend.sample_rate_hz
        windows = n_windows(heard.soundscape.n_samples(rate_hz), self.window_s * rate_hz,
                            least_samples=LEAST_WINDOW_S * rate_hz, stride_samples=self.stride_s * rate_hz)

        def of_windows(one: Predictor, output: SEDOutput) -> np.ndarray:
            n_samples = heard.soundscape.n_samples(one.config.frontend.sample_rate_hz)
            values = one.window_probabilities(output, heard.starts[one.view], n_samples, windows, self.window_s,
                                              stride_s=self.stride_s)
            faulty = np.count_nonzero(~np.isfinite(values))
            if faulty:
                raise PredictionError(heard.name, f"{faulty} of {values.size} probabilities are {NOT_FINITE}, from "
                                                  f"predictors {one.hash[:12] or one.config.name}")
            return values

        apart = np.full((len(self.predictors), windows, len(self.classes)), np.nan, np.float32)
        column = {name: index for index, name in enumerate(self.classes)}
        spreads = []
        for index, output in zip(heard.used, heard.outputs, strict=True):
            into, predictor = apart[index], self.predictors[index]
            pairs = [(column[name], own) for own, name in enumerate(predictor.classes)
                     if name in column and name in predictor.speaks_for]
            raw = of_windows(predictor, output)
            logits = (output.clip_logits.numpy(), output.segment_logits.numpy())
            spreads.append(Spread.of(logits, raw, precision=predictor.precision))
            values = predictor.finished(raw, heard.name)
            for to, own in pairs:
                into[:, to] = values[:, own]
        calls = np.ones(windows)
        if self.gates:
            calls = np.average([one.finished(of_windows(one, output), heard.name)[:, 0]
                                for one, output in zip(self.gates, heard.calls, strict=True)],
                               axis=0, weights=[one.share for one in self.gates])
        return Apart(heard.name, apart, calls, heard.soundscape.duration_s, heard.soundscape.notes,
                     heard.used, tuple(spreads))

    def _joined(self, one: Apart, levels: Levels | None) -> np.ndarray:
        """The probabilities of one soundscape's windows, (W, K) float32, blended by a way that needs no others."""
        blended = blending.blend(one.apart, shares_of(self.shares, self.models, one.used), self.mean)
        if levels is not None and len(one.used) == len(self.predictors):
            levels.learn(one.apart, blended)
        elif levels is not None:
            blended = levels.lift(blended, one.used)
        return self._finished(one, blended)

    def _finished(self, one: Apart, blended: np.ndarray) -> np.ndarray:
        """What is blended, gated and post-processed, (W, K) float32."""
        gated = postprocess.gate(np.clip(blended, 0, 1), np.clip(one.calls, 0, 1), how=self.how,
                                 threshold=self.settings.gate_threshold)
        return postprocess.apply(gated, self.members, classes=self.classes, file=one.name).astype(np.float32)

    def _predictions(self, rows: Sequence[tuple[Apart, np.ndarray | None]], faults: Mapping[str, str],
                     dropped: Sequence[str]) -> Predictions:
        """The table of what is predicted so far; rows that are not blended yet are blended with each other."""
        finished = [values for _, values in rows if values is not None]
        if rows and not finished:
            ends = np.cumsum([len(one.calls) for one, _ in rows])
            shares = self.shares
            if any(len(one.used) < len(self.predictors) for one, _ in rows):
                shares = np.concatenate([np.repeat(shares_of(shares, self.models, one.used)[:, None], len(one.calls), 1)
                                         for one, _ in rows], axis=1)
            blended = blending.blend(np.concatenate([one.apart for one, _ in rows], axis=1), shares, self.mean)
            finished = [self._finished(one, part)
                        for (one, _), part in zip(rows, np.split(blended, ends[:-1]), strict=True)]
        counts = [len(values) for values in finished]
        values = np.concatenate([np.zeros((0, len(self.classes)), np.float32), *finished])
        start_s = np.concatenate([np.zeros(0), *(np.arange(count) * self.stride_s for count in counts)])
        names = np.array([one.name for one, _ in rows], dtype=object)
        windows = pd.DataFrame({"file": np.repeat(names, counts), "start_s": start_s, "end_s": start_s + self.window_s})
        table = pd.concat([windows, pd.DataFrame(values, columns=list(self.classes))], axis=1)
        return Predictions(table, pd.DataFrame({"file": list(faults), "reason": list(faults.values())}, dtype=object),
                           {one.name: one.duration_s for one, _ in rows},
                           {one.name: one.notes for one, _ in rows if one.notes}, tuple(dropped), self.listener.taken)


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
