"""A submission from the files on disk, as notebook 04 makes it: there from the first minute, better with every file."""
from __future__ import annotations

import html
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from birdkit import ensembles, inference, kaggle, profiles, submission
from birdkit.config import InferenceConfig, Member
from birdkit.inference import load_predictors
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
    gate        what call detectors do, see birdkit.inference.predict; "" as the checkpoints say. They are loaded where
                that is anything, and predict as they were trained to
    changes     to how all models but those predict, and to what is made of it: settings of InferenceConfig, such as
                {"clip_shifts_s": [2.5]}, {"decision": {"name": "quantile", "options": {"q": 0.9}}} or {"postprocess":
                [{"name": "smooth"}]}
    name        of the file in the work folder
    time_share  of the host's time limit that may be used, counted from the call; in (0, 1]
    year        of the competition, stated; 0 to recognise it
    every_s     seconds from one replacement of the file to the next while predicting; longer where writing takes long
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
class TimeProjection:
    """How long the scored run will take, by how long this one took.

    n_files     soundscapes of the scored run, each soundscape_s long
    network_s   each model's name and the seconds that one takes in it
    other_s     seconds that it takes beside: what networks waited for
    start_s     seconds before the first one: loading
    allowed_s   that the run may take, of the host's limit_s
    cores       that it was measured on
    """

    n_files: int
    soundscape_s: float
    network_s: tuple[tuple[str, float], ...]
    other_s: float
    start_s: float
    allowed_s: float
    limit_s: float
    cores: int

    @property
    def total_s(self) -> float:
        """Seconds of the whole run."""
        return self.start_s + self.n_files * (sum(each_s for _, each_s in self.network_s) + self.other_s)

    def __repr__(self) -> str:
        over = ": too long, test-time augmentation and then models will be left out" if self.is_over else ""
        parts = [(self.n_files * each_s, name) for name, each_s in self.network_s]
        parts += [(self.n_files * self.other_s, "reading and the rest"), (self.start_s, "before the first file")]
        lines = [f"projected for {self.n_files} soundscapes of {self.soundscape_s:g} s, measured on {self.cores} cores:"
                 f" {self.total_s / 60:.1f} minutes of {self.allowed_s / 60:.1f} (the host's limit: "
                 f"{self.limit_s / 60:.0f}){over}"]
        return "\n".join([*lines, *(f"  {seconds / 60:6.1f} minutes {what}" for seconds, what in parts)])

    @property
    def is_over(self) -> bool:
        """True where it would take longer than allowed."""
        return self.total_s > self.allowed_s


@dataclass(frozen=True, repr=False)
class Submitted:
    """What was written, and what a person should know of it.

    odd       DataFrame[file, what]: test files that could not be predicted, of another length than the host's, or
              otherwise unusual
    dropped   what was left out because time was short, and from which file on
    table     DataFrame[file, start_s, end_s, <classes>], what was predicted
    deadline  with the time that was left
    projection  how long the scored run takes; None where nothing was predicted with all models
    """

    written: SubmissionReport
    odd: pd.DataFrame
    dropped: tuple[str, ...]
    table: pd.DataFrame
    deadline: kaggle.Deadline
    projection: TimeProjection | None = None

    def __repr__(self) -> str:
        lines = [repr(self.written), f"time: {self.deadline!r}"]
        lines += [repr(self.projection)] if self.projection else []
        lines += [f"short of time: {what}" for what in self.dropped] or ["nothing was left out for want of time"]
        lines += [f"odd: {file}: {what}" for file, what in self.odd.itertuples(index=False)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return f"<pre>{html.escape(repr(self))}</pre>"


def submit(run: SubmitRun) -> Submitted:
    """Predict the test soundscapes and write the submission.

    A complete valid file is there before any model is loaded: in every row each class's share of the recordings, or, if
    even that cannot be made, the host's sample submission. While predicting it is replaced every `every_s` seconds with
    what is known by then, each time whole or not at all, so a run that is killed leaves the best so far.

    Without test files this is a rehearsal on training soundscapes; in the scored rerun that raises
    birdkit.kaggle.MissingInputError. So do a round without checkpoints and an ensemble's members that are nowhere;
    SubmissionError where what was written is not what the host asks for. A file for which a model says what is no
    number is one of those that could not be predicted. Where time is over before the first file, no file can be
    predicted, most of them cannot, or all rows are equal, the best there is stands, and that is logged as an error.
    """
    work = kaggle.Workspace(run.work_dir)
    _copy_sample(run, work)
    competition = profiles.recognise(run.competition_dir, year=run.year)
    deadline = kaggle.Deadline(competition.time_limit_s * run.time_share)
    writer = _Writer(run, competition, work)
    writer.write_prior()
    models, gates = _load_models(run, work)
    writer.decision = models.decision
    start_s = deadline.budget_s - deadline.remaining()
    predictions = inference.predict(
        writer.asked.files, models.predictors, window_s=competition.window_s, classes=writer.classes, mean=models.mean,
        members=models.members, gates=gates, gate=run.gate, deadline=deadline, interim=writer.write,
        every_s=run.every_s, spare=True)
    written = writer.write_prior() if predictions.table.empty else writer.write(predictions)
    table = submission.validate(written.path, run.competition_dir, competition, may_be_constant=True)
    _say_what_is_poor(written, predictions, table)
    projection = _project(predictions, models, competition, deadline, start_s)
    if projection is not None:
        log.log(logging.WARNING if projection.is_over else logging.INFO, "%s", projection)
    return Submitted(written, writer.odd(predictions), predictions.dropped, predictions.table, deadline, projection)


def _say_what_is_poor(written: SubmissionReport, predictions: inference.Predictions, table: pd.DataFrame) -> None:
    """Log as an error what nobody would submit who had the choice: to raise would lose a file that is complete, and
    with it the day's entry."""
    n_faults, n_heard = len(predictions.faults), len(predictions.durations_s)
    if predictions.table.empty:
        log.error("nothing was predicted: every row of %s is the prior", written.path)
    elif n_faults > n_heard:
        log.error("%d of %d soundscapes could not be predicted; their rows of %s are filled: %s", n_faults,
                  n_faults + n_heard, written.path, dict(predictions.faults["reason"].value_counts()[:3]))
    if not written.rehearsal and not predictions.table.empty and submission.is_constant(table):
        log.error("all %d rows of %s are equal, which ranks nothing", len(table), written.path)


def _project(predictions: inference.Predictions, models: ensembles.Prepared, competition: Competition,
             deadline: kaggle.Deadline, start_s: float) -> TimeProjection | None:
    """How long the scored run takes: with the year's number of soundscapes, or, in the scored run, those there are."""
    taken, each_s = predictions.taken, competition.soundscape_s
    if taken is None:
        return None
    ends = np.cumsum([len(model) for model in models.models])
    of_models = [sum(part) * each_s for part in np.split(np.array(taken.network_s), ends[:-1])]
    n_files = len(predictions.faults) + len(predictions.durations_s) if kaggle.is_rerun() else competition.test_files
    names = ["/".join(Path(name).parts[-2:]) for name in models.names]
    return TimeProjection(n_files, each_s, tuple(zip(names, of_models, strict=True)), taken.other_s * each_s, start_s,
                      deadline.budget_s, competition.time_limit_s, taken.cores)


def _copy_sample(run: SubmitRun, work: kaggle.Workspace) -> None:
    """Lay the host's sample submission down as the file, whole or not at all: valid in whatever goes wrong later."""
    sample, path = Path(run.competition_dir) / profiles.SAMPLE, work.path(run.name)
    if sample.is_file():
        part = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample, part)
        os.replace(part, path)


class _Writer:
    """One submission's file, written again and again."""

    def __init__(self, run: SubmitRun, competition: Competition, work: kaggle.Workspace) -> None:
        self.competition_dir = run.competition_dir
        self.competition = competition
        self.path = work.path(run.name)
        self.asked = submission.ask(run.competition_dir, competition)
        self.classes = profiles.read_classes(run.competition_dir, competition)
        self.decision: Member = InferenceConfig().decision

    def write_prior(self) -> SubmissionReport:
        """What can be said before anything is heard."""
        windows, files = self.competition.windows, self.asked.files
        table = pd.DataFrame({"file": np.repeat([str(path) for path in files], windows)})
        table["end_s"] = (np.tile(np.arange(windows), len(files)) + 1.0) * self.competition.window_s
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
        rows += [(name, f"not predicted: {why}") for name, why in self.asked.odd.items()]
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
                                path=self.path, decision=self.decision, asked=self.asked)


def _load_models(run: SubmitRun, work: kaggle.Workspace) -> tuple[ensembles.Prepared, Sequence[inference.Predictor]]:
    """The models, ready to be predicted with, and the call detectors where something is to be done with them."""
    checkpoints = run.ensemble or work.checkpoints(run.round, earlier=run.earlier, bundle=run.bundle)
    models = ensembles.load_ensemble(checkpoints, competition_dir=run.competition_dir, year=run.year, work=work,
                                     changes=run.changes)
    how = run.gate or models.predictors[0].config.inference.gate
    return models, load_predictors(work.call_detectors()) if how != "none" else []
