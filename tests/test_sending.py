"""What kaggle_submit.sh sends and how it reads what the client says, without a client."""
from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from birdkit.kaggle import manifest
from birdkit.sending import masking, outputs, record, replies, staging
from birdkit.sending.__main__ import main

SAMPLE = "row_id,a,b\ns_5,0.5,0.5\ns_10,0.5,0.5\n"


def wheel(folder: Path, name: str, content: bytes = b"wheel") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def own_wheel(folder: Path) -> Path:
    path = folder / "birdkit-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("birdkit/__init__.py", "1")
    return path


def notebook(path: Path, **changes: Any) -> Path:
    """A notebook with a cell of settings."""
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": [],
            "source": ["FOLD = 0\n", "NAME = ''"]}
    book = {"cells": [cell], "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps({**book, **changes}))
    return path


def stage(folder: Path, *wheels: Path) -> str:
    return staging.stage_wheels(folder, wheels, owner="ann", slug="birdkit-wheels", commit="abc")


def test_wheels_lie_flat_and_the_manifest_names_them(tmp_path: Path) -> None:
    """Kaggle skips folders without a word; two of one name (for two Pythons) are one file there."""
    own = own_wheel(tmp_path)
    others = [wheel(tmp_path / "cp312", "openvino-1-cp312.whl"), wheel(tmp_path / "cp313", "openvino-1-cp313.whl"),
              wheel(tmp_path / "cp312", "telemetry.whl", b"first"),
              wheel(tmp_path / "cp313", "telemetry.whl", b"second")]
    content = stage(tmp_path / "stage", own, *others)
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == [
        "MANIFEST.json", "birdkit-0.1.0-py3-none-any.whl", "dataset-metadata.json", "openvino-1-cp312.whl",
        "openvino-1-cp313.whl", "telemetry.whl"]
    assert (tmp_path / "stage" / "telemetry.whl").read_bytes() == b"first"
    listed = json.loads((tmp_path / "stage" / "MANIFEST.json").read_text())
    assert listed["package_sha256"] == manifest.package_sha256(own) and listed["content_sha256"] == content
    assert stage(tmp_path / "again", own, *others) == content
    assert stage(tmp_path / "less", own, *others[1:]) != content
    with pytest.raises(staging.StagingError, match="0 wheels of birdkit"):
        stage(tmp_path / "none", *others)


def test_weights_keep_the_folders_of_their_runs(tmp_path: Path) -> None:
    """Notebook 04 finds checkpoints by the names of their folders; logs and optimiser states stay at home."""
    wanted = {"round1_split0/best.safetensors", "call_split1/best.safetensors", "best.toml",
              "round1_split0/openvino_int8/bundle.json", "round1_split0/openvino_int8/model.bin"}
    for name in (*wanted, "round1_split0/last.safetensors", "round1_split0/checks/other.json", "recordings.parquet"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text(name)
    staging.stage_weights(tmp_path / "stage", tmp_path / "work", owner="ann", slug="birdkit-weights", commit="abc")
    found = {path.relative_to(tmp_path / "stage").as_posix() for path in (tmp_path / "stage").rglob("*.*")}
    assert found == wanted | {"MANIFEST.json", "dataset-metadata.json"}
    with pytest.raises(staging.StagingError, match="holds no round"):
        staging.stage_weights(tmp_path / "more", tmp_path / "stage" / "round1_split0", owner="ann", slug="weights",
                              commit="abc")


def test_settings_go_behind_the_cell_that_names_them(tmp_path: Path) -> None:
    """In front of it they would be overwritten; a mistyped one would change nothing and say nothing."""
    book = notebook(tmp_path / "03.ipynb")
    kernel = staging.Kernel("ann", "birdkit-03", "birdclef-2026", accelerator=staging.T4_X2)
    settings = {"FOLD": [0, 1], "NAME": "it's"}
    content = staging.stage_kernel(tmp_path / "stage", book, kernel, settings, "one")
    names: dict[str, Any] = {}
    for cell in json.loads((tmp_path / "stage" / "03.ipynb").read_text())["cells"]:
        exec("".join(cell["source"]), names)
    assert names["FOLD"] == [0, 1] and names["NAME"] == "it's"
    metadata = json.loads((tmp_path / "stage" / "kernel-metadata.json").read_text())
    assert metadata["machine_shape"] == "NvidiaTeslaT4" and metadata["enable_gpu"] and not metadata["enable_internet"]
    assert staging.stage_kernel(tmp_path / "later", book, kernel, settings, "two") == content
    assert staging.stage_kernel(tmp_path / "other", book, kernel, {"FOLD": [2]}, "one") != content
    with pytest.raises(staging.StagingError, match="no setting FOLDS; there is FOLD, NAME"):
        staging.stage_kernel(tmp_path / "wrong", book, kernel, {"FOLDS": 1}, "one")


@pytest.mark.parametrize(("changes", "word"), [
    ({"metadata": {}}, "names no kernel"),
    ({"cells": [{"cell_type": "code", "metadata": {}, "source": "", "outputs": [{"text": "a name"}]}]}, "hold outputs"),
])
def test_a_notebook_that_kaggle_could_not_run(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    """papermill refuses a notebook without a kernel, hours after it was queued."""
    with pytest.raises(staging.StagingError, match=word):
        staging.check_notebook(notebook(tmp_path / "01.ipynb", **changes))


@pytest.mark.parametrize("slug", ["birdkit_wheels", "Birdkit-wheels", "short", "birdkit--wheels", "b" * 51])
def test_a_slug_is_what_kaggle_makes_of_its_title(slug: str) -> None:
    """The second push of another one makes a second notebook, or a conflict."""
    with pytest.raises(staging.StagingError, match="must be 6 to 50"):
        staging.check_slug(slug)


@pytest.mark.parametrize(("text", "kind"), [
    ("Maximum batch GPU session count of 2 reached.", "busy"), ("429 - Too Many Requests", "throttled"),
    ("HTTPConnectionPool: Failed to establish a new connection: [Errno 111] Connection refused", "refused"),
    ("[Errno -5] No address associated with hostname", "refused"), ("Failed to resolve 'api.kaggle.com'", "refused"),
    ("503 Server Error: Service Unavailable for url", "server"),
    ("Max retries exceeded with url: /v1 (Caused by SSLError(SSLEOFError(8, 'EOF occurred in violation')))", "server"),
    ("('Connection broken: IncompleteRead(10 bytes read)')", "server"),
    ("Expecting value: line 1 column 1 (char 0)", "server"),
    ("ProxyError('Unable to connect to proxy', OSError('Tunnel connection failed: 403 Forbidden'))", "proxy"),
    ("Warning: to fix this, run 'chmod 600 /home/ann/.kaggle/kaggle.json'\n404 - Not Found", "absent"),
    ("500 Server Error: for url", "server"),
    ("('Connection aborted.', RemoteDisconnected('Remote end closed'))", "server"), ("403 Forbidden", "forbidden"),
    ("Permission 'kernels.get' was denied", "forbidden"), ("404 - Not Found", "absent"),
    ("ModuleNotFoundError: No module named 'six'", "client"), ("401 Client Error", "credentials"),
    ("Sorry\n\nThis is a problem on Kaggle's side, not with your command.", "server"),
    ("Sorry\n\nYou don't have access to this resource.\nIf this is", "forbidden"),
    ("Title must be at least five characters", "other")])
def test_failures_are_told_apart_by_their_words(text: str, kind: str) -> None:
    """Only what was surely not accepted may be sent again."""
    assert replies.failure(text) == kind


def test_an_upload_counts_only_as_a_whole() -> None:
    """The client says "is being created" after it has left out a file, too; its own repeats are no errors."""
    done = "Upload successful: a\nDataset version is being created. Please check progress at x"
    replies.check_upload("Request failed: 429 Client Error: x. Will retry in 1.0 seconds\n" + done)
    for wrong in ("Upload unsuccessful: b\n" + done, "Skipping folder: b; use '--dir-mode'\n" + done,
                  "Dataset version creation error: too large", ""):
        with pytest.raises(replies.ReplyError):
            replies.check_upload(wrong)


def test_every_file_must_be_listed_with_its_size() -> None:
    """Files of one name in several folders are counted, not only found."""
    manifest_of = {"files": {"a/best.safetensors": {"bytes": 5}, "b/best.safetensors": {"bytes": 5}}}
    one = '{"name": "a/best.safetensors", "size": 5}'
    own = '{"name": "MANIFEST.json", "size": 9}'
    replies.check_files(f"Warning: old\n[{own}, {one}, {one}]", manifest_of, 9)
    for listed in (f"[{own}, {one}]", f"[{one}, {one}]", f'[{own}, {one}, {{"name": "best.safetensors", "size": 0}}]'):
        with pytest.raises(replies.ReplyError, match="the new version lacks"):
            replies.check_files(listed, manifest_of, 9)


def test_the_whole_reason_of_a_failed_notebook_is_read() -> None:
    """Kaggle's reasons are tracebacks of many lines."""
    said = 'ann/x has status "KernelWorkerStatus.ERROR"\nFailure message: "Traceback\n  in main\nout of "memory""'
    assert replies.kernel_state(said) == ("failed", 'error: Traceback in main out of "memory"')


def test_no_word_is_no_submission() -> None:
    """An empty answer with exit status 0 must not count as taken."""
    with pytest.raises(replies.ReplyError, match="an empty answer"):
        replies.check_accepted("")


def test_every_secret_of_the_client_is_hidden(tmp_path: Path) -> None:
    """Whichever of its five places it is in; and a line that is rewritten, such as a progress bar, comes at once."""
    files = {".kaggle/access_token": "KGAT_in_a_file\n", "own/kaggle.json": '{"key": "key-of-own"}',
             ".kaggle/credentials.json": '{"username": "ann-of-kaggle", "refresh_token": "refresh-this"}',
             ".config/kaggle/kaggle.json": "{damaged-secret", "token.txt": "KGAT_by_path"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = masking.secrets({"HOME": str(tmp_path), "KAGGLE_KEY": "key-of-environment", "KAGGLE_API_TOKEN":
                             str(tmp_path / "token.txt"), "KAGGLE_CONFIG_DIR": str(tmp_path / "own")})
    assert set(found) == {"key-of-environment", "KGAT_in_a_file", "damaged-secret", "KGAT_by_path", "refresh-this",
                          "key-of-own"}
    assert masking.secrets({"HOME": str(tmp_path / "none"), "KAGGLE_API_TOKEN": "KGAT_itself", "KAGGLE_KEY": "short"}
                           ) == ["KGAT_itself"]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as said, (tmp_path / "out").open("wb") as out:
        said.write(b"1 %\rfor key-of-")
        said.flush()
        thread = threading.Thread(target=masking.mask, args=(source, out, found))
        thread.start()
        until_s = time.monotonic() + 30
        while (tmp_path / "out").read_bytes() != b"1 %\r":
            assert time.monotonic() < until_s
            time.sleep(0.01)
        said.write(b"own: no\n")
        said.close()
        thread.join()
    assert (tmp_path / "out").read_bytes() == b"1 %\rfor (hidden): no\n"


def test_a_submission_is_found_by_its_key() -> None:
    """Among others of the same day, whatever was written around it."""
    text = json.dumps([{"ref": 2, "description": "x [birdkit a v12]", "status": "SubmissionStatus.PENDING"},
                       {"ref": 1, "description": "[birdkit a v1]", "status": "complete", "publicScore": 0.9}])
    found = replies.find_submission(text, "[birdkit a v1]")
    assert found == replies.Submission("1", "[birdkit a v1]", "complete", "0.9")
    assert replies.find_submission("No submissions found", "[birdkit a v1]") is None
    with pytest.raises(replies.ReplyError, match="no JSON in"):
        replies.find_submission("<html>", "[birdkit a v1]")


@pytest.mark.parametrize(("text", "word"), [
    ("row_id,a,b\ns_5,0.1,0.2\n", "1 rows missing"), ("row_id,b,a\ns_5,0,0\ns_10,0,0\n", "column 2 is 'b'"),
    ("row_id,a,b\ns_5,0.1,nan\ns_10,0,0\n", "row s_5 holds 'nan'"), ("row_id,a,b\ns_5,0.1,\ns_10,0,0\n", "holds ''"),
    ("row_id,a,b\ns_5,0.1,1.5\ns_10,0,0\n", "holds '1.5'"), ("row_id,a,b\ns_5,0,0\ns_5,0,0\ns_10,0,0\n", "twice"),
    ("<html>\n", "no table"), ("row_id,a\ns_5,0.1\ns_10,0\n", "2 columns")])
def test_a_submission_that_would_be_refused(tmp_path: Path, text: str, word: str) -> None:
    """Kaggle says no more than "submission error", a day's fifth part later."""
    (tmp_path / "sample.csv").write_text(SAMPLE)
    (tmp_path / "submission.csv").write_text(text)
    with pytest.raises(outputs.OutputError, match=word):
        outputs.check_against_sample(tmp_path / "submission.csv", tmp_path / "sample.csv")


def test_submissions_of_every_year_pass(tmp_path: Path) -> None:
    """Numbers, and the words of the earlier years, in any order of rows."""
    (tmp_path / "sample.csv").write_text(SAMPLE)
    (tmp_path / "submission.csv").write_text("row_id,a,b\ns_10,0,1\ns_5,1e-3,0.25\n")
    assert outputs.check_against_sample(tmp_path / "submission.csv", tmp_path / "sample.csv") == 2
    (tmp_path / "sample.csv").write_text("row_id,birds\ns_5,nocall\n")
    (tmp_path / "submission.csv").write_text("row_id,birds\ns_5,aldfly barswa\n")
    assert outputs.check_against_sample(tmp_path / "submission.csv", tmp_path / "sample.csv") == 1


def test_a_line_per_submission(tmp_path: Path) -> None:
    """A score that came later replaces its line; asking again adds none."""
    path = tmp_path / "submissions.csv"
    assert record.add_line(path, {"ref": "1", "public_score": "", "message": "a, b"})
    assert record.add_line(path, {"ref": "2", "public_score": "0.9"})
    assert not record.add_line(path, {"ref": "2", "public_score": "0.9"})
    assert record.add_line(path, {"ref": "1", "public_score": "0.8", "message": "a, b"})
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and lines[0].split(",") == list(record.COLUMNS) and lines[2].endswith('"a, b"')


def test_state_and_answers_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A commit such as 1234567 or 12345e7 is text and must come back as it went in; a damaged state is said."""
    state = str(tmp_path / "folder" / "state.json")
    assert main(["set", state, "--set", "commit=12345e7", "a=x=y"]) == 0
    assert main(["set", state, "--set", "version=3"]) == 0
    assert main(["get", state, "--key", "commit"]) == 0 and main(["get", state, "--key", "a"]) == 0
    assert capsys.readouterr().out == "12345e7\nx=y\n"
    Path(state).write_text("{")
    assert main(["get", state, "--key", "commit"]) == 1
    assert "remove it and start without --resume" in capsys.readouterr().err
