"""What several models say of soundscapes with a known truth, before anything is done to it: kept to try things on."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from birdkit.metrics.comparison import Validated


@dataclass(frozen=True)
class Rows:
    """Windows of soundscapes, file by file and in order of time.

    truth    (R, K) of 0 and 1
    members  (M, R, K) float32 probabilities of each model, NaN in classes in which it has no say
    files    (R,) the soundscape of each row, all of one beside each other
    classes  names of the K classes
    names    of the M models
    metric   a name in birdkit.metrics.METRICS
    calls    (R,) probability of a call, NaN where there is no detector
    origin   where this is from, as JSON has it

    Raises ValueError where the arrays do not fit each other, or a soundscape's rows are apart.
    """

    truth: np.ndarray
    members: np.ndarray
    files: np.ndarray
    classes: tuple[str, ...]
    names: tuple[str, ...]
    metric: str
    calls: np.ndarray
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_rows, n_classes = self.truth.shape
        if (self.members.shape != (len(self.names), n_rows, n_classes) or len(self.classes) != n_classes
                or len(self.files) != n_rows or self.calls.shape != (n_rows,)):
            raise ValueError(f"truth {self.truth.shape}, members {self.members.shape}, {len(self.names)} names, "
                             f"{len(self.classes)} classes, {len(self.files)} files and calls {self.calls.shape} "
                             "do not fit each other")
        if len(self.blocks()) != len(set(self.files.tolist())):
            raise ValueError("the rows of a soundscape are not beside each other")

    def blocks(self) -> list[slice]:
        """The rows of each soundscape."""
        changes = np.flatnonzero(self.files[1:] != self.files[:-1]) + 1
        return [slice(first, last) for first, last in zip([0, *changes], [*changes, len(self.files)], strict=True)]

    def save(self, path: Path | str) -> None:
        """Write an npz file, by way of a temporary one: it is there whole or not at all."""
        partial = Path(path).with_suffix(".partial.npz")
        np.savez_compressed(partial, truth=self.truth.astype(np.uint8), members=self.members.astype(np.float32),
                            files=self.files.astype(str), classes=np.array(self.classes), names=np.array(self.names),
                            metric=np.array(self.metric), calls=self.calls, origin=np.array(json.dumps(self.origin)))
        partial.replace(path)

    @classmethod
    def read(cls, path: Path | str) -> Rows:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["truth"], file["members"], file["files"], tuple(file["classes"].tolist()),
                       tuple(file["names"].tolist()), str(file["metric"]), file["calls"],
                       json.loads(str(file["origin"])))

    @classmethod
    def of_validated(cls, validated: Sequence[Validated], names: Sequence[str]) -> Rows:
        """From what several trained models said of one validation, as a submission would hold it.

        A model of fewer classes knows those alone; the first model's classes come first.
        Raises ValueError where two were not validated on the same rows.
        """
        classes = tuple(dict.fromkeys(name for one in validated for name in one.classes))
        column = {name: index for index, name in enumerate(classes)}
        first = validated[0]
        truth = np.full((len(first.truth), len(classes)), -1, np.int8)
        members = np.full((len(validated), *truth.shape), np.nan, np.float32)
        for into, one, name in zip(members, validated, names, strict=True):
            own = [column[known] for known in one.classes]
            same = one.metric == first.metric and np.array_equal(one.groups, first.groups)
            if not same or ((truth[:, own] >= 0) & (truth[:, own] != one.truth)).any():
                raise ValueError(f"{name} and {names[0]} were not validated on the same rows: {one.truth.shape} and "
                                 f"{first.truth.shape}, {one.metric} and {first.metric}")
            truth[:, own], into[:, own] = one.truth, one.probabilities
        return cls(truth, members, np.array([f"{group}" for group in first.groups]), classes, tuple(names),
                   first.metric, np.full(len(truth), np.nan))
