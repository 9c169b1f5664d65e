"""What each year's host fixed: a dozen declarative lines a year. Nothing in here is a choice of ours.

Class lists are not typed in: they are read from the competition's own files.
"""
from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOG = logging.getLogger(__name__)
SAMPLE = "sample_submission.csv"
SCORED = "scored_birds.json"  # 2022: the 21 of its 152 classes that count
ROW_ID = "row_id"


class ProfileError(ValueError):
    """The competition's files do not fit what is known of any year, or not each other."""


@dataclass(frozen=True)
class Competition:
    """One year's rules and file layout.

    n_classes     columns of the host's submission; a small copy of a year may have fewer
    window_s      what one row of the submission is about
    soundscape_s  length of one test file
    metric        a name in birdkit.metrics.METRICS
    row_format    what a cell of the submission holds; "probabilities" in [0, 1]
    time_limit_s  of the scored run on the CPU
    train_table   the table of recordings, with at least `columns`
    class_table   the table whose primary_label column holds every class and nothing else
    unlabelled    the folder of soundscapes to train on without labels
    labelled      the table of spans of some of them that the host labelled; "" where there is none
    signature     files that tell the year apart, "file:column" where a column is asked of a table
    source        where these facts come from
    """

    year: int
    place: str
    n_classes: int
    window_s: float
    soundscape_s: float
    metric: str
    row_format: str
    time_limit_s: float
    train_table: str
    columns: tuple[str, ...]
    class_table: str
    unlabelled: str
    signature: tuple[str, ...]
    source: str
    labelled: str = ""

    @property
    def windows(self) -> int:
        """Rows of one test file."""
        return round(self.soundscape_s / self.window_s)


PROFILES: dict[int, Competition] = {year.year: year for year in (
    Competition(
        year=2024, place="Western Ghats, India", n_classes=182,
        window_s=5, soundscape_s=240, metric="macro_roc_auc", row_format="probabilities", time_limit_s=120 * 60,
        train_table="train_metadata.csv",
        columns=("primary_label", "secondary_labels", "filename", "rating", "author"),
        class_table="train_metadata.csv", unlabelled="unlabeled_soundscapes",
        signature=("train_metadata.csv", "unlabeled_soundscapes"),
        source="https://www.kaggle.com/competitions/birdclef-2024"),
    Competition(
        year=2025, place="El Silencio, Colombia", n_classes=206,
        window_s=5, soundscape_s=60, metric="macro_roc_auc", row_format="probabilities", time_limit_s=90 * 60,
        train_table="train.csv",
        columns=("primary_label", "secondary_labels", "filename", "collection", "rating", "author"),
        class_table="taxonomy.csv", unlabelled="train_soundscapes",
        signature=("train.csv", "taxonomy.csv:class_name"),
        source="https://www.kaggle.com/competitions/birdclef-2025"),
    Competition(
        year=2026, place="Pantanal, Brazil", n_classes=234,
        window_s=5, soundscape_s=60, metric="macro_roc_auc", row_format="probabilities", time_limit_s=90 * 60,
        train_table="train.csv",
        columns=("primary_label", "secondary_labels", "filename", "collection", "rating", "author"),
        class_table="taxonomy.csv", unlabelled="train_soundscapes",
        signature=("train.csv", "taxonomy.csv:class_name", "train_soundscapes_labels.csv"),
        source="https://www.kaggle.com/competitions/birdclef-2026", labelled="train_soundscapes_labels.csv"),
)}


def profile(year: int) -> Competition:
    """The profile of a year; ProfileError lists the years there are.

    >>> profile(2025).windows
    12
    """
    if year not in PROFILES:
        raise ProfileError(f"no profile for {year}; there is: {', '.join(map(str, PROFILES))}")
    return PROFILES[year]


def recognise(competition_dir: str | Path) -> Competition:
    """The profile that a competition's files fit; what was recognised, and by what, is logged.

    Where several years fit, the one that asks for most. Raises ProfileError, with every year's missing files, where
    none fits.
    """
    folder = Path(competition_dir)
    best = _fitting(folder)
    LOG.info("%s: taken for the competition of %d (%s), for it has %s", folder, best.year, best.place,
             ", ".join(best.signature))
    return best


def read_classes(competition_dir: str | Path) -> tuple[str, ...]:
    """The class names in the order of the submission's columns, always as text ("1139490" is a name).

    Raises ProfileError where the sample submission has no row_id column, names a class twice, or has other classes
    than the year's class table.
    """
    folder = Path(competition_dir)
    columns = _header(folder / SAMPLE)
    if columns[:1] != [ROW_ID] or len(columns) < 2:
        raise ProfileError(f"{folder / SAMPLE}: the first column must be {ROW_ID}, followed by the classes, "
                           f"not {', '.join(columns[:3]) or 'nothing'}")
    classes = columns[1:]
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise ProfileError(f"{folder / SAMPLE}: columns named twice: {some_of(twice)}")
    table = folder / _fitting(folder).class_table
    listed = _column(table, "primary_label")
    if set(listed) != set(classes):
        raise ProfileError(f"{folder / SAMPLE} and {table} disagree on the classes: only in the submission: "
                           f"{some_of(sorted(set(classes) - set(listed)))}; only in the table: "
                           f"{some_of(sorted(set(listed) - set(classes)))}")
    return tuple(classes)


def read_groups(competition_dir: str | Path, column: str = "class_name") -> tuple[str, ...]:
    """The group of each class, in the order of `read_classes`, by a column of the competition's class table.

    column  such as "class_name" (Aves, Amphibia, Insecta, Mammalia) of BirdCLEF+ 2025 and 2026

    Raises ProfileError where the table has no such column, or a class has no group.
    """
    folder = Path(competition_dir)
    table = folder / _fitting(folder).class_table
    group = dict(zip(_column(table, "primary_label"), _column(table, column), strict=True))
    without = [name for name, value in group.items() if not value.strip()]
    if without:
        raise ProfileError(f"{table}: {column} of {some_of(without)} is empty")
    return tuple(group[name] for name in read_classes(folder))


def read_scored(competition_dir: str | Path) -> tuple[str, ...]:
    """The classes that the competition scores, in the order of `read_classes`: all, or those scored_birds.json lists.

    That file is of the layout of BirdCLEF 2022. Raises ProfileError where it is no list of the competition's classes.
    """
    folder = Path(competition_dir)
    classes, path = read_classes(folder), folder / SCORED
    if not path.exists():
        return classes
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ProfileError(f"{path} cannot be read: {error}") from error
    if not isinstance(listed, list) or not listed:
        raise ProfileError(f"{path} is not a list of classes: {str(listed)[:80]}")
    scored = {str(name) for name in listed}
    if not scored <= set(classes):
        raise ProfileError(f"{path} lists what is no class: {some_of(sorted(scored - set(classes)))}")
    return tuple(name for name in classes if name in scored)


def _fitting(folder: Path) -> Competition:
    """The most demanding profile that the files fit."""
    missing = {year: [sign for sign in known.signature if not _has(folder, sign)] for year, known in PROFILES.items()}
    fitting = [known for year, known in PROFILES.items() if not missing[year]]
    if not fitting:
        faults = "; ".join(f"{year} lacks {', '.join(signs)}" for year, signs in missing.items())
        raise ProfileError(f"{folder} is the competition of no known year: {faults}")
    return max(fitting, key=lambda known: len(known.signature))


def _has(folder: Path, sign: str) -> bool:
    name, _, column = sign.partition(":")
    return (folder / name).exists() and (not column or column in _header(folder / name))


def _header(path: Path) -> list[str]:
    """The column names of a csv file, [] where it is empty."""
    if not path.is_file():
        raise ProfileError(f"{path} does not exist")
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), [])


def _column(path: Path, name: str) -> list[str]:
    """One column of a csv file, as text."""
    if name not in _header(path):
        raise ProfileError(f"{path} has no column {name!r}; it has: {', '.join(_header(path)) or 'nothing'}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        return [row[name] for row in csv.DictReader(file)]


def some_of(names: Sequence[str]) -> str:
    """The first few of a list of names, and how many more there are, for a message."""
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
