"""A table of runs that differ in one thing: each trained with several seeds, or gone on with, and compared.

What a table holds is in birdkit.experiments.plan, how runs are compared in birdkit.metrics.comparison. Each training
has a folder of its own, <work>/compare/<table>/<run>/split<k>_seed<s>, and is done when its predictions lie there.

The best checkpoint of a training is chosen by the validation that is compared: who validates more often has more to
choose from. With train__validate_every = 0 among the changes there is nothing to choose.
"""
from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from birdkit import checkpoint, preprocess, recipes
from birdkit.augmentations import build_augmentations
from birdkit.config import RunConfig
from birdkit.data.recording_labels import refuse_uncovered
from birdkit.experiments.plan import Table, Trial, trials
from birdkit.losses import LOSSES
from birdkit.metrics import Interval
from birdkit.metrics.comparison import Comparison, Validated, compare
from birdkit.runs.jobs import Job, Outcome, run_jobs
from birdkit.runs.testing import tested
from birdkit.runs.training import LOG, places
from birdkit.settings import to_dict, with_settings
from birdkit.training.averaging import INDIFFERENT
from birdkit.training.run_files import BEST, HISTORY, is_finished

log = logging.getLogger(__name__)

# What may differ between two configs without another result.
IMMATERIAL = ("name", "distil.teacher", "distil.labels",
              *(setting.replace("__", ".") for setting in INDIFFERENT))
# What only matters to a run that labels for itself.
OF_LABELLING = "labelling."
# What decides who validates on what.
EXAM = ("year", "n_splits", "splitting.", "validation.", "frontend.sample_rate_hz")


@dataclass(frozen=True)
class Report:
    """What is known so far.

    asked       the table that was asked for
    comparison  None where no training is done
    table       a row per run, as written to `csv`
    missing     trainings that are not done
    outcomes    of the trainings that were started this time
    on_test     whether the scores are of test soundscapes, not of the validation
    """

    asked: Table
    comparison: Comparison | None
    table: pd.DataFrame
    missing: tuple[Trial, ...]
    outcomes: tuple[Outcome, ...]
    csv: Path
    on_test: bool = False

    @property
    def picture(self) -> Path:
        """Where the picture belongs."""
        return self.csv.with_suffix(".png")


def run_table(table: Table, competition_dir: Path | str, work_dir: Path | str, *, jobs: int = 1,
              only: Sequence[str] = (), truth: Path | None = None, progress: bool = True) -> Report:
    """Train what is not trained yet, and compare everything that is.

    jobs   trainings at once, each a process of its own; 0 trains nothing and compares what there is
    only   names of runs to train; the others are compared if they are done
    truth  of the test soundscapes, on which the runs are compared instead of on their validation. What is chosen by it
           is chosen by the test

    Raises ValueError, TypeError or KeyError before anything is trained where a setting is none, `only` names no run,
    the runs would not be validated on the same soundscapes, no split's model could label the recordings that another
    learns from, or a folder holds a training with other settings.
    """
    unknown = [name for name in only if name not in table.runs]
    if unknown:
        raise ValueError(f"no run named {', '.join(unknown)}; there is: {', '.join(table.runs)}")
    competition, work = Path(competition_dir).absolute(), Path(work_dir).absolute()
    wanted = trials(table, competition, work)
    configs = {str(trial): _checked_config(trial) for trial in wanted}
    _check_exam(wanted, configs)
    for trial in wanted:
        if trial.labels:
            refuse_uncovered(configs[str(trial)], table.splits)
    make_audit(table, competition, work)
    done = {str(trial) for trial in wanted if _is_done(trial, configs[str(trial)])}
    todo = [trial for trial in wanted if str(trial) not in done and (not only or trial.asked in only)]
    outcomes: list[Outcome] = []
    if jobs and todo:
        log.info("%d of %d trainings are done; training %d, %d at a time", len(done), len(wanted), len(todo), jobs)
        for depth in sorted({trial.depth for trial in todo}):
            outcomes += _run_depth([trial for trial in todo if trial.depth == depth], jobs, table.name, progress)
    names = list(dict.fromkeys(trial.name for trial in wanted))
    finished = sorted((trial for trial in wanted if is_finished(trial.run.folder)),
                      key=lambda trial: names.index(trial.name))
    missing = tuple(trial for trial in wanted if trial not in finished)
    named = f"{table.name}.csv" if truth is None else f"{table.name}_test.csv"
    return Report(table, *_compared(table, finished, work / "compare" / named, truth, progress), missing,
                  tuple(outcomes), work / "compare" / named, truth is not None)


def _run_depth(todo: Sequence[Trial], jobs: int, name: str, progress: bool) -> list[Outcome]:
    """Label for trainings that wait for nothing else any more, and train them; those without labels are left out."""
    waiting = {trial.labels.table: trial for trial in todo if trial.labels and _teachers_are_there(trial)}
    labelling = [Job(f"labels of {trial}", trial.labels.command(), path.with_suffix(".log"))
                 for path, trial in waiting.items() if trial.labels]
    outcomes = run_jobs(labelling, places(jobs), label=f"{name}: labels", progress=progress) if labelling else []
    labelled = {path for path, outcome in zip(waiting, outcomes, strict=True) if not outcome.status}
    training = [Job(str(trial), trial.run.sharing(jobs).command(), trial.run.folder / LOG) for trial in todo
                if not trial.labels or trial.labels.table in labelled]
    return [*outcomes, *(run_jobs(training, places(jobs), label=name, progress=progress) if training else [])]


def _teachers_are_there(trial: Trial) -> bool:
    """Whether everything that labels for a training has been trained; what has not is said."""
    missing = [str(path) for path in trial.labels.teachers if not Path(path).is_file()] if trial.labels else []
    if missing:
        log.warning("%s waits for %s", trial, ", ".join(missing))
    return not missing


def make_audit(table: Table, competition_dir: Path, work_dir: Path) -> None:
    """Audit the competition as notebook 01 does, unless that is done; ValueError where it was for other splits."""
    recipe = recipes.get(table.recipe)
    config = with_settings(recipe.config, table.changes)
    path = work_dir / "recordings.parquet"
    if not path.is_file():
        preprocess.audit(competition_dir, work_dir, n_splits=config.n_splits, seed=recipe.config.seed,
                         splitting=config.splitting, year=table.year)
    highest = int(pd.read_parquet(path, columns=["split"])["split"].max())
    if max(table.splits) > highest or highest >= config.n_splits:
        raise ValueError(f"{path} has the splits 0 to {highest}; table {table.name!r} is of {config.n_splits} splits, "
                         f"and asks for {list(table.splits)}. Choose another work folder")
    was = json.loads((work_dir / "audit.json").read_text(encoding="utf-8"))["settings"].get("splitting")
    asked = to_dict(config.splitting)
    if was != asked:
        raise ValueError(f"{path} was split as {was}, table {table.name!r} asks for {asked}. Choose another work "
                         "folder")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, labels_itself: bool = False) -> list[str]:
    """The settings in which two configs, as dicts, differ with a consequence: "train.epochs 5, now 10".

    A setting that one of them does not have yet has its default there. How soundscapes are labelled only counts where
    the run `labels_itself`: else its pseudo-labels are what they are.
    """
    ignored = IMMATERIAL if labels_itself else (*IMMATERIAL, OF_LABELLING)
    default = _flat(to_dict(RunConfig()))
    one, two = _flat(old), _flat(new)
    named = {name: (one.get(name, default.get(name)), two.get(name, default.get(name))) for name in {**one, **two}}
    return [f"{name} {before!r}, now {now!r}" for name, (before, now) in named.items()
            if before != now and not name.startswith(ignored)]


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested dicts as one, their keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {where + key: value}
    return flat


def _checked_config(trial: Trial) -> RunConfig:
    """The config of a training; what is wrong with it is raised with the name of its run."""
    try:
        config = trial.run.config()
        build_augmentations(config.augment.wave)
        build_augmentations(config.augment.spectrogram)
        LOSSES.build(config.loss.name, **config.loss.options)
        trial.run.pseudo_label_table()
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"run {trial.name!r}: {error.args[0] if error.args else error}") from error
    return config


def _check_exam(wanted: Sequence[Trial], configs: Mapping[str, RunConfig]) -> None:
    """Raise ValueError where runs would be validated on different soundscapes."""
    first = to_dict(configs[str(wanted[0])])
    for trial in wanted[1:]:
        other = [text for text in differences(first, to_dict(configs[str(trial)])) if text.startswith(EXAM)]
        if other:
            raise ValueError(f"runs {wanted[0].name!r} and {trial.name!r} would not be validated on the same "
                             f"soundscapes: {'; '.join(other)}. Such a setting belongs into [changes]")


def _is_done(trial: Trial, config: RunConfig) -> bool:
    """Whether a training is done; ValueError where its folder holds one with other settings."""
    old: Mapping[str, Any] | None = None
    finished = is_finished(trial.run.folder)
    if finished and not trial.predictions.is_file():
        raise ValueError(f"{trial.run.folder} holds a finished run without {trial.predictions.name}; delete the folder "
                         "to train it again")
    if finished:
        origin = Validated.read(trial.predictions).origin
        old = origin["config"]
        for name in [name for name, value in trial.run.learnt(config).items() if origin["learnt"][name] != value]:
            raise ValueError(f"{trial.run.folder} was trained on other {name} than there are now; delete the folder to "
                             "train it again")
    elif (trial.run.folder / BEST).is_file():
        old = checkpoint.read_info(trial.run.folder / BEST)["config"]
    labels_itself = trial.labels is not None or config.pseudo.relabel_every > 0
    if old is not None and (changed := differences(old, to_dict(config), labels_itself=labels_itself)):
        raise ValueError(f"{trial.run.folder} was trained with {'; '.join(changed)}; delete the folder to train it "
                         "again, or give the run another name")
    return finished


def _compared(table: Table, finished: Sequence[Trial], csv: Path, truth: Path | None,
              progress: bool) -> tuple[Comparison | None, pd.DataFrame]:
    """Compare what is done, on the test soundscapes where a truth is given, and write it."""
    done: dict[str, dict[tuple[int, int], Validated]] = {trial.name: {} for trial in finished}
    seconds: dict[str, list[float]] = {trial.name: [] for trial in finished}
    for trial in tqdm(finished, f"{table.name}: test", unit="model", disable=truth is None or not progress):
        done[trial.name][trial.split, trial.seed] = (
            Validated.read(trial.predictions) if truth is None
            else tested(trial.run.folder / BEST, trial.run.competition_dir, truth, year=table.year))
        seconds[trial.name].append(pd.read_csv(trial.run.folder / HISTORY)["seconds"].sum())
    if not done:
        return None, pd.DataFrame()
    comparison = compare(done, table.baseline)
    rows = tabulate(comparison).set_index("run")
    rows["seconds"] = [sum(seconds[name]) / len(seconds[name]) for name in rows.index]
    rows["epochs"] = [max(one.origin["config"]["train"]["epochs"] for one in done[name].values())
                      for name in rows.index]
    rows = rows.reset_index()
    csv.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(csv, index=False)
    return comparison, rows


def tabulate(comparison: Comparison) -> pd.DataFrame:
    """A comparison as a table, a row per run; numbers as they are, single scores in one column."""
    rows = []
    for row in comparison.rows:
        nothing = Interval(math.nan, math.nan, math.nan)
        difference = row.difference or nothing
        rows.append({
            "run": row.run, "trainings": len(row.trainings), "score": row.score.value, "low": row.score.low,
            "high": row.score.high, "difference": difference.value, "difference_low": difference.low,
            "difference_high": difference.high, "above": row.above, "p": row.p, "p_holm": row.p_holm,
            "floor": row.floor, "verdict": row.verdict or "baseline" * (row.run == comparison.baseline),
            "verdict_holm": row.verdict_holm,
            "scores": " ".join(f"{score:.4f}" for score in row.trainings.values())})
    return pd.DataFrame(rows)
