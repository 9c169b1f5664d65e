"""Which year a folder is of; and one of no known year, read as the nearest is, with what was guessed."""
from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile as sf

from birdkit.profiles.competition import PROBABILITIES, Competition, ProfileError
from birdkit.profiles.tables import ROW_ID, SAMPLE, column, form_of, has, header
from birdkit.profiles.years import PROFILES

LOG = logging.getLogger(__name__)

_TABLE_OF_RECORDINGS = ("primary_label", "filename")
_TABLES_OF_SPANS = (("filename", "start", "end", "primary_label"), ("row_id", "seconds", "birds"))
_FOLDERS = {fact: tuple(dict.fromkeys(getattr(known, fact) for known in PROFILES.values() if getattr(known, fact)))
            for fact in ("audio", "unlabelled", "labelled_in")}


def recognise(competition_dir: str | Path, *, year: int = 0, say: bool = True) -> Competition:
    """The profile of a competition's files; what was taken, and by what, is logged.

    The known year whose files are there; where several fit, the one that asks for most. A folder that fits none, that
    has more classes than the year it fits had, or that is named after a year that nobody knows yet, is read from its
    sample submission and its tables as the nearest year is: `Competition.guessed` says what was guessed, and every
    line of it is logged as a warning.

    year  stated by who knows better, 0 to recognise it. A known one is taken as it is, whatever the files
    say   False logs nothing

    Raises ProfileError, with every year's missing files, where there is no sample submission to read either.
    """
    folder = Path(competition_dir)
    found, level, why = _taken(folder, year)
    if say:
        LOG.log(level, "%s: %s", folder, why)
        for line in found.guessed:
            LOG.warning("%s: guessed: %s", folder, line)
    return found


def _taken(folder: Path, year: int) -> tuple[Competition, int, str]:
    """The profile, how loud it is to be said, and what."""
    missed = {known.year: [sign for sign in known.signature if not has(folder, sign)] for known in PROFILES.values()}
    if year in PROFILES:
        lacks = f", though it lacks {', '.join(missed[year])}" if missed[year] else ""
        return PROFILES[year], logging.WARNING if lacks else logging.INFO, f"stated to be of {year}{lacks}"
    unknown, n_classes = year or _year_in_name(folder), _n_classes(folder)
    fitting = [known for known in PROFILES.values() if not missed[known.year]]
    best = max(fitting, key=lambda known: len(known.signature), default=None)
    if best is not None and not unknown and n_classes <= best.n_classes:
        part = f"; it has {n_classes} of {best.n_classes} classes" if 0 < n_classes < best.n_classes else ""
        return best, logging.INFO, (f"taken for the competition of {best.year} ({best.place}), for it has "
                                    f"{', '.join(best.signature)}{part}")
    if not (folder / SAMPLE).is_file():
        faults = "; ".join(f"{known} lacks {', '.join(signs)}" for known, signs in missed.items() if signs)
        raise ProfileError(f"{folder} is the competition of no known year: {faults}")
    guess = _guess(folder, unknown)
    return guess, logging.WARNING, f"of no known year, read as {guess.year} is"


def _year_in_name(folder: Path) -> int:
    """The year after the known ones that a folder's name says, such as birdclef-2031; else 0."""
    found = re.fullmatch(r"birdclef\D*(20\d\d)", folder.name.lower())
    return int(found[1]) if found and int(found[1]) > max(PROFILES) else 0


def _n_classes(folder: Path) -> int:
    """Columns of classes in the sample submission; 0 where it has none, or is not there."""
    columns = header(folder / SAMPLE) if (folder / SAMPLE).is_file() else []
    return len(columns) - 1 if columns and form_of(columns) == PROBABILITIES else 0


def _guess(folder: Path, year: int) -> Competition:
    """A competition of no known year, as its files have it and, where they do not say, as in the nearest year."""
    columns = header(folder / SAMPLE)
    like = [known for known in PROFILES.values() if known.row_format == form_of(columns)]
    there = {known.year: sum(has(folder, sign) for sign in known.signature) for known in like}
    # Of those with as many of their files there, the one that misses least, and then the latest.
    nearest = max(like, key=lambda known: (there[known.year], -len(known.signature), known.year))
    of_files: dict[str, Any] = {**_guess_tables(folder, nearest), **_guess_times(folder, nearest)}
    n_classes = _n_classes(folder) or nearest.n_classes
    lines = [f"{f'the year {year}' if year else 'the year'} is not known; {nearest.year} is the nearest by its files",
             f"metric {nearest.metric} and {nearest.time_limit_s / 60:g} minutes for about {nearest.test_files} "
             f"soundscapes, as in {nearest.year}: see the rules",
             f"cells hold {nearest.row_format}, {n_classes} classes, by the columns of {SAMPLE}",
             *(f"{fact} = {value!r}{'' if value != getattr(nearest, fact) else f', as in {nearest.year}'}"
               for fact, value in of_files.items() if fact != "columns")]
    return dataclasses.replace(nearest, place=f"unknown, read as {nearest.year} is", n_classes=n_classes,
                               guessed=tuple(lines), **of_files)


def _guess_tables(folder: Path, nearest: Competition) -> dict[str, Any]:
    """Where recordings, classes and soundscapes are; ProfileError where no table lists recordings."""
    tables = {path.name: header(path) for path in sorted(folder.glob("*.csv")) if path.name != SAMPLE}

    def first(wanted: tuple[str, ...], preferred: str) -> str:
        fitting = [name for name, columns in tables.items() if set(wanted) <= set(columns)]
        return preferred if preferred in fitting else next(iter(fitting), "")

    train = first(_TABLE_OF_RECORDINGS, nearest.train_table)
    if not train:
        raise ProfileError(f"{folder}: no table has the columns {' and '.join(_TABLE_OF_RECORDINGS)}, which a table of "
                           f"recordings needs; there is: {', '.join(tables) or 'no csv file'}")
    labelled = next(filter(None, (first(wanted, nearest.labelled) for wanted in _TABLES_OF_SPANS)), "")
    audio, recording = _find_recordings(folder, train, nearest)
    folders = {fact: next((name for name in (getattr(nearest, fact), *_FOLDERS[fact]) if (folder / name).is_dir()
                           and name), "") for fact in ("unlabelled", "labelled_in")}
    return {"train_table": train, "columns": _TABLE_OF_RECORDINGS, "class_table": _class_table(folder, tables, train),
            "audio": audio, "recording": recording, "labelled": labelled,
            "unlabelled": folders["unlabelled"], "labelled_in": folders["labelled_in"] if labelled else ""}


def _class_table(folder: Path, tables: dict[str, list[str]], train: str) -> str:
    """The table with just the classes of the sample submission, "" for none; of rows without classes, `train`."""
    columns = header(folder / SAMPLE)
    if form_of(columns) != PROBABILITIES:
        return train
    listed = [name for name in sorted(tables, key=lambda name: name == train) if "primary_label" in tables[name]]
    return next((name for name in listed if set(column(folder / name, "primary_label")) == set(columns[1:])), "")


def _find_recordings(folder: Path, train: str, nearest: Competition) -> tuple[str, str]:
    """The folder of the recordings and the path in it, by where the first recording lies."""
    label, name = (column(folder / train, part)[:1] for part in _TABLE_OF_RECORDINGS)
    names = dict.fromkeys((nearest.audio, *_FOLDERS["audio"], *(path.name for path in _folders_inside(folder))))
    for audio in names if name else ():
        for recording in dict.fromkeys((nearest.recording, "{filename}", "{primary_label}/{filename}")):
            if (folder / audio / recording.format(filename=name[0], primary_label=label[0])).is_file():
                return audio, recording
    return nearest.audio, nearest.recording


def _guess_times(folder: Path, nearest: Competition) -> dict[str, float]:
    """The length of a window, by the sample's row ids, and of a soundscape, by the first that is there."""
    ends = sorted({int(tail) for row in column(folder / SAMPLE, ROW_ID) if (tail := row.rpartition("_")[2]).isdigit()})
    window_s = nearest.window_s
    if ends and ends[0] > 0:
        window_s = float(min(second - one for one, second in itertools.pairwise([0, *ends])))
    places = ("test_soundscapes", *_FOLDERS["unlabelled"])
    found = (path for name in places if (folder / name).is_dir() for path in sorted((folder / name).iterdir()))
    for path in found:
        try:
            length_s = sf.info(path).duration
        except sf.LibsndfileError:
            continue
        return {"window_s": window_s, "soundscape_s": max(1, round(length_s / window_s)) * window_s}
    return {"window_s": window_s, "soundscape_s": nearest.soundscape_s}


def _folders_inside(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.iterdir()) if path.is_dir())
