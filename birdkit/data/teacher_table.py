"""What a teacher says of windows of recordings, as a table: Perch's embeddings, or a model's logits, made elsewhere.

    .parquet  columns file, start_s, end_s, and all others the features in their order, or a class each, by name
    .npz      arrays files (R,) of strings, start_s (R,), end_s (R,) or window_s (), and embedding (R, W), or logits
              (R, C) with classes (C,); numpy.savez takes no array of the name file

Files are named as the recordings table names them. A clip begins at the window next to where it would have begun; it
gets the mean of the embeddings of the windows that it overlaps, weighted by how much, or the largest of their logits.
"""
from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.config import DistilConfig
from birdkit.data.tables import DataError
from birdkit.data.window_index import WindowIndex

log = logging.getLogger(__name__)

WINDOW = ("file", "start_s", "end_s")
SLACK_S = 1e-3  # by how much a window may be longer than a clip


@dataclass(frozen=True)
class TeacherTable:
    """What a teacher says of windows.

    values  (R, W) features, or logits of the classes that teacher and student both know
    known   (W,) columns of those classes among the student's, None for an embedding
    """

    index: WindowIndex
    values: np.ndarray
    known: np.ndarray | None

    @property
    def width(self) -> int:
        """W, numbers for each clip."""
        return self.values.shape[1]

    def begins(self, file: str) -> np.ndarray:
        """Seconds at which windows of a file begin, ascending."""
        return self.index.begins(file)

    def at(self, file: str, start_s: float, end_s: float) -> np.ndarray:
        """What it says of a clip, (W,) float32; NaN where the clip overlaps none of its windows.

        Of logits, the largest of those windows that share at least half as much time with the clip as any other: a
        sliver of a window belongs to the neighbour.
        """
        rows, shared_s = self.index.overlapping(file, start_s, end_s)
        if not len(rows):
            return np.full(self.width, np.nan, np.float32)
        if self.known is None:
            return (shared_s @ self.values[rows] / shared_s.sum()).astype(np.float32)
        return self.values[rows[shared_s >= 0.5 * shared_s.max()]].max(0).astype(np.float32)


def read_teacher_table(config: DistilConfig, classes: Sequence[str], *, files: Collection[str],
                       clip_s: float) -> TeacherTable:
    """The windows of the training recordings in the table `config.teacher`.

    classes  names of the student's K classes
    files    the training recordings; those without windows are not distilled, and counted in the log
    clip_s   seconds of a training example

    Raises FileNotFoundError, and DataError where the table lacks columns, is of another width than the config says,
    knows fewer than two of the classes, holds values that are not finite, none of the files, or windows longer than a
    clip: the student cannot tell what it does not hear.
    """
    path = Path(config.teacher)
    if not path.is_file():
        raise FileNotFoundError(f"distil.teacher: there is no table {path}")
    windows, values, names = (_read_npz if path.suffix == ".npz" else _read_parquet)(path, config.kind)
    known = None
    if config.kind == "logits":
        known, theirs = match_classes(names, classes, config)
        values = values[:, theirs]
    elif values.shape[1] != config.width:
        raise DataError(f"{path} holds embeddings of {values.shape[1]} features, but distil.width = {config.width}")
    used = windows["file"].isin(set(files)).to_numpy()
    windows, values = windows[used], values[used]
    _check(path, windows, values, files, clip_s)
    log.info("%s: %d windows of %d of %d recordings, %d numbers each", path, len(windows), windows["file"].nunique(),
             len(set(files)), values.shape[1])
    return TeacherTable(WindowIndex(*(windows[name].to_numpy() for name in WINDOW)), values, known)


def match_classes(names: Sequence[str], classes: Sequence[str],
                  config: DistilConfig) -> tuple[np.ndarray, np.ndarray]:
    """The classes that teacher and student both know, by name: (W,) columns of the student's, and of the teacher's.

    Raises DataError where they are fewer than two, of which no softmax says anything, or `config.class_names` is not
    as long as the classes.

    >>> config = DistilConfig(teacher="t.onnx", kind="logits", labels="l.csv", class_names=("Strix aluco", "Rana"))
    >>> match_classes(["Strix aluco", "Bufo bufo", "Rana"], ["owl", "frog"], config)
    (array([0, 1]), array([0, 2]))
    """
    if config.class_names and len(config.class_names) != len(classes):
        raise DataError(f"distil.class_names has {len(config.class_names)} names for {len(classes)} classes")
    own = config.class_names or classes
    place = {name: column for column, name in enumerate(names)}
    common = [(k, place[name]) for k, name in enumerate(own) if name in place]
    if len(common) < 2:
        raise DataError(f"{config.teacher} knows {len(common)} of the {len(own)} classes ({', '.join(own[:3])}, ...); "
                        f"its own {len(names)} are {', '.join(list(names)[:3])}, ...: distil.class_column can say what "
                        "it calls them")
    log.info("%s knows %d of the %d classes", config.teacher, len(common), len(own))
    student, teacher = np.array(common).T
    return student, teacher


def _read_parquet(path: Path, kind: str) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    table = pd.read_parquet(path)
    missing = [name for name in WINDOW if name not in table.columns]
    names = [name for name in table.columns if name not in WINDOW]
    odd = [name for name in names if not pd.api.types.is_numeric_dtype(table[name])]
    if missing or odd:
        raise DataError(f"{path}: the column {(missing or odd)[0]} is {'missing' if missing else 'no number'}")
    return table[list(WINDOW)], table[names].to_numpy(np.float32), names


def _read_npz(path: Path, kind: str) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    wanted = ["files", "start_s", *(("logits", "classes") if kind == "logits" else ("embedding",))]
    with np.load(path, allow_pickle=False) as arrays:
        missing = [name for name in wanted if name not in arrays]
        if not {"end_s", "window_s"} & set(arrays):
            missing.append("end_s, nor a window_s")
        if missing:
            raise DataError(f"{path}: there is no array {missing[0]}; it holds {', '.join(arrays) or 'none'}")
        try:
            found = {name: arrays[name] for name in arrays}
        except ValueError as error:
            raise DataError(f"{path}: {error}; save names as an array of strings, not of objects") from error
    values = found[wanted[2]]
    end_s = found["end_s"] if "end_s" in found else found["start_s"] + found["window_s"]
    names = [str(name) for name in found["classes"]] if kind == "logits" else []
    lengths = {name: len(column) for name, column in (("files", found["files"]), ("start_s", found["start_s"]),
                                                      ("end_s", end_s), (wanted[2], values))}
    if len(set(lengths.values())) > 1 or values.ndim != 2 or (kind == "logits" and len(names) != values.shape[1]):
        raise DataError(f"{path}: arrays of {lengths} rows, {wanted[2]} of shape {values.shape}, {len(names)} classes "
                        "do not belong together")
    windows = pd.DataFrame({"file": found["files"].astype(str), "start_s": found["start_s"], "end_s": end_s})
    return windows, values, names


def _check(path: Path, windows: pd.DataFrame, values: np.ndarray, files: Collection[str], clip_s: float) -> None:
    """Raise DataError where windows of the training recordings cannot be learnt from."""
    if not len(windows):
        raise DataError(f"{path} has windows of none of the {len(files)} training recordings, such as "
                        f"{next(iter(files), 'none')}")
    bad = ~np.isfinite(values).all(1)
    length_s = (windows["end_s"] - windows["start_s"]).to_numpy(float)
    odd = ~((length_s > 0) & (length_s <= clip_s + SLACK_S))
    for rows, what in ((bad, "holds values that are not finite"), (odd, "is longer than a clip, or empty")):
        if rows.any():
            file, start_s, end_s = windows.iloc[int(np.argmax(rows))]
            raise DataError(f"{path}: the window of {file} from {start_s:g} to {end_s:g} s {what}, as of {rows.sum()} "
                            f"of {len(rows)}; clips are of {clip_s:g} s")
