"""A recipe's config for one competition: with what only its files can say, and what is attached beside them."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from birdkit import kaggle
from birdkit.config import LABELLED, SOUNDSCAPES, UNLABELLED, Member, RunConfig, SourceConfig, TaskConfig
from birdkit.profiles import (
    PROBABILITIES,
    Competition,
    read_classes,
    read_groups,
    read_scored,
    read_shares,
    recognise,
)
from birdkit.settings import replace

log = logging.getLogger(__name__)

SCORED = ("scored",)  # as the classes of a source: the competition's scored ones


def for_competition(config: RunConfig, competition_dir: str | Path, *, year: int = 0,
                    folders: Mapping[str, str | Path] | None = None) -> RunConfig:
    """The config with what only this competition's files, and what is attached beside them, can say.

    Its year, its scored classes where not all count, and what is guessed of a competition of no known year. The shares
    of its classes, where the decision has a penalty and the submission is of decisions. The names that a teacher of
    logits has for the classes, where `distil.class_column` is a column of the class table. The groups of a "grouped"
    head, where they are the name of a column of the class table, such as "class_name". The classes of a source of
    recordings, where they are ("scored",). The folders of sources: given here by the source's name, or the config's
    path where that is a folder, or else that path below Kaggle's datasets, its first part being the name of one. A
    source that is nowhere is taken out, with a warning, and with it every augmentation that mixes it in: so the config
    in a checkpoint says what was really trained. So are labelled soundscapes, and unlabelled ones, where the
    competition has none.

    year  stated, 0 to recognise it, see birdkit.profiles.recognise

    Raises birdkit.profiles.ProfileError where the files do not fit, ValueError for folders of a source that the config
    does not have, and birdkit.kaggle.MissingInputError where a given one does not exist.
    """
    competition = recognise(competition_dir, year=year)
    config = replace(config, year=competition.year, task=_task(competition, competition_dir))
    config = _with_sources(config, competition, competition_dir, folders or {})
    decision = with_shares(config.inference.decision, competition_dir, competition)
    config = replace(config, inference__decision=decision)
    if config.distil.class_column:
        names = read_groups(competition_dir, config.distil.class_column, competition)
        config = replace(config, distil__class_names=names)
    column = config.model.head_options.get("groups")
    if config.model.head != "grouped" or not isinstance(column, str):
        return config
    options = {**config.model.head_options, "groups": list(read_groups(competition_dir, column, competition))}
    return replace(config, model__head_options=options)


def with_shares(decision: Member, competition_dir: str | Path, competition: Competition) -> Member:
    """A decision with the shares of the competition's classes, where it has a penalty and the submission is of
    decisions; one that has them, or needs none, as it is."""
    if competition.row_format == PROBABILITIES or not decision.options.get("penalty") or "shares" in decision.options:
        return decision
    return Member(decision.name, {**decision.options, "shares": read_shares(competition_dir, competition)})


def _task(competition: Competition, competition_dir: str | Path) -> TaskConfig:
    """What the competition's files say beyond the profile of a known year."""
    scored = read_scored(competition_dir, competition)
    scored = () if scored == read_classes(competition_dir, competition) else scored
    if not competition.guessed:
        return TaskConfig(scored=scored)
    return TaskConfig(competition.window_s, competition.soundscape_s, competition.metric, scored)


def _with_sources(config: RunConfig, competition: Competition, competition_dir: str | Path,
                  folders: Mapping[str, str | Path]) -> RunConfig:
    """The config with the sources that there are, and the augmentations that can do with them."""
    nothing = "" if competition.unlabelled else f"the competition of {competition.year} has no unlabelled soundscapes"
    if nothing:
        config = _without(config, SOUNDSCAPES, nothing)
    of_folders = [source.name for source in config.data.sources if source.kind == "folder"]
    unknown = sorted(set(folders) - set(of_folders))
    if unknown:
        raise ValueError(f"folders are given for {', '.join(unknown)}, but the sources of {config.name!r} that are "
                         f"folders are: {', '.join(of_folders) or 'none'}")
    found = []
    for source in config.data.sources:
        if source.kind == "folder":
            try:
                source = replace(source, path=str(_find_folder(source, folders.get(source.name, ""))))
            except kaggle.MissingInputError as error:
                if source.name in folders:
                    raise
                config = _without(config, source.name, f"{error}. Attach the dataset {Path(source.path).parts[0]}, or "
                                                       "give its folder")
                continue
        elif source.kind == LABELLED and not competition.labelled:
            config = _without(config, source.name, f"the competition of {competition.year} has no labelled soundscapes")
            continue
        elif source.kind == UNLABELLED and nothing:
            config = _without(config, source.name, nothing)
            continue
        elif source.classes == SCORED:
            source = replace(source, classes=read_scored(competition_dir, competition))
        found.append(source)
    return replace(config, data__sources=tuple(found))


def _find_folder(source: SourceConfig, given: str | Path) -> Path:
    """The folder of a source; MissingInputError, with every place that was looked at, where there is none."""
    path = Path(source.path)
    if not given and path.is_dir():
        return path
    dataset, *inside = path.relative_to(path.anchor).parts
    folder = kaggle.find_dataset(dataset, given=given).joinpath(*([] if given else inside))
    if not folder.is_dir():
        raise kaggle.MissingInputError(f"{folder} is not a folder")
    return folder


def _without(config: RunConfig, source: str, why: str) -> RunConfig:
    """The config without the augmentations that mix in a source; of those that list members, without those members."""
    kinds = {"augment__wave": config.augment.wave, "augment__spectrogram": config.augment.spectrogram}
    dropped: list[str] = []
    kept = {kind: _members_without(members, source, dropped) for kind, members in kinds.items()}
    if dropped or source != SOUNDSCAPES:
        log.warning("training without %s, and without the augmentations that mix it in (%s): %s", source,
                    ", ".join(dropped) or "none", why)
    return replace(config, **kept)


def _members_without(members: Iterable[Member], source: str, dropped: list[str]) -> tuple[Member, ...]:
    """The members that do not mix in a source; the names of the others join `dropped`."""
    from birdkit.augmentations import build_augmentations  # torch, which a list of recipes does without

    kept = []
    for one in members:
        inner = one.options.get("members")
        if isinstance(inner, list):
            left = [entry for entry in inner
                    if _members_without([Member(entry["name"], entry.get("options", {}))], source, dropped)]
            if left:
                kept.append(Member(one.name, {**one.options, "members": left}))
        elif source in build_augmentations((one,))[0].sources:
            dropped.append(one.name)
        else:
            kept.append(one)
    return tuple(kept)
