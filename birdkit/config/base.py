"""What the parts of a run config share."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


def one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless a setting has one of the values it may have.

    >>> one_of("crop", "middle", ("random", "first"))
    Traceback (most recent call last):
    ValueError: crop = 'middle'; it must be one of random, first
    """
    if value not in allowed:
        raise ValueError(f"{where} = {value!r}; it must be one of {', '.join(allowed)}")


def in_unit(where: str, value: float) -> None:
    """Raise ValueError unless a setting lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{where} = {value} is not in [0, 1]")


def at_least(where: str, value: float, least: float = 0) -> None:
    """Raise ValueError unless a setting is `least` or more; NaN is not.

    >>> at_least("train.workers", -1)
    Traceback (most recent call last):
    ValueError: train.workers = -1 must be at least 0
    """
    if not value >= least:
        raise ValueError(f"{where} = {value} must be at least {least}")


def above_zero(where: str, value: float) -> None:
    """Raise ValueError unless a setting is a number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{where} = {value} must be a number above 0")


@dataclass(frozen=True)
class Member:
    """A member of a registry with the options of its constructor."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
