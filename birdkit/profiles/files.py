"""What only a competition's own files say: the classes, their groups, those that count, and how common they are."""
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from birdkit.profiles.competition import PROBABILITIES, Competition, ProfileError
from birdkit.profiles.recognition import recognise
from birdkit.profiles.tables import ROW_ID, SAMPLE, column, form_of, header, some_of

SCORED = "scored_birds.json"  # 2022: the 21 of its 152 classes that count


def read_classes(competition_dir: str | Path, competition: Competition | None = None) -> tuple[str, ...]:
    """The class names in the order of the submission's columns, always as text ("1139490" is a name).

    Where the submission has no columns of classes (2021, 2022), those of the class table in alphabetical order.

    competition  whose files they are; None to recognise it. So in all functions here

    Raises ProfileError where the sample submission has no row_id column, names a class twice, or has other classes
    than the year's class table.
    """
    folder = Path(competition_dir)
    columns = header(folder / SAMPLE)
    if columns[:1] != [ROW_ID] or len(columns) < 2:
        raise ProfileError(f"{folder / SAMPLE}: the first column must be {ROW_ID}, followed by the classes, "
                           f"not {', '.join(columns[:3]) or 'nothing'}")
    classes = columns[1:]
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise ProfileError(f"{folder / SAMPLE}: columns named twice: {some_of(twice)}")
    competition = competition or recognise(folder, say=False)
    if not competition.class_table:
        return tuple(classes)
    table = folder / competition.class_table
    listed = set(column(table, "primary_label"))
    if form_of(columns) != PROBABILITIES:
        return tuple(sorted(listed))
    if listed != set(classes):
        raise ProfileError(f"{folder / SAMPLE} and {table} disagree on the classes: only in the submission: "
                           f"{some_of(sorted(set(classes) - listed))}; only in the table: "
                           f"{some_of(sorted(listed - set(classes)))}")
    return tuple(classes)


def read_groups(competition_dir: str | Path, name: str = "class_name",
                competition: Competition | None = None) -> tuple[str, ...]:
    """The group of each class, in the order of `read_classes`, by a column of the competition's class table.

    name  of the column, such as "class_name" (Aves, Amphibia, Insecta, Mammalia) of BirdCLEF+ 2025 and 2026

    Raises ProfileError where the table has no such column, or a class has no group.
    """
    folder = Path(competition_dir)
    competition = competition or recognise(folder, say=False)
    if not competition.class_table:
        raise ProfileError(f"{folder}: no table of classes, so no column {name!r} of it")
    table = folder / competition.class_table
    group = dict(zip(column(table, "primary_label"), column(table, name), strict=True))
    without = [one for one, value in group.items() if not value.strip()]
    if without:
        raise ProfileError(f"{table}: {name} of {some_of(without)} is empty")
    return tuple(group[one] for one in read_classes(folder, competition))


def read_scored(competition_dir: str | Path, competition: Competition | None = None) -> tuple[str, ...]:
    """The classes that the competition scores, in the order of `read_classes`: all, or those scored_birds.json lists.

    That file is of the layout of BirdCLEF 2022. Raises ProfileError where it is no list of the competition's classes.
    """
    folder = Path(competition_dir)
    classes, path = read_classes(folder, competition), folder / SCORED
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


def read_shares(competition_dir: str | Path, competition: Competition | None = None) -> dict[str, float]:
    """The share of each scored class among the recordings of all of them, by their primary label; the sum is 1.

    Raises ProfileError where there is no recording of any.
    """
    folder = Path(competition_dir)
    competition = competition or recognise(folder, say=False)
    scored, table = read_scored(folder, competition), folder / competition.train_table
    counts = Counter(name.strip() for name in column(table, "primary_label"))
    total = sum(counts[name] for name in scored)
    if not total:
        raise ProfileError(f"{table}: none of its recordings has a scored class for primary label: {some_of(scored)}")
    return {name: counts[name] / total for name in scored}
