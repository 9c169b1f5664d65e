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
from birdkit.labelled_soundscapes import drop_foreign, pool_windows, read_spans
from birdkit.postprocess import FROM_COMPETITION, count_places, options_of
from birdkit.profiles import read_classes, read_groups, read_scored, recognise

log = logging.getLogger(__name__)

GENUS = "genus"  # as a column of the class table: the first word of its scientific names
RECORDINGS, LABELLED_SOUNDSCAPES = "recordings", "labelled_soundscapes"


def bind(members: Sequence[Member], competition_dir: Path | str) -> tuple[Member, ...]:
    """The members of birdkit.postprocess with the data that their options name, "class_name" or "recordings".

    Members that have their data stay as they are. A prior is left out, with a warning, where the competition has no
    labelled soundscapes, or their names say neither site nor hour.

    Raises birdkit.profiles.ProfileError where the files do not say what is asked for, ValueError for data that there
    is none of by that name.
    """
    bound = []
    for member in members:
        known, options = options_of(member.name), dict(member.options)
        for option in FROM_COMPETITION:
            named = options.get(option, known.get(option))
            if option in known and isinstance(named, str):
                options[option] = _read_labelled(option, named, Path(competition_dir))
        if options.get("prior") == {"cells": []}:
            log.warning("%s is left out: %s has no labelled soundscapes whose names say site or hour", member.name,
                        competition_dir)
            continue
        bound.append(Member(member.name, options))
    return tuple(bound)


def _read_labelled(option: str, named: str, folder: Path) -> Mapping[str, Any]:
    if option == "groups":
        groups = read_groups(folder, "scientific_name" if named == GENUS else named)
        return {name: group.split()[0] if named == GENUS else group
                for name, group in zip(read_classes(folder), groups, strict=True)}
    wanted = RECORDINGS if option == "counts" else LABELLED_SOUNDSCAPES
    if named != wanted:
        raise ValueError(f"{option} = {named!r}; it must be {wanted!r}, or the data itself")
    return _recordings(folder) if option == "counts" else _places_heard(folder)


def _recordings(folder: Path) -> dict[str, int]:
    """How many recordings each scored class has."""
    table = pd.read_csv(folder / recognise(folder).train_table, usecols=["primary_label"], dtype=str)
    counts = table["primary_label"].value_counts()
    return {name: int(counts.get(name, 0)) for name in read_scored(folder)}


def _places_heard(folder: Path) -> dict[str, Any]:
    """What was heard where and when in the host's labelled soundscapes."""
    competition = recognise(folder)
    if not competition.labelled:
        return count_places([])
    spans, _ = read_spans(folder / competition.labelled, folder=competition.unlabelled)
    spans, _ = drop_foreign(spans, read_classes(folder))
    windows = pool_windows(spans, competition.window_s, dict.fromkeys(spans["file"], math.inf))
    return count_places((file, labels.split()) for file, labels in zip(windows["file"], windows["labels"], strict=True))
