"""A submission on disk: there before anything is heard, better every while, complete whatever happens to the run."""
from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, noise, tone
from tiny_teacher import teacher, tiny_run

from birdkit import checkpoint, inference, kaggle, reports, submission
from birdkit.inference import predicting
from birdkit.inference.listening import Listened
from birdkit.runs import submitting
from birdkit.runs.submitting import SubmitRun, Submitted, submit
from birdkit.settings import replace
from birdkit.submission import SubmissionError

CLASSES = ("owl", "frog", "10")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """2025's layout with eight test files of 6 s, and a stub of a sample submission."""
    folder = tmp_path / "competition"
    for name in ("test_soundscapes", "train_soundscapes"):
        (folder / name).mkdir(parents=True)
    for k in range(8):
        sf.write(folder / "test_soundscapes" / f"s{k}.wav", noise(6, seed=k) + tone(1000 + 500 * k, 6), RATE)
    sf.write(folder / "train_soundscapes" / "t0.wav", noise(6, seed=9), RATE)
    (folder / "train.csv").write_text("primary_label\nowl\nowl\nfrog\nowl\n")
    (folder / "taxonomy.csv").write_text("primary_label,class_name\n10,Insecta\nfrog,Amphibia\nowl,Aves\n")
    pd.DataFrame(0.5, index=pd.Index(["stub_5"], name="row_id"), columns=list(CLASSES)).to_csv(
        folder / "sample_submission.csv")
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> SubmitRun:
    """What notebook 04 would ask for, with two checkpoints."""
    for split in range(2):
        (tmp_path / "work" / f"round0_split{split}").mkdir(parents=True)
        teacher(tmp_path / "work" / f"round0_split{split}" / "best.safetensors",
                replace(tiny_run(), inference__backend="torch"), seed=split, classes=CLASSES)
    return SubmitRun(folder, tmp_path / "work")


def rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, index_col="row_id")


def test_it_is_there_before_the_first_model(run: SubmitRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot be loaded, or takes until the limit, must not leave the host without a file."""
    path = Path(run.work_dir) / "submission.csv"

    def look(*_: object) -> None:
        table = rows(path)
        assert table.shape == (96, 3) and list(table.columns) == list(CLASSES)
        assert np.allclose(table, [[0.75, 0.25, 0.0]])  # each class's share of the recordings
        with pytest.raises(SubmissionError, match="all 96 rows are equal"):  # complete, and no more than that
            submission.validate(path, run.competition_dir)
        raise MemoryError("the first model")

    monkeypatch.setattr(submitting, "_load_models", look)
    with pytest.raises(MemoryError):
        submit(run)
    assert len(rows(path)) == 96


def test_where_not_even_a_prior_can_be_made_the_sample_is_there(run: SubmitRun) -> None:
    """A run that breaks before its first line of predictions must not leave the host without a file either."""
    path, sample = Path(run.work_dir) / "submission.csv", Path(run.competition_dir) / "sample_submission.csv"
    sample.write_text(sample.read_text() + "stub_5,0.5,0.5,0.5\n")
    with pytest.raises(SubmissionError, match="1 row ids appear twice"):
        submit(run)
    assert path.read_bytes() == sample.read_bytes()


def test_what_is_written_is_what_was_predicted(run: SubmitRun) -> None:
    """The last writing holds every prediction, and what could not be predicted is filled and said."""
    done = submit(run)
    table = submission.validate(done.written.path, run.competition_dir)
    for k in range(8):
        heard = done.table[done.table["file"].str.endswith(f"s{k}.wav")]
        assert np.allclose(table.loc[[f"s{k}_5", f"s{k}_10"]], heard[list(CLASSES)], atol=1e-6)
    assert set(done.written.filled["reason"]) == {"only 6.0 s long"} and (done.written.filled["rows"] == 10).all()
    assert "nothing was left out" in repr(done) and "6.0 s long instead of 60 s" in done._repr_html_()


def test_it_is_replaced_whole_while_predicting(run: SubmitRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few minutes with what is known by then; who looks in between never sees half a file."""
    seen: list[int] = []
    write = submission.write

    def watched(table: pd.DataFrame, *given: object, **named: object) -> object:
        report = write(table, *given, **named)  # type: ignore[arg-type]
        seen.append(table["file"].nunique())
        assert len(rows(Path(run.work_dir) / "submission.csv")) == 96
        return report

    monkeypatch.setattr(submission, "write", watched)
    monkeypatch.setattr(predicting, "INTERIM_SHARE", 0)  # however long writing takes here
    submit(replace(run, every_s=1e-6))
    assert seen[0] == 8 and seen[1:] == sorted(seen[1:]) and seen[-1] == 8 and len(seen) >= 8


SLOW = """
import sys, time
from pathlib import Path
from birdkit.backends import TorchClassifier
from birdkit.runs.submitting import SubmitRun, submit

classify = TorchClassifier.__call__

def slowly(self, image):
    time.sleep(0.3)
    return classify(self, image)

TorchClassifier.__call__ = slowly
submit(SubmitRun(Path(sys.argv[1]), sys.argv[2], every_s=0.2))
"""


def test_a_killed_run_leaves_a_valid_file(run: SubmitRun) -> None:
    """Kaggle kills what is over its limit: what was known by then must lie there, whole and valid."""
    path, said = Path(run.work_dir) / "submission.csv", Path(run.work_dir) / "said.txt"
    with said.open("w") as stream:
        ran = subprocess.Popen([sys.executable, "-c", SLOW, str(run.competition_dir), str(run.work_dir)],
                               stderr=stream, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        until_s = time.monotonic() + 300
        while not path.exists() or rows(path).nunique().max() < 3:  # until two windows are predicted
            assert ran.poll() is None and time.monotonic() < until_s, said.read_text()
            time.sleep(0.02)
    finally:
        ran.kill()  # SIGKILL, which no program can answer
        ran.wait()
    assert ran.returncode == -signal.SIGKILL
    table = submission.validate(path, run.competition_dir)
    assert len(table) == 96 and len(table.drop_duplicates()) < 17  # killed before the last of sixteen windows


def odd_files(folder: Path) -> dict[str, str]:
    """Awkward files, with a word of what the report must say of each."""
    tests = folder / "test_soundscapes"
    wave = tone(2000, 60) + noise(60)
    sf.write(tests / "whole.wav", wave, RATE)
    sf.write(tests / "stereo.wav", np.stack([wave, wave], 1), RATE)
    sf.write(tests / "slow.wav", wave[::4], RATE // 4)
    sf.write(tests / "silent.wav", 0 * wave, RATE)
    sf.write(tests / "long.wav", np.tile(wave, 2), RATE)
    sf.write(tests / "blink.wav", wave[:600], RATE)
    sf.write(tests / "nan.wav", np.where(np.arange(len(wave)) == 7, np.nan, wave), RATE, subtype="FLOAT")
    (tests / "text.ogg").write_text("not audio")
    (tests / "empty.ogg").touch()
    for name in ("cut.wav", "short.wav"):
        (tests / name).write_bytes((tests / "whole.wav").read_bytes()[:400_000])
    sf.write(tests / "stereo.ogg", np.stack([wave, wave], 1), RATE)
    (tests / "cut.flac").write_bytes(b"fLaC" + bytes(4000))
    (tests / "cut.ogg").write_bytes((tests / "stereo.ogg").read_bytes()[:40_000])
    (tests / "notes.m4a").write_bytes(b"\x00\x00\x00\x20ftypM4A ")
    return {"stereo.ogg": "2 channels", "stereo.wav": "another test file has this name: stereo.ogg",
            "slow.wav": "8000 Hz", "silent.wav": "silence", "long.wav": "120.0 s long",
            "blink.wav": "not predicted", "nan.wav": "NaN", "text.ogg": "text", "empty.ogg": "empty",
            "cut.ogg": "s long instead of", "cut.wav": "another test file has this name: cut.ogg",
            "cut.flac": "another test file has this name: cut.ogg", "short.wav": "6.2 s long",
            "notes.m4a": "does not end in"}


def test_every_odd_file_is_named_and_has_its_rows(run: SubmitRun) -> None:
    """One broken file among seven hundred costs nothing but is known afterwards; whole ones are not accused."""
    expected = odd_files(Path(run.competition_dir))
    done = submit(run)
    said = dict(done.odd.itertuples(index=False))
    assert {name for name, words in expected.items() if words in said.get(name, "")} == set(expected), said
    assert "whole.wav" not in said and set(said) == {*expected, *(f"s{k}.wav" for k in range(8))}
    assert all(name in repr(done) for name in expected)
    table = submission.validate(done.written.path, run.competition_dir)
    stems = {path.stem for path in kaggle.find_test_audio(run.competition_dir)[0]}
    assert set(table.index) == {f"{stem}_{end}" for stem in stems for end in range(5, 65, 5)}


def test_a_saved_version_rehearses_and_a_rerun_without_audio_stops(run: SubmitRun, monkeypatch: pytest.MonkeyPatch,
                                                                   ) -> None:
    """Before it counts the whole way is run on training soundscapes; when it counts nothing is invented."""
    for path in (Path(run.competition_dir) / "test_soundscapes").iterdir():
        path.unlink()
    done = submit(run)
    assert done.written.rehearsal and list(rows(done.written.path).index) == ["stub_5"]
    assert done.table["file"].str.endswith("t0.wav").all()
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    with pytest.raises(kaggle.MissingInputError, match="scored rerun"):
        submit(run)


def test_changes_reach_every_model(run: SubmitRun) -> None:
    """A shift that is asked for in the notebook and lost on the way is a gain that nobody gets."""
    plain, shifted = submit(run).table, submit(replace(run, changes={"clip_shifts_s": (1.0,), "window_shift": 1})).table
    assert np.abs(plain[list(CLASSES)] - shifted[list(CLASSES)]).to_numpy().max() > 1e-4
    with pytest.raises(ValueError, match="clip_shifts_s"):
        submit(replace(run, changes={"clip_shifts_s": (99.0,)}))


def test_what_was_left_out_stands_in_the_report(run: SubmitRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the log after a submission must see from which file on it was made with less."""
    monkeypatch.setattr(kaggle.Deadline, "remaining", lambda self: 1e-3)
    done = submit(run)
    assert "s3.wav on, with 5 left: 1 of 2 predictors" in done.dropped[0] and done.dropped[0] in repr(done)
    assert done.table["file"].nunique() == 8


def overflowing(monkeypatch: pytest.MonkeyPatch, *stems: str) -> None:
    """Models that say of these test files what is no number."""
    listened = inference.Ensemble._apart

    def apart(self: inference.Ensemble, heard: Listened) -> predicting.Apart:
        if Path(heard.name).stem in stems:
            heard.outputs[1].segment_logits[:] = np.nan
        return listened(self, heard)

    monkeypatch.setattr(inference.Ensemble, "_apart", apart)


def test_one_file_in_which_a_model_overflows_costs_its_own_rows(run: SubmitRun, monkeypatch: pytest.MonkeyPatch,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    """An error in the scored rerun is a day's entry; so is nothing said of a model that says nothing."""
    overflowing(monkeypatch, "s2")
    done = submit(run)
    said = dict(done.odd.itertuples(index=False))
    assert "probabilities are not finite, from predictors" in said["s2.wav"] and done.table["file"].nunique() == 7
    table = submission.validate(done.written.path, run.competition_dir)
    assert np.allclose(table.loc[[f"s2_{end}" for end in range(5, 65, 5)]], done.table[list(CLASSES)].mean(), atol=1e-6)
    assert "soundscapes could not be predicted; their rows" not in caplog.text
    overflowing(monkeypatch, *(f"s{k}" for k in range(7)))
    assert submit(run).table["file"].nunique() == 1 and "7 of 8 soundscapes could not be predicted" in caplog.text


def test_rows_that_are_all_equal_are_kept_and_said(run: SubmitRun, caplog: pytest.LogCaptureFixture) -> None:
    """One window among files that cannot be read: a poor file is worth more than none, and `check` still refuses it."""
    tests = Path(run.competition_dir) / "test_soundscapes"
    for k in range(1, 8):
        (tests / f"s{k}.wav").write_text("not audio")
    sf.write(tests / "s0.wav", noise(5), RATE)
    done = submit(run)
    assert len(done.table) == 1 and f"all 96 rows of {done.written.path} are equal" in caplog.text
    with pytest.raises(SubmissionError, match="all 96 rows are equal"):
        submission.validate(done.written.path, run.competition_dir)


def test_call_detectors_are_loaded_for_a_gate_and_as_they_were_trained(run: SubmitRun) -> None:
    """What is done to models of birds does not fit a detector of shorter clips, and one that is not used costs
    nothing."""
    detector = Path(run.work_dir) / "call_split0" / "best.safetensors"
    detector.parent.mkdir()
    detector.write_bytes(b"not a checkpoint")
    plain = submit(replace(run, gate="none", changes={"clip_step_s": 1.5})).table
    assert submit(replace(run, changes={"clip_step_s": 1.5})).table.equals(plain)
    with pytest.raises(checkpoint.CheckpointError, match="call_split0"):
        submit(replace(run, gate="multiply"))
    teacher(detector, replace(tiny_run(clip_s=1.0), inference__backend="torch"), classes=("call",))
    gated = submit(replace(run, gate="multiply", changes={"clip_step_s": 1.5})).table
    assert (gated[list(CLASSES)] < plain[list(CLASSES)]).to_numpy().all()


def test_a_rehearsal_says_how_long_the_scored_run_takes(run: SubmitRun, monkeypatch: pytest.MonkeyPatch,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    """What was tried on a few files must say before it counts that seven hundred of them fit."""
    caplog.set_level("INFO")
    done = submit(run)
    projection = done.projection
    assert projection is not None and projection.n_files == 700 and projection.soundscape_s == 60
    assert [name for name, _ in projection.network_s] == [f"round0_split{k}/best.safetensors" for k in range(2)]
    each_s = sum(seconds for _, seconds in projection.network_s) + projection.other_s
    assert all(seconds > 0 for _, seconds in projection.network_s) and projection.start_s > 0
    assert projection.total_s == pytest.approx(projection.start_s + 700 * each_s)
    assert projection.allowed_s == 81 * 60 and projection.limit_s == 90 * 60
    assert "projected for 700 soundscapes of 60 s, measured on" in repr(done) and repr(projection) in caplog.text
    slow = dataclasses.replace(projection, other_s=60.0)
    assert slow.is_over and "too long" in repr(slow) and not projection.is_over and "too long" not in repr(done)
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    again = submit(run).projection
    assert again is not None and again.n_files == 8


def test_a_table_without_rows_has_a_picture(run: SubmitRun) -> None:
    """An error in the notebook's last cell throws the submission away that lies there complete."""
    done = submit(run)
    assert isinstance(done, Submitted) and reports.soundscape(done.table[:0], root="")._repr_png_()


@pytest.mark.parametrize(("setting", "value"), [("time_share", 0.0), ("time_share", 1.1), ("every_s", 0.0)])
def test_settings_that_cannot_be_meant_are_refused(run: SubmitRun, setting: str, value: float) -> None:
    """A share above one is a submission over the limit."""
    with pytest.raises(ValueError, match=setting):
        replace(run, **{setting: value})


def test_no_time_at_all_leaves_the_prior_and_no_error(run: SubmitRun, caplog: pytest.LogCaptureFixture) -> None:
    """A notebook that fails in its last cell loses a complete file and with it the day's entry."""
    submitted = submit(dataclasses.replace(run, time_share=1e-9))
    assert submitted.table.empty and "nothing was predicted" in caplog.text
    assert np.allclose(rows(submitted.written.path), [[0.75, 0.25, 0.0]])
