"""Installs birdkit, and what Kaggle's image lacks, from attached datasets of wheels, without the internet.

The install cell of the notebooks runs this module out of a wheel, before anything is installed:

    PYTHONPATH=birdkit-0.1.0-py3-none-any.whl python -m birdkit.kaggle.offline /kaggle/input

So it needs the standard library and `packaging` alone, which Kaggle's image has. What is installed already is left
alone, in whatever version: a newer numpy would break everything in the image that was built for the old one.
"""
from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import Tag, sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

log = logging.getLogger(__name__)

PLACES = ("*", "datasets/*/*", "notebooks/*/*")  # below the inputs: Kaggle until 2025, and since 2026
ANCHORS = ("birdkit", "openvino", "onnxruntime")  # all wheels of a folder that holds one of these are for birdkit
RUNTIMES = {"openvino", "onnxruntime"}  # one of which notebook 04 predicts with
SLOWER = "notebook 04 predicts with torch, several times slower"


class OfflineError(RuntimeError):
    """birdkit cannot be installed; the message says what to attach or to detach."""


@dataclass(frozen=True)
class Wheel:
    """A file that pip can install.

    name  of what it holds, as packaging.utils.canonicalize_name has it
    tags  of the Pythons and machines that it is for

    >>> Wheel.read(Path("openvino-2026.4.1-22982-cp312-cp312-manylinux_2_28_x86_64.whl")).name
    'openvino'
    """

    path: Path
    name: str
    version: Version
    tags: frozenset[Tag]

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """From the name of the file; packaging.utils.InvalidWheelFilename where that is none of a wheel."""
        name, version, _, tags = parse_wheel_filename(path.name)
        return cls(path, name, version, tags)

    def __str__(self) -> str:
        return f"{self.name} {self.version} from {self.path}"


@dataclass(frozen=True)
class WheelChoice:
    """Which of the attached wheels are installed, and what a person should know about the others."""

    wheels: tuple[Wheel, ...]
    notes: tuple[str, ...]


def find_wheels(inputs: Path | str) -> list[Wheel]:
    """The wheels of all attached datasets and notebook outputs that hold one of `ANCHORS`, in both mount layouts."""
    folders = {path.parent for place in PLACES for anchor in ANCHORS for path in Path(inputs).glob(f"{place}/*.whl")
               if Wheel.read(path).name == anchor}
    return [Wheel.read(path) for folder in sorted(folders) for path in sorted(folder.glob("*.whl"))]


def choose(wheels: Iterable[Wheel], *, installed: Mapping[str, str], tags: Collection[Tag]) -> WheelChoice:
    """Of everything that is not installed yet the newest wheel for this Python.

    installed  versions of what is, by name
    tags       of the wheels that this Python can install

    Raises OfflineError where no wheel of birdkit fits, or two of one version differ: which one is newer is not known.
    """
    by_name: dict[str, list[Wheel]] = {}
    for wheel in wheels:
        by_name.setdefault(wheel.name, []).append(wheel)
    if "birdkit" not in by_name:
        raise OfflineError("no attached dataset or notebook output holds birdkit-*.whl: attach the dataset of wheels")
    chosen, notes = [], []
    for name, offered in by_name.items():
        if name in installed:
            notes.append(f"{name} {installed[name]} is installed already and left alone")
            continue
        fitting = [wheel for wheel in offered if wheel.tags & set(tags)]
        if not fitting:
            pythons = ", ".join(sorted({tag.interpreter for wheel in offered for tag in wheel.tags}))
            what = f"{name} is here for {pythons} alone, and this is Python {platform.python_version()}"
            if name == "birdkit":
                raise OfflineError(what)
            notes.append(f"{what}: it is left out")
            continue
        newest = max(wheel.version for wheel in fitting)
        best = [wheel for wheel in fitting if wheel.version == newest]
        if len({hashlib.sha256(wheel.path.read_bytes()).hexdigest() for wheel in best}) > 1:
            raise OfflineError(f"two wheels are {name} {newest} and differ: {_joined(best)}. Detach the older one")
        if older := [wheel for wheel in fitting if wheel.version != newest]:
            notes.append(f"several versions of {name} are attached: {newest} is taken, not {_joined(older)}. "
                         "Detach the older one")
        chosen.append(best[0])
    if not RUNTIMES & ({wheel.name for wheel in chosen} | set(installed)):
        attached = RUNTIMES & set(by_name)
        what = f"no wheel of {' or '.join(sorted(attached))} fits" if attached else "no wheel of openvino is attached"
        notes.append(f"{what}: {SLOWER}")
    return WheelChoice(tuple(chosen), tuple(notes))


def install(wheels: Sequence[Wheel]) -> None:
    """Hand these very files to pip, without their dependencies and without an index; OfflineError with what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it holds the wheel
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
               "--no-index", "--no-deps", *(str(wheel.path) for wheel in wheels)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OfflineError(f"pip cannot install {_joined(wheels)}: {done.stderr.strip() or done.stdout.strip()}")


def installed_versions() -> dict[str, str]:
    """Versions of what this Python has, by name; not of the wheel that this module runs out of."""
    path = [entry for entry in sys.path if not entry.endswith(".whl")]
    return {canonicalize_name(found.name): found.version for found in importlib.metadata.distributions(path=path)}


def run_offline(arguments: Sequence[str]) -> int:
    """Install from below the folder that is given, and say what from where; 1 where that cannot be done."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        choice = choose(find_wheels(arguments[0]), installed=installed_versions(), tags=frozenset(sys_tags()))
        install(choice.wheels)
    except OfflineError as error:
        log.error("%s", error)
        return 1
    for wheel in choice.wheels:
        log.info("installed %s", wheel)
    for note in choice.notes:
        log.warning("%s", note)
    return 0


def _joined(wheels: Iterable[Wheel]) -> str:
    return ", ".join(str(wheel) for wheel in wheels)


if __name__ == "__main__":
    sys.exit(run_offline(sys.argv[1:]))
