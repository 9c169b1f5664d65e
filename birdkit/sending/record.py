"""What has been done: the state that `--resume` goes on from, and one line per submission."""
from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

COLUMNS = ("submitted", "competition", "notebook", "kernel", "version", "ref", "public_score", "status", "commit",
           "package_sha256", "message")


def read_state(path: str | Path) -> dict[str, str]:
    """The values of a state file by name, none where there is no file; ValueError where it is damaged."""
    file = Path(path)
    if not file.is_file():
        return {}
    try:
        return {str(name): str(value) for name, value in json.loads(file.read_text(encoding="utf-8")).items()}
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and start without --resume") from error


def write_state(path: str | Path, values: Mapping[str, str]) -> None:
    """Replace a state file; a process killed in between leaves the old or the new one."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(dict(values), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, file)


def add_line(path: str | Path, values: Mapping[str, str]) -> bool:
    """Add a submission to a csv of `COLUMNS`; False where its `ref` is there already with the same score.

    A submission whose score came later replaces its line.
    """
    file = Path(path)
    lines: list[dict[str, str]] = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as table:
            lines = list(csv.DictReader(table))
    line = {column: values.get(column, "") for column in COLUMNS}
    others = [known for known in lines if known["ref"] != line["ref"]]
    same = [known for known in lines if known not in others and known["public_score"] == line["public_score"]]
    if same:
        return False
    part = file.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*others, line])
    os.replace(part, file)
    return True
