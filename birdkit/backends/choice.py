"""Which backend computes a checkpoint here."""
from __future__ import annotations

import logging

from birdkit.backends.base import AUTO, BACKENDS, ExportedBackend

log = logging.getLogger(__name__)

ORDER = ("openvino", "onnxruntime", "torch")  # from fast to slow


def exported_backend(name: str) -> type[ExportedBackend]:
    """The backend of that name, which has networks of its own; KeyError for an unknown name, ValueError for "torch"."""
    kind = BACKENDS.get(name)
    if not issubclass(kind, ExportedBackend):
        raise ValueError(f"{name} has no network of its own to export: it computes the checkpoint as it is")
    return kind


def choose_backend(asked: str, *, device: str = "cpu", of: str = "") -> str:
    """The name of the backend that computes a checkpoint.

    asked   its name, or "auto": torch on a GPU; on a CPU the first of openvino, onnxruntime and torch whose packages,
            also those that convert, are installed
    of      what a warning says is slow

    Raises ValueError for an unknown name, ImportError where packages of the one that is asked for are missing.

    >>> choose_backend("auto", device="cuda")
    'torch'
    """
    if asked != AUTO and asked not in BACKENDS.names():
        raise ValueError(f"backend = {asked!r}; it must be one of {', '.join((AUTO, *ORDER))}")
    if device != "cpu":
        return "torch" if asked == AUTO else asked
    missing: list[str] = []
    for name in ORDER if asked == AUTO else (asked,):
        kind = BACKENDS.get(name)
        absent = kind.missing_to_convert("f32") if issubclass(kind, ExportedBackend) else kind.missing()
        if not absent:
            if missing:
                log.warning("%s %s not installed: %s runs on %s, %s", ", ".join(missing),
                            "is" if len(missing) == 1 else "are", of or "the network", name,
                            "several times slower" if name == "torch" else "slower")
            return name
        missing += absent
    raise ImportError(f"backend {asked!r} needs packages that are not installed: {', '.join(missing)}")


def has_openvino() -> bool:
    """True where openvino is installed."""
    return not BACKENDS.get("openvino").missing()
