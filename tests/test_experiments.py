"""A table of runs from its file to the verdicts: trained once, gone on with, and never compared with something else."""
from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from birdkit import checkpoint, cli, pseudolabel, synthesis
from birdkit.config import RunConfig
from birdkit.experiments import Table, differences, run_table, running
from birdkit.inference import load_predictors, predict
from birdkit.metrics.comparison import Validated, compare
from birdkit.reports import comparison
from birdkit.runs import testing
from birdkit.runs.jobs import Job, Outcome
from birdkit.settings import replace, to_dict
from birdkit.training.run_files import HISTORY

SHORT = {"train__epochs": 1, "data__samples_per_epoch": 8, "train__precision": "f32", "inference__backend": "torch",
         "validation__kind": "composed", "validation__n_soundscapes": 2}
TABLE = Table("trial", "tiny", "as_is", {"as_is": {}, "finer": {"frontend__hop_samples": 500}}, SHORT, seeds=(0, 1))


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "competition"
    return synthesis.generate(folder, **synthesis.TINY, progress=False).competition_dir


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trainings that are started; their commands are run in this process, which saves its start."""
    names: list[str] = []

    def run_here(jobs: Sequence[Job], places: Sequence[Mapping[str, str]], **_: Any) -> list[Outcome]:
        outcomes = []
        for job in jobs:
            assert list(job.command[:3]) == [sys.executable, "-m", "birdkit"]
            names.append(job.name)
            outcomes.append(Outcome(job, cli.main(job.command[3:]), 1.0))
        return outcomes

    monkeypatch.setattr(running, "run_jobs", run_here)
    return names


@pytest.fixture(scope="module")
def finished(competition: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which all of TABLE is done; read it, or copy it."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run_jobs", lambda jobs, places, **_: [
            Outcome(job, cli.main(job.command[3:]), 1.0) for job in jobs])
        report = run_table(TABLE, competition, work)
    assert not report.missing and all(outcome.status == 0 for outcome in report.outcomes)
    return work


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder to change."""
    return Path(shutil.copytree(finished, tmp_path / "work"))


def predictions(work: Path, name: str, seed: int) -> Path:
    return work / "compare" / "trial" / name / f"split0_seed{seed}" / "predictions.npz"


def test_what_a_training_leaves_is_the_validation_of_its_best_checkpoint(finished: Path) -> None:
    """The score of the table is that of the learning curve: the same windows, pooling and post-processing."""
    for name in TABLE.runs:
        for seed in TABLE.seeds:
            path = predictions(finished, name, seed)
            history = pd.read_csv(path.parent / HISTORY)
            one = Validated.read(path)
            assert one.score == pytest.approx(history["score"].max(), abs=1e-6)
            assert one.truth.shape == one.probabilities.shape == (2 * 12, 4) and one.metric == "macro_roc_auc"
            assert one.groups.tolist() == [0] * 12 + [1] * 12
            assert one.origin["config"]["frontend"]["hop_samples"] == (500 if name == "finer" else 1000)


def test_all_runs_of_a_split_are_validated_on_the_same_soundscapes(finished: Path) -> None:
    """Whatever their seed and front end: else their difference would be that of two exams."""
    truths = [Validated.read(predictions(finished, name, seed)).truth for name in TABLE.runs for seed in TABLE.seeds]
    assert all(np.array_equal(truths[0], truth) for truth in truths) and truths[0].any()


def test_the_table_is_the_comparison_of_what_lies_in_the_folders(finished: Path, competition: Path) -> None:
    """What is printed, drawn and saved comes from the same predictions."""
    report = run_table(TABLE, competition, finished, jobs=0)
    by_hand = compare({name: {(0, seed): Validated.read(predictions(finished, name, seed)) for seed in TABLE.seeds}
                       for name in TABLE.runs}, "as_is")
    assert report.comparison == by_hand
    saved = pd.read_csv(finished / "compare" / "trial.csv")
    assert saved["run"].tolist() == ["as_is", "finer"] and saved["verdict"].iloc[0] == "baseline"
    assert saved["score"].tolist() == pytest.approx([row.score.value for row in by_hand.rows])
    assert by_hand.rows[1].difference and saved["difference"].iloc[1] == pytest.approx(by_hand.rows[1].difference.value)
    assert saved["epochs"].tolist() == [1, 1] and (saved["seconds"] > 0).all()
    assert saved["scores"].iloc[0].split() == [f"{score:.4f}" for score in by_hand.rows[0].trainings.values()]


def test_what_is_done_is_not_trained_again(work: Path, competition: Path, started: list[str]) -> None:
    """A matrix takes a night: asking again must cost seconds, and one that is missing that one."""
    assert run_table(TABLE, competition, work).comparison is not None and started == []
    predictions(work, "finer", 0).unlink()
    with pytest.raises(ValueError, match=r"finer/split0_seed0 holds a finished run without predictions.npz; delete"):
        run_table(TABLE, competition, work)
    shutil.rmtree(predictions(work, "finer", 0).parent)
    more = dataclasses.replace(TABLE, runs={**TABLE.runs, "wide": {"data__balance": 0.0}}, seeds=(0,))
    report = run_table(more, competition, work, only=["wide"])
    assert started == ["wide/split0_seed0"] and [str(trial) for trial in report.missing] == ["finer/split0_seed0"]
    assert report.comparison is not None and [row.run for row in report.comparison.rows] == ["as_is", "wide"]
    assert not run_table(TABLE, competition, work).missing
    assert started == ["wide/split0_seed0", "finer/split0_seed0"]


def test_a_table_that_is_not_complete_is_compared_and_says_what_is_missing(work: Path, competition: Path) -> None:
    """A look at it in the morning, while the rest still trains."""
    shutil.rmtree(work / "compare" / "trial" / "finer" / "split0_seed0")
    report = run_table(TABLE, competition, work, jobs=0)
    said = comparison.text(report)
    assert [str(trial) for trial in report.missing] == ["finer/split0_seed0"] and "missing: finer/split0_seed0" in said
    assert report.comparison is not None and report.comparison.rows[1].difference is not None
    shutil.rmtree(work / "compare" / "trial" / "as_is")
    report = run_table(TABLE, competition, work, jobs=0)
    assert "no comparison: as_is has no finished training yet" in comparison.text(report)
    comparison.picture(report)._repr_png_()
    shutil.rmtree(work / "compare")
    empty = run_table(TABLE, competition, work, jobs=0)
    assert empty.comparison is None and len(empty.missing) == 4
    assert comparison.text(empty).count("missing: ") == 4
    with pytest.raises(ValueError, match="no training of trial is done"):
        comparison.picture(empty)


@pytest.mark.parametrize("finished_before", [True, False])
def test_a_folder_with_other_settings_is_refused_by_name(work: Path, competition: Path, started: list[str],
                                                         finished_before: bool) -> None:
    """A result under a name whose settings have changed since is a wrong line in a README."""
    if not finished_before:
        for seed in TABLE.seeds:
            predictions(work, "finer", seed).with_name("state.pt").unlink()
    changed = dataclasses.replace(TABLE, runs={"as_is": {}, "finer": {"frontend__hop_samples": 250}})
    with pytest.raises(ValueError, match=r"finer/split0_seed0 was trained with frontend.hop_samples 500, now 250; del"):
        run_table(changed, competition, work)
    assert started == []


def test_other_pseudo_labels_are_refused(work: Path, competition: Path) -> None:
    """Round 1 with the labels of another teacher is another run, though no setting says so."""
    path = predictions(work, "finer", 0)
    one = Validated.read(path)
    learnt = {**one.origin["learnt"], "pseudo-labels": "another table's"}
    dataclasses.replace(one, origin={**one.origin, "learnt": learnt}).save(path)
    with pytest.raises(ValueError, match="finer/split0_seed0 was trained on other pseudo-labels than there are now"):
        run_table(TABLE, competition, work, jobs=0)


@pytest.mark.parametrize(("run", "message"), [
    ({"train__epoch": 3}, "run 'new': 'train__epoch' is no setting"),
    ({"train__epochs": "3"}, "run 'new': RunConfig.train.epochs must be int"),
    ({"augment__wave": [{"name": "mixdown", "options": {}}]}, "run 'new': no augmentation named 'mixdown'"),
    ({"augment__wave": [{"name": "gain", "options": {"loud": 1}}]}, "run 'new': augmentation 'gain' takes no loud"),
    ({"loss": {"name": "bse", "options": {}}}, "run 'new': no loss named 'bse'"),
    ({"recipe": "huge"}, "no recipe named 'huge'"),
    ({"validation__n_soundscapes": 3}, "validation.n_soundscapes 2, now 3. Such a setting belongs into .changes."),
    ({"frontend__sample_rate_hz": 16000, "frontend__hop_samples": 500, "frontend__fmax_hz": 8000.0},
     "would not be validated on the same soundscapes: frontend.sample_rate_hz"),
])
def test_what_cannot_be_run_or_compared_is_said_before_anything_is_trained(
        competition: Path, tmp_path: Path, started: list[str], run: dict[str, Any], message: str) -> None:
    """The last run of a table begins in the middle of the night."""
    with pytest.raises((ValueError, KeyError), match=message):
        run_table(dataclasses.replace(TABLE, runs={"as_is": {}, "new": run}), competition, tmp_path / "work")
    assert started == [] and not (tmp_path / "work" / "compare").exists()


def test_an_unknown_name_and_a_split_that_is_none_are_refused(work: Path, competition: Path) -> None:
    """Both would train nothing, or validate on nothing."""
    with pytest.raises(ValueError, match="no run named coarser; there is: as_is, finer"):
        run_table(TABLE, competition, work, only=["coarser"])
    with pytest.raises(ValueError, match=r"split = 2 is not one of -1 .. 1"):
        run_table(dataclasses.replace(TABLE, splits=(2,)), competition, work)
    recordings = pd.read_parquet(work / "recordings.parquet")
    recordings.assign(split=recordings["split"].clip(upper=0)).to_parquet(work / "recordings.parquet")
    with pytest.raises(ValueError, match=r"has the splits 0 to 0; table 'trial' is of 2 splits, and asks for \[1\]"):
        run_table(dataclasses.replace(TABLE, splits=(1,)), competition, work)


def test_settings_that_change_no_result_and_those_that_are_new_do_not_count() -> None:
    """A night of trainings is not lost to another number of workers, or to a setting added with its default."""
    config = to_dict(RunConfig())
    moved = to_dict(replace(RunConfig(), name="x", train__workers=7, train__session_s=60.0, train__threads=3))
    assert differences(config, moved) == []
    older = to_dict(RunConfig())
    del older["train"]["schedule"]
    assert differences(older, config) == []
    assert set(differences(older, to_dict(replace(RunConfig(), train__schedule="restarts", seed=3)))) == {
        "train.schedule 'cosine', now 'restarts'", "seed 0, now 3"}
    finer = to_dict(replace(RunConfig(), labelling__stride_s=2.5))
    assert differences(config, finer) == []
    assert differences(config, finer, labels_itself=True) == ["labelling.stride_s None, now 2.5"]


def test_text_and_markdown_say_the_same(finished: Path, competition: Path) -> None:
    """The README's table is the one that was printed, with how sure it is and how many comparisons there were."""
    report = run_table(TABLE, competition, finished, jobs=0)
    assert report.comparison is not None
    plain, marked = comparison.text(report), comparison.text(report, markdown=True)
    row = report.comparison.rows[1]
    assert row.difference is not None and math.isfinite(report.comparison.floor)
    for said in (plain, marked):
        for number in (f"{row.score.value:.4f}", f"{row.difference.value:+.4f}", f"{report.comparison.floor:.4f}",
                       f"[{row.difference.low:+.4f}, {row.difference.high:+.4f}]"):
            assert number in said
        assert "1 comparison with as_is" in said and row.verdict in said and "noise floor" in said
    lines = [line for line in marked.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1


def test_the_picture_shows_every_run_and_the_floor(finished: Path, competition: Path) -> None:
    """A dot for each training, an interval for each difference, a band for what cannot be told apart."""
    report = run_table(TABLE, competition, finished, jobs=0)
    assert report.comparison is not None
    axes = comparison.picture(report).axes[0]
    assert [label.get_text().split()[0] for label in axes.get_yticklabels()] == ["as_is", "finer"]
    row = report.comparison.rows[1]
    assert row.difference is not None
    drawn = [tuple(line.get_xdata()) for line in axes.get_lines()]  # type: ignore[arg-type]
    assert (row.difference.low, row.difference.high) in drawn
    base = report.comparison.rows[0].score.value
    dots = [values for values in drawn if len(values) == 2]
    assert any(values == pytest.approx(tuple(score - base for score in row.trainings.values())) for values in dots)
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-report.comparison.floor, report.comparison.floor))


def test_rounds_go_on_from_their_own_students(work: Path, competition: Path, started: list[str]) -> None:
    """Labelled and trained in order, each once; a round whose teachers are missing waits, and what is done is kept."""
    table = dataclasses.replace(TABLE, runs={"as_is": {}, "half": {"round": 1}}, seeds=(0,), rounds=2,
                                changes={**SHORT, "labelling__out_of_fold": "people"})
    teacher = work / "compare" / "trial" / "as_is" / "split0_seed0" / "best.safetensors"
    hidden = teacher.rename(teacher.with_suffix(".hidden"))
    report = run_table(table, competition, work)
    assert started == [] and [trial.name for trial in report.missing] == ["half_r1", "half_r2"]
    hidden.rename(teacher)
    report = run_table(table, competition, work)
    assert started == ["labels of half_r1/split0_seed0", "half_r1/split0_seed0", "labels of half_r2/split0_seed0",
                       "half_r2/split0_seed0"]
    assert not report.missing and report.comparison is not None
    assert [row.run for row in report.comparison.rows] == ["as_is", "half_r1", "half_r2"]
    tables = [work / "compare" / "trial" / "half_seed0" / f"pseudo_labels_r{round}.parquet" for round in (1, 2)]
    hashes = [pseudolabel.provenance(path)["teachers"][0]["hash"] for path in tables]
    assert hashes[0] == checkpoint.load(teacher).hash != hashes[1]
    started.clear()
    again = run_table(table, competition, work)
    assert repr(again.comparison) == repr(report.comparison) and started == []
    other = dataclasses.replace(table, changes={**table.changes, "labelling__stride_s": 2.5})
    with pytest.raises(ValueError, match=r"half_r1/split0_seed0 was trained with labelling.stride_s .*, now 2.5"):
        run_table(other, competition, work)


def test_runs_are_compared_on_the_test_soundscapes(competition: Path, finished: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """With a truth, the scores are those of each checkpoint's own submission; what was predicted once is kept."""
    work = Path(shutil.copytree(finished, tmp_path / "work"))
    truth_path = synthesis.Generated.beside(competition).truth_path
    report = run_table(TABLE, competition, work, jobs=0, truth=truth_path, progress=False)
    assert report.on_test and report.csv.name == "trial_test.csv" and report.csv.is_file()
    assert report.comparison is not None and [row.run for row in report.comparison.rows] == ["as_is", "finer"]
    assert comparison.text(report).startswith("trial (on the test soundscapes)")
    truth = pd.read_csv(truth_path).set_index("row_id")
    for row in report.comparison.rows:
        for (split, seed), score in row.trainings.items():
            best = work / "compare" / "trial" / row.run / f"split{split}_seed{seed}" / "best.safetensors"
            files = sorted((competition / "test_soundscapes").glob("*.ogg"))
            said = predict(files, load_predictors([best]), window_s=5.0, progress=False).table
            rows = [f"{Path(file).stem}_{end_s:.0f}" for file, end_s in zip(said["file"], said["end_s"], strict=True)]
            heard = truth.loc[rows].any()
            names = heard.index[heard]
            assert score == pytest.approx(roc_auc_score(truth.loc[rows, names], said[names]), abs=1e-9)
    validation = run_table(TABLE, competition, work, jobs=0, progress=False)
    assert not validation.on_test and validation.csv.name == "trial.csv"

    monkeypatch.setattr(testing, "predict", lambda *_, **__: pytest.fail("predicted again"))
    again = run_table(TABLE, competition, work, jobs=0, truth=truth_path, progress=False)
    pd.testing.assert_frame_equal(again.table, report.table)
    short = tmp_path / "truth.csv"
    truth.iloc[:4].to_csv(short)
    with pytest.raises(pytest.fail.Exception, match="predicted again"):
        run_table(TABLE, competition, work, jobs=0, truth=short, progress=False)


def test_a_truth_of_other_rows_is_refused(competition: Path, finished: Path, tmp_path: Path) -> None:
    """A row that nobody predicted would be a score of nothing."""
    truth = pd.read_csv(synthesis.Generated.beside(competition).truth_path).set_index("row_id")
    truth.rename(index={truth.index[0]: "elsewhere_5"}).to_csv(tmp_path / "truth.csv")
    with pytest.raises(ValueError, match=r"truth\.csv: 1 rows were not predicted: elsewhere_5"):
        run_table(TABLE, competition, shutil.copytree(finished, tmp_path / "work"), jobs=0,
                  truth=tmp_path / "truth.csv", progress=False)
