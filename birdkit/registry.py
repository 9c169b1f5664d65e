"""A name for a class: register a member of an open set, build it by name, list what there is."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """The members of one open set, such as the losses, by the name a run config uses.

    >>> SHAPES: Registry = Registry("shape")
    >>> @SHAPES.register("square")
    ... class Square:
    ...     def __init__(self, side: float = 1.0) -> None:
    ...         self.side = side
    >>> SHAPES.build("square", side=2.0).side
    2.0
    >>> SHAPES.build("circle")
    Traceback (most recent call last):
    KeyError: "no shape named 'circle'; there is: square"
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Enter the decorated class under `name`; a name that is taken raises ValueError."""

        def enter(member: type[T]) -> type[T]:
            if name in self._members:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self._members[name]} and {member}")
            self._members[name] = member
            return member

        return enter

    def get(self, name: str) -> type[T]:
        """The class registered as `name`; KeyError lists the names there are."""
        if name not in self._members:
            raise KeyError(f"no {self.kind} named {name!r}; there is: {', '.join(self.names())}")
        return self._members[name]

    def build(self, name: str, **options: Any) -> T:
        """An instance of the class registered as `name`; TypeError lists its options where one is unknown."""
        member = self.get(name)
        known = list(inspect.signature(member).parameters)
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise TypeError(f"{self.kind} {name!r} takes no {', '.join(unknown)}; it takes: {', '.join(known)}")
        return member(**options)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
