"""What the commands share: options that several take, and how they say things."""
from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_competition(command: argparse.ArgumentParser, *, work: str = "where notebook 01 wrote its tables") -> None:
    """The folders of a competition's files and of what the notebooks hand to each other; `work` says what for."""
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR", help=work)


def add_year(command: argparse.ArgumentParser) -> None:
    """The option by which a person states what is recognised otherwise."""
    command.add_argument("--year", type=int, default=0, metavar="YEAR",
                         help="of the competition's files (default: recognised by them)")


def add_changes(command: argparse.ArgumentParser) -> None:
    """The option that changes a recipe."""
    command.add_argument("--set", type=as_change, nargs="+", action="extend", default=[], metavar="SETTING=VALUE",
                         help="a change of the recipe, such as train__epochs=5; values are JSON")


def as_round_changes(groups: Iterable[Sequence[str]]) -> dict[int, dict[str, Any]]:
    """ [["2", "pseudo__power=1.8"]] as {2: {"pseudo__power": 1.8}}; ValueError for what is neither."""
    changes: dict[int, dict[str, Any]] = {}
    for number, *settings in groups:
        if not number.isdecimal() or not settings:
            raise ValueError(f"--set-round {' '.join([number, *settings])} is not a round and SETTING=VALUE")
        try:
            changes.setdefault(int(number), {}).update(map(as_change, settings))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--set-round {number}: {error}") from error
    return changes


def as_change(text: str) -> tuple[str, Any]:
    """ "train__epochs=5" as ("train__epochs", 5); what is not JSON is text."""
    setting, sign, value = text.partition("=")
    if not sign or not setting:
        raise argparse.ArgumentTypeError(f"{text!r} is not SETTING=VALUE")
    try:
        return setting, json.loads(value)
    except json.JSONDecodeError:
        return setting, value


def as_folder(text: str) -> tuple[str, str]:
    """ "nocall=/data/ff1010bird" as ("nocall", "/data/ff1010bird")."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, folder


def say(line: str) -> None:
    """A result, on stdout."""
    sys.stdout.write(line + "\n")


def shown(table: pd.DataFrame) -> str:
    """A table as text, empty where a value is missing."""
    return table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}")


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Warnings alone from one logger; afterwards it is as it was, since the process may go on."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
