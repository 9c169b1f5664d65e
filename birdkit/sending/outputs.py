"""What a notebook on Kaggle left behind: its log, and whether its submission and its wheel are the ones meant."""
from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path

from birdkit.kaggle import manifest


class OutputError(ValueError):
    """What a notebook left behind is not what was asked for; the message names the file."""


def check_wheel(path: str | Path, notebook: str, package_sha256: str) -> None:
    """OutputError unless a notebook's `run_manifest.json` says that it ran with that very package."""
    loaded = str(manifest.read_manifest(path, notebook).get("package_sha256"))
    if loaded != package_sha256:
        raise OutputError(f"{path}: {notebook} ran with another birdkit (package_sha256 {loaded[:12]}) than the "
                          f"one just sent ({package_sha256[:12]}): is an older wheel attached beside it?")


def check_against_sample(submission: str | Path, sample: str | Path) -> int:
    """The number of rows; OutputError unless columns and row ids are the sample's and every cell is like the sample's.

    Where the sample holds numbers, they must be in [0, 1]. For more, `birdkit check` with the competition's files.
    """
    (header, rows), (wanted, examples) = _table(submission), _table(sample)
    if header != wanted:
        first = next((k for k, pair in enumerate(zip(header, wanted, strict=False)) if pair[0] != pair[1]), None)
        where = f"column {first + 1} is {header[first]!r}" if first is not None else f"{len(header)} columns"
        raise OutputError(f"{submission}: {where}, the sample has {wanted[first or 0]!r} of {len(wanted)}")
    missing, unknown = sorted(examples.keys() - rows.keys()), sorted(rows.keys() - examples.keys())
    if missing or unknown:
        raise OutputError(f"{submission}: {len(missing)} rows missing {missing[:3]}, "
                          f"{len(unknown)} unknown {unknown[:3]}")
    numeric = all(_is_number(cell) for row in examples.values() for cell in row)
    for row_id, cells in rows.items():
        for cell in cells:
            if not cell or (numeric and not (_is_number(cell) and 0 <= float(cell) <= 1)):
                raise OutputError(f"{submission}: row {row_id} holds {cell!r}")
    return len(rows)


def _table(path: str | Path) -> tuple[list[str], dict[str, list[str]]]:
    """The header and the rows by their id; OutputError where the file is no table, or a row appears twice."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if line]
    if len(lines) < 2 or any(len(line) != len(lines[0]) for line in lines):
        raise OutputError(f"{path}: no table of {len(lines[0]) if lines else 0} columns with at least one row")
    rows = {line[0]: line[1:] for line in lines[1:]}
    if len(rows) < len(lines) - 1:
        raise OutputError(f"{path}: {len(lines) - 1 - len(rows)} row ids appear twice")
    return lines[0], rows


def _is_number(cell: str) -> bool:
    try:
        return float(cell) == float(cell)
    except ValueError:
        return False


def log_tail(path: str | Path, lines: int = 50) -> str:
    """The last lines of a notebook's log, which is a JSON list of pieces; as it is where it is none."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(json.JSONDecodeError, AttributeError):
        text = "".join(str(piece.get("data", "")) for piece in json.loads(text))
    return "\n".join(text.splitlines()[-lines:])
