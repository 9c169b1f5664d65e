"""What the host asks for: the rows, and the test files that they are of."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from birdkit import kaggle
from birdkit.profiles import ROW_ID, SAMPLE, TRUE_FALSE, Competition, read_scored
from birdkit.submission.forms import SubmissionError, row_ids, stem_of, window_id


@dataclass(frozen=True)
class Asked:
    """The rows of a submission, in order, and the test files.

    files      one for each file name that rows begin with, sorted by name
    odd        why no row is of each other file in the folder, by its name
    rehearsal  True where there are no test files yet: the files stand in for them, and the rows are the sample's
    """

    rows: tuple[str, ...]
    files: tuple[Path, ...]
    odd: Mapping[str, str]
    rehearsal: bool


def ask(competition_dir: str | Path, competition: Competition) -> Asked:
    """What a submission must hold.

    The rows are the sample submission's where it knows every test file, or most of them with all their windows (a
    stray file among them costs nothing), or where there are no test files (a rehearsal). Otherwise (Kaggle's public
    copy is a stub of three rows) those of each window of every test file, sorted by file name. Rows are named by file
    names without what follows the dot: of several files with one such name the first in the order of
    birdkit.kaggle.AUDIO_SUFFIXES counts, ".ogg", in which all competitions came, before others.

    Raises SubmissionError where the sample names a row twice, or no test file has a name that rows can begin with;
    birdkit.kaggle.MissingInputError in a rerun without test audio.
    """
    sample = Path(competition_dir) / SAMPLE
    rows = pd.read_csv(sample, usecols=[ROW_ID], dtype=str)[ROW_ID].tolist()
    if len(set(rows)) < len(rows):
        raise SubmissionError(f"{sample}: {len(rows) - len(set(rows))} row ids appear twice")
    files, rehearsal = kaggle.find_test_audio(competition_dir)
    by_stem, odd = _by_stem(files, competition)
    if not by_stem:
        first = next(iter(odd.values()))
        raise SubmissionError(f"{competition_dir}: none of {len(files)} test files has rows: {first}")
    if rehearsal:
        return Asked(tuple(rows), tuple(by_stem.values()), odd, True)
    strays = _strays(rows, list(by_stem), competition)
    if strays is None:
        rows = _rows_of(list(by_stem), competition_dir, competition)
    for stem in strays or ():
        odd[by_stem.pop(stem).name] = f"{SAMPLE} has no row of it"
    return Asked(tuple(rows), tuple(sorted(by_stem.values())), odd, False)


def expected_rows(competition_dir: str | Path, competition: Competition) -> list[str]:
    """The row ids that a submission must have, in order, see `ask`."""
    return list(ask(competition_dir, competition).rows)


def _by_stem(files: Sequence[Path], competition: Competition) -> tuple[dict[str, Path], dict[str, str]]:
    """The test files by what their rows begin with, in the order of names, and the others with the reason."""
    found: dict[str, Path] = {}
    odd: dict[str, str] = {}
    for path in sorted(files, key=lambda path: (kaggle.AUDIO_SUFFIXES.index(path.suffix.lower()), path.name)):
        try:
            stem = stem_of(window_id(path.name, 0.0, competition), "")
        except SubmissionError as error:
            odd[path.name] = str(error)
            continue
        if stem in found:
            odd[path.name] = f"another test file has this name: {found[stem].name}"
        else:
            found[stem] = path
    return dict(sorted(found.items(), key=lambda item: item[1])), odd


def _strays(rows: Sequence[str], stems: Sequence[str], competition: Competition) -> list[str] | None:
    """The test files that the sample's rows leave out; None where these are not the rows that are asked for."""
    n_rows = pd.Series([stem_of(row, competition.row_format) for row in rows], dtype=str).value_counts().to_dict()
    strays = [stem for stem in stems if stem not in n_rows]
    if not strays:
        return []
    whole = [stem for stem in stems if n_rows.get(stem, 0) >= competition.windows]
    return strays if len(whole) == len(stems) - len(strays) > len(strays) else None


def _rows_of(stems: Sequence[str], competition_dir: str | Path, competition: Competition) -> list[str]:
    """The rows of every window of these files, and class where rows are of a class."""
    ends_s = [round((window + 1) * competition.window_s) for window in range(competition.windows)]
    windows = [f"{stem}_{end_s}" for stem in stems for end_s in ends_s]
    scored = read_scored(competition_dir, competition) if competition.row_format == TRUE_FALSE else ()
    return row_ids(windows, scored, competition)
