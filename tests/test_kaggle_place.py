"""The four notebooks where Kaggle runs them: saved without test audio, run again and scored, short of time or disk.

Attached are the datasets that kaggle_submit.sh would send; `make test-kaggle` downloads what stands in them.
"""
from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from kaggle_place import Image, Place, Session, isolated

from birdkit import checkpoint, submission, synthesis
from birdkit.kaggle.offline import Wheel, sys_tags
from birdkit.sending import staging

CHECKOUT = Path(__file__).parents[1]
WHEELHOUSE = Path(sys.prefix) / "wheelhouse"  # a folder for each of RUNTIMES
RUNTIMES = {"openvino": {"openvino", "openvino_telemetry"}, "onnxruntime": {"onnxruntime", "onnxscript", "onnx_ir"}}
SLUG = "birdclef-2099"
OF_ALL = {"COMPETITION": SLUG}
TINY = {**OF_ALL, "RECIPE": "tiny"}
LAYOUTS = ("2025", "2026")
TOGETHER = 2 * 4  # rows of the generated test soundscapes
pytestmark = [pytest.mark.notebook,
              pytest.mark.skipif(not WHEELHOUSE.is_dir(), reason="make test-kaggle downloads the wheels")]
needs_disk = pytest.mark.skipif(not isolated(), reason="no disk of its own where users have no namespaces")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> synthesis.Generated:
    """A competition as the scored run sees it."""
    folder = tmp_path_factory.mktemp("hidden") / SLUG
    return synthesis.generate(folder, **synthesis.TINY, progress=False)


@pytest.fixture(scope="module")
def public(generated: synthesis.Generated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as everybody sees it: no test audio, and a stub of three rows for a sample submission."""
    folder = tmp_path_factory.mktemp("public") / SLUG
    shutil.copytree(generated.competition_dir, folder, ignore=shutil.ignore_patterns("test_soundscapes"))
    (folder / "test_soundscapes").mkdir()
    (folder / "test_soundscapes" / "readme.txt").write_text("filled when the notebook is scored")
    sample = folder / "sample_submission.csv"
    pd.read_csv(sample).iloc[:3].to_csv(sample, index=False)
    return folder


@pytest.fixture(scope="module")
def own_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """birdkit's, built from a copy of the checkout."""
    copy, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in ("birdkit", "notebooks"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, copy)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-build-isolation", "--no-deps",
                    "--wheel-dir", str(folder), str(copy)], check=True)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheels(own_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the dataset of wheels as it is sent: birdkit's, and those of a runtime beside it."""

    @cache
    def make(runtime: str) -> Path:
        folder = tmp_path_factory.mktemp("dataset") / "birdkit-wheels"
        others = sorted((WHEELHOUSE / runtime).glob("*.whl")) if runtime else []
        staging.stage_wheels(folder, [own_wheel, *others], owner="someone", slug=folder.name, commit="0" * 40)
        return folder

    return make


@pytest.fixture(scope="module")
def place(wheels, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Place]:
    """Makes a place of a layout, with wheels, a competition and outputs of other notebooks attached."""

    def make(layout: str, competition: Path, *, runtime: str = "", **outputs: Session) -> Place:
        one = Place(tmp_path_factory.mktemp("place"), layout)
        one.attach("competition", SLUG, competition)
        one.attach("dataset", "birdkit-wheels", wheels(runtime))
        for slug, session in outputs.items():
            one.attach("notebook", slug, session.working)
        return one

    return make


@pytest.fixture(scope="module")
def audited(place, public: Path) -> Session:
    """A saved version of notebook 01."""
    return place("2025", public).run("01_preprocess", TINY)


@pytest.fixture(scope="module")
def trained(place, public: Path, audited: Session) -> Session:
    """A saved version of notebook 03, on the output of 01."""
    return place("2026", public, preprocess=audited).run("03_train_fold", TINY)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a folder."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def test_a_session_reaches_nobody_and_changes_no_input(place, public: Path) -> None:
    """What the other tests prove is worth nothing where the place is not like Kaggle's."""
    one = place("2026", public)
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    refused = one.python(["-c", reach])
    assert refused.status == 1 and "unreachable" in refused.log
    own = ("import socket; s = socket.create_server(('127.0.0.1', 0)); "
           "socket.create_connection(s.getsockname()); print('reached')")
    assert "reached" in one.python(["-c", own]).log
    if isolated():
        spoil = f"open('/kaggle/input/competitions/{SLUG}/train.csv', 'a')"
        assert "Read-only file system" in one.python(["-c", spoil]).log
    for absent in ("birdkit", "openvino"):
        assert "ModuleNotFoundError" in one.python(["-c", f"import {absent}"]).log


def test_01_audits(place, public: Path, audited: Session) -> None:
    """The first run that a person saves: the wheel is installed from the mount, the same tables come from both."""
    assert audited.status == 0, audited.log
    assert re.search(r"installed birdkit \S+ from /\S+/input/birdkit-wheels/birdkit-", audited.outputs)
    assert len(pd.read_parquet(audited.working / "recordings.parquet")) == 20
    other = place("2026", public).run("01_preprocess", TINY)
    assert re.search(r"installed birdkit \S+ from /\S+/input/datasets/someone/birdkit-wheels/birdkit-", other.outputs)
    for name in ("recordings.parquet", "soundscapes.parquet"):
        pd.testing.assert_frame_equal(*(pd.read_parquet(one.working / name) for one in (audited, other)))


def test_03_trains_on_the_output_of_01(trained: Session) -> None:
    """Every notebook has a /kaggle/working of its own, and finds the tables in an attached output."""
    assert trained.status == 0, trained.log
    assert checkpoint.load(trained.working / "round0_split0" / "best.safetensors").seen
    assert not (trained.working / "recordings.parquet").exists()


def test_03_stops_in_time_and_says_so(place, public: Path, audited: Session) -> None:
    """Of a session that Kaggle ends nothing is kept: it must end by itself, with the state that the next one needs."""
    endless = {**TINY, "SESSION_HOURS": 15 / 3600, "CHANGES": {"train__epochs": 100_000, "train__validate_every": 0}}
    done = place("2025", public, preprocess=audited).run("03_train_fold", endless)
    assert done.status == 0, done.log
    assert "start the notebook again with this output attached" in done.log
    assert (done.working / "round0_split0" / "state.pt").is_file()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_02_labels_with_the_output_of_03(layout: str, place, public: Path, audited: Session, trained: Session) -> None:
    """Soundscapes from one mount, tables from another, the teacher from a third."""
    done = place(layout, public, preprocess=audited, train=trained).run("02_pseudolabel", {**TINY, "ROUND": 1})
    assert done.status == 0, done.log
    assert len(pd.read_parquet(done.working / "pseudo_labels_r1.parquet"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_04_rehearses_when_it_is_saved(layout: str, place, public: Path, trained: Session) -> None:
    """Kaggle offers to submit only what has left a submission.csv, and the rehearsal must go all the way to it."""
    done = place(layout, public, train=trained).run("04_ensemble_infer", OF_ALL)
    assert done.status == 0, done.log
    assert "rehearsal" in done.outputs and "predicts with torch" in done.outputs
    assert len(submission.validate(done.working / "submission.csv", public)) == 3


@pytest.mark.parametrize(("layout", "runtime"), list(zip(LAYOUTS, RUNTIMES, strict=True)))
def test_04_is_scored(layout: str, runtime: str, place, generated: synthesis.Generated, trained: Session) -> None:
    """The run that counts: the runtime is from the wheels, all rows are predicted, Kaggle's packages stay as they
    are."""
    hidden = generated.competition_dir
    before = files(hidden)
    done = place(layout, hidden, runtime=runtime, train=trained).run("04_ensemble_infer", OF_ALL, rerun=True)
    assert done.status == 0, done.log
    assert "filled" not in done.outputs and "rehearsal" not in done.outputs
    assert len(submission.validate(done.working / "submission.csv", hidden)) == TOGETHER
    assert re.search(rf"^INFO:birdkit\S*:.*\b{runtime}\b.* at f32", done.outputs, re.IGNORECASE | re.MULTILINE)
    assert "predicts with torch" not in done.outputs
    assert files(hidden) == before
    own = {path.name.split("-")[0] for path in done.image.site.iterdir() if not path.is_symlink()}
    assert own - {"pip", "setuptools", "distutils"} == {"birdkit", *RUNTIMES[runtime]}


def test_04_writes_all_rows_when_time_is_short(place, generated: synthesis.Generated, trained: Session) -> None:
    """A scored run that is over its time scores nothing at all; one with neutral rows for the rest scores something.

    Here time is over before the first file. All rows are there, and the notebook ends well, for else they are lost.
    """
    one = place("2026", generated.competition_dir, train=trained)
    done = one.run("04_ensemble_infer", {**OF_ALL, "TIME_SHARE": 1e-9}, rerun=True)
    assert done.status == 0 and "nothing was predicted: every row" in done.log, done.log
    assert len(pd.read_csv(done.working / "submission.csv").dropna()) == TOGETHER


def test_04_is_an_error_where_a_scored_run_has_no_audio(place, public: Path, trained: Session) -> None:
    """A rehearsal that is scored would be a page of priors with a score, which nobody could tell from a bad model."""
    done = place("2025", public, train=trained).run("04_ensemble_infer", OF_ALL, rerun=True)
    assert done.status == 1 and "MissingInputError" in done.log, done.log


@needs_disk
@pytest.mark.parametrize(("stem", "work"), [("01_preprocess", "auditing 22 files"),
                                            ("03_train_fold", "training split 0")])
def test_a_disk_that_is_too_small_is_said_before_the_work(stem: str, work: str, place, public: Path,
                                                          audited: Session) -> None:
    """20 GB are kept: what does not fit must be said in the first minute, not after the hours it took to make it."""
    done = place("2026", public, preprocess=audited).run(stem, TINY, disk_mib=16)
    assert done.status == 1 and "DiskSpaceError: /kaggle/working" in done.log and f"{work} may write" in done.log
    assert "decoding" not in done.log and "step/s" not in done.log


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_wheelhouse_is_what_the_locks_say(runtime: str) -> None:
    """For both of Kaggle's Pythons, and nothing but files that somebody has looked at."""
    lock = (CHECKOUT / "wheels" / f"{runtime}.lock").read_text(encoding="utf-8")
    found = [Wheel.read(path) for path in (WHEELHOUSE / runtime).glob("*.whl")]
    assert {wheel.name.replace("-", "_") for wheel in found} == RUNTIMES[runtime]
    for wheel in found:
        assert f"{wheel.name}=={wheel.version} " in lock
        assert f"sha256:{hashlib.sha256(wheel.path.read_bytes()).hexdigest()}" in lock
    pythons = {tag.interpreter for wheel in found if wheel.name == runtime for tag in wheel.tags}
    assert {"cp312", "cp313"} <= pythons and any(wheel.tags & set(sys_tags()) for wheel in found)


def test_an_image_has_what_the_tests_have_but_not_birdkit(tmp_path: Path) -> None:
    """A package that Kaggle lacks and the tests have would hide what is missing there."""
    image = Image(tmp_path / "image")
    names = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([image.python, "-c", names], capture_output=True, text=True, check=True, cwd=tmp_path,
                          env=outside)
    assert {"torch", "papermill", "pip"} <= set(done.stdout.split())
    assert not {"birdkit", "openvino", "onnxruntime", "onnxscript"} & set(done.stdout.split())
