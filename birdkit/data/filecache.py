"""What was found out about files, kept as it comes, so that it is found out once and a run that dies loses nothing."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

Value = TypeVar("Value")


class FileCache(Generic[Value]):
    """Values by file, its size and time of change, and a version, in a file of JSON lines.

    find     what is to be known of a file, by its path; called on threads
    store    the file of JSON lines; it is made where there is none
    version  of whatever the value depends on besides the file: values of another version are not used
    write    a value as what JSON can hold
    read     the value again; ValueError or TypeError where it is of another kind, and then it is found anew
    """

    def __init__(self, find: Callable[[Path], Value], store: Path, *, version: str, write: Callable[[Value], Any],
                 read: Callable[[Any], Value]) -> None:
        self.find, self.store, self.version, self.write, self.read = find, store, version, write, read

    def get(self, folder: Path, files: Iterable[str], *, label: str, workers: int) -> dict[str, Value]:
        """The value of each file of a folder; those that are not known yet are appended to the store as they come.

        label    of the bar that shows how far it is
        workers  threads that find
        """
        known, keys = self._known(), {}
        for file in files:
            stat = (folder / file).stat()
            keys[file] = (file, stat.st_size, stat.st_mtime_ns, self.version)
        todo = [key for key in keys.values() if key not in known]
        with self.store.open("a", encoding="utf-8") as stream, ThreadPoolExecutor(max(workers, 1)) as pool:
            coming = tqdm(pool.map(lambda key: self.find(folder / key[0]), todo), label, len(todo), unit="file",
                          disable=not todo)
            for key, value in zip(todo, coming, strict=True):
                known[key] = value
                line = json.dumps([*key, self.write(value)])
                stream.write("\n" + line)  # the newline first: a line cut short spoils no other
                stream.flush()
        return {file: known[key] for file, key in keys.items()}

    def _known(self) -> dict[tuple, Value]:
        """The values of earlier runs; a line that was cut short is left out."""
        known: dict[tuple, Value] = {}
        if not self.store.exists():
            return known
        with self.store.open(encoding="utf-8") as stream:
            for line in stream:
                try:
                    *key, value = json.loads(line)
                    known[tuple(key)] = self.read(value)
                except (ValueError, TypeError):
                    continue
        return known
