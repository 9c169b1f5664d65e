"""What a notebook ran with: the very code of the package, its versions and its settings, kept beside what it wrote.

`kaggle_submit.sh` reads it in a notebook's output: a session that had loaded another wheel than the one just sent is
told by `package_sha256`, whatever the version number says. Standard library alone.
"""
from __future__ import annotations

import hashlib
import json
import os
import platform
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import birdkit
from birdkit.kaggle import places

RUN_MANIFEST = "run_manifest.json"
PREPROCESS, PSEUDOLABEL = "01_preprocess", "02_pseudolabel"
TRAIN, INFER = "03_train_fold", "04_ensemble_infer"
NOTEBOOKS = (PREPROCESS, PSEUDOLABEL, TRAIN, INFER)
PACKAGES = ("torch", "timm", "numpy", "openvino", "onnxruntime")


class ManifestError(ValueError):
    """A manifest does not say what it is asked for; the message names the file."""


def package_sha256(source: str | Path | None = None) -> str:
    """The SHA-256 over the names and bytes of birdkit's .py files, in order of name, as 64 hexadecimal digits.

    The same for a wheel and for what pip makes of it, since everything else in them (times, metadata, compiled files)
    is left out.

    source  a wheel, or the folder of a package; default: the package that is running

    Raises ManifestError where there is no .py file.
    """
    place = Path(source) if source else Path(birdkit.__file__).parent
    if source is None and place.parent.is_file():  # imported from a wheel that was only put on sys.path
        place = place.parent
    digest, found = hashlib.sha256(), 0
    for name, content in sorted(_wheel_files(place) if place.is_file() else _folder_files(place)):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
        found += 1
    if not found:
        raise ManifestError(f"{place} holds no .py file of birdkit")
    return digest.hexdigest()


def write_manifest(work: places.Workspace, notebook: str, names: Mapping[str, Any]) -> Path:
    """Note in the work folder's `RUN_MANIFEST` what a notebook ran with, and return the file's path.

    The file holds one entry per notebook, since several share a work folder; a later run replaces its own. It appears
    whole or not at all.

    names  everything the notebook has named, `globals()`: its settings are those in capitals
    """
    if notebook not in NOTEBOOKS:
        raise ManifestError(f"notebook = {notebook!r} is none of {', '.join(NOTEBOOKS)}")
    path = work.path(RUN_MANIFEST)
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    entries[notebook] = {
        "birdkit": birdkit.__version__,
        "package_sha256": package_sha256(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "parameters": {name: value if _is_json(value) else repr(value) for name, value in sorted(names.items())
                       if name.isupper() and not name.startswith("_")},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "run_type": places.run_type(),
        "rerun": places.is_rerun(),
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def read_manifest(path: str | Path, notebook: str) -> dict[str, Any]:
    """What `write` noted of one notebook; ManifestError where the file is no manifest or says nothing of it."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path} is no manifest: {error}") from error
    if not isinstance(entries, dict) or not isinstance(entries.get(notebook), dict):
        raise ManifestError(f"{path} says nothing of {notebook}")
    return entries[notebook]


def _wheel_files(wheel: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if PurePosixPath(name).parts[0] == "birdkit" and name.endswith(".py"):
                yield name.partition("/")[2], archive.read(name)


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*.py"):
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
