"""The host's csv files, as text."""
from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from birdkit.profiles.competition import NAMES, PROBABILITIES, TRUE_FALSE, ProfileError

SAMPLE = "sample_submission.csv"
ROW_ID = "row_id"
TARGET, BIRDS = "target", "birds"  # the column of a submission without a column of each class
FORMATS: dict[tuple[str, ...], str] = {(TARGET,): TRUE_FALSE, (BIRDS,): NAMES}


def form_of(columns: Sequence[str]) -> str:
    """The form of a submission by its columns, one of birdkit.profiles.ROW_FORMATS.

    >>> form_of(["row_id", "birds"]), form_of(["row_id", "target"]), form_of(["row_id", "owl", "frog"])
    ('names', 'true_false', 'probabilities')
    """
    return FORMATS.get(tuple(columns[1:]), PROBABILITIES)


def header(path: Path) -> list[str]:
    """The column names of a csv file, [] where it is empty; ProfileError where there is none."""
    if not path.is_file():
        raise ProfileError(f"{path} does not exist")
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), [])


def column(path: Path, name: str) -> list[str]:
    """One column of a csv file, as text; ProfileError where it has none of that name."""
    names = header(path)
    if name not in names:
        raise ProfileError(f"{path} has no column {name!r}; it has: {', '.join(names) or 'nothing'}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        return [row[name] for row in csv.DictReader(file)]


def has(folder: Path, sign: str) -> bool:
    """Whether a folder has what a signature asks for, "name" or "name:column"."""
    name, _, wanted = sign.partition(":")
    return (folder / name).exists() and (not wanted or wanted in header(folder / name))


def some_of(names: Sequence[str]) -> str:
    """The first few of a list of names, and how many more there are, for a message."""
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
