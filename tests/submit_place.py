"""A checkout, a home and an environment in which `kaggle_submit.sh` can be run against a Kaggle of one's own."""
from __future__ import annotations

import base64
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fake_kaggle import Dataset, FakeKaggle, Kernel, error, serving

import birdkit

ROOT = Path(birdkit.__file__).parents[1]
PARTS = ("birdkit", "notebooks", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", ".gitignore",
         "kaggle_submit.sh")
SECRET, TOKEN = "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "KGAT_f9e8d7c6b5a403928170f6e5d4c3b2a1"
OWNER, COMPETITION = "ann", "birdclef-2026"


def checkout(folder: Path) -> Path:
    """A repository of the project's present files, with one commit."""
    folder.mkdir(parents=True)
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@localhost", *command], cwd=folder, check=True)
    return folder


@dataclass
class Place:
    """Where the script runs. `printed` is everything it has ever said, on both streams."""

    repository: Path
    home: Path
    kaggle: FakeKaggle
    printed: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    def environment(self) -> dict[str, str]:
        """Nothing of the person who runs the tests, and no way out of the machine."""
        return {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "HOME": str(self.home),
                "KAGGLE_CONFIG_DIR": str(self.home), "KAGGLE_USERNAME": OWNER, "KAGGLE_KEY": SECRET,
                "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": self.kaggle.url, "no_proxy": "127.0.0.1",
                "https_proxy": "http://127.0.0.1:9", "KAGGLE_SUBMIT_RUNS": str(self.runs), "KAGGLE_SUBMIT_TRIES": "2",
                "VERBOSE": "true", "VIRTUAL_ENV": sys.prefix, "TMPDIR": str(self.home), "LC_ALL": "C.UTF-8"}

    def start(self, *arguments: str, notebook: str = "04_ensemble_infer", **more: str) -> subprocess.Popen[str]:
        """The script, started in a group of its own, as a terminal starts it."""
        command = [str(self.repository / "kaggle_submit.sh"), "--competition", COMPETITION, "--owner", OWNER,
                   "--notebook", notebook, "--poll", "0.02", *arguments]
        # Where pytest runs in the background, its children ignore Ctrl-C unless told otherwise.
        return subprocess.Popen(command, cwd=self.home, env={**self.environment(), **more}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None)

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Wait for it: exit status, stdout and stderr."""
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        self.printed += [out, err]
        return process.returncode, out, err

    def submit(self, *arguments: str, notebook: str = "04_ensemble_infer", **more: str) -> tuple[int, str, str]:
        return self.end(self.start(*arguments, notebook=notebook, **more))

    def state(self, notebook: str = "04_ensemble_infer") -> Path:
        return self.runs / OWNER / COMPETITION / f"birdkit-{notebook.replace('_', '-')}" / "state.json"

    def put(self, **values: str) -> None:
        """Change the state that `--resume` will find."""
        known = json.loads(self.state().read_text())
        self.state().write_text(json.dumps({**known, **values}))

    def pushed(self) -> None:
        """As if version 1 of notebook 04 had been pushed."""
        self.put(version="1")
        sources = {"datasetDataSources": [f"{OWNER}/birdkit-wheels"]}
        self.kaggle.kernels[f"{OWNER}/birdkit-04-ensemble-infer"] = Kernel(1, sources)

    def secrets_found(self) -> list[str]:
        """Where a secret can be read: what was said, sent (but for where it belongs) or written."""
        words = (SECRET, TOKEN, base64.b64encode(f"{OWNER}:{SECRET}".encode()).decode())
        asked = [call for call in self.kaggle.calls if call[0] != "IntrospectToken"]
        texts = {"printed": "".join(self.printed), "asked": json.dumps(asked)}
        texts |= {name: content.decode("latin1") for name, content in self.kaggle.blobs.values()}
        texts |= {str(path): path.read_text("latin1") for path in self.home.rglob("*") if path.is_file()}
        return [name for name, text in texts.items() if any(word in text for word in words)]


@dataclass(frozen=True)
class Seed:
    """A checkout whose wheel has been built, installed and sent, and of which no notebook has been pushed."""

    repository: Path
    runs: Path
    datasets: dict[str, Dataset]


@contextmanager
def place(seed: Seed | Path, home: Path) -> Iterator[Place]:
    """A new home, and a new server with the notebooks before 04 and what the seed left.

    Afterwards no secret may be found, and nothing be left.
    """
    home.mkdir()
    with serving() as kaggle:
        there = Place(seed.repository if isinstance(seed, Seed) else seed, home, kaggle)
        for name in ("01-preprocess", "02-pseudolabel", "03-train-fold"):
            kaggle.kernels[f"{OWNER}/birdkit-{name}"] = Kernel(1, state="COMPLETE")
        if isinstance(seed, Seed):
            shutil.copytree(seed.runs, there.runs)
            kaggle.datasets = copy.deepcopy(seed.datasets)
        yield there
    assert there.secrets_found() == []
    assert not list(home.glob("tmp.*")), "the staging folder was left"


def make_seed(folder: Path) -> Seed:
    """Run the script to its push, which is refused."""
    repository = checkout(folder / "repository")
    with place(repository, folder / "home") as there:
        there.kaggle.answer("SaveKernel", error(403, "403 - Forbidden - Permission 'kernels.create' was denied"))
        status, _, said = there.submit()
        assert status == 5 and "denied" in said, said
        return Seed(repository, there.runs, there.kaggle.datasets)
