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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from birdkit import checkpoint, pseudolabel
from birdkit.comparison import Row, Validated, compare
from birdkit.config import OTHERS, ModelConfig
from birdkit.inference import WINDOW_COLUMNS
from birdkit.kaggle import Workspace
from birdkit.run_files import PREDICTIONS, is_finished
from birdkit.settings import from_dict
from birdkit.training import BEST

log = logging.getLogger(__name__)

ROUNDS = "rounds.csv"
LEVEL = 0.95
GAIN, NO_GAIN, FIRST = "gain", "no gain", "supervised"


@dataclass(frozen=True)
class Round:
    """One round and what it brought.

    number    0 is supervised
    row       its mean over students, and its difference to the round before, see birdkit.comparison.Row
    students  their predictions of the validation, by (split, seed); a seed is a work folder
    labels    what its pseudo-label table holds: teachers (their hashes), table, windows, soundscapes, labels, labelled
              (share of the soundscapes with a label); empty in round 0 and where there is no table
    floor     the smallest difference to the round before that is more than noise; NaN where nothing tells
    """

    number: int
    row: Row
    students: dict[tuple[int, int], Validated]
    labels: dict[str, Any]
    floor: float = math.nan

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
            "one student, so the noise between seeds is unknown"
        said = "a gain" if self.helped else "no gain that could be told from chance"
        return (f"round {self.number}: {self.row.score}, {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] to "
                f"round {self.number - 1}; {floor}: {said}")


def read_rounds(*works: Workspace) -> list[Round]:
    """The rounds of a work folder, or of several that differ in their seed, with what each changed.

    Students are compared split by split and seed by seed, see birdkit.comparison.compare. The noise floor comes from
    the seeds, where there are several; else from how much the gains of the splits differ.

    Raises FileNotFoundError where no student of round 0 has finished, or two rounds have no split in common.
    """
    found = [students for number in range(_n_rounds(works)) if (students := _students(works, number))]
    if not found:
        raise FileNotFoundError(f"no finished student of round 0, with its {PREDICTIONS}, in "
                                f"{', '.join(str(work.folder) for work in works)}: run notebook 03, with a split that "
                                "validates")
    rounds = [Round(0, compare({"0": found[0]}, "").rows[0], found[0], {})]
    for number, floor in enumerate(_floors_of_splits(found), start=1):
        row = compare({"before": found[number - 1], "now": found[number]}, "before", level=LEVEL).rows[1]
        if row.difference is None:
            raise FileNotFoundError(f"rounds {number - 1} and {number} have no split in common: their students "
                                    "validate on other recordings")
        known = row.floor if math.isfinite(row.floor) else floor
        rounds.append(Round(number, row, found[number], _labels(works, number), known))
    return rounds


def rounds_table(rounds: Sequence[Round]) -> pd.DataFrame:
    """The rounds as a table, a row each: teachers, pseudo-labels, students and their scores, gain, floor, verdict."""
    rows = []
    for one in rounds:
        gain = one.row.difference
        rows.append({
            "round": one.number, "teachers": " ".join(one.labels.get("teachers", ())),
            **{name: one.labels.get(name, "" if name == "table" else 0)
               for name in ("table", "windows", "soundscapes", "labelled", "labels")},
            "students": len(one.students), "score": one.row.score.value, "low": one.row.score.low,
            "high": one.row.score.high, "gain": math.nan if gain is None else gain.value,
            "gain_low": math.nan if gain is None else gain.low, "gain_high": math.nan if gain is None else gain.high,
            "floor": one.floor, "verdict": one.verdict,
            "scores": " ".join(f"{split}:{score:.4f}" for (split, _), score in one.row.trainings.items())})
    return pd.DataFrame(rows)


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


def _students(works: Sequence[Workspace], number: int) -> dict[tuple[int, int], Validated]:
    """What the students of a round say of their validation, by split and by the number of the work folder."""
    return {(int(path.parent.name.rpartition("split")[2]), seed): Validated.read(path)
            for seed, work in enumerate(works) for path in _finished(work, number)}


def _tables(work: Workspace, number: int) -> list[Path]:
    """The tables that the students of a round learnt from: one for all, or for each the one without its own family."""
    names: dict[str, None] = {}
    for path in _finished(work, number):
        best = path.with_name(BEST)
        config = checkpoint.read_info(best)["config"] if best.is_file() else {}
        apart = config.get("labelling", {}).get("families") == OTHERS
        own = from_dict(ModelConfig, config["model"]).family if apart else ""
        names[work.pseudo_labels_path(number, without=own).name] = None
    return [path for name in names for path in work.look(name)]


def _labels(works: Sequence[Workspace], number: int) -> dict[str, Any]:
    """What the pseudo-label tables that the students of a round learnt from hold, all work folders together."""
    paths = [path for work in works for path in _tables(work, number)]
    if not paths:
        return {}
    tables = [pseudolabel.read(path) for path in paths]
    teachers = dict.fromkeys(one["hash"][:12] for path in paths for one in pseudolabel.provenance(path)["teachers"])
    values = [table.drop(columns=list(WINDOW_COLUMNS)).to_numpy() >= pseudolabel.SURE for table in tables]
    heard = [table["file"].to_numpy()[sure.any(axis=1)] for table, sure in zip(tables, values, strict=True)]
    files = [table["file"].nunique() for table in tables]
    return {"teachers": tuple(teachers), "table": " ".join(dict.fromkeys(path.name for path in paths)),
            "windows": sum(map(len, tables)), "soundscapes": sum(files),
            "labels": int(sum(sure.sum() for sure in values)),
            "labelled": sum(len(set(one)) for one in heard) / max(sum(files), 1)}


def _floors_of_splits(found: Sequence[Mapping[tuple[int, int], Validated]]) -> list[float]:
    """The noise floor of each gain from how much the gains of single splits differ, pooled over all rounds.

    Gains of splits also differ because the splits do: this floor is rather too high than too low. NaN with one split.
    """
    gains = [np.array([now[key].score - before[key].score for key in sorted(set(now) & set(before))])
             for before, now in itertools.pairwise(found)]
    freedom = sum(max(len(gain) - 1, 0) for gain in gains)
    if not freedom:
        return [math.nan] * len(gains)
    deviation = math.sqrt(sum(float(((gain - gain.mean())**2).sum()) for gain in gains if len(gain)) / freedom)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    return [quantile * deviation / math.sqrt(max(len(gain), 1)) for gain in gains]
