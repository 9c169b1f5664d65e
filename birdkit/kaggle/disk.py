"""Whether the work folder has room for what a notebook will write, asked before the hours of work and not after.

Kaggle keeps 20 GB in /kaggle/working; a session that fills it dies with "No space left on device" in the middle of a
checkpoint.
"""
from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

SPARE = 32 * 2**20  # bytes left over for tables, pictures and the executed notebook


class DiskSpaceError(OSError):
    """A folder has too little room; the message carries the numbers, part by part."""


def require_room(folder: Path | str, parts: Mapping[str, int], *, what: str, there: int = 0) -> None:
    """Raise DiskSpaceError where the disk of a folder has less free than all parts together and `SPARE`.

    folder  need not exist yet: then the nearest folder above it is asked
    parts   bytes that may be written, by what they are
    what    does so: a sentence's subject
    there   bytes of them that an earlier run has left

    >>> require_room(".", {"checkpoints": 2**70}, what="training split 0")
    Traceback (most recent call last):
    birdkit.kaggle.disk.DiskSpaceError: ...: training split 0 may write 1.1e+12 GiB (checkpoints 1.1e+12 GiB); ...
    """
    free, need = free_bytes(folder), max(sum(parts.values()) - there, 0) + SPARE
    if need <= free:
        return
    listed = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
    raise DiskSpaceError(f"{Path(folder).absolute()}: {what} may write {gib(sum(parts.values()))} ({listed}); with "
                         f"{gib(SPARE)} to spare it needs {gib(need)} more, and {gib(free)} is free. Make room, or "
                         "give another WORK_DIR; on Kaggle 20 GB are kept in /kaggle/working")


def free_bytes(folder: Path | str) -> int:
    """Bytes free on the disk of a folder, or of the nearest folder above it that there is."""
    path = Path(folder).absolute()
    while not path.is_dir():
        path = path.parent
    return shutil.disk_usage(path).free


def gib(size: int) -> str:
    """Bytes as a person reads them.

    >>> gib(3 * 2**29)
    '1.5 GiB'
    """
    return f"{size / 2**30:.3g} GiB"
