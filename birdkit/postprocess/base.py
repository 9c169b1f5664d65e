"""The registry of what is done to the probabilities of one soundscape, and how a config's members are applied."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

Function = TypeVar("Function", bound=Callable[..., np.ndarray])

POSTPROCESS: dict[str, Callable[..., np.ndarray]] = {}
OF_THE_SOUNDSCAPE = ("classes", "file")  # what whoever applies a function tells it, where it asks
FROM_COMPETITION = ("groups", "counts", "prior")  # options whose data birdkit.ensembles.bind reads from its files
SILENCED = 1e-3  # what is left of a probability that is taken away: nothing for a threshold, all for a ranking


class NamedOptions(Protocol):
    """A member of POSTPROCESS with its options, as a run config holds it."""

    @property
    def name(self) -> str:
        """A key of POSTPROCESS."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Keyword arguments of the function."""


def register(function: Function) -> Function:
    """Enter a function into POSTPROCESS under its own name."""
    POSTPROCESS[function.__name__] = function
    return function


def options_of(name: str) -> dict[str, Any]:
    """The options that a config may give a member, with their defaults; KeyError lists the names there are."""
    if name not in POSTPROCESS:
        raise KeyError(f"no post-processing named {name!r}; there is: {', '.join(sorted(POSTPROCESS))}")
    parameters = list(inspect.signature(POSTPROCESS[name]).parameters.values())[1:]
    return {one.name: one.default for one in parameters if one.name not in OF_THE_SOUNDSCAPE}


def check_members(members: Sequence[NamedOptions]) -> None:
    """Raise KeyError for a name that POSTPROCESS does not hold, TypeError for an option that its function has not.

    >>> from types import SimpleNamespace
    >>> check_members([SimpleNamespace(name="smooth", options={"width": 3})])
    Traceback (most recent call last):
    TypeError: post-processing 'smooth' takes no width; it takes: kernel
    """
    for one in members:
        known = options_of(one.name)
        unknown = sorted(set(one.options) - set(known))
        if unknown:
            raise TypeError(f"post-processing {one.name!r} takes no {', '.join(unknown)}; it takes: "
                            f"{', '.join(known)}")


def apply(probabilities: np.ndarray, members: Sequence[NamedOptions], *, classes: Sequence[str] = (),
          file: str = "") -> np.ndarray:
    """The probabilities (windows, classes) of one soundscape after every member in turn; no member changes nothing.

    classes  names of the columns, which members that go by a class's name ask for
    file     name of the soundscape, which members that go by its place or time ask for

    Raises KeyError and TypeError as `check_members`, ValueError for an array that is not (windows, classes) of numbers
    in [0, 1], for classes that are not one for each column where a member asks for them, and for data that has not been
    read from a competition.

    >>> from types import SimpleNamespace
    >>> apply(np.array([[0.8], [0.4]]), [SimpleNamespace(name="scale_by_file_top", options={"k": 2})]).round(2)
    array([[0.48],
           [0.24]])
    """
    values = checked_probabilities(probabilities)
    check_members(members)
    told = {"classes": classes, "file": file}
    for one in members:
        function = POSTPROCESS[one.name]
        asked = {name: told[name] for name in OF_THE_SOUNDSCAPE if name in inspect.signature(function).parameters}
        if "classes" in asked and len(classes) != values.shape[1]:
            raise ValueError(f"post-processing {one.name!r} goes by class names, but {len(classes)} were given for "
                             f"{values.shape[1]} columns")
        values = function(values, **asked, **one.options)
    return values


def checked_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """A float64 copy of (windows, classes) in [0, 1], or ValueError: no logit or NaN may pass for a probability."""
    values = np.array(probabilities, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"probabilities {values.shape} must be (windows, classes) with at least one window")
    bad = ~((values >= 0) & (values <= 1))
    if bad.any():
        window, column = np.argwhere(bad)[0]
        raise ValueError(f"{int(bad.sum())} probabilities are not in [0, 1], the first {values[window, column]} "
                         f"in window {window}, class {column}")
    return values


def checked_data(option: str, value: Any) -> Mapping[str, Any]:
    """Data of a competition's files, or ValueError where there is still only the name of what is to be read."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{option} = {value!r} names what is to be read from a competition's files: "
                         "birdkit.ensembles.bind does that, when a run or an ensemble is prepared")
    return value


def share_of(what: str, value: float) -> float:
    """An option that must lie in [0, 1], or ValueError."""
    if not 0 <= value <= 1:
        raise ValueError(f"{what} = {value} is not in [0, 1]")
    return value
