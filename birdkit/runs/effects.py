"""The rows that effects are measured on: of models on their split's validation, or on test soundscapes with truth."""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from birdkit import kaggle, postprocess, profiles
from birdkit.config import Member, RunConfig
from birdkit.data import AudioStore
from birdkit.effects import Measured, Rows, Tried, measure
from birdkit.effects.measuring import Compared, Treated, compare_ways
from birdkit.ensembles import Prepared, bind, load_ensemble
from birdkit.inference import Ensemble, Predictor, Soundscape, SoundscapeFile, SoundscapeWave, load_predictors
from birdkit.kaggle import Workspace
from birdkit.metrics import METRICS
from birdkit.postprocess.base import NamedOptions
from birdkit.postprocess.published import PUBLISHED
from birdkit.profiles import Competition
from birdkit.runs.testing import truth_of_windows
from birdkit.settings import replace
from birdkit.training.validation import Validation

log = logging.getLogger(__name__)

Opened = Sequence[tuple[str, Callable[[], Soundscape]]]


@dataclass(frozen=True)
class EffectsRun:
    """What to measure, and on what.

    checkpoints  of models of one split; none for those of the work folder's round 0
    ensemble     a file of birdkit.ensembles instead; "" for none. What it does to one member's windows is done to the
                 rows, what it does to all is among what is tried
    truth        of the test soundscapes, row_id and a column of 0 and 1 for each class; None for the validation of
                 the models' split, on composed soundscapes
    quantile     scores decisions above this quantile of all probabilities (birdkit.decisions.by_quantile); None for
                 what the models' own decision makes of them where the metric judges decisions, else probabilities
    year         of the competition, stated; 0 to recognise it
    changes      to how the models predict in all that is measured: settings of birdkit.config.InferenceConfig
    against      further changes to compare with that, see `compare_settings`. What an ensemble's file says of how a
                 member predicts goes before both
    """

    competition_dir: Path
    work_dir: Path
    checkpoints: Sequence[Path] = ()
    ensemble: str = ""
    truth: Path | None = None
    quantile: float | None = None
    year: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    against: Mapping[str, Any] = field(default_factory=dict)

    @property
    def competition(self) -> Competition:
        """The rules of the competition's files."""
        return profiles.recognise(self.competition_dir, year=self.year, say=False)

    @property
    def name(self) -> str:
        """Of the files that are written."""
        asked = f"_q{self.quantile:g}" if self.quantile is not None else ""
        return f"effects_{'validation' if self.truth is None else 'test'}{asked}"


def measure_effects(run: EffectsRun, *, progress: bool = True) -> Measured:
    """The effect of every published post-processing, of the checkpoint's own, of gates, and of every way of blending.

    The rows are kept in the work folder, and predicted again only where the models or what they hear have changed.

    Raises birdkit.kaggle.MissingInputError where there are no checkpoints or no audio, ValueError where models were not
    made alike enough to be validated on the same soundscapes, or a truth holds rows that were not predicted.
    """
    way = _treated(run, "", progress)
    return measure(way.rows, _tried(run, way.rows, way.steps), shares=way.shares, decision=way.decision)


def compare_settings(run: EffectsRun, *, progress: bool = True) -> Compared:
    """What other settings of how the models predict, `run.against`, do to the score of what they would submit: other
    clips, pooling, post-processing or decisions. The rest, and errors, as for `measure_effects`.
    """
    against = replace(run, changes={**run.changes, **run.against})
    return compare_ways(_treated(run, "", progress), _treated(against, "_against", progress))


def _treated(run: EffectsRun, suffix: str, progress: bool) -> Treated:
    """What the models would submit; their rows are kept under a name with this end."""
    work = Workspace(run.work_dir)
    source = run.ensemble or list(run.checkpoints) or work.checkpoints(0)
    models = load_ensemble(source, competition_dir=run.competition_dir, year=run.year, work=work,
                           changes=run.changes)
    rows = _stored(run, models, work, progress, suffix)
    own = models.predictors[0].config.inference.postprocess if models.members is None else models.members
    decision = models.decision if METRICS[rows.metric].on_decisions else None
    if run.quantile is not None:
        decision = Member("quantile", {"q": run.quantile})
    shares = np.array([sum(one.share for one in own) for own in models.models])
    return Treated(rows, shares, models.mean, own, decision)


def _tried(run: EffectsRun, rows: Rows, own: Sequence[NamedOptions]) -> list[Tried]:
    """All that is published, with its data; gates where there are call detectors; what the models themselves do."""
    tried = []
    for one in PUBLISHED:
        steps = tuple(Member(step.name, dict(step.options)) for step in one.steps)
        try:
            bound = bind(steps, run.competition_dir, year=run.year)
        except profiles.ProfileError as error:  # groups of animals are in the class tables from 2025 on
            log.info("%s is not measured: %s", one.label, error)
            bound = ()
        tried.append(Tried(one.label, bound if len(bound) == len(steps) else None, one.source, one.said))
    heard = bool(np.isfinite(rows.calls).all())
    tried += [Tried(f"call gate, {how}", () if heard else None, "2021 1st and 2nd", gate=how)
              for how in postprocess.GATES if how != "none"]
    if own:
        tried.append(Tried("as the models say: " + ", ".join(one.name for one in own), own))
    return tried


def _stored(run: EffectsRun, models: Prepared, work: Workspace, progress: bool, suffix: str) -> Rows:
    """The rows, from where an earlier call has left them or predicted."""
    detectors = work.call_detectors()
    gates = load_predictors(detectors) if detectors else []
    # A bundle has the hash of its checkpoint, but not its rows.
    heard = [f"{one.hash} {one.runtime} {one.config.inference} {one.share} {one.postprocess}"
             for one in (*models.predictors, *gates)]
    origin = {"models": hashlib.sha256("\n".join(heard).encode()).hexdigest(), "names": list(models.names),
              "truth": "" if run.truth is None else hashlib.sha256(run.truth.read_bytes()).hexdigest()}
    path = work.path(f"rows_{'validation' if run.truth is None else 'test'}{suffix}.npz")
    if path.is_file():
        rows = Rows.read(path)
        if rows.origin == origin:
            log.info("%s holds what these models say", path)
            return rows
    if run.truth is None:
        rows = _of_validation(run, models, gates, work, progress)
    else:
        rows = _of_test(run, models, gates, run.truth)
    rows = Rows(rows.truth, rows.members, rows.files, rows.classes, models.names, rows.metric, rows.calls, origin)
    rows.save(path)
    return rows


def _of_validation(run: EffectsRun, models: Prepared, gates: list[Predictor], work: Workspace, progress: bool) -> Rows:
    """On soundscapes composed from the recordings that none of the models was trained on."""
    configs = [one.config for one in models.predictors]
    asked = {(one.split, one.validation.n_soundscapes, one.frontend.sample_rate_hz) for one in configs}
    if len(asked) > 1 or configs[0].split < 0:
        raise ValueError("models are validated on the same soundscapes only where they are of one split: split, number "
                         f"of soundscapes and sample rate are {sorted(asked)}")
    config: RunConfig = replace(configs[0], validation__kind="composed")
    recordings = pd.read_parquet(work.recordings())
    classes = profiles.read_classes(run.competition_dir, run.competition)
    store = AudioStore(run.competition_dir, config.frontend.sample_rate_hz, limit_gib=config.data.cache_gib,
                       packed=work.packed())
    validation = Validation.prepare(config, recordings[recordings["split"] == config.split], classes, store=store,
                                    soundscapes=pd.read_parquet(work.soundscapes()), progress=progress)
    rate_hz = config.frontend.sample_rate_hz
    waves = {f"{index:05d}": wave for index, wave in enumerate(validation.waves)}
    opened: Opened = [
        (name, lambda wave=wave: SoundscapeWave(wave.wave(), rate_hz))  # type: ignore[misc]
        for name, wave in waves.items()]
    scored = validation.scored or classes
    members, calls, files, _ = _hear(models, gates, opened, scored, validation.window_s)
    truth = np.concatenate(validation.truth)[:, [classes.index(name) for name in scored]]
    return Rows(truth, members, files, tuple(scored), models.names, validation.metric, calls)


def _of_test(run: EffectsRun, models: Prepared, gates: list[Predictor], truth_path: Path) -> Rows:
    """On the test soundscapes that a truth has rows for."""
    competition = run.competition
    classes = profiles.read_scored(run.competition_dir, competition)
    paths, _ = kaggle.find_test_audio(run.competition_dir)
    opened: Opened = [(path.name, lambda path=path: SoundscapeFile(path)) for path in paths]  # type: ignore[misc]
    members, calls, files, end_s = _hear(models, gates, opened, classes, competition.window_s)
    labels, asked = truth_of_windows(truth_path, files, end_s, classes, competition)
    return Rows(labels, members[:, asked], files[asked], tuple(classes), models.names, competition.metric, calls[asked])


def _hear(models: Prepared, gates: list[Predictor], opened: Opened, classes: Sequence[str],
          window_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What each model says of the windows (M, R, K), calls (R,), and file and end of each window, (R,) each.

    A file that cannot be read is left out, with a warning.
    """
    ensemble = Ensemble(models.predictors, window_s=window_s, classes=classes, gates=gates,
                        gate="multiply" if gates else "none", members=())
    counts = np.cumsum([len(own) for own in models.models])[:-1]
    members, calls, files, end_s, faults = [], [], [], [], dict[str, str]()
    for one in ensemble.listen(opened, len(opened), faults=faults):
        members.append([scales.mean(0) for scales in np.split(one.apart, counts)])
        calls.append(one.calls if gates else np.full(len(one.calls), np.nan))
        files += [one.name] * len(one.calls)
        end_s.append((1 + np.arange(len(one.calls))) * window_s)
    for name, reason in faults.items():
        log.warning("%s is left out: %s", name, reason)
    return np.concatenate(members, axis=1), np.concatenate(calls), np.array(files), np.concatenate(end_s)
