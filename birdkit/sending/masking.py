"""No secret on the screen or in a file: what Kaggle's client knows of a person is cut out of what it says."""
from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

HIDDEN = "(hidden)"
FEWEST = 8  # letters of a secret: what is shorter is none, and hiding it would cut words


def secrets(environment: Mapping[str, str]) -> list[str]:
    """Every key and token that the client may use, the longest first: in its variables and in its files."""
    return sorted({text for text in _candidates(environment) if len(text) >= FEWEST}, key=len, reverse=True)


def _candidates(environment: Mapping[str, str]) -> Iterator[str]:
    home = Path(environment.get("HOME", "~")).expanduser()
    own, config = home / ".kaggle", Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    yield environment.get("KAGGLE_KEY", "")
    token = environment.get("KAGGLE_API_TOKEN", "")
    paths = [own / "access_token", own / "access_token.txt"]
    paths += [Path(text) for text in (token, environment.get("KAGGLE_API_V1_TOKEN", "")) if text]
    if token and not Path(token).is_file():
        yield token
    for path in paths:
        if path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace").strip()
    folders = [own, config, *([Path(environment["KAGGLE_CONFIG_DIR"])] if environment.get("KAGGLE_CONFIG_DIR") else [])]
    for path in (folder / name for folder in folders for name in ("kaggle.json", "credentials.json")):
        if path.is_file():
            yield from _of_json(path)


def _of_json(path: Path) -> Iterator[str]:
    """The values of a file whose names speak of a key or a token; of a damaged one every word, as none can be told."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        values = dict(json.loads(text))
    except (ValueError, TypeError):
        yield from re.findall(r"[\w.~+/=-]+", text)
        return
    yield from (str(value) for name, value in values.items() if re.search("key|token", name))


def mask(source: BinaryIO, target: BinaryIO, hidden: list[str]) -> None:
    """Pass on what comes, line by line as it comes (a line that is rewritten is one, too), without the secrets."""
    words, rest = [text.encode() for text in hidden], b""
    while piece := os.read(source.fileno(), 65536):
        *lines, rest = re.split(rb"(?<=[\r\n])", rest + piece)
        _write_masked(target, b"".join(lines), words)
    _write_masked(target, rest, words)


def _write_masked(target: BinaryIO, text: bytes, words: list[bytes]) -> None:
    for word in words:
        text = text.replace(word, HIDDEN.encode())
    target.write(text)
    target.flush()
