"""Frozen dataclasses as settings: to JSON and back, strictly, and changed by name."""
from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """A config as plain dicts and lists, ready for JSON.

    >>> from birdkit.config import Member
    >>> to_dict(Member("gain", {"max_db": 6.0}))
    {'name': 'gain', 'options': {'max_db': 6.0}}
    """
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    return config


def from_dict(kind: type[T], values: dict[str, Any], where: str = "", *, complete: bool = True) -> T:
    """The inverse of `to_dict`, strict: an unknown or missing key or a wrong type raises and is named.

    complete  False lets keys be missing that have a default, as in what a person writes by hand

    >>> from birdkit.config import Member
    >>> from_dict(Member, {"name": "gain", "option": {}})
    Traceback (most recent call last):
    ValueError: Member: unknown key 'option'; missing key 'options'
    """
    where = where or kind.__name__
    if not isinstance(values, dict):
        raise TypeError(f"{where} must be a table of settings, not {values!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    needed = [name for name, one in fields.items()
              if complete or (one.default is one.default_factory is dataclasses.MISSING)]
    faults = [f"unknown key {key!r}" for key in values if key not in fields]
    faults += [f"missing key {name!r}" for name in needed if name not in values]
    if faults:
        raise ValueError(f"{where}: {'; '.join(faults)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _typed(hints[name], values[name], f"{where}.{name}", complete)
                   for name in fields if name in values})


def _typed(hint: Any, value: Any, where: str, complete: bool) -> Any:
    """`value` as the annotated type `hint`, or TypeError naming the place."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in typing.get_args(hint):
            return None
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
        origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where, complete=complete)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{where} must be a list, not {value!r}")
        return tuple(_typed(typing.get_args(hint)[0], item, f"{where}[{i}]", complete) for i, item in enumerate(value))
    kind = origin or hint
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{where} must be {kind.__name__}, not {value!r}")
    return value


def replace(config: T, **changes: Any) -> T:
    """A config with some settings changed; double underscores reach into its parts.

    >>> from birdkit.config import RunConfig
    >>> replace(RunConfig(), split=2, train__epochs=3).train.epochs
    3
    """
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        head, _, rest = key.partition("__")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    for head, inner in nested.items():
        direct[head] = replace(getattr(config, head), **inner)
    return dataclasses.replace(config, **direct)  # type: ignore[type-var]


def with_settings(config: T, settings: Mapping[str, Any]) -> T:
    """`replace` for values as JSON has them: plain lists and dicts become what the settings are, and types are checked.

    What is left out of a dict has its default.

    Raises ValueError or TypeError, naming the place, for what is no setting or no value of it.

    >>> from birdkit.config import RunConfig
    >>> with_settings(RunConfig(), {"augment__wave": [{"name": "gain"}]}).augment.wave
    (Member(name='gain', options={}),)
    >>> with_settings(RunConfig(), {"train__epochs": "many"})
    Traceback (most recent call last):
    TypeError: RunConfig.train.epochs must be int, not 'many'
    """
    values = to_dict(config)
    for setting, value in settings.items():
        *path, last = setting.split("__")
        inner = values
        for name in path:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner:
            raise ValueError(f"{setting!r} is no setting of {type(config).__name__}")
        inner[last] = to_dict(value)
    return from_dict(type(config), values, complete=False)


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the commands take them, such as `birdkit train --set`; nothing for none.

    >>> as_arguments({"train__epochs": 5, "model__backbone": "resnet34"})
    ['--set', 'train__epochs=5', 'model__backbone="resnet34"']
    """
    return ["--set", *(f"{name}={json.dumps(value)}" for name, value in settings.items())] if settings else []
