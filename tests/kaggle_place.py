"""A place like Kaggle: a fresh image for every run, /kaggle in either mount layout, its variables, no network.

Where the kernel lets a user have a file system and a network of their own (`isolated`), /kaggle is really there:
inputs are mounted read-only, nothing outside can be reached, a small disk is a small disk. Elsewhere a folder stands
for it, by BIRDKIT_KAGGLE_ROOT, and Python's sockets refuse to connect.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from birdkit.pipeline import find_notebooks

LAYOUTS = {
    "2025": {"competition": "{slug}", "dataset": "{slug}", "notebook": "{slug}"},
    "2026": {"competition": "competitions/{slug}", "dataset": "datasets/someone/{slug}",
             "notebook": "notebooks/someone/{slug}"},
}
# The tests have these, Kaggle's image has not.
ABSENT = ("birdkit", "__editable__", "openvino", "onnxruntime", "onnxscript", "onnx_ir", "nncf")
NOTEBOOK = "__notebook__.ipynb"
# As a session of 2026 has them, without what is only for Kaggle's own servers.
VARIABLES = {"KAGGLE_CONTAINER_NAME": "kaggle_test", "KAGGLE_URL_BASE": "https://www.kaggle.com",
             "KAGGLE_DATA_PROXY_URL": "https://dp.kaggle.net", "KAGGLE_KERNEL_INTEGRATIONS": "",
             "KAGGLE_DOCKER_IMAGE": "gcr.io/kaggle-images/python", "PYTHONUSERBASE": "/root/.local",
             "MPLBACKEND": "agg", "JPY_PARENT_PID": "", "LC_ALL": "C.UTF-8"}
NO_NETWORK = '''import socket
def refuse(self, address):
    if self.family not in (socket.AF_UNIX,) and not str(address[0]).startswith(("127.", "::1", "localhost")):
        raise OSError(101, f"Network is unreachable: {address}")
    return connect(self, address)
connect, socket.socket.connect = socket.socket.connect, refuse
'''


@cache
def isolated() -> bool:
    """Whether a user can have a file system and a network of their own here."""
    try:
        return not subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "probe", "/tmp"], capture_output=True,
                                  check=False).returncode
    except FileNotFoundError:
        return False


UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--net")


@dataclass
class Image:
    """A Python with the packages of the one that runs the tests, but for those that Kaggle's image lacks.

    They are linked, so that one is made in a moment; what is installed into it goes nowhere else.
    """

    folder: Path

    def __post_init__(self) -> None:
        venv.create(self.folder, symlinks=True)
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if not entry.name.lower().startswith(ABSENT):
                (self.site / entry.name).symlink_to(entry)

    @property
    def site(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


@dataclass(frozen=True)
class Session:
    """What a run left: its exit status, everything it said, and its /kaggle/working."""

    status: int
    log: str
    working: Path
    image: Image

    @property
    def outputs(self) -> str:
        """What the cells printed or raised, as one text."""
        book = nbformat.read(self.working / NOTEBOOK, as_version=4)
        found = [output for cell in book.cells for output in cell.get("outputs", [])]
        return "\n".join("".join(output.get("text", "")) + "\n".join(output.get("traceback", [])) for output in found)


@dataclass
class Place:
    """Where sessions run, one after the other, each with what was attached before.

    folder  for everything; empty
    layout  a name in LAYOUTS
    """

    folder: Path
    layout: str
    mounts: dict[str, Path] = field(default_factory=dict)
    sessions: int = 0

    def attach(self, kind: str, slug: str, source: Path) -> Path:
        """Mount a folder as a "competition", "dataset" or "notebook"; the path that a notebook sees."""
        name = LAYOUTS[self.layout][kind].format(slug=slug)
        self.mounts[name] = source
        return Path("/kaggle/input") / name

    def run(self, stem: str, settings: Mapping[str, Any], *, rerun: bool = False, disk_mib: int = 0) -> Session:
        """Save a version of a notebook with these settings in its first cell, or have it run again for the score."""
        book = self.folder / f"{stem}.ipynb"
        book.parent.mkdir(parents=True, exist_ok=True)
        book.write_text(_with_settings(stem, settings), encoding="utf-8")
        command = ["-m", "papermill", NOTEBOOK, NOTEBOOK, "--no-progress-bar", "--log-output"]
        return self.python(command, book=book, rerun=rerun, disk_mib=disk_mib)

    def python(self, arguments: Sequence[str], *, book: Path | None = None, rerun: bool = False,
               disk_mib: int = 0) -> Session:
        """Run a fresh image's Python in /kaggle/working, into which a notebook is put."""
        self.sessions += 1
        own = self.folder / f"session{self.sessions}"
        working, image = own / "kaggle" / "working", Image(own / "image")
        working.mkdir(parents=True)
        first, command = {} if book is None else {NOTEBOOK: str(book)}, [str(image.python), *arguments]
        environment = {**VARIABLES, "PATH": f"{image.folder}/bin:{os.environ['PATH']}", "HOME": str(own),
                       "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "KAGGLE_KERNEL_RUN_TYPE": "Batch",
                       **({"KAGGLE_IS_COMPETITION_RERUN": "1"} if rerun else {})}
        if isolated():
            (own / "root").mkdir()
            spec = {"root": str(own / "root"), "inputs": {name: str(path) for name, path in self.mounts.items()},
                    "working": str(working), "disk_mib": disk_mib, "first": first}
            inside = str(Path(__file__).with_name("kaggle_root.py"))
            command = [*UNSHARE, sys.executable, inside, json.dumps(spec), *command]
        else:
            for name, source in first.items():
                shutil.copyfile(source, working / name)
            environment |= self._stand_in(own)
        done = subprocess.run(command, cwd=working, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
        return Session(done.returncode, done.stdout, working, image)

    def _stand_in(self, own: Path) -> dict[str, str]:
        """A folder for /kaggle, and a Python that opens no connection; the variables that say so."""
        for name, source in self.mounts.items():
            link = own / "kaggle" / "input" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)
        (own / "no_network").mkdir()
        (own / "no_network" / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
        return {"BIRDKIT_KAGGLE_ROOT": str(own / "kaggle"), "PYTHONPATH": str(own / "no_network")}


def _with_settings(stem: str, settings: Mapping[str, Any]) -> str:
    """A notebook whose parameters cell a person has edited: nothing else is touched."""
    book = nbformat.read(find_notebooks() / f"{stem}.ipynb", as_version=4)
    cell = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    lines = cell.source.splitlines()
    for name, value in settings.items():
        number = next(number for number, line in enumerate(lines) if line.startswith(f"{name} = "))
        lines[number] = f"{name} = {value!r}"
    cell.source = "\n".join(lines)
    return nbformat.writes(book)
