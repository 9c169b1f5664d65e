"""Which teachers a student may learn from, and which table holds their labels.

A round has a table of all its teachers. Where LabelConfig.teachers keeps students from some of them, each group of
students has a table of its own beside it, named with the group: pseudo_labels_r1_split0.parquet is for students of
split 0, pseudo_labels_r1_not_eca_nfnet_l0.parquet for those of that backbone. A table that would hold the same labels
is not written: where all teachers may teach a group, it learns from the round's.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from birdkit.config import OTHERS, SAME_SPLIT, RunConfig
from birdkit.pseudolabel.table import PseudoLabelError, provenance


def group_of(config: RunConfig) -> str:
    """The group of a student, "" where it may learn from all.

    One of split -1 is validated on nothing that a teacher could know.

    >>> group_of(RunConfig(split=1))
    'split1'
    """
    if config.labelling.teachers == OTHERS:
        return f"not_{config.model.family}"
    return f"split{config.split}" if config.labelling.teachers == SAME_SPLIT and config.split >= 0 else ""


def may_teach(group: str, split: int, family: str) -> bool:
    """Whether students of a group may learn from a teacher of that split and backbone."""
    return group != f"not_{family}" if group.startswith("not_") else group in ("", f"split{split}")


def groups_of(teachers: str, kinds: Iterable[tuple[int, str]]) -> list[str]:
    """The groups of students that need a table of their own.

    teachers  as LabelConfig has it
    kinds     split and backbone of every teacher
    """
    kinds = set(kinds)
    groups = {f"not_{family}" for _, family in kinds} if teachers == OTHERS else \
        {f"split{split}" for split, _ in kinds if split >= 0} if teachers == SAME_SPLIT else set()
    return sorted(group for group in groups if not all(may_teach(group, *kind) for kind in kinds))


def beside(path: Path, group: str) -> Path:
    """The table of a group of students.

    >>> beside(Path("pseudo_labels_r1.parquet"), "split0").name
    'pseudo_labels_r1_split0.parquet'
    """
    return path.with_name(f"{path.stem}_{group}{path.suffix}") if group else path


def table_for(path: Path, config: RunConfig) -> Path:
    """The table that a student learns from: `path`, that of all teachers of its round, or the one of its group.

    Raises FileNotFoundError where its group needs one and has none, PseudoLabelError where that is of another labelling
    than `path`.
    """
    group, everyone = group_of(config), provenance(path)["teachers"]
    wanted = {one["hash"] for one in everyone if may_teach(group, one["split"], one.get("family", config.model.family))}
    if len(wanted) == len({one["hash"] for one in everyone}):
        return path
    own, asked = beside(path, group), f"labelling.teachers = {config.labelling.teachers!r}"
    if not own.is_file():
        raise FileNotFoundError(f"{path} is also of teachers that a student of split {config.split} and backbone "
                                f"{config.model.family} must not learn from ({asked}), and there is no {own.name} "
                                f"beside it: label with that setting and such teachers, or set labelling.teachers = "
                                "'all'")
    if {one["hash"] for one in provenance(own)["teachers"]} != wanted:
        raise PseudoLabelError(f"{own} is of other teachers than {path.name}: it is left from another labelling; label "
                               f"again with {asked}")
    return own
