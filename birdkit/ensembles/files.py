"""Ensembles as data: a TOML file that says which models there are, how much each counts, and how they are blended.

    blend = "rank"                       # one of birdkit.blending.BLENDS; "probabilities" unless said otherwise

    [[members]]
    path = "round1_split0/best.safetensors"
    weight = 2.0
    inference = {clip_step_s = 2.5}      # settings of birdkit.config.InferenceConfig

    [[members]]
    name = "frogs"
    path = "frogs/best.safetensors"
    classes = ["65448", "24279"]         # in which it has a say; all it knows unless said otherwise
    postprocess = [{name = "smooth"}]    # done to this member's windows, before the blend

    [[postprocess]]                      # done to what is blended; without, as the first member's checkpoint says
    name = "scale_by_file_top"
    options = {k = 2}

    [decision]                           # of years that ask for decisions; without, the first member's checkpoint's
    name = "quantile"
    options = {q = 0.9}
"""
from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdkit.blending import BLENDS
from birdkit.config import InferenceConfig, Member
from birdkit.config.base import one_of
from birdkit.decisions import check_decision
from birdkit.ensembles.binding import bind, bind_changes
from birdkit.inference import Predictor, load_predictors
from birdkit.inference.predictor import ensemble_decision
from birdkit.kaggle import MissingInputError, Workspace
from birdkit.postprocess import check_members
from birdkit.settings import from_dict, to_dict, with_settings

OWN_KEYS = ("postprocess", "gate", "decision")  # of InferenceConfig, which have a place of their own


@dataclass(frozen=True)
class EnsembleMember:
    """One model.

    path         of its checkpoint or exported bundle, relative to the folder of the file; what is not there is looked
                 for in the work folder and among Kaggle's attached inputs
    weight       in every class in which it has a say, above 0
    name         for messages; empty: the path
    classes      in which it has a say; empty: all it knows
    inference    changes to how it predicts: settings of InferenceConfig, but for postprocess, gate and decision
    postprocess  members of birdkit.postprocess that are done to its own windows, before the blend
    """

    path: str
    weight: float = 1.0
    name: str = ""
    classes: tuple[str, ...] = ()
    inference: dict[str, Any] = field(default_factory=dict)
    postprocess: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"{self}: weight = {self.weight} must be above 0")
        own = [key for key in OWN_KEYS if key in self.inference]
        if own:
            raise ValueError(f"{self}: inference.{own[0]} is no setting of one member: postprocess is a key beside it, "
                             "a decision one of the file, and a gate bears on all")
        with_settings(InferenceConfig(), self.inference)
        check_members(self.postprocess)

    def __str__(self) -> str:
        return self.name or self.path


@dataclass(frozen=True)
class EnsembleFile:
    """An ensemble, the keys of a TOML file.

    members      in the order in which they are left out, from the last, when time is short
    blend        one of birdkit.blending.BLENDS
    postprocess  members of birdkit.postprocess, done to what is blended; None for what the first member's checkpoint
                 says, which an empty list is not
    decision     a member of birdkit.decisions, for years that ask for decisions; None for the first member's
                 checkpoint's
    """

    members: tuple[EnsembleMember, ...]
    blend: str = "probabilities"
    postprocess: tuple[Member, ...] | None = None
    decision: Member | None = None

    def __post_init__(self) -> None:
        one_of("blend", self.blend, tuple(BLENDS))
        if not self.members:
            raise ValueError("there is no member")
        check_members(self.postprocess or ())
        if self.decision is not None:
            check_decision(self.decision)


@dataclass(frozen=True)
class Prepared:
    """An ensemble as birdkit.inference.predict takes it: predictors, `mean` and `members`.

    models  the predictors of each model, one at every scale
    names   of the models
    said_decision  what its file says of decisions, None where it says nothing
    """

    models: tuple[tuple[Predictor, ...], ...]
    names: tuple[str, ...]
    mean: str = "probabilities"
    members: tuple[Member, ...] | None = None
    said_decision: Member | None = None

    @property
    def decision(self) -> Member:
        """What makes decisions of its probabilities: what its file says, or the first predictor's."""
        return self.said_decision or ensemble_decision(self.predictors)

    @property
    def predictors(self) -> list[Predictor]:
        """Those of all models."""
        return [one for model in self.models for one in model]


def read_ensemble(path: Path | str) -> EnsembleFile:
    """Read an ensemble, strictly: ValueError names the file and what is wrong with it."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        values = {"blend": "probabilities", "postprocess": None, "decision": None, **values}
        if not isinstance(values.get("members"), list):
            raise ValueError("there is no member: write [[members]] with a path for each")
        return from_dict(EnsembleFile, {**values, "members": [_member(one) for one in values["members"]],
                                        "postprocess": _with_options(values["postprocess"]),
                                        "decision": _with_options([values["decision"]])[0]}, "ensemble")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: {error.args[0] if error.args else error}") from error


def write_ensemble(ensemble: EnsembleFile, path: Path | str, *, comment: str = "") -> None:
    """Write what `read_ensemble` reads; a comment of several lines goes before it."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines.append(f"blend = {_toml(ensemble.blend)}")
    if ensemble.postprocess is not None:
        lines.append(f"postprocess = {_toml(to_dict(ensemble.postprocess))}")
    if ensemble.decision is not None:
        lines.append(f"decision = {_toml(to_dict(ensemble.decision))}")
    for member in ensemble.members:
        lines += ["", "[[members]]"]
        lines += [f"{one.name} = {_toml(to_dict(value))}" for one in dataclasses.fields(member)
                  if (value := getattr(member, one.name)) or one.name in ("path", "weight")]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_ensemble(source: Path | str | Sequence[Path | str], *, competition_dir: Path | str,
                  year: int = 0, work: Workspace | None = None, backend: str | None = None, device: str = "cpu",
                  changes: Mapping[str, Any] | None = None) -> Prepared:
    """The predictors of an ensemble's file, or of checkpoints that count alike, ready for birdkit.inference.predict.

    source  a TOML file, or paths of checkpoints or exported bundles
    year    of the competition, stated; 0 to recognise it
    work    where members that are not beside the file are looked for
    backend, device, changes  as for birdkit.inference.load_predictors; a member's own changes go before these.
            Members among them may be tables, and get what they need of the competition's files

    Raises ValueError, naming the file, for what is wrong with it, for classes that a member does not know, and for a
    change of what the file itself says for all members;
    birdkit.kaggle.MissingInputError for members that are nowhere; and what birdkit.inference.load_predictors raises.
    """
    how: dict[str, Any] = {"backend": backend, "device": device}
    changes = bind_changes(changes or {}, competition_dir, year=year)
    if not isinstance(source, (str, Path)):
        return Prepared(tuple(tuple(load_predictors([path], changes=changes, **how)) for path in source),
                        tuple(map(str, source)))
    file = _find(str(source), Path(), work, "ensemble")
    ensemble, models = read_ensemble(file), []
    twice = [name for name in ("postprocess", "decision") if name in changes and getattr(ensemble, name) is not None]
    if twice:
        raise ValueError(f"{file} says {twice[0]}, and so do the changes: one of them has to go")
    for member in ensemble.members:
        own = load_predictors([_find(member.path, file.parent, work, f"{file}: member")],
                              changes={**changes, **member.inference}, **how)
        for predictor in own:
            unknown = sorted(set(member.classes) - set(predictor.classes))
            if unknown:
                raise ValueError(f"{file}: {member} does not know {len(unknown)} of its classes: "
                                 f"{', '.join(unknown[:5])}")
            predictor.share *= member.weight
            predictor.speaks_for = frozenset(member.classes or predictor.classes)
            predictor.postprocess = bind(member.postprocess, competition_dir, year=year)
        models.append(tuple(own))
    after = None if ensemble.postprocess is None else bind(ensemble.postprocess, competition_dir, year=year)
    own_decision = ensemble.decision and bind_changes({"decision": ensemble.decision}, competition_dir, year=year)
    return Prepared(tuple(models), tuple(map(str, ensemble.members)), ensemble.blend, after,
                    own_decision["decision"] if own_decision else None)


def _find(path: str, folder: Path, work: Workspace | None, what: str) -> Path:
    """A file by its path, in a folder, or in the work folder or what is attached, where it must be the only one."""
    beside = folder / path
    if beside.exists():
        return beside
    found = work.look(path) if work is not None and not Path(path).is_absolute() else []
    if len(found) != 1:
        places = f", and {len(found)} in the work folder and attached inputs" if work is not None else ""
        raise MissingInputError(f"{what} {path!r} is not there: no {beside.absolute()}{places}")
    return found[0]


def _member(values: Any) -> Any:
    """The keys of a member with those that may be left out."""
    if not isinstance(values, Mapping):
        return values
    missing = {one.name: one.default if one.default is not dataclasses.MISSING else {}
               for one in dataclasses.fields(EnsembleMember) if one.name != "path"}
    filled = {**missing, **values}
    return {**filled, "postprocess": _with_options(filled["postprocess"])}


def _with_options(members: Any) -> Any:
    """Members of birdkit.postprocess in a file, which need no options."""
    if not isinstance(members, (list, tuple)):
        return members
    return [{"options": {}, **one} if isinstance(one, Mapping) else one for one in members]


def _toml(value: Any) -> str:
    """A value of JSON as TOML has it, on one line."""
    if isinstance(value, Mapping):
        keys = {key: key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key) for key in value}
        return "{" + ", ".join(f"{keys[key]} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
