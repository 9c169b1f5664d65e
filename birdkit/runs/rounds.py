"""What each round of pseudo-labelling brought, from the files it left, and whether another one is worth its hours.

A round's teachers stand in its pseudo-label table, its students in their folders, each with what its best checkpoint
says of the validation. Nothing else is remembered, so the notebooks one by one and `birdkit pipeline` leave the same
rounds.csv. Rounds do not help for ever: the first place of BirdCLEF 2025 gained in four and nothing in the fifth,
others lost from the second on, and a gain of a point is what another seed gives.
"""
from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from birdkit import pseudolabel
from birdkit.checkpoint import file_hash
from birdkit.config import ALL, SAME_SPLIT
from birdkit.inference import WINDOW_COLUMNS
from birdkit.kaggle import Workspace
from birdkit.metrics.comparison import Row, Validated, compare
from birdkit.training.run_files import BEST, PREDICTIONS, is_finished

log = logging.getLogger(__name__)

ROUNDS = "rounds.csv"
LEVEL = 0.95
# Of fewer degrees of freedom the noise floor is a multiple of everything that rounds ever gained: with one, 12.7
# deviations. The interval over files then decides alone.
LEAST_FREEDOM = 3
GAIN, NO_GAIN, FIRST = "gain", "no gain", "supervised"


@dataclass(frozen=True)
class Round:
    """One round and what it brought.

    number    0 is supervised
    row       its mean over students, and its difference to the round before, see birdkit.metrics.comparison.Row
    students  their predictions of the validation, by (split, seed); a seed is a work folder
    labels    what its pseudo-label table holds: teachers (their hashes), table, windows, soundscapes, labels, labelled
              (share of the soundscapes with a label); empty in round 0 and where there is no table
    floor     the smallest difference to the round before that is more than noise; NaN where nothing tells
    folders   of the students' runs
    biased    whether score and gain are too high: here or in a round before, a student learnt from labels of teachers
              that were trained on what validates it, see LabelConfig.teachers and DistilConfig.self_share
    """

    number: int
    row: Row
    students: dict[tuple[int, int], Validated]
    labels: dict[str, Any]
    floor: float = math.nan
    folders: Mapping[tuple[int, int], Path] = field(default_factory=dict)
    biased: bool = False

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return next(iter(self.students.values())).metric

    @property
    def helped(self) -> bool:
        """Whether it is better than the round before by more than chance; round 0 is.

        Where nothing tells the noise between seeds, by the interval over files alone.
        """
        gain = self.row.difference
        return gain is None or (gain.low > 0 and not gain.value <= self.floor)

    @property
    def verdict(self) -> str:
        """One of "supervised", "gain" and "no gain"."""
        if self.row.difference is None:
            return FIRST
        return GAIN if self.helped else NO_GAIN

    def __str__(self) -> str:
        gain = self.row.difference
        if gain is None:
            return f"round {self.number}: {self.row.score}"
        floor = f"noise floor {self.floor:.4f}" if math.isfinite(self.floor) else \
            "too few students to know the noise between seeds"
        said = "a gain" if self.helped else "no gain that could be told from chance"
        said += "; biased upwards, for teachers were trained on what validates" if self.biased else ""
        return (f"round {self.number}: {self.row.score}, {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] to "
                f"round {self.number - 1}; {floor}: {said}")


def read_rounds(*works: Workspace) -> list[Round]:
    """The rounds of a work folder, or of several that differ in their seed, with what each changed.

    Students are compared split by split and seed by seed, see birdkit.metrics.comparison.compare. The noise floor comes
    from the seeds, where there are several; else from how much the gains of the splits differ. Where both leave fewer
    than LEAST_FREEDOM degrees of freedom, as two splits in their first two rounds, there is none.

    Raises FileNotFoundError where no student of round 0 has finished, or two rounds have no split in common.
    """
    folders = [_run_folders(works, number) for number in range(_n_rounds(works))]
    found = [{key: Validated.read(folder / PREDICTIONS) for key, folder in own.items()} for own in folders]
    if not found:
        raise FileNotFoundError(f"no finished student of round 0, with its {PREDICTIONS}, in "
                                f"{', '.join(str(work.folder) for work in works)}: run notebook 03, with a split that "
                                "validates")
    rounds = [Round(0, compare({"0": found[0]}, "").rows[0], found[0], {}, folders=folders[0])]
    for number, floor in enumerate(_floors_of_splits(found), start=1):
        row = compare({"before": found[number - 1], "now": found[number]}, "before", level=LEVEL).rows[1]
        if row.difference is None:
            raise FileNotFoundError(f"rounds {number - 1} and {number} have no split in common: their students "
                                    "validate on other recordings")
        known = row.floor if _freedom(found[number - 1:number + 1]) >= LEAST_FREEDOM else floor
        biased = rounds[-1].biased or _is_biased(works, number, found)
        rounds.append(Round(number, row, found[number], _labels(works, number), known, folders[number], biased))
    return rounds


def rounds_table(rounds: Sequence[Round]) -> pd.DataFrame:
    """The rounds as a table, a row each: teachers, pseudo-labels, students and their scores, gain, floor, verdict.

    Models are named by the first twelve digits of the hash of their best checkpoint, in `teachers` as in `students`.
    """
    rows = []
    for one in rounds:
        gain = one.row.difference
        rows.append({
            "round": one.number, "teachers": " ".join(one.labels.get("teachers", ())),
            **{name: one.labels.get(name, "" if name == "table" else 0)
               for name in ("table", "windows", "soundscapes", "labelled", "labels")},
            "students": " ".join(f"{_student(key)}:{_short_hash(folder / BEST)}"
                                 for key, folder in sorted(one.folders.items())),
            "score": one.row.score.value, "low": one.row.score.low, "high": one.row.score.high,
            "gain": math.nan if gain is None else gain.value,
            "gain_low": math.nan if gain is None else gain.low, "gain_high": math.nan if gain is None else gain.high,
            "floor": one.floor, "verdict": one.verdict, "biased": one.biased,
            "scores": " ".join(f"{_student(key)}:{score:.4f}" for key, score in one.row.trainings.items())})
    return pd.DataFrame(rows)


def _student(key: tuple[int, int]) -> str:
    """A student; its seed is the number of its work folder."""
    return "split{}_seed{}".format(*key)


def _short_hash(path: Path) -> str:
    return file_hash(path)[:12] if path.is_file() else "gone"


def write_rounds(rounds: Sequence[Round], path: Path) -> None:
    """Write the table of the rounds, as CSV."""
    partial = path.with_name(path.name + ".partial")
    rounds_table(rounds).to_csv(partial, index=False)
    os.replace(partial, path)


def update_rounds(work: Workspace) -> list[Round]:
    """Write the rounds.csv of a work folder, and say what the last round brought; the rounds.

    None, and nothing is written, while no student of round 0 has finished that validates, or where rounds cannot be
    compared, such as those of different splits; that is logged, for the training before it was not in vain.
    """
    if not _n_rounds([work]):
        log.info("no student of round 0 has finished that validates: no %s yet", ROUNDS)
        return []
    try:
        rounds = read_rounds(work)
    except (FileNotFoundError, ValueError) as error:
        log.warning("no %s: %s", ROUNDS, error)
        return []
    write_rounds(rounds, work.path(ROUNDS))
    log.info("%s", rounds[-1])
    return rounds


def last_that_helped(rounds: Sequence[Round]) -> int:
    """The round to submit: the last one before the first that brought nothing."""
    for one in rounds:
        if not one.helped:
            return one.number - 1
    return rounds[-1].number


def _n_rounds(works: Sequence[Workspace]) -> int:
    """How many rounds, from 0 on without a gap, have a student that has finished and validates."""
    return next(number for number in itertools.count() if not any(_finished(work, number) for work in works))


def _finished(work: Workspace, number: int) -> list[Path]:
    """The predictions of every student of a round that has finished, wherever its notebook left them."""
    return [path for path in work.look(f"round{number}_split*/{PREDICTIONS}") if is_finished(path.parent)]


def _run_folders(works: Sequence[Workspace], number: int) -> dict[tuple[int, int], Path]:
    """The runs of the students of a round, by split and by the number of the work folder."""
    return {(int(path.parent.name.rpartition("split")[2]), seed): path.parent
            for seed, work in enumerate(works) for path in _finished(work, number)}


def _is_biased(works: Sequence[Workspace], number: int, found: Sequence[Mapping[tuple[int, int], Validated]]) -> bool:
    """Whether a student of a round learnt from labels of teachers that were trained on what validates it.

    Those of recordings always are: only teachers that were trained on other splits may label them.
    """
    for (split, seed), student in found[number].items():
        config = student.origin.get("config", {})
        if config.get("distil", {}).get("self_share"):
            return True
        if config.get("labelling", {}).get("teachers", ALL) == SAME_SPLIT:  # training has seen to it
            continue
        tables = works[seed].look(works[seed].pseudo_labels_path(number).name)
        teachers = {one["split"] for path in tables for one in pseudolabel.provenance(path)["teachers"]} if tables \
            else {other for other, of_seed in found[number - 1] if of_seed == seed}
        if teachers - {split}:
            return True
    return False


def _labels(works: Sequence[Workspace], number: int) -> dict[str, Any]:
    """What the pseudo-label tables of a round hold, all work folders together."""
    paths = [path for work in works for path in work.look(work.pseudo_labels_path(number).name)]
    if not paths:
        return {}
    tables = [pseudolabel.read(path) for path in paths]
    teachers = dict.fromkeys(one["hash"][:12] for path in paths for one in pseudolabel.provenance(path)["teachers"])
    values = [table.drop(columns=list(WINDOW_COLUMNS)).to_numpy() >= pseudolabel.SURE for table in tables]
    heard = [table["file"].to_numpy()[sure.any(axis=1)] for table, sure in zip(tables, values, strict=True)]
    files = [table["file"].nunique() for table in tables]
    return {"teachers": tuple(teachers), "table": paths[0].name, "windows": sum(map(len, tables)),
            "soundscapes": sum(files), "labels": int(sum(sure.sum() for sure in values)),
            "labelled": sum(len(set(one)) for one in heard) / max(sum(files), 1)}


def _freedom(found: Sequence[Mapping[tuple[int, int], Validated]]) -> int:
    """Degrees of freedom of the deviation between seeds, as birdkit.metrics.comparison.compare estimates it."""
    return sum(len(students) - len({split for split, _ in students}) for students in found)


def _floors_of_splits(found: Sequence[Mapping[tuple[int, int], Validated]]) -> list[float]:
    """The noise floor of each gain from how much the gains of single splits differ, pooled over it and those before.

    Not over those after: what a round brought does not change with what came of it. Gains of splits also differ because
    the splits do: this floor is rather too high than too low. NaN below LEAST_FREEDOM degrees of freedom.
    """
    floors, freedom, squares = [], 0, 0.0
    for before, now in itertools.pairwise(found):
        gains = np.array([now[key].score - before[key].score for key in sorted(set(now) & set(before))])
        if len(gains):
            freedom, squares = freedom + len(gains) - 1, squares + float(((gains - gains.mean())**2).sum())
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) if freedom >= LEAST_FREEDOM else math.nan
        floors.append(quantile * math.sqrt(squares / max(freedom, 1)) / math.sqrt(max(len(gains), 1)))
    return floors
