"""What post-processing needs of a competition's files, read once, when a run or an ensemble is prepared.

It becomes an option of the member and so stands in the run config: validation, pseudo-labels and submission do the very
same, and a checkpoint needs no competition to be used.
"""
from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from birdkit.config import Member
from birdkit.data.labelled_soundscapes import drop_foreign, pool_windows, read_spans
from birdkit.decisions import check_decision
from birdkit.kaggle import AUDIO_SUFFIXES
from birdkit.postprocess import FROM_COMPETITION, count_places, options_of
from birdkit.profiles import Competition, read_classes, read_groups, read_scored, recognise
from birdkit.recipes import with_shares
from birdkit.settings import from_dict, to_dict

log = logging.getLogger(__name__)

GENUS = "genus"  # as a column of the class table: the first word of its scientific names
RECORDINGS, LABELLED_SOUNDSCAPES = "recordings", "labelled_soundscapes"


def bind(members: Sequence[Member], competition_dir: Path | str, *, year: int = 0) -> tuple[Member, ...]:
    """The members of birdkit.postprocess with the data that their options name, "class_name" or "recordings".

    Members that have their data stay as they are. A prior is left out, with a warning, where the competition has no
    labelled soundscapes, or their names say neither site nor hour.

    year  of the competition, stated; 0 to recognise it, see birdkit.profiles.recognise

    Raises birdkit.profiles.ProfileError where the files do not say what is asked for, ValueError for data that there
    is none of by that name.
    """
    bound = []
    for member in members:
        known, options = options_of(member.name), dict(member.options)
        for option in FROM_COMPETITION:
            named = options.get(option, known.get(option))
            if option in known and isinstance(named, str):
                competition = recognise(competition_dir, year=year, say=False)
                options[option] = _read_labelled(option, named, Path(competition_dir), competition)
        if options.get("prior") == {"cells": []}:
            log.warning("%s is left out: %s has no labelled soundscapes whose names say site or hour, of %d",
                        member.name, competition_dir, recognise(competition_dir, year=year, say=False).year)
            continue
        bound.append(Member(member.name, options))
    return tuple(bound)


def bind_changes(changes: Mapping[str, Any], competition_dir: Path | str, *, year: int = 0) -> dict[str, Any]:
    """Changes of settings of InferenceConfig, as a person writes them, with what they need of a competition's files.

    `postprocess` as `bind` does it, and the shares of the classes for a `decision` with a penalty; members may be
    tables, {"name": ..., "options": ...}, and need no options. Everything else stays as it is.

    Raises ValueError or TypeError, naming the place, for what is no member, and what `bind` raises.
    """
    bound = dict(changes)
    if "postprocess" in changes:
        bound["postprocess"] = bind(as_members(changes["postprocess"], "postprocess"), competition_dir, year=year)
    if "decision" in changes:
        decision = as_members([changes["decision"]], "decision")[0]
        check_decision(decision)
        bound["decision"] = with_shares(decision, competition_dir, recognise(competition_dir, year=year, say=False))
    return bound


def as_members(values: Any, where: str) -> tuple[Member, ...]:
    """Members from a list of tables, which need no options; TypeError or ValueError, naming the place, for others.

    >>> as_members([{"name": "smooth"}], "postprocess")
    (Member(name='smooth', options={}),)
    >>> as_members("smooth", "postprocess")
    Traceback (most recent call last):
    TypeError: postprocess must be a list of tables such as {"name": "smooth"}, not 'smooth'
    """
    if not isinstance(values, (list, tuple)):
        raise TypeError(f'{where} must be a list of tables such as {{"name": "smooth"}}, not {values!r}')
    return tuple(from_dict(Member, to_dict(one), f"{where}[{index}]", complete=False)
                 for index, one in enumerate(values))


def _read_labelled(option: str, named: str, folder: Path, competition: Competition) -> Mapping[str, Any]:
    if option == "groups":
        groups = read_groups(folder, "scientific_name" if named == GENUS else named, competition)
        return {name: group.split()[0] if named == GENUS else group
                for name, group in zip(read_classes(folder, competition), groups, strict=True)}
    wanted = RECORDINGS if option == "counts" else LABELLED_SOUNDSCAPES
    if named != wanted:
        raise ValueError(f"{option} = {named!r}; it must be {wanted!r}, or the data itself")
    return _recordings(folder, competition) if option == "counts" else _places_heard(folder, competition)


def _recordings(folder: Path, competition: Competition) -> dict[str, int]:
    """How many recordings each scored class has."""
    table = pd.read_csv(folder / competition.train_table, usecols=["primary_label"], dtype=str)
    counts = table["primary_label"].value_counts()
    return {name: int(counts.get(name, 0)) for name in read_scored(folder, competition)}


def _places_heard(folder: Path, competition: Competition) -> dict[str, Any]:
    """What was heard where and when in the host's labelled soundscapes; of those of 2021 only a file's name has the
    date, so that there the files must be there."""
    if not competition.labelled:
        return count_places([])
    files = [path.relative_to(folder).as_posix() for path in sorted((folder / competition.labelled_in).rglob("*"))
             if path.suffix.lower() in AUDIO_SUFFIXES]
    spans, _ = read_spans(folder / competition.labelled, folder=competition.labelled_in, files=files,
                          window_s=competition.window_s)
    spans, _ = drop_foreign(spans, read_classes(folder, competition))
    windows = pool_windows(spans, competition.window_s, dict.fromkeys(spans["file"], math.inf))
    return count_places((file, labels.split()) for file, labels in zip(windows["file"], windows["labels"], strict=True))
