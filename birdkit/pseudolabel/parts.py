"""What has been labelled so far, file by file on disk, so that a run that is killed goes on with the next file."""
from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Part:
    """One labelled file.

    probabilities  (tables, W, K) float32, before any threshold; NaN in a table none of whose teachers heard it
    agreement      what `birdkit.pseudolabel.agreement` counted in it, empty for a single teacher
    """

    file: str
    probabilities: np.ndarray
    agreement: np.ndarray


class Parts:
    """Labelled files in an SQLite database: each is there whole or not at all, and none is held in memory.

    path      of the database; made where there is none
    identity  a hash of the teachers and of every setting that changes a probability: what was labelled under another
              one is thrown away, so that two settings never mix in one table
    shape     tables and K
    """

    def __init__(self, path: Path, identity: str, shape: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.shape = shape
        self._base = sqlite3.connect(path, isolation_level=None)  # every statement is committed by itself
        self._base.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing, a power cut perhaps a file
        self._base.execute("CREATE TABLE IF NOT EXISTS identity (hash TEXT)")
        self._base.execute("CREATE TABLE IF NOT EXISTS parts (file TEXT PRIMARY KEY, stamp TEXT, probabilities BLOB, "
                           "agreement BLOB)")
        found = self._base.execute("SELECT hash FROM identity").fetchone()
        self.discarded = 0
        if found != (identity,):
            self.discarded = self._base.execute("DELETE FROM parts").rowcount
            self._base.execute("DELETE FROM identity")
            self._base.execute("INSERT INTO identity VALUES (?)", (identity,))

    def known(self, stamps: Mapping[str, str]) -> set[str]:
        """Those of the files that are labelled already; one that has changed since, by its stamp, is not."""
        return {file for file, stamp in self._base.execute("SELECT file, stamp FROM parts")
                if stamps.get(file) == stamp}

    def add(self, part: Part, stamp: str) -> None:
        """Keep a labelled file, in the place of an earlier state of it."""
        self._base.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", (
            part.file, stamp, np.asarray(part.probabilities, np.float32).tobytes(),
            np.asarray(part.agreement, np.float64).tobytes()))

    def of(self, files: Iterable[str]) -> Iterator[Part]:
        """Those of the files that are labelled, in this order."""
        for file in files:
            row = self._base.execute("SELECT probabilities, agreement FROM parts WHERE file = ?", (file,)).fetchone()
            if row is not None:
                probabilities, agreement = row
                n_tables, n_classes = self.shape
                yield Part(file, np.frombuffer(probabilities, np.float32).reshape(n_tables, -1, n_classes),
                           np.frombuffer(agreement, np.float64))

    def close(self, *, remove: bool) -> None:
        """Let go of the database; `remove` deletes it, once a table holds what it held."""
        self._base.close()
        if remove:
            self.path.unlink()
