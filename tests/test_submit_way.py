"""kaggle_submit.sh, the whole way, with Kaggle's own client and a Kaggle of one's own: what is sent, and only once."""
from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import threading
import time
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from fake_kaggle import Dataset, Kernel, Reply
from submit_place import COMPETITION, OWNER, TOKEN, Seed, make_seed, place

from birdkit.kaggle import manifest

WHEELS, WEIGHTS = f"{OWNER}/birdkit-wheels", f"{OWNER}/birdkit-weights"


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    return make_seed(tmp_path_factory.mktemp("seed"))


def metadata_of(request: dict[str, Any]) -> dict[str, Any]:
    """What a push said, but for the notebook itself."""
    return {name: value for name, value in request.items() if name != "text"}


def test_one_command_from_a_commit_to_a_score_and_only_once(seed: Seed, tmp_path: Path) -> None:
    """What a person does on the last evening: wheel, weights, notebook, submission, score, and no second submission."""
    work = tmp_path / "work"
    (work / "round0_split1").mkdir(parents=True)
    (work / "round0_split1" / "best.safetensors").write_bytes(b"weights of a split")
    arguments = ("--weights", "../work", "--message", "first try")
    with place(seed.repository, tmp_path / "home") as there:
        status, out, said = there.submit(*arguments)
        assert status == 0, said
        kaggle = there.kaggle
        assert out == "public score 0.912 (submission 1000, version 1)\n"
        wheels, weights = kaggle.datasets[WHEELS].files, kaggle.datasets[WEIGHTS].files
        assert {name: content for name, content in weights.items() if "MANIFEST" not in name} == {
            "round0_split1/best.safetensors": b"weights of a split"}
        listed = json.loads(wheels["MANIFEST.json"])
        assert listed["files"].keys() == wheels.keys() - {"MANIFEST.json"}
        for name, about in listed["files"].items():
            assert hashlib.sha256(wheels[name]).hexdigest() == about["sha256"]
        assert wheels == seed.datasets[WHEELS].files, "two builds of one commit are not the same bytes"
        assert kaggle.asked("CreateDataset")["isPrivate"] is True
        assert metadata_of(kaggle.asked("SaveKernel")) == {
            "slug": f"{OWNER}/birdkit-04-ensemble-infer", "newTitle": "birdkit 04 ensemble infer",
            "language": "python", "kernelType": "notebook", "isPrivate": True, "enableGpu": False, "enableTpu": False,
            "enableInternet": False, "datasetDataSources": [WHEELS, WEIGHTS], "competitionDataSources": [COMPETITION],
            "machineShape": ""}  # what is empty is left out by the client
        [entry] = kaggle.submissions
        commit = json.loads(there.state().read_text())["commit"]
        assert entry["description"] == f"first try [birdkit birdkit-04-ensemble-infer {commit} v1]"
        assert kaggle.asked("CreateCodeSubmission")["kernelVersion"] == 1
        [line] = csv.DictReader((seed.repository / "submissions.csv").open())
        assert (line["public_score"], line["ref"], line["status"]) == ("0.912", "1000", "complete")
        assert line["package_sha256"] == manifest.package_sha256(seed.repository / "birdkit")
        assert any(header.startswith("Basic ") for header in kaggle.headers), "no secret was used, so none was kept"

        status, out, said = there.submit(*arguments)
        assert status == 0 and out == "public score 0.912 (submission 1000, version 1)\n", said
        assert len(kaggle.submissions) == kaggle.count("SaveKernel") == 1
        assert kaggle.count("CreateDataset") == 2 and not kaggle.count("CreateDatasetVersion")
        assert len(list(csv.DictReader((seed.repository / "submissions.csv").open()))) == 1


@pytest.mark.parametrize(("notebook", "arguments", "sources", "machine", "settings"), [
    ("01_preprocess", [], [], "", []),
    ("02_pseudolabel", ["--set", "ROUND=1"], ["01-preprocess", "03-train-fold"], "", ["ROUND = 1"]),
    ("03_train_fold", ["--internet"], ["01-preprocess"], "NvidiaTeslaT4", ["FOLD = [0, 1]"]),
])
def test_the_notebooks_before_the_last(seed: Seed, tmp_path: Path, notebook: str, arguments: list[str],
                                       sources: list[str], machine: str, settings: list[str]) -> None:
    """Each gets what it reads, training its two cards and two splits; none of them is submitted."""
    with place(seed, tmp_path / "home") as there:
        there.kaggle.outputs = {}
        status, out, said = there.submit(*arguments, notebook=notebook)
        slug = f"{OWNER}/birdkit-{notebook.replace('_', '-')}"
        assert (status, out) == (0, f"https://www.kaggle.com/code/{slug}\n"), said
        request = there.kaggle.asked("SaveKernel")
        assert request["slug"] == slug and request["enableInternet"] is ("--internet" in arguments)
        assert request.get("kernelDataSources", []) == [f"{OWNER}/birdkit-{name}" for name in sources]
        assert (request["machineShape"], request["enableGpu"]) == (machine, bool(machine))
        cells = json.loads(request["text"])["cells"]
        tags = [cell["metadata"].get("tags", []) for cell in cells]
        injected = tags.index(["injected-parameters"])
        assert tags[injected - 1] == ["parameters"]
        assert cells[injected]["source"].splitlines()[1:] == [f"COMPETITION = '{COMPETITION}'", *settings]
        assert not there.kaggle.count("StartBlobUpload"), "the very same wheel was sent again"
        assert not there.kaggle.submissions


def test_a_dry_run_says_everything_and_does_nothing(seed: Seed, tmp_path: Path) -> None:
    """Who tries it out before the last day must not use up a submission."""
    with place(seed.repository, tmp_path / "home") as there:
        work = tmp_path / "work" / "round0_split1"
        work.mkdir(parents=True)
        (work / "best.safetensors").write_bytes(b"weights")
        status, _, said = there.submit("--dry-run", "--weights", str(work.parent))
        assert status == 0, said
        assert not there.kaggle.calls and not there.runs.exists()
        for word in ("datasets create", "datasets version", "kernels push", "kernels status", "kernels output",
                     "competitions submit", '"enable_internet": false', '"id": "ann/birdkit-wheels"', "MANIFEST.json",
                     "datasets download", "datasets files", "build_wheel", "-m venv", "pip install",
                     "round0_split1/best.safetensors", f"COMPETITION = '{COMPETITION}'", "birdkit.sending attached"):
            assert word in said, word


def test_two_at_once_and_ctrl_c_while_waiting(seed: Seed, tmp_path: Path) -> None:
    """The second would poll the first one's session; and whoever closes the lid finds the run again."""
    with place(seed, tmp_path / "home") as there:
        there.pushed()
        there.kaggle.states.appendleft("RUNNING")
        there.kaggle.answer("GetKernelSessionStatus", *[Reply(body={"status": "RUNNING"})] * 100)
        first = there.start("--resume", "--no-submit")
        wait_until(lambda: there.kaggle.count("GetKernelSessionStatus") > 0)
        status, _, said = there.submit("--no-submit")
        assert status == 3 and "is at work on ann/birdkit-04-ensemble-infer" in said and "Ctrl-C there is safe" in said
        status, _, said = there.submit("--wheel-only")
        assert status == 0, "something else waits for nobody: " + said
        interrupt(first)
        status, _, said = there.end(first)
        assert status == 130 and "--resume goes on from here" in said
        there.kaggle.script.clear()
        status, _, said = there.submit("--resume", "--no-submit")
        assert status == 0 and not there.kaggle.count("SaveKernel") and "checked:" in said, said


def test_ctrl_c_in_the_middle_of_a_push(seed: Seed, tmp_path: Path) -> None:
    """The client then exits 0 and Kaggle runs the notebook: a second push would run it twice."""
    with place(seed, tmp_path / "home") as there:
        answered = threading.Event()
        there.kaggle.answer("SaveKernel", Reply(late=True, hold=answered))
        process = there.start("--resume", "--no-submit")
        wait_until(lambda: there.kaggle.count("SaveKernel") > 0)
        interrupt(process)
        status, _, said = there.end(process)
        answered.set()
        assert status == 130, said
        status, _, said = there.submit("--resume", "--no-submit")
        assert status == 0 and "the push that was cut off had arrived: version 1" in said, said
        assert there.kaggle.count("SaveKernel") == 1


def test_ctrl_c_in_the_middle_of_a_submission(seed: Seed, tmp_path: Path) -> None:
    """The list does not show it yet when --resume looks: to submit again would cost one of the day's five."""
    with place(seed, tmp_path / "home") as there:
        there.pushed()
        there.put(checked="yes")
        answered = threading.Event()
        there.kaggle.answer("CreateCodeSubmission", Reply(late=True, hold=answered))
        there.kaggle.late_looks = 2
        process = there.start("--resume")
        wait_until(lambda: there.kaggle.submissions)
        interrupt(process)
        status, _, said = there.end(process)
        answered.set()
        assert status == 130, said
        status, out, said = there.submit("--resume", KAGGLE_SUBMIT_TRIES="4")
        assert status == 0 and "it may have been made before" in said, said
        assert out.startswith("public score 0.912") and there.kaggle.count("CreateCodeSubmission") == 1


def test_after_training_again_it_is_not_the_very_same(seed: Seed, tmp_path: Path) -> None:
    """The names of the attached notebooks are the same, what they hold is not. And a list that lags is waited for."""
    with place(seed, tmp_path / "home") as there:
        there.kaggle.late_looks = 2
        status, _, said = there.submit()
        assert status == 0 and "accepted, not listed yet" in said, said
        assert len(there.kaggle.submissions) == 1
        there.kaggle.kernels[f"{OWNER}/birdkit-03-train-fold"].version = 2
        status, _, said = there.submit()
        assert status == 0 and "notebook ann/birdkit-03-train-fold version 2 complete" in said, said
        assert there.kaggle.count("SaveKernel") == len(there.kaggle.submissions) == 2


def test_all_options_at_once_with_a_token_of_today(seed: Seed, tmp_path: Path) -> None:
    """Each must reach Kaggle beside the others: what is attached, the machine, and the change that is not committed."""
    repository = shutil.copytree(seed.repository, tmp_path / "dirty")
    with (repository / "birdkit" / "__init__.py").open("a") as file:
        file.write("# not committed\n")
    for name in ("more/cp312/openvino-1-cp312.whl", "work/round0_split1/best.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"content")
    with place(repository, tmp_path / "home") as there:
        kaggle = there.kaggle
        kaggle.tokens[TOKEN] = OWNER
        kaggle.outputs, slug = {}, "birdkit-03-train-fold-more"
        kaggle.datasets[f"{OWNER}/extra"] = Dataset(3, {"a.csv": b"1"}, deque([("READY", 3)]))
        kaggle.kernels["bob/first"] = Kernel(4, state="ERROR")
        status, out, said = there.submit(
            "--kernel", slug, "--set", "FOLD=[2]", "--accelerator", "NvidiaL4", "--input", "bob/first",
            "--older-inputs", "--dataset", f"{OWNER}/extra", "--wheels", str(tmp_path / "more"), "--wheel-dataset",
            "all-wheels", "--weights", str(tmp_path / "work"), "--weights-dataset", "all-weights", "--again",
            "--allow-dirty", "--message", "for the fold", "--timeout", "600", notebook="03_train_fold",
            KAGGLE_API_TOKEN=TOKEN)
        assert (status, out) == (0, f"https://www.kaggle.com/code/{OWNER}/{slug}\n"), said
        assert "notebook bob/first version 4 error" in said and f"dataset {OWNER}/extra version 3 ready" in said
        request = kaggle.asked("SaveKernel")
        assert request["datasetDataSources"] == [f"{OWNER}/{name}" for name in ("all-wheels", "extra", "all-weights")]
        assert request["kernelDataSources"] == ["bob/first"] and request["machineShape"] == "NvidiaL4"
        assert "FOLD = [2]" in request["text"] and set(kaggle.headers) == {f"Bearer {TOKEN}"}
        wheels = kaggle.datasets[f"{OWNER}/all-wheels"].files
        assert wheels["openvino-1-cp312.whl"] == b"content"
        [own] = [content for name, content in wheels.items() if name.startswith("birdkit-")]
        assert b"# not committed" in zipfile.ZipFile(io.BytesIO(own)).read("birdkit/__init__.py")
        assert "round0_split1/best.safetensors" in kaggle.datasets[f"{OWNER}/all-weights"].files


def interrupt(process: Any) -> None:
    """Ctrl-C, as a terminal sends it: to all of the group."""
    os.killpg(process.pid, signal.SIGINT)


def wait_until(done: Any) -> None:
    ends = time.monotonic() + 60
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.05)
