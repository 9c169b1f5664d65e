"""Soft labels for soundscapes that nobody has labelled: made by teachers, checked, written with where they come from.

Two mistakes cost the second seed its second round: every window of a minute carried the prediction of the first, and
label columns were taken by position. Here the one is an error that names the file, and the other cannot be written.
What training makes of the probabilities (power, floor) is in DataConfig.
"""
from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from birdkit import audio, checkpoint
from birdkit.config import FrontEndConfig
from birdkit.inference import WINDOW_COLUMNS, Predictor, load_predictors, predict
from birdkit.settings import to_dict

log = logging.getLogger(__name__)

FORMAT = 1
KEY = b"birdkit_pseudo_labels"  # of the provenance in the parquet schema's metadata
SILENCE = 1e-6  # largest sample of a soundscape that may have equal windows


class PseudoLabelError(ValueError):
    """Pseudo-labels that cannot be trusted; the message names the file, table or teacher and what is wrong."""


def label(files: Sequence[Path | str], teachers: Sequence[Path | str], *, path: Path | str, round: int,
          window_s: float = 5.0, root: Path | str | None = None, classes: Sequence[str] | None = None,
          floor: float = 0.0, least_peak: float = 0.0, leave_out_seen: bool = True, backend: str | None = None,
          device: str = "cpu", progress: bool = True) -> pd.DataFrame:
    """Label soundscapes with teachers and write the table with its provenance; returns the table as `read` does.

    A soundscape is labelled by the mean of those teachers that were not trained on it. Files that cannot be read are
    left out, logged, and listed with the reason in the provenance. Without teachers, which is how the first round
    begins, the table is empty.

    files           relative to `root`, as the training tables name them, since that is how a teacher knows them
    teachers        checkpoints of a round before `round`
    round           the round that will train on these labels
    classes         columns, matched by name; None for all that any teacher knows
    floor           smaller probabilities become 0
    least_peak      windows in which no class reaches this are left out
    leave_out_seen  True leaves out and counts a soundscape that every teacher was trained on, False raises

    Raises PseudoLabelError where all windows of a soundscape that is not silent are equal, a teacher is of this or a
    later round, or nothing is left to label.
    """
    if not teachers:
        log.warning("round %d: there are no teachers yet, %s holds no labels", round, path)
        return empty(path, classes or (), round=round)
    names = [_name(file, root) for file in files]
    predictors = load_predictors(teachers, backend=backend, device=device)
    late = [f"{one.source} of round {one.config.round}" for one in predictors if one.config.round >= round]
    if late:
        raise PseudoLabelError(f"round {round} is labelled by teachers of earlier rounds, not by {', '.join(late)}")
    groups = _unseen(names, predictors)
    seen_by_all = groups.pop((), [])
    if seen_by_all:
        what = f"{len(seen_by_all)} of {len(names)} soundscapes were seen in training by every teacher"
        if not leave_out_seen:
            raise PseudoLabelError(f"{what}: {', '.join(seen_by_all[:3])}")
        log.warning("%s; they are left out: %s", what, ", ".join(seen_by_all[:3]))
    columns = tuple(dict.fromkeys(name for one in predictors for name in one.classes)) if classes is None else classes
    parts: list[pd.DataFrame] = []
    faults: dict[str, str] = {}
    for members, group in groups.items():
        predictions = predict(group, [predictors[index] for index in members], window_s=window_s, root=root,
                              classes=columns, progress=progress)
        parts.append(predictions.table)
        faults.update(zip(predictions.faults["file"], predictions.faults["reason"], strict=True))
    if not sum(map(len, parts)):
        raise PseudoLabelError(f"none of {len(names)} soundscapes could be labelled: {len(seen_by_all)} were seen by "
                               f"every teacher, {len(faults)} could not be read: {list(faults.items())[:3]}")
    table = _in_order(pd.concat(parts, ignore_index=True), names)
    refuse_constant(table, columns, root)
    table = _threshold(table, columns, floor, least_peak)
    _write_table(path, table, columns, {
        "round": round, "window_s": window_s, "thresholds": {"floor": floor, "least_peak": least_peak},
        "teachers": [_describe(one) for one in predictors],
        "labelled_by": [{"teachers": list(members), "files": len(group)} for members, group in groups.items()],
        "seen_by_all_teachers": seen_by_all, "faults": faults})
    log.info("%s: %d windows of %d soundscapes, %d left out as seen, %d not readable", path, len(table),
             table["file"].nunique(), len(seen_by_all), len(faults))
    return read(path, classes=columns, expected_round=round)


def empty(path: Path | str, classes: Sequence[str], *, round: int = 0) -> pd.DataFrame:
    """Write a table without rows, which the first round has instead of labels, and return it."""
    table = pd.DataFrame({"file": pd.Series(dtype=str), "start_s": pd.Series(dtype=float),
                          "end_s": pd.Series(dtype=float), **{name: pd.Series(dtype=np.float32) for name in classes}})
    _write_table(path, table, classes, {"round": round, "teachers": []})
    return table


def read(path: Path | str, *, classes: Sequence[str] | None = None, expected_round: int | None = None) -> pd.DataFrame:
    """A pseudo-label table: file, start_s, end_s and a column per class, in the order of `classes` where given.

    Raises FileNotFoundError, or PseudoLabelError where the file has no provenance, is of another round than expected,
    has columns missing or unknown (their order does not matter), windows twice, or values that are no probabilities.
    """
    origin = provenance(path)
    if expected_round is not None and origin["round"] != expected_round:
        raise PseudoLabelError(f"{path} was made for round {origin['round']}, not for round {expected_round}")
    table = pq.read_table(path).to_pandas()
    wanted = list(origin["classes"] if classes is None else classes)
    missing = [name for name in [*WINDOW_COLUMNS, *wanted] if name not in table.columns]
    unknown = [name for name in table.columns if name not in {*WINDOW_COLUMNS, *wanted}]
    if missing or unknown:
        raise PseudoLabelError(f"{path}: {len(missing)} columns missing: {', '.join(missing[:5]) or 'none'}; "
                               f"{len(unknown)} unknown: {', '.join(unknown[:5]) or 'none'}")
    table = table[[*WINDOW_COLUMNS, *wanted]]
    values = table[wanted].to_numpy()
    if not ((values >= 0) & (values <= 1)).all():
        raise PseudoLabelError(f"{path}: {int((~((values >= 0) & (values <= 1))).sum())} values are not in [0, 1]")
    twice = table.duplicated(["file", "start_s"])
    if twice.any():
        raise PseudoLabelError(f"{path}: {int(twice.sum())} windows appear twice, the first in "
                               f"{table.loc[twice, 'file'].iloc[0]}")
    return table


def provenance(path: Path | str) -> dict[str, Any]:
    """Where a table comes from: round, teachers (hash, split, round, front-end hash), thresholds, time, versions.

    Raises FileNotFoundError, or PseudoLabelError where the file does not say.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no pseudo-label table at {path}")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise PseudoLabelError(f"{path} is no parquet file: {error}") from error
    if KEY not in metadata:
        raise PseudoLabelError(f"{path} does not say where its labels come from; only tables of birdkit.pseudolabel "
                               "are trained on")
    origin = json.loads(metadata[KEY])
    if origin.get("format") != FORMAT:
        raise PseudoLabelError(f"{path} has format {origin.get('format')}; this birdkit reads format {FORMAT}")
    return origin


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per class, the most heard first: windows and files above 0.5, mean and largest probability.

    >>> summary(pd.DataFrame({"file": ["a", "a"], "start_s": [0, 5], "end_s": [5, 10], "owl": [0.75, 1.0]}))
          windows  files   mean  largest
    class
    owl         2      1  0.875      1.0
    """
    values = table.drop(columns=list(WINDOW_COLUMNS))
    above = values > 0.5
    counts = pd.DataFrame({"windows": above.sum(), "files": above.groupby(table["file"]).any().sum(),
                           "mean": values.mean(), "largest": values.max()}).rename_axis("class")
    return counts.sort_values(["windows", "mean"], ascending=False)


def refuse_constant(table: pd.DataFrame, classes: Sequence[str], root: Path | str | None = None) -> None:
    """Raise PseudoLabelError where a soundscape of several windows has the same probabilities in all of them.

    Only digital silence sounds the same all the time; anything else is a labeller that repeats itself.
    """
    for file, rows in table.groupby("file", sort=False):
        values = rows[list(classes)].to_numpy()
        if len(rows) > 1 and not np.ptp(values, axis=0).any() and not _is_silent(Path(root or "") / str(file)):
            raise PseudoLabelError(f"{file}: all {len(rows)} windows have the same probabilities; the labeller repeats "
                                   "one window, or the teachers hear nothing at all")


def _is_silent(path: Path) -> bool:
    return audio.check(path).peak <= SILENCE


def _name(file: Path | str, root: Path | str | None) -> str:
    """The name a training table has for the file: relative to `root`."""
    path = Path(file)
    return (path.relative_to(root) if root is not None and path.is_absolute() else path).as_posix()


def _unseen(names: Sequence[str], predictors: Sequence[Predictor]) -> dict[tuple[int, ...], list[str]]:
    """The files by the teachers that were not trained on them."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        members = tuple(index for index, one in enumerate(predictors) if name not in one.seen)
        groups.setdefault(members, []).append(name)
    return groups


def _in_order(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows in the order of the files, whichever teachers labelled them."""
    place = {name: index for index, name in enumerate(names)}
    return table.iloc[np.argsort(table["file"].map(place).to_numpy(), kind="stable")].reset_index(drop=True)


def _threshold(table: pd.DataFrame, classes: Sequence[str], floor: float, least_peak: float) -> pd.DataFrame:
    values = table[list(classes)].to_numpy(np.float32, copy=True)
    kept = values.max(axis=1) >= least_peak
    values[values < floor] = 0.0
    thresholded = pd.concat([table[list(WINDOW_COLUMNS)], pd.DataFrame(values, columns=list(classes))], axis=1)
    return thresholded[kept].reset_index(drop=True)


def _describe(teacher: Predictor) -> dict[str, Any]:
    """What a table remembers of a teacher."""
    config = teacher.config
    return {"file": Path(teacher.source).name, "hash": teacher.hash, "name": config.name, "split": config.split,
            "round": config.round, "frontend": frontend_hash(config.frontend)}


def frontend_hash(config: FrontEndConfig) -> str:
    """sha256 of a front end's settings, as hex: two equal hashes are two equal images."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()


def _write_table(path: Path | str, table: pd.DataFrame, classes: Sequence[str], origin: dict[str, Any]) -> None:
    """Write table and provenance; the file is there whole or not at all."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    complete = {"format": FORMAT, **origin, "classes": list(classes), "time": now, "versions": checkpoint.versions()}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), KEY: json.dumps(complete).encode()})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    pq.write_table(arrow, part)
    os.replace(part, path)
