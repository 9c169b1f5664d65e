"""What is known of a file is found once, kept as it comes, and never taken for that of another file."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from birdkit.data.filecache import FileCache


class Counted:
    """Counts letters of files, and the files it was asked about."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []
        folder.mkdir()
        for name, text in (("a", "x"), ("b", "xx"), ("c", "xxx")):
            (folder / name).write_text(text)

    def find(self, path: Path) -> int:
        self.asked.append(path.name)
        if path.read_text() == "broken":
            raise RuntimeError("the process died")
        return len(path.read_text())

    def get(self, files: str = "abc", *, version: str = "1", workers: int = 2) -> dict[str, int]:
        self.asked.clear()
        cache = FileCache(self.find, self.folder.parent / "store.jsonl", version=version, write=lambda value: [value],
                          read=lambda value: value[0] + 0)
        return cache.get(self.folder, files, label="counting", workers=workers)


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "files")


def test_a_file_is_looked_at_once(counted: Counted) -> None:
    """Decoding a year's audio takes an hour: nobody waits for it twice."""
    assert counted.get("ab") == {"a": 1, "b": 2} and sorted(counted.asked) == ["a", "b"]
    assert counted.get("cba", workers=0) == {"a": 1, "b": 2, "c": 3} and counted.asked == ["c"]
    assert counted.get() == {"a": 1, "b": 2, "c": 3} and counted.asked == []
    assert counted.get("") == {}


def test_a_changed_file_and_another_version_are_found_anew(counted: Counted) -> None:
    """Stale values are worse than none."""
    counted.get()
    (counted.folder / "b").write_text("yyyy")
    assert counted.get() == {"a": 1, "b": 4, "c": 3} and counted.asked == ["b"]
    os.utime(counted.folder / "a", ns=(0, 0))
    counted.get()
    assert counted.asked == ["a"]
    counted.get(version="2")
    assert sorted(counted.asked) == ["a", "b", "c"]


def test_what_was_found_before_a_crash_is_kept(counted: Counted) -> None:
    """Kaggle ends a session after 12 hours, in the middle of a line."""
    (counted.folder / "c").write_text("broken")
    with pytest.raises(RuntimeError):
        counted.get(workers=1)
    store = counted.folder.parent / "store.jsonl"
    store.write_text(store.read_text()[:-3])
    (counted.folder / "c").write_text("xxx")
    assert counted.get() == {"a": 1, "b": 2, "c": 3} and sorted(counted.asked) == ["b", "c"]
    assert counted.get() == {"a": 1, "b": 2, "c": 3} and counted.asked == []


def test_lines_of_another_kind_are_left_out(counted: Counted) -> None:
    """An older program wrote something else: it is found anew, not read as what it is not."""
    counted.get("a")
    store = counted.folder.parent / "store.jsonl"
    line = store.read_text().strip()
    for other in (line.replace("[1]", "7"), line.replace("[1]", '["text"]'), "5", "[]", "{}", '[["a"], 1]', "nonsense"):
        store.write_text(other + "\n")
        assert counted.get("a") == {"a": 1} and counted.asked == ["a"], other
