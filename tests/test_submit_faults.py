"""kaggle_submit.sh when something goes wrong: with Kaggle's own client, which exits 0 on most of it."""
from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_kaggle import Kernel, Reply, error
from submit_place import OWNER, ROOT, SECRET, Place, Seed, make_seed, place

from birdkit.synthesis import generate

WHEELS, NOTEBOOK, TRAINING = (f"{OWNER}/birdkit-{name}" for name in ("wheels", "04-ensemble-infer", "03-train-fold"))
AWAY = error(503, "503 Service Unavailable")


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    return make_seed(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def there(seed: Seed, tmp_path: Path) -> Iterator[Place]:
    """The wheel is sent; nothing is pushed."""
    with place(seed, tmp_path / "home") as made:
        yield made


@pytest.fixture
def changed(there: Place) -> Place:
    """What was sent is not known to be what is there now, so that a new version is due."""
    (there.runs / OWNER / "datasets" / "birdkit-wheels.json").write_text('{"content": "other", "version": "1"}')
    return there


def test_what_another_machine_sent_is_not_sent_again(there: Place) -> None:
    """The dataset's own manifest says what is in it, where nothing is known here."""
    shutil.rmtree(there.runs / OWNER / "datasets")
    status, _, said = there.submit("--wheel-only")
    assert status == 0 and "version 1 holds the very same files" in said, said
    assert not there.kaggle.count("StartBlobUpload")


def test_the_script_is_clean() -> None:
    """shellcheck finds the unquoted name with a space in it before a person with such a folder does."""
    checker = Path(sys.executable).parent / "shellcheck"
    subprocess.run([str(checker) if checker.is_file() else "shellcheck", ROOT / "kaggle_submit.sh"], check=True)


def test_looks_become_rarer() -> None:
    """Ten hours of training at a look every ten seconds would be 3,600, and Kaggle throttles."""
    script = ('source ./kaggle_submit.sh; POLL_MS=10000 FAILURE="" TRIES=9 TIMEOUT=100\n'
              'sleep() { echo "$1"; }; call() { :; }\n'
              "start_waiting it; for _ in 1 2 3 4 5 6 7; do look kernels status x; keep_waiting running; done")
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [float(line) for line in done.stdout.split()] == [10, 15, 22.5, 33.75, 50.625, 60, 60]
    assert done.stderr == "it: running, 0:00:00\n"


@pytest.mark.parametrize(("arguments", "word"), [
    (("--notebook", "05_nothing"), "must be one of 01_preprocess.ipynb"),
    (("--timeout", "soon"), "whole number of seconds"),
    (("--frobnicate", "1"), "unknown option"),
    (("--accelerator", "NvidiaTeslaT4"), "scores notebook 04 on a CPU"),
    (("--internet",), "scored without"),
    (("--resume", "--kernel", "birdkit-other"), "nothing to resume"),
    (("--resume", "--set", "ROUND=1"), "started with other arguments"),
    (("--poll", "0.0"), "without a pause"),
    (("--dry-run", "--set", "NOPE=1"), "no setting NOPE"),
    (("--dry-run", "--weights", "nowhere"), "nowhere holds no round"),
    (("--wheels", "nowhere"), "there is no folder"),
    (("--competition-dir", "nowhere"), "nowhere/sample_submission.csv"),
    (("--input", "birdkit-03"), "must be OWNER/SLUG"),
])
def test_usage(there: Place, arguments: tuple[str, ...], word: str) -> None:
    """A mistyped command says so before it costs anything."""
    status, _, said = there.submit(*arguments)
    assert status == 2 and word in said, said
    assert not there.kaggle.calls


def test_changes_that_are_not_committed(there: Place, tmp_path: Path) -> None:
    """A score belongs to a commit; which one could not be told later."""
    repository = shutil.copytree(there.repository, tmp_path / "dirty")
    (repository / "birdkit" / "folding.py").write_text("# changed\n")
    there.repository = repository
    status, _, said = there.submit()
    assert status == 3 and "birdkit/folding.py" in said and "--allow-dirty" in said


@pytest.mark.parametrize(("reply", "word"), [
    (error(403, "403 - Forbidden - You must accept the rules"), "join birdclef-2026 first"),
    (error(404, "404 - Not Found - Competition not found"), "there is no competition"),
    (error(401, "Unauthenticated"), "get a token"),
])
def test_preflight(there: Place, reply: Reply, word: str) -> None:
    """What a person has to do first is said before anything is built or sent."""
    there.kaggle.answer("GetSubmissionLimits", reply)
    status, _, said = there.submit()
    assert status == 3 and word in said, said
    assert "building" not in said


def test_a_token_of_someone_else_and_inputs_that_are_not_ready(there: Place) -> None:
    """Both would be told by a notebook that fails, after the upload and a wait for a machine."""
    status, _, said = there.submit("--owner", "bob", "--input", TRAINING)
    assert status == 2 and "--owner bob: the token is that of 'ann'" in said, said
    there.kaggle.kernels[TRAINING].state = "RUNNING"
    status, _, said = there.submit("--input", TRAINING, "--input", f"{OWNER}/none", "--dataset", f"{OWNER}/nothing")
    assert status == 3 and f"notebook {TRAINING} version 1 running\n" in said, said
    assert f"notebook {OWNER}/none version ? absent" in said and f"dataset {OWNER}/nothing version ? absent" in said
    assert "building" not in said


UPLOADS = [
    ("GetDatasetStatus", [error(404, "404 - Not Found")], "already in use"),
    ("GetDatasetStatus", [error(403, "403 - Forbidden - Permission 'datasets.get' was denied")], "is not yours"),
    ("CreateDatasetVersion", [Reply(body={"status": "Error", "error": f"Too large {SECRET}"})], "Too large (hidden)"),
    ("PUT", [Reply(400)], "Upload unsuccessful"),
    ("ListDatasetFiles", [Reply(body={"datasetFiles": []})], "the new version lacks MANIFEST.json"),
]


@pytest.mark.parametrize(("method", "replies", "word"), UPLOADS, ids=["exists", "403", "refused", "file", "incomplete"])
def test_an_upload_that_fails(changed: Place, method: str, replies: list[Reply], word: str) -> None:
    """The client exits 0 on all but one of these; a notebook would then run with last week's wheel."""
    changed.kaggle.answer(method, *replies)
    status, _, said = changed.submit("--wheel-only")
    assert status == 4 and word in said, said


def test_a_slow_kaggle_is_waited_for(changed: Place) -> None:
    """Throttled once, away once, and with the old version's "ready" shown for a while after the new one was sent."""
    changed.kaggle.answer("GetDatasetStatus", Reply(503, {"code": 503, "message": "503 Service Unavailable"}))
    changed.kaggle.answer("CreateDatasetVersion", error(429, "429 - Too Many Requests", Retry_After="1"))
    changed.kaggle.stale_looks = 1
    status, _, said = changed.submit("--wheel-only")
    assert status == 0, said
    assert "Kaggle is busy or away" in said and "Will retry in 1.0 seconds" in said
    assert "version after 1: ready (version 1)" in said and "version after 1: blobs_received" in said
    assert "version 2 is ready" in said and changed.kaggle.count("CreateDatasetVersion") == 2


PUSHES = [
    (Reply(body={"error": "Notebook not found", "versionNumber": 0}), "Notebook not found"),
    (Reply(body={"error": "", "url": "x", "versionNumber": 3, "invalidDatasetSources": [WHEELS]}), "not valid dataset"),
    (Reply(body={"error": "", "url": "x"}), "no version number"),
    (error(400, "Competition rules were not accepted"), "rules were not accepted"),
]


@pytest.mark.parametrize(("reply", "word"), PUSHES, ids=["refused", "sources", "number", "400"])
def test_a_push_that_fails(there: Place, reply: Reply, word: str) -> None:
    """The client exits 0 on three of these and says "successfully pushed" on two."""
    there.kaggle.answer("SaveKernel", reply)
    status, _, said = there.submit("--resume")
    assert status == 5 and word in said, said
    assert there.kaggle.count("SaveKernel") == 1


def test_no_free_session_and_a_notebook_that_fails(there: Place) -> None:
    """A push waits for one of the two sessions; a failed notebook's reason stands on the screen."""
    busy = Reply(body={"error": "Maximum batch GPU session count of 2 reached.", "versionNumber": 0})
    there.kaggle.answer("SaveKernel", busy)
    there.kaggle.states.appendleft("ERROR")
    there.kaggle.failure = "out of memory"
    there.kaggle.log = "".join(f"line {number}\n" for number in range(80))
    status, _, said = there.submit("--resume")
    assert status == 6 and "error: out of memory" in said, said
    assert there.kaggle.count("SaveKernel") == 2
    assert "line 30\n" in said and "line 79\n" in said and "line 29\n" not in said


def test_an_answer_that_is_lost_and_rows_that_are_missing(there: Place) -> None:
    """A push is not repeated when the first one arrived; a file that Kaggle would refuse costs no submission."""
    there.kaggle.answer("SaveKernel", AWAY,
                        Reply(500, {"code": 500, "message": "500 Internal Server Error"}, late=True))
    there.kaggle.outputs["submission.csv"] = b"row_id,aldfly,barswa\nsoundscape_1_5,0.1,0.9\n"
    status, _, said = there.submit("--resume")
    assert status == 7 and "1 rows missing ['soundscape_1_10']" in said, said
    assert there.kaggle.count("SaveKernel") == 2 and there.kaggle.kernels[NOTEBOOK].version == 1
    assert not there.kaggle.submissions


def test_a_notebook_that_takes_too_long(there: Place) -> None:
    """It goes on at Kaggle; whoever comes back later only looks again."""
    there.pushed()
    there.kaggle.answer("GetKernelSessionStatus", *[Reply(body={"status": "QUEUED"})] * 50)
    status, _, said = there.submit("--resume", "--timeout", "1")
    assert status == 9 and "still queued after 1 s; --resume goes on waiting" in said, said


def test_another_wheel_was_loaded(there: Place) -> None:
    """An older dataset attached beside the new one wins by luck, and a score would be the older code's."""
    there.pushed()
    there.kaggle.loads_wheel = "0" * 64
    status, _, said = there.submit("--resume")
    assert status == 7 and "is an older wheel attached beside it?" in said, said


def test_kaggle_cannot_be_reached(there: Place) -> None:
    """Nothing was accepted, so it is tried again until the time is up."""
    status, _, said = there.submit("--resume", "--timeout", "1", http_proxy="http://127.0.0.1:9")
    assert status == 9 and "still unknown, Kaggle is away (refused)" in said, said


def test_no_submission_is_left_today(there: Place) -> None:
    """The next morning --resume submits what is ready."""
    there.pushed()
    there.put(checked="yes")
    there.kaggle.left = 0
    status, _, said = there.submit("--resume")
    assert status == 8 and "no submission is left today; --resume submits tomorrow" in said, said


def test_a_submission_is_never_repeated(there: Place) -> None:
    """The answer is lost, the submission is not: a second one would be one of five wasted. Its scoring then fails."""
    there.pushed()
    there.put(checked="yes")
    there.kaggle.answer("CreateCodeSubmission", Reply(502, {"code": 502, "message": "502 Bad Gateway"}, late=True))
    there.kaggle.pending_looks, there.kaggle.end = 0, "ERROR"
    status, out, said = there.submit("--resume")
    assert status == 8 and "submission 1000: error" in said and not out, said
    assert there.kaggle.count("CreateCodeSubmission") == 1


def test_a_submission_whose_answer_is_no(there: Place) -> None:
    """Throttled: not taken, so made again. Lost: looked for, and made again as it is neither listed nor counted."""
    there.pushed()
    there.put(checked="yes")
    there.kaggle.answer("CreateCodeSubmission", error(429, "429 - Too Many Requests"), AWAY)
    status, _, said = there.submit("--resume")
    assert status == 0 and "not submitted (429" in said and "no word that it arrived" in said, said
    assert there.kaggle.count("CreateCodeSubmission") == 3 and len(there.kaggle.submissions) == 1


def test_a_submission_that_is_counted_but_not_listed(there: Place) -> None:
    """The answer was lost and the list lags for longer than is waited: a person decides, and not a second entry."""
    there.pushed()
    there.put(checked="yes")
    there.kaggle.late_looks = 99
    there.kaggle.answer("CreateCodeSubmission", Reply(502, {"code": 502, "message": "502 Bad Gateway"}, late=True))
    status, _, said = there.submit("--resume")
    assert status == 8 and "Kaggle counts 1 submissions today and counted 0 before" in said, said
    assert there.kaggle.count("CreateCodeSubmission") == 1
    status, _, said = there.submit()
    assert status == 3 and "whether the last run's submission arrived is not known: --resume" in said, said


def test_a_source_that_kaggle_did_not_take(there: Place) -> None:
    """Its session runs without it; to take it up again would be to submit what is not meant."""
    del there.kaggle.kernels[TRAINING]
    there.kaggle.answer("GetKernel", Reply(body={"metadata": {"currentVersionNumber": 1}, "blob": {"source": ""}}))
    there.kaggle.answer("GetKernelSessionStatus", Reply(body={"status": "COMPLETE"}))
    status, _, said = there.submit("--resume", "--no-submit")
    assert status == 5 and "not valid kernel sources" in said and "runs on, for nothing" in said, said
    there.kaggle.kernels[TRAINING] = Kernel(1, state="COMPLETE")
    status, _, said = there.submit("--resume", "--no-submit")
    assert status == 0 and there.kaggle.kernels[NOTEBOOK].version == 2, said


def test_an_evening_without_network(there: Place) -> None:
    """A wait of hours is not ended by minutes of it, which say nothing of the notebook."""
    there.pushed()
    there.kaggle.answer("GetKernelSessionStatus", Reply(body={"status": "RUNNING"}), *[AWAY] * 4)
    status, _, said = there.submit("--resume", "--no-submit")
    assert status == 0 and "unknown, Kaggle is away (server)" in said, said


def test_a_run_that_is_at_work(there: Place) -> None:
    """A second session beside it would cost its hours again; who wants it says so."""
    there.pushed()
    there.kaggle.kernels[NOTEBOOK].state = "RUNNING"
    status, _, said = there.submit("--no-submit")
    assert status == 3 and "version 1 is at work (running): --resume goes on with it, --again" in said, said
    assert not there.kaggle.count("SaveKernel")
    status, _, said = there.submit("--no-submit", "--again")
    assert status == 0 and there.kaggle.count("SaveKernel") == 1, said


def test_a_dataset_that_another_run_sends(there: Place) -> None:
    """Two versions at once, and each run would take the other's for its own."""
    with (there.runs / OWNER / "datasets" / "birdkit-wheels.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status, _, said = there.submit("--wheel-only", "--timeout", "1")
    assert status == 9 and f"another kaggle_submit.sh sends {WHEELS}" in said and "Ctrl-C is safe" in said, said


def test_a_check_with_the_competition_s_files(there: Place, tmp_path: Path) -> None:
    """`birdkit check` knows the test recordings, where the sample submission knows a few rows."""
    generate(tmp_path / "competition", n_classes=3, n_recordings=6, n_train_soundscapes=1,
             n_test_soundscapes=1)
    sample = (tmp_path / "competition" / "sample_submission.csv").read_text().splitlines()
    rows = [sample[0], *(f"{line.split(',')[0]},0.{number},0.5,0.2" for number, line in enumerate(sample[1:], 1))]
    there.pushed()
    there.kaggle.outputs["submission.csv"] = "\n".join(rows).encode()
    arguments = ("--resume", "--no-submit", "--competition-dir", str(tmp_path / "competition"))
    status, _, said = there.submit(*arguments)
    assert status == 0 and not there.kaggle.count("DownloadDataFile"), said
    there.kaggle.outputs["submission.csv"] = "\n".join(rows[:-1]).encode()
    there.put(checked="")
    status, _, said = there.submit(*arguments)
    assert status == 7 and "the submission would be refused" in said, said
