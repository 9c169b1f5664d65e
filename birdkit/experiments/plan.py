"""Which trainings a table of runs asks for: runs that differ in one thing, each with several seeds."""
from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdkit import recipes
from birdkit.kaggle import pseudo_labels_name
from birdkit.runs.labelling import LabelRun
from birdkit.runs.training import Run
from birdkit.training.run_files import BEST, PREDICTIONS

OF_A_RUN = ("recipe", "round", "pseudo_labels")  # what a run may have otherwise than its table
OF_THE_TABLE = ("seed", "split")


@dataclass(frozen=True)
class Table:
    """What to compare, the keys of a TOML file.

    name           of the folder and the files that are written; that of the TOML file unless it says otherwise
    recipe         what all runs are changes of
    baseline       the run that all others are compared with
    runs           by name, their settings as for birdkit.settings.with_settings (train__epochs = 5); "recipe", "round"
                   and "pseudo_labels" may stand among them, too
    changes        settings of all runs
    splits         of the cross-validation; `split = 1` is short for `splits = [1]`
    seeds          0 is the very run that notebook 03 makes of the recipe
    round          of pseudo-labelling
    pseudo_labels  their table, relative to the work folder; empty for the one of that round which lies there
    rounds         0: every run is one round. Otherwise every run of round 1 goes on to that round, each of its seeds by
                   itself: round 1 learns from labels of the baseline, which must be of round 0, and every later round
                   from labels of the run's own students. A run "half" is then compared as half_r1, half_r2 and so on
    year           of the competition, stated; 0 to recognise it, see birdkit.profiles.recognise
    question       what is to be found out
    """

    name: str
    recipe: str
    baseline: str
    runs: Mapping[str, Mapping[str, Any]]
    changes: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0, 1, 2)
    round: int = 0
    pseudo_labels: str = ""
    rounds: int = 0
    year: int = 0
    question: str = ""

    def __post_init__(self) -> None:
        for kind, names in (("name", (self.name,)), ("run", tuple(self.runs))):
            odd = [name for name in names if not re.fullmatch(r"[\w.+=-]+", name) or name.startswith(".")]
            if odd:
                raise ValueError(f"{kind} {odd[0]!r} must be letters, digits and _.+=-: it becomes a folder")
        if self.baseline not in self.runs:
            raise ValueError(f"baseline = {self.baseline!r} is none of the runs: {', '.join(self.runs)}")
        for what, numbers in (("splits", self.splits), ("seeds", self.seeds)):
            if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
                raise ValueError(f"{what} = {list(numbers)} must be different whole numbers from 0 on")
        for where, settings in (("changes", self.changes), *self.runs.items()):
            reserved = [name for name in OF_THE_TABLE if name in settings]
            if reserved:
                raise ValueError(f"{where}: {reserved[0]} is set by the table's {reserved[0]}s")
        if self.rounds:
            self._check_rounds()

    def first_round(self, name: str) -> int:
        """The round of a run, or the first of its rounds."""
        return self.runs[name].get("round", self.round)

    def _check_rounds(self) -> None:
        """Raise ValueError where runs cannot go on from round to round."""
        late = [name for name in self.runs if self.first_round(name) > 1]
        given = self.pseudo_labels or any("pseudo_labels" in own for own in self.runs.values())
        if self.rounds < 0 or self.first_round(self.baseline) or late or given:
            raise ValueError(f"rounds = {self.rounds} asks for a baseline of round 0 (it is of round "
                             f"{self.first_round(self.baseline)}) and for other runs of round 0 or 1 (later: "
                             f"{', '.join(late) or 'none'}), and makes their pseudo-labels itself: none may be given")


def read_table(path: Path | str) -> Table:
    """Read a table, strictly: ValueError names the file and what is wrong with it."""
    kinds = {"name": str, "recipe": str, "baseline": str, "runs": dict, "changes": dict, "split": int, "splits": list,
             "seeds": list, "round": int, "pseudo_labels": str, "rounds": int, "year": int, "question": str}
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        unknown = sorted(set(values) - set(kinds))
        missing = sorted({"recipe", "baseline", "runs"} - set(values))
        if unknown or missing or {"split", "splits"} <= set(values):
            raise ValueError(f"unknown: {', '.join(unknown) or 'nothing'}; missing: {', '.join(missing) or 'nothing'}; "
                             f"a table may hold {', '.join(kinds)}, and only one of split and splits")
        _check_types("", values, kinds)
        for name in ("splits", "seeds"):
            numbers = dict(enumerate(values.get(name, [])))
            _check_types(f"{name}: ", numbers, dict.fromkeys(numbers, int))
        for name, own in values["runs"].items():
            _check_types("runs: ", {name: own}, {name: dict})
            _check_types(f"runs.{name}: ", own, {key: kinds[key] for key in OF_A_RUN})
        if "split" in values:
            values["splits"] = [values.pop("split")]
        for name in {"splits", "seeds"} & set(values):
            values[name] = tuple(values[name])
        return Table(**{"name": Path(path).stem, **values})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_types(where: str, values: Mapping[Any, Any], kinds: Mapping[Any, type]) -> None:
    """Raise ValueError for a value that is not of the kind it should be; those without a kind are let pass."""
    for name, value in values.items():
        if name in kinds and type(value) is not kinds[name]:
            raise ValueError(f"{where}{name} = {value!r} must be {kinds[name].__name__}")


@dataclass(frozen=True)
class Trial:
    """One training of a table.

    name    of the run, with its round where the table goes through rounds
    asked   the run's name in the table
    labels  the labelling that must be done before, None where the labels are there or not needed
    """

    name: str
    split: int
    seed: int
    run: Run
    asked: str
    labels: LabelRun | None = None

    def __str__(self) -> str:
        return f"{self.name}/split{self.split}_seed{self.seed}"

    @property
    def predictions(self) -> Path:
        """The file that is there when the training is done."""
        return self.run.folder / PREDICTIONS

    @property
    def depth(self) -> int:
        """How many trainings must be done before, one after the other."""
        return self.run.round if self.labels else 0


def trials(table: Table, competition_dir: Path, work_dir: Path) -> list[Trial]:
    """All trainings of a table, seed by seed, so that one that is interrupted has as many of each run as can be."""
    wanted = []
    for seed in table.seeds:
        for split in table.splits:
            for name in table.runs:
                first = table.first_round(name)
                for round in range(first, table.rounds + 1) if table.rounds and first else [first]:
                    wanted.append(_trial(table, name, round, split, seed, competition_dir, work_dir))
    return wanted


def _trial(table: Table, name: str, round: int, split: int, seed: int, competition_dir: Path, work_dir: Path) -> Trial:
    """One training, and the labelling before it."""
    own, folder = table.runs[name], work_dir / "compare" / table.name
    recipe = own.get("recipe", table.recipe)
    settings = {**table.changes, **{key: value for key, value in own.items() if key not in OF_A_RUN}}
    settings["seed"] = recipes.get(recipe).run(round, split, seed=seed).seed
    labels = own.get("pseudo_labels", table.pseudo_labels)
    path = work_dir / labels if labels and round else None
    full, labelling = name, None
    if table.rounds and round:
        full, before = f"{name}_r{round}", table.baseline if round == 1 else f"{name}_r{round - 1}"
        path = folder / f"{name}_seed{seed}" / pseudo_labels_name(round)
        teachers = [folder / before / f"split{one}_seed{seed}" / BEST for one in table.splits]
        labelling = LabelRun(competition_dir, work_dir, recipe, round, settings, teachers, out=path,
                             year=table.year)
    return Trial(full, split, seed, Run(competition_dir, work_dir, recipe, round, split, settings,
                                        out_dir=folder / full / f"split{split}_seed{seed}", pseudo_labels=path,
                                        year=table.year), name, labelling)
