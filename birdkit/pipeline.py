"""The four notebooks in order, as Kaggle runs them: with papermill, parameters injected, every step kept and resumable.

What a step does is in the notebooks; nothing is computed here.
"""
from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

import birdkit
from birdkit import recipes
from birdkit.kaggle import Workspace

LOG = logging.getLogger(__name__)
EXECUTED = "executed"
SUBMISSION = "submission.csv"
TRAIN, INFER = "03_train_fold", "04_ensemble_infer"


class PipelineError(RuntimeError):
    """A notebook failed; the message names it and its executed copy, which shows where."""


@dataclass(frozen=True)
class Step:
    """One execution of one notebook."""

    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A file name of its own, in order.

        >>> Step("03_train_fold", {"ROUND": 1, "FOLD": 2}).name
        '03_train_fold_round1_split2'
        """
        of_round = f"_round{self.parameters['ROUND']}" if "ROUND" in self.parameters else ""
        of_split = f"_split{self.parameters['FOLD']}" if "FOLD" in self.parameters else ""
        return self.notebook + of_round + of_split


@dataclass(frozen=True)
class Changes:
    """What a person changes of a recipe; see `run`."""

    always: Mapping[str, Any] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)
    by_round: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, round: int) -> dict[str, Any]:
        """The settings of a round.

        >>> changes = Changes({"train__epochs": 5}, {"model__drop_path": 0.15}, {2: {"pseudo__power": 1.8}})
        >>> changes.of(0), changes.of(2)
        ({'train__epochs': 5}, {'train__epochs': 5, 'model__drop_path': 0.15, 'pseudo__power': 1.8})
        """
        return {**self.always, **(self.later if round else {}), **self.by_round.get(round, {})}


def steps(recipe: str, splits: Sequence[int], *, rounds: int, every_round: bool = False, earlier: int = 0,
          seed: int = 0, changes: Changes = Changes(), ensemble: Path | None = None) -> list[Step]:
    """01 -> 03 -> (02 -> 03) * rounds -> 04; with `every_round`, a submission after each round to compare them.

    splits   the parts of the cross-validation to train, one run of 03 each
    rounds   of pseudo-labelling; round 0 trains without
    earlier  rounds before the one submitted whose checkpoints join its ensemble
    seed     0 for the recipe's own, see birdkit.recipes.Recipe.run
    changes  to the recipe's config, for 02 and 03: the settings of its round are what each gets as CHANGES
    ensemble  a file of birdkit.ensembles, of which 04 makes the last submission instead of the round's checkpoints

    >>> [step.name for step in steps("tiny", [0], rounds=1)]
    ['01_preprocess', '03_train_fold_round0_split0', '02_pseudolabel_round1', '03_train_fold_round1_split0',
     '04_ensemble_infer_round1']
    """
    if rounds < 0 or not splits:
        raise ValueError(f"rounds = {rounds} must be 0 or more and splits = {list(splits)} must not be empty")
    plan, chosen = [Step("01_preprocess", {"RECIPE": recipe})], recipes.get(recipe)

    def step(notebook: str, of_all: Mapping[str, Any], **own: Any) -> Step:
        return Step(notebook, {"RECIPE": recipe, **own, **({"CHANGES": dict(of_all)} if of_all else {})})

    for number in range(rounds + 1):
        if number:
            plan.append(step("02_pseudolabel", changes.of(number), ROUND=number))
        for split in splits:
            of_seed = {"seed": chosen.run(number, split, seed=seed).seed} if seed else {}
            plan.append(step(TRAIN, {**of_seed, **changes.of(number)}, ROUND=number, FOLD=split))
        if number == rounds or every_round:
            name = SUBMISSION if number == rounds else f"submission_round{number}.csv"
            of_file = {"ENSEMBLE": str(ensemble.absolute())} if ensemble is not None and number == rounds else {}
            plan.append(Step(INFER, {"ROUND": number, "EARLIER": min(earlier, number), "SUBMISSION": name, **of_file}))
    return plan


def find_notebooks() -> Path:
    """The notebooks of the checkout, or those installed with the package; FileNotFoundError names both places."""
    places = [Path(birdkit.__file__).parents[1] / "notebooks", Path(sys.prefix) / "share" / "birdkit" / "notebooks"]
    for place in places:
        if (place / "01_preprocess.ipynb").is_file():
            return place
    raise FileNotFoundError(f"no notebooks in {places[0]} nor in {places[1]}")


def run(competition_dir: str | Path, work_dir: str | Path, *, recipe: str = "small", rounds: int | None = None,
        splits: Sequence[int] | None = None, every_round: bool = False, until_no_gain: bool = False, seed: int = 0,
        changes: Mapping[str, Any] | None = None, later: Mapping[str, Any] | None = None,
        by_round: Mapping[int, Mapping[str, Any]] | None = None, ensemble: Path | None = None, year: int = 0,
        notebooks: str | Path | None = None) -> Path:
    """Run the whole way and return the path of submission.csv.

    A step that is done is skipped, so a run that died goes on where it was: its marker in `work_dir`/executed holds
    the hash of the notebook, its parameters and the steps it builds on. Within 03, training itself resumes.

    rounds         of pseudo-labelling, default: the recipe's
    splits         to train, default: the recipe's
    every_round    write submission_round0.csv and so on, too
    until_no_gain  no further round after one that did not gain beyond the noise floor, see birdkit.runs.rounds; the
                   round before it is submitted
    seed           0 for the recipe's own; others give other models of the same kind, in work folders of their own
    changes        to the recipe's config when labelling and training, as for birdkit.settings.with_settings
    later          the same from round 1 on: what is for students alone, such as ways to use pseudo-labels
    by_round       the same for single rounds, by their number; the later of these three wins
    ensemble       a file of birdkit.ensembles to submit instead of the last round's checkpoints; what it lists may be
                   what this very run trains
    year           of the competition, stated; 0 to recognise it, see birdkit.profiles.recognise
    notebooks      their folder, default `find_notebooks()`

    Raises PipelineError where a notebook fails; the executed copy keeps its output up to there. ValueError or
    TypeError, before anything runs, where a change is no setting, soundscapes or recordings would be labelled by nobody
    in a later round, rounds shall end without a gain but no split validates, or the ensemble's file is wrong.
    """
    folder = Path(notebooks) if notebooks else find_notebooks()
    work = Path(work_dir).absolute()
    (work / EXECUTED).mkdir(parents=True, exist_ok=True)
    chosen = recipes.get(recipe)
    splits, rounds = chosen.splits if splits is None else splits, chosen.rounds if rounds is None else rounds
    asked = Changes(changes or {}, later or {}, by_round or {})
    _check_settings(chosen, splits, rounds, asked)
    if until_no_gain and max(splits, default=-1) < 0:
        raise ValueError(f"until_no_gain compares the scores of rounds, but splits = {list(splits)} validate on "
                         "nothing: train one from 0 on")
    if ensemble is not None:
        from birdkit.ensembles import read_ensemble  # torch, too

        read_ensemble(ensemble)
    common = {"COMPETITION_DIR": str(Path(competition_dir).absolute()), "WORK_DIR": str(work),
              **({"COMPETITION_YEAR": year} if year else {})}
    how: dict[str, Any] = {"every_round": every_round, "earlier": chosen.earlier, "seed": seed, "changes": asked,
                           "ensemble": ensemble}
    plan = steps(recipe, splits, rounds=rounds, **how)
    before = repr(chosen)  # a recipe that was changed is another one
    # The notebooks draw bars of their own on stderr: this one stays still while they do.
    with tqdm(desc="pipeline", unit="step", total=len(plan)) as bar:
        while plan:
            step = plan.pop(0)
            notebook, parameters = folder / f"{step.notebook}.ipynb", {**common, **step.parameters}
            fingerprint = _fingerprint(notebook, parameters, before)
            bar.set_description(step.name)
            _execute(step, notebook, parameters, work=work, fingerprint=fingerprint)
            bar.update()
            if step.notebook != INFER:  # nothing is made from a submission
                before = fingerprint
            if until_no_gain and step.parameters.get("ROUND") and _ends_round(step, plan):
                last = _last_that_helped(work)
                if last < step.parameters["ROUND"]:
                    plan = steps(recipe, [0], rounds=last, **how)[-1:]
                    bar.total = bar.n + 1
    return work / SUBMISSION


def _check_settings(recipe: recipes.Recipe, splits: Sequence[int], rounds: int, changes: Changes) -> None:
    """Raise ValueError or TypeError where what is asked for cannot go well to its end."""
    from birdkit.data.recording_labels import refuse_uncovered  # with torch, for which `birdkit --help` does not wait

    if recipe.calls:
        raise ValueError(f"recipe {recipe.config.name!r} trains call detectors, of which there is no submission: train "
                         "one in notebook 03 beside the models that it gates")
    beyond = sorted(number for number in changes.by_round if not 0 <= number <= rounds)
    if beyond or (changes.later and not rounds):
        raise ValueError(f"settings are changed in round {beyond[0] if beyond else 1} and there is none: the last is "
                         f"round {rounds}")
    for number in range(rounds + 1):
        for split in splits:
            config = recipe.changed(number, split, changes.of(number))
            config.labelling.check_splits(number, splits, config.n_splits)
        if number and splits:
            refuse_uncovered(config, splits)


def _ends_round(step: Step, plan: Sequence[Step]) -> bool:
    """Whether a step is the last training of its round."""
    return step.notebook == TRAIN and not (plan and plan[0].notebook == TRAIN)


def _last_that_helped(work: Path) -> int:
    """The round to submit if there were no more; what the last one brought is said."""
    from birdkit.runs import rounds  # torch, too

    found = rounds.read_rounds(Workspace(work))
    LOG.warning("%s", found[-1])
    last = rounds.last_that_helped(found)
    if last < found[-1].number:
        LOG.warning("no further round: round %d is submitted", last)
    return last


def _fingerprint(notebook: Path, parameters: dict[str, Any], before: str) -> str:
    """A hash that changes with the notebook, its parameters, or any step before it."""
    content = json.dumps([notebook.read_text(encoding="utf-8"), parameters, before], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _execute(step: Step, notebook: Path, parameters: dict[str, Any], *, work: Path, fingerprint: str) -> None:
    """Run one notebook with papermill unless its marker says that this very step is done."""
    name = step.name
    import papermill  # with its dependencies it takes seconds to load

    from birdkit.training.run_files import is_unfinished  # torch, too

    marker = work / EXECUTED / f"{name}.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8"))["fingerprint"] == fingerprint:
        LOG.info("%s: done before, skipped", name)
        return
    logging.getLogger("papermill").setLevel(logging.WARNING)
    executed = marker.with_suffix(".ipynb")
    started_s = time.monotonic()
    try:
        papermill.execute_notebook(str(notebook), str(executed), parameters=parameters, kernel_name="python3",
                                   cwd=str(work), progress_bar=False, stdout_file=sys.stderr, stderr_file=sys.stderr,
                                   extra_arguments=["--IPKernelApp.log_level=50"])  # a kernel's own warnings are noise
    except papermill.PapermillExecutionError as error:
        raise PipelineError(f"{name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}; "
                            f"everything up to there is in {executed}") from error
    if step.notebook == TRAIN and is_unfinished(Workspace(work).run_dir(parameters["ROUND"], parameters["FOLD"])):
        raise PipelineError(f"{name} stopped before its end, as train.session_s asks for; the same command goes on")
    part = marker.with_suffix(".part")
    part.write_text(json.dumps({"fingerprint": fingerprint, "parameters": parameters,
                                "seconds": round(time.monotonic() - started_s, 1)}, indent=1), encoding="utf-8")
    os.replace(part, marker)
