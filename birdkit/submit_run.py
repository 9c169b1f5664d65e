"""A submission from the files on disk, as notebook 04 makes it: there from the first minute, better with every file."""
from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from birdkit import ensembles, inference, kaggle, profiles, submission
from birdkit.config import InferenceConfig, Member
from birdkit.predictor import load_predictors
from birdkit.profiles import Competition
from birdkit.submission import SubmissionReport

log = logging.getLogger(__name__)

WINDOW_COLUMNS = ("file", "start_s", "end_s")
LENGTH_S = 0.5  # that a soundscape may differ from what the host says before it is called odd


@dataclass(frozen=True)
class SubmitRun:
    """What to predict, and with what.

    round       whose checkpoints predict, and of as many rounds before it as `earlier` says
    bundle      the folder that `birdkit export` wrote beside each checkpoint, such as "openvino_int8", to predict with
                instead; "" for the checkpoints
    ensemble    a TOML file of models, weights and the way to blend them (birdkit.ensembles) instead of those; "" for
                none
    gate        what call detectors do, see birdkit.inference.predict; "" as the checkpoints say
    changes     to how all models predict and what is made of it: settings of InferenceConfig, such as
                {"clip_shifts_s": [2.5]}, {"decision": {"name": "quantile", "options": {"q": 0.9}}} or {"postprocess":
                [{"name": "smooth"}]}
    name        of the file in the work folder
    time_share  of the host's time limit that may be used, counted from the call; in (0, 1]
    year        of the competition, stated; 0 to recognise it
    every_s     seconds from one replacement of the file to the next while predicting
    """

    competition_dir: Path
    work_dir: Path | str = ""
    round: int = 0
    earlier: int = 0
    bundle: str = ""
    ensemble: str = ""
    gate: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    name: str = "submission.csv"
    time_share: float = 0.9
    year: int = 0
    every_s: float = 180.0

    def __post_init__(self) -> None:
        if not 0 < self.time_share <= 1 or not self.every_s > 0:
            raise ValueError(f"time_share = {self.time_share} must be in (0, 1] and every_s = {self.every_s} above 0")


@dataclass(frozen=True, repr=False)
class Submitted:
    """What was written, and what a person should know of it.

    odd       DataFrame[file, what]: test files that could not be predicted, of another length than the host's, or
              otherwise unusual
    dropped   what was left out because time was short, and from which file on
    table     DataFrame[file, start_s, end_s, <classes>], what was predicted
    deadline  with the time that was left
    """

    written: SubmissionReport
    odd: pd.DataFrame
    dropped: tuple[str, ...]
    table: pd.DataFrame
    deadline: kaggle.Deadline

    def __repr__(self) -> str:
        lines = [repr(self.written), f"time: {self.deadline!r}"]
        lines += [f"short of time: {what}" for what in self.dropped] or ["nothing was left out for want of time"]
        lines += [f"odd: {file}: {what}" for file, what in self.odd.itertuples(index=False)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return f"<pre>{html.escape(repr(self))}</pre>"


def submit(run: SubmitRun) -> Submitted:
    """Predict the test soundscapes and write the submission.

    A complete valid file is there before any model is loaded: in every row each class's share of the recordings. While
    predicting it is replaced every `every_s` seconds with what is known by then, each time whole or not at all, so a
    run that is killed leaves the best so far.

    Without test files this is a rehearsal on training soundscapes; in the scored rerun that raises
    birdkit.kaggle.MissingInputError. So do a round without checkpoints and an ensemble's members that are nowhere;
    SubmissionError where what was written is not what the host asks for. Where time is over before the first file, or
    no file can be read, the prior stands, and that is logged as an error.
    """
    competition = profiles.recognise(run.competition_dir, year=run.year)
    deadline = kaggle.Deadline(competition.time_limit_s * run.time_share)
    writer = _Writer(run, competition, kaggle.Workspace(run.work_dir))
    writer.write_prior()
    models, gates = _load_models(run, writer.work)
    writer.decision = models.decision
    predictions = inference.predict(
        writer.files, models.predictors, window_s=competition.window_s, classes=writer.classes, mean=models.mean,
        members=models.members, gates=gates, gate=run.gate, deadline=deadline, interim=writer.write,
        every_s=run.every_s)
    nothing = predictions.table.empty
    written = writer.write_prior() if nothing else writer.write(predictions)
    if nothing:  # to raise would lose a file that is complete, and with it the day's entry
        log.error("nothing was predicted: every row of %s is the prior", written.path)
    submission.validate(written.path, run.competition_dir, competition, may_be_constant=nothing)
    return Submitted(written, writer.odd(predictions), predictions.dropped, predictions.table, deadline)


class _Writer:
    """One submission's file, written again and again."""

    def __init__(self, run: SubmitRun, competition: Competition, work: kaggle.Workspace) -> None:
        self.competition_dir = run.competition_dir
        self.competition = competition
        self.work = work
        self.path = work.path(run.name)
        self.files, _ = kaggle.find_test_audio(run.competition_dir)
        self.classes = profiles.read_classes(run.competition_dir, competition)
        self.decision: Member = InferenceConfig().decision

    def write_prior(self) -> SubmissionReport:
        """What can be said before anything is heard."""
        windows = self.competition.windows
        table = pd.DataFrame({"file": np.repeat([str(path) for path in self.files], windows)})
        table["end_s"] = (np.tile(np.arange(windows), len(self.files)) + 1.0) * self.competition.window_s
        table["start_s"] = table["end_s"] - self.competition.window_s
        prior = pd.DataFrame([self._prior()] * len(table), columns=list(self.classes))
        return self._write(pd.concat([table, prior], axis=1), {})

    def write(self, predictions: inference.Predictions) -> SubmissionReport:
        """What is known by now; a file that is too short for its rows is named with its length."""
        short = {name: f"only {seconds:.1f} s long" for name, seconds in predictions.durations_s.items()
                 if seconds < self.competition.soundscape_s - LENGTH_S}
        faults = dict(zip(predictions.faults["file"], predictions.faults["reason"], strict=True))
        return self._write(predictions.table, {**short, **faults})

    def odd(self, predictions: inference.Predictions) -> pd.DataFrame:
        """Every test file that is not as the host says, with what is odd about it."""
        found: dict[str, list[str]] = {}
        for name, reason in zip(predictions.faults["file"], predictions.faults["reason"], strict=True):
            found.setdefault(name, []).append(f"not predicted: {reason}")
        for name, seconds in predictions.durations_s.items():
            if abs(seconds - self.competition.soundscape_s) > LENGTH_S:
                found.setdefault(name, []).append(f"{seconds:.1f} s long instead of "
                                                  f"{self.competition.soundscape_s:.0f} s")
            found.setdefault(name, []).extend(predictions.notes.get(name, ()))
        rows = [(PurePosixPath(name).name, "; ".join(what)) for name, what in found.items() if what]
        return pd.DataFrame(sorted(rows + self._unknown()), columns=["file", "what"], dtype=object)

    def _unknown(self) -> list[tuple[str, str]]:
        """What lies among the test files and is no audio by its name."""
        folder = Path(self.competition_dir) / "test_soundscapes"
        others = sorted(folder.iterdir()) if folder.is_dir() else []
        return [(path.name, f"not predicted: its name does not end in {', '.join(kaggle.AUDIO_SUFFIXES)}")
                for path in others if path.is_file() and path.suffix.lower() not in kaggle.AUDIO_SUFFIXES]

    def _prior(self) -> Sequence[float]:
        """Each class's share of the recordings, or the same for all where that is not known."""
        try:
            shares = profiles.read_shares(self.competition_dir, self.competition)
        except profiles.ProfileError as error:
            log.info("no prior from the recordings: %s", error)
            return [1 / len(self.classes)] * len(self.classes)
        return [shares.get(name, 0.0) for name in self.classes]

    def _write(self, table: pd.DataFrame, reasons: Mapping[str, str]) -> SubmissionReport:
        faults = pd.DataFrame({"file": list(reasons), "reason": list(reasons.values())}, dtype=object)
        return submission.write(table, faults, competition=self.competition, competition_dir=self.competition_dir,
                                path=self.path, decision=self.decision)


def _load_models(run: SubmitRun, work: kaggle.Workspace) -> tuple[ensembles.Prepared, Sequence[inference.Predictor]]:
    """The models, ready to be predicted with, and the call detectors."""
    checkpoints = run.ensemble or work.checkpoints(run.round, earlier=run.earlier, bundle=run.bundle)
    models = ensembles.load_ensemble(checkpoints, competition_dir=run.competition_dir, year=run.year, work=work,
                                     changes=run.changes)
    of_models = ("postprocess", "decision")  # what a call detector says is only heard or not
    heard = {name: value for name, value in run.changes.items() if name not in of_models}
    return models, load_predictors(work.call_detectors(), changes=heard)
