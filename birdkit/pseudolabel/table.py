"""The table of pseudo-labels: written row by row with its provenance, read back only where that fits."""
from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from birdkit import checkpoint, frontend
from birdkit.config import FrontEndConfig
from birdkit.inference import WINDOW_COLUMNS
from birdkit.settings import to_dict

FORMAT = 1
KEY = b"birdkit_pseudo_labels"  # of the provenance in the parquet schema's metadata
SURE = 0.5  # probability from which a window counts as labelled with a class
STEADY = "same_all_the_time"  # in the provenance: files whose windows are rightly equal, and up to which spread
GROUP_ROWS = 4096  # rows that are written, and read, at a time


class PseudoLabelError(ValueError):
    """Pseudo-labels that cannot be trusted; the message names the file, table or teacher and what is wrong."""


class TableWriter:
    """Writes a table soundscape by soundscape, in memory that does not grow; the file is there whole or not at all.

    classes  the K columns
    origin   what `provenance` says of the table, beside format, classes, time and versions

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.parquet"
    >>> with TableWriter(path, ["owl"], {"round": 1}) as writer:
    ...     writer.add("a.ogg", np.array([0.0, 5.0]), np.array([5.0, 10.0]), np.array([[0.25], [0.75]]))
    >>> read(path, expected_round=1)
        file  start_s  end_s   owl
    0  a.ogg      0.0    5.0  0.25
    1  a.ogg      5.0   10.0  0.75
    """

    def __init__(self, path: Path | str, classes: Sequence[str], origin: dict[str, Any]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        complete = {"format": FORMAT, **origin, "classes": list(classes), "time": now,
                    "versions": checkpoint.versions()}
        windows = [("file", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]
        self.schema = pa.schema([*windows, *((name, pa.float32()) for name in classes)],
                                metadata={KEY: json.dumps(complete).encode()})
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._writer = pq.ParquetWriter(self._part, self.schema)
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            os.replace(self._part, self.path)
        else:
            self._part.unlink()

    def add(self, file: str, start_s: np.ndarray, end_s: np.ndarray, values: np.ndarray) -> None:
        """The windows of one file, (W,) starts and ends, with their probabilities, (W, K)."""
        columns = [pa.array([file] * len(start_s), pa.string()), pa.array(start_s), pa.array(end_s),
                   *(pa.array(column) for column in np.ascontiguousarray(values.T, np.float32))]
        self._waiting.append(pa.Table.from_arrays(columns, schema=self.schema))
        if sum(map(len, self._waiting)) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=GROUP_ROWS)
            self._waiting = []


def write_table(path: Path | str, table: pd.DataFrame, classes: Sequence[str], origin: dict[str, Any]) -> None:
    """Write a table that is in memory: the columns file, start_s, end_s and those of `classes`."""
    with TableWriter(path, classes, origin) as writer:
        for file, rows in table.groupby("file", sort=False):
            writer.add(str(file), rows["start_s"].to_numpy(float), rows["end_s"].to_numpy(float),
                       rows[list(classes)].to_numpy())


def empty(path: Path | str, classes: Sequence[str], *, round: int = 0) -> None:
    """Write a table without rows, which the first round has instead of labels."""
    with TableWriter(path, classes, {"round": round, "teachers": []}):
        pass


def read(path: Path | str, *, classes: Sequence[str] | None = None, expected_round: int | None = None) -> pd.DataFrame:
    """A pseudo-label table: file, start_s, end_s and a column per class, in the order of `classes` where given.

    Raises FileNotFoundError, or PseudoLabelError where the file has no provenance, is of another round than expected or
    of another version of the front end, has columns missing or unknown (their order does not matter), windows twice,
    or values that are no probabilities. What is trained on is read with birdkit.pseudolabel.read_for_training.
    """
    origin = provenance(path)
    if expected_round is not None and origin["round"] != expected_round:
        raise PseudoLabelError(f"{path} was made for round {origin['round']}, not for round {expected_round}")
    heard_with = int(origin["versions"].get("frontend", 1))
    if heard_with != frontend.VERSION:
        raise PseudoLabelError(f"{path} was made with version {heard_with} of the front end, this is version "
                               f"{frontend.VERSION}: its teachers saw other images; label anew")
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


def stream(path: Path | str) -> Iterator[pd.DataFrame]:
    """The rows of one file of a table after the other, without its other rows in memory. Checked by nobody, see `read`.

    The rows of a file must follow each other, as TableWriter leaves them.
    """
    rest: pd.DataFrame | None = None
    with pq.ParquetFile(path) as table:
        # pyarrow 18, Kaggle's, cannot go through a table without rows.
        for batch in table.iter_batches(batch_size=GROUP_ROWS) if table.num_row_groups else ():
            rows = batch.to_pandas() if rest is None else pd.concat([rest, batch.to_pandas()], ignore_index=True)
            *whole, rest = (part for _, part in rows.groupby("file", sort=False))
            yield from whole
    if rest is not None:
        yield rest


def provenance(path: Path | str) -> dict[str, Any]:
    """Where a table comes from: round, teachers (hash, split, round, front-end hash, how they predict), settings, time,
    versions, which files were left out and why, which sound the same all the time.

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


def frontend_hash(config: FrontEndConfig) -> str:
    """sha256 of a front end's settings, as hex: two equal hashes are two equal images, in one frontend.VERSION."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()
