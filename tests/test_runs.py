"""Runs of notebook 03: the same here and in a process of their own, one or several, in one session or in two."""
from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from birdkit import checkpoint, cli, kaggle, preprocess, synthesis
from birdkit import training as learning
from birdkit.metrics.comparison import Validated
from birdkit.runs import training
from birdkit.runs.jobs import Job, JobsError, Outcome
from birdkit.runs.training import Run, places, train, train_splits

SHORT = {"train__epochs": 2, "data__samples_per_epoch": 8, "train__precision": "f32", "inference__backend": "torch"}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A competition and a work folder as notebook 01 leaves it."""
    folder = tmp_path_factory.mktemp("audited")
    competition = synthesis.generate(folder / "competition", **synthesis.TINY, progress=False).competition_dir
    preprocess.audit(competition, folder / "work", n_splits=2)
    return competition, folder / "work"


@pytest.fixture
def run(audited: tuple[Path, Path], tmp_path: Path) -> Run:
    """A run of seconds in a work folder of its own."""
    for path in audited[1].glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return Run(audited[0], tmp_path, "tiny", changes=SHORT)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that processes would be started with; each is run in this one."""
    seen: list[tuple[str, ...]] = []

    def run_here(jobs: Sequence[Job], places: Sequence[Mapping[str, str]], **_: Any) -> list[Outcome]:
        seen.extend(tuple(job.command[3:]) for job in jobs)
        for job in jobs:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.write_text("the reason\n")
        return [Outcome(job, cli.main(job.command[3:]), 1.0) for job in jobs]

    monkeypatch.setattr(training, "run_jobs", run_here)
    return seen


def test_a_command_says_the_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A setting that is lost on the way to another process is a run that nobody asked for."""
    seen: list[Run] = []

    def note(run: Run) -> Any:
        seen.append(run)
        raise ValueError("enough")

    monkeypatch.setattr(training, "train", note)
    changes = {"augment__wave": [{"name": "gain", "options": {"max_db": 6.0}}], "model__backbone": "5", "seed": 3,
               "data__collection_weights": {"iNat": 0.5}, "pseudo__hard": None, "train__compile": True}
    full = Run(tmp_path / "in", tmp_path / "work", "small", 1, 2, changes, {"no call": "/x=y"}, tmp_path / "out",
               tmp_path / "labels.parquet", "/earlier", 1234.5)
    for one in (full, Run(tmp_path, tmp_path, "tiny", split=-1)):
        assert cli.main(one.command()[3:]) == 1
        assert seen.pop() == one


def test_a_packed_competition_trains_without_its_recordings(run: Run, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    """What `birdkit pack` writes is what is read: else a day of packing changes nothing."""
    competition = shutil.copytree(run.competition_dir, tmp_path / "copy")
    packing = ["pack", str(competition), str(run.work_dir), "--recipe", "tiny"]
    assert cli.main([*packing, "--limit-gib", "0.0001"]) == 1 and not kaggle.Workspace(run.work_dir).packed()
    assert cli.main([*packing, "--estimate"]) == 0 and not kaggle.Workspace(run.work_dir).packed()
    assert cli.main([*packing, "--format", "int16"]) == 0
    assert f"in {kaggle.Workspace(run.work_dir).packed()}" in capsys.readouterr().out
    shutil.rmtree(competition / "train_audio")
    assert train(dataclasses.replace(run, competition_dir=competition), progress=False).finished


def test_packed_soundscapes_are_mixed_in_without_their_files(run: Run, tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    """Each example may have one under it: with the recordings alone packed, decoding still is what one waits for."""
    competition = shutil.copytree(run.competition_dir, tmp_path / "copy")
    packing = ["pack", str(competition), str(run.work_dir), "--recipe", "tiny", "--format", "int16", "--soundscapes"]
    assert cli.main([*packing, "--seconds", "2"]) == 1 and not kaggle.Workspace(run.work_dir).packed()
    assert cli.main(packing) == 0
    tables = [pd.read_parquet(run.work_dir / f"{name}.parquet") for name in ("recordings", "soundscapes")]
    said = capsys.readouterr().out
    assert f"{len(tables[0])} recordings: " in said and f"{len(tables[1])} soundscapes: " in said
    assert f"packed: {sum(map(len, tables))} files in" in said
    for folder in ("train_audio", "train_soundscapes"):
        shutil.rmtree(competition / folder)
    assert train(dataclasses.replace(run, competition_dir=competition), progress=False).finished


def test_a_run_here_and_one_in_a_process_are_the_same(run: Run, commands: list[tuple[str, ...]]) -> None:
    """FOLD = 0 and FOLD = [0] are two ways to ask for one thing."""
    best = run.folder / "best.safetensors"
    here = train_splits(run, 0, progress=False)[0]
    first = checkpoint.file_hash(best)
    shutil.rmtree(run.folder)
    there = train_splits(run, [0], progress=False)[0]
    assert len(commands) == 1 and first == checkpoint.file_hash(best)
    assert there["score"].tolist() == pytest.approx(here["score"].tolist()) and len(there) == 2


def test_several_splits_each_have_their_folder_and_history(run: Run, commands: list[tuple[str, ...]]) -> None:
    """Both cards train; the notebook shows both curves."""
    histories = train_splits(run, [1, 0], progress=False)
    assert [command[command.index("--split") + 1] for command in commands] == ["1", "0"]
    for split, history in zip((1, 0), histories, strict=True):
        folder = kaggle.Workspace(run.work_dir).run_dir(0, split)
        assert checkpoint.read_info(folder / "best.safetensors")["config"]["split"] == split
        pd.testing.assert_frame_equal(history, pd.read_csv(folder / "history.csv"))


def test_one_that_fails_is_an_error_after_the_others(run: Run, commands: list[tuple[str, ...]]) -> None:
    """A notebook that ends green with one of two models missing makes a worse submission and says nothing."""
    with pytest.raises(JobsError, match=r"(?s)1 of 2 failed.*split 7.*the reason"):
        train_splits(run, [7, 0], progress=False)
    assert (kaggle.Workspace(run.work_dir).run_dir(0, 0) / "best.safetensors").is_file()


def test_a_session_ends_in_time_and_the_next_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twelve hours on Kaggle: stopped in time, attached to the next session, and gone on with."""
    limits: list[float] = []
    real = learning.fit

    def note(config: Any, *arguments: Any, **options: Any) -> Any:
        limits.append(config.train.session_s)
        return real(config, *arguments, **options)

    monkeypatch.setattr(learning, "fit", note)
    train_splits(run, 0, session_h=0.5, progress=False)
    assert 1700 < limits[0] <= 1800
    with pytest.raises(TimeoutError, match=r"split 0: the session's time was over 1. s before"):
        train(dataclasses.replace(run, ends_s=time.time() - 10.0), progress=False)
    following = dataclasses.replace(run, work_dir=tmp_path / "next", resume_from=tmp_path)
    (tmp_path / "next").mkdir()
    for path in tmp_path.glob("*.parquet"):
        (tmp_path / "next" / path.name).write_bytes(path.read_bytes())
    result = train(following, progress=False)
    assert result.finished and limits[1:] == [0.0]
    assert pd.read_csv(following.folder / "history.csv").equals(pd.read_csv(run.folder / "history.csv"))


@pytest.mark.parametrize(("kind", "session_h", "limit_h"), [
    ("", None, 0.0), ("Batch", None, 11.5), ("Interactive", None, 11.5), ("Batch", 0, 0.0), ("Batch", 3.0, 3.0)])
def test_a_session_on_kaggle_has_a_limit_that_nobody_need_know(run: Run, monkeypatch: pytest.MonkeyPatch, kind: str,
                                                               session_h: float | None, limit_h: float) -> None:
    """A run that Kaggle ends after twelve hours leaves nothing; elsewhere nothing ends it."""
    seen: list[Run] = []
    done = training.training.FitResult(Path(), Path(), None, pd.DataFrame(), True)
    monkeypatch.setattr(training, "train", lambda one, **_: seen.append(one) or done)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", kind)
    train_splits(run, 0, session_h=session_h, progress=False)
    assert seen[0].ends_s == (pytest.approx(time.time() + 3600 * limit_h, abs=60.0) if limit_h else 0.0)


def test_where_an_earlier_session_left_a_run(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The attached output as a whole, or the run's own folder; a split that had not begun begins."""
    assert run.earlier() is None
    (tmp_path / "attached" / "round0_split0").mkdir(parents=True)
    resumed = dataclasses.replace(run, resume_from=str(tmp_path / "attached"))
    assert resumed.earlier() == tmp_path / "attached" / "round0_split0"
    assert dataclasses.replace(run, resume_from=resumed.earlier() or "").earlier() == resumed.earlier()
    assert dataclasses.replace(resumed, split=1).earlier() is None
    assert "attached holds no round0_split1: it begins anew" in caplog.text
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(dataclasses.replace(run, resume_from=tmp_path / "nowhere"), progress=False)


def test_the_best_checkpoint_leaves_what_it_says_of_the_validation(run: Run) -> None:
    """Rounds and runs are compared by it; of another epoch's it would be another model's score."""
    run = dataclasses.replace(run, changes={"train__epochs": 3, "train__peak_lr": 0.05})
    done = train(run, progress=False)
    left = Validated.read(run.folder / "predictions.npz")
    assert left.score == pytest.approx(done.history["score"].max(), abs=1e-9)
    assert left.origin["config"] == checkpoint.read_info(done.best)["config"]
    assert left.origin["learnt"]["pseudo-labels"] == left.origin["learnt"]["teacher"] == ""
    everything = dataclasses.replace(run, split=-1)
    train(everything, progress=False)
    assert not (everything.folder / "predictions.npz").exists()


def test_a_folder_of_noise_reaches_the_recipe(run: Run) -> None:
    """It is checked there; a name that the recipe does not know would otherwise train without a sound of it."""
    with pytest.raises(ValueError, match="folders are given for rain"):
        dataclasses.replace(run, noise={"rain": "/rain"}).config()


def test_runs_at_once_share_the_workers_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Kaggle's four cores two runs of four workers each decode more slowly than two of two."""
    asked: list[Sequence[str]] = []

    def note(jobs: Sequence[Job], places: Sequence[Mapping[str, str]], **_: Any) -> list[Outcome]:
        asked.extend(job.command for job in jobs)
        return [Outcome(job, 0, 1.0) for job in jobs]

    monkeypatch.setattr(training, "run_jobs", note)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for workers, expected in ((4, 2), (1, 1), (0, 0)):
        train_splits(dataclasses.replace(run, changes={"train__workers": workers}), [0, 1], progress=False)
        assert all(f"train__workers={expected}" in asked.pop() for _ in range(2))
    t4 = Run(run.competition_dir, run.work_dir, "t4")
    assert t4.sharing(1) is t4 and t4.sharing(2).changes == {"train__workers": 2}


def test_places_are_cards_or_shares_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of two threads on two cores are ten times slower than one; two on one card may not fit."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    quiet = {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "0"}
    assert places(1) == [{}] and places(2) == [quiet, quiet]
    assert [place["OMP_NUM_THREADS"] for place in places(8)] == ["1"] * 8
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(2)] == ["3", "5"]
