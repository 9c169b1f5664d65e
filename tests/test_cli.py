"""What the `birdkit` command says, and where."""
from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_rounds import student

import birdkit
from birdkit import cli, experiments, synthesis
from birdkit.commands import making
from birdkit.pipeline import PipelineError
from birdkit.runs import jobs, training


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A competition of 2025's layout with a submission and its truth."""
    (tmp_path / "test_soundscapes").mkdir()
    for stem in ("a", "b", "c"):
        (tmp_path / "test_soundscapes" / f"{stem}.ogg").touch()
    (tmp_path / "train.csv").touch()
    (tmp_path / "taxonomy.csv").write_text("primary_label,class_name\nowl,Aves\nfrog,Amphibia\n")
    rows = pd.Index([f"{stem}_{end_s}" for stem in "abc" for end_s in range(5, 65, 5)], name="row_id")
    random = np.random.default_rng(0)
    truth = pd.DataFrame((random.random((36, 2)) < 0.3).astype(int), index=rows, columns=["owl", "frog"])
    truth.to_csv(tmp_path / "truth.csv")
    (0.3 * truth + 0.7 * random.random((36, 2))).to_csv(tmp_path / "submission.csv")
    (truth * 0 + 0.5).to_csv(tmp_path / "sample_submission.csv")
    return tmp_path


def test_help_answers_without_loading_torch() -> None:
    """Two seconds before every message is what people notice of a command."""
    code = ("import sys; from birdkit import cli\ntry:\n    cli.main(['--help'])\n"
            "except SystemExit:\n    sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'papermill')))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in ("generate", "pipeline", "label", "pack", "train", "compare", "rounds", "score", "check", "models",
                    "report", "ensemble", "effects"):
        assert command in result.stdout


def test_python_m_birdkit_is_the_command() -> None:
    """What torchrun starts, and what runs several trainings at once: there is no `birdkit` on every path."""
    result = subprocess.run([sys.executable, "-m", "birdkit", "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"birdkit {birdkit.__version__}\n"), result.stderr


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The first question of every bug report."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"birdkit {birdkit.__version__}\n"


def test_score_says_metric_value_and_interval_on_stdout(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line can be piped; a figure without its interval invites wrong conclusions."""
    assert cli.main(["score", str(files / "submission.csv"), str(files / "truth.csv"), "--year", "2025"]) == 0
    name, value, low, high = capsys.readouterr().out.split()
    assert name == "macro_roc_auc" and float(low.strip("[,")) <= float(value) <= float(high.strip("]"))


def test_check_accepts_a_good_file_and_refuses_a_bad_one(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is what a script goes by, the message what a person does."""
    arguments = ["check", str(files / "submission.csv"), str(files)]
    assert cli.main(arguments) == 0
    assert "36 windows, 2 classes, probabilities as in 2025, ready" in capsys.readouterr().out
    (files / "submission.csv").write_bytes((files / "sample_submission.csv").read_bytes())
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and "all 36 rows are equal" in said.err and "Traceback" not in said.err


def test_score_says_another_metric_and_the_figures_of_every_class(files: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    """Which birds a model does not know is what a person does something about."""
    arguments = ["score", str(files / "submission.csv"), str(files / "truth.csv"), "--year", "2025"]
    assert cli.main([*arguments, "--metric", "padded_cmap", "--per-class"]) == 0
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("padded_cmap 0.") and head.split() == ["class", "positives", "roc_auc", "average_precision"]
    values = [float(row.split()[2]) for row in rows]
    assert len(rows) == 2 and values == sorted(values)
    assert cli.main([*arguments, "--metric", "row_f1"]) == 1
    assert "decisions must be 0 or 1" in capsys.readouterr().err


def test_check_can_be_told_the_year_and_says_what_is_guessed(files: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    """A file that fits a guess is not yet a file that the host takes."""
    (files / "train.csv").write_text("primary_label,filename\n")
    arguments = ["check", str(files / "submission.csv"), str(files), "--year"]
    assert cli.main([*arguments, "2031"]) == 0
    said = capsys.readouterr().out
    assert "as in 2025" in said and said.endswith("ready to submit if what was guessed is right\n")
    (files / "scored_birds.json").write_text('["owl"]')
    assert cli.main([*arguments, "2022"]) == 1  # 2022 has rows of a bird, and no columns of classes


@pytest.mark.parametrize("year", [2021, 2022])
def test_generate_makes_any_year_and_its_truth_is_a_perfect_submission(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that a person tries: make a competition, check a file, score it."""
    least = {**synthesis.TINY, "n_recordings": 8, "soundscape_s": 10.0, "longest_s": 3.0, "n_train_soundscapes": 1}
    monkeypatch.setattr(synthesis, "TINY", least)
    folder = str(tmp_path / "made")
    assert cli.main(["generate", folder, "--year", str(year), "--tiny"]) == 0
    truth = capsys.readouterr().out.splitlines()[1].removeprefix("its truth: ")
    assert cli.main(["check", truth, folder]) == 0
    assert f"4 windows, {4 if year == 2021 else 2} classes" in capsys.readouterr().out
    assert cli.main(["score", truth, truth, "--year", str(year)]) == 0
    assert capsys.readouterr().out.split()[1] == "1.0000"


def test_generate_makes_as_many_soundscapes_as_are_asked_for(tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    """The more minutes nobody has labelled, the more pseudo-labels can bring."""
    assert cli.main(["generate", str(tmp_path / "made"), "--tiny", "--train-soundscapes", "3"]) == 0
    assert len(list((tmp_path / "made" / "train_soundscapes").glob("*.ogg"))) == 3
    assert cli.main(["generate", str(tmp_path / "more"), "--tiny", "--train-soundscapes", "-1"]) == 1
    assert "n_train_soundscapes = -1 must be from 0 to 4032, one" in capsys.readouterr().err


def test_a_call_detector_gets_what_it_learns_from(monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """A noise that gets lost is a detector that takes rain for a bird; so does its process of its own."""
    seen: list[training.Run] = []
    monkeypatch.setattr(training, "train", lambda run: seen.append(run) or SimpleNamespace(best="call", finished=True))
    asked = ["train", "in", "work", "--recipe", "call_detector", "--split", "2", "--set", "train__epochs=5",
             "--labelled", "ff1010.csv=/data/ff1010", "--noise", "rain=/data/rain", "wind=wind", "--year", "2021"]
    assert cli.main(asked) == 0
    assert seen == [training.Run(Path("in"), Path("work"), "call_detector", split=2, changes={"train__epochs": 5},
                                 noise={"rain": "/data/rain", "wind": "wind"},
                                 labelled={"ff1010.csv": "/data/ff1010"}, year=2021)]
    assert capsys.readouterr().out == "checkpoint: call\n"
    assert cli.main(seen[0].command()[3:]) == 0
    assert seen[1] == seen[0]


def test_a_wrong_year_or_path_is_one_line_on_stderr(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback hides the one thing that is wrong; --debug shows it to who wants it."""
    submission, truth = str(files / "submission.csv"), str(files / "truth.csv")
    assert cli.main(["score", submission, truth, "--year", "1999"]) == 1
    assert "no profile for 1999" in capsys.readouterr().err
    assert cli.main(["score", submission, str(files / "nothing.csv"), "--year", "2025"]) == 1
    assert "nothing.csv" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        cli.main(["--debug", "score", submission, str(files / "nothing.csv"), "--year", "2025"])


def test_pipeline_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the command promises is what the notebooks get."""
    seen = {}

    def record(*folders: Path, **options: object) -> Path:
        seen.update(options, folders=folders)
        return Path("work/submission.csv")

    monkeypatch.setattr(making, "run", record)
    changes = ["--set", "train__epochs=5", "model__backbone=resnet34", "--set", "inference__scales=[1, 2]"]
    assert cli.main(["pipeline", "in", "work", "--recipe", "tiny", "--rounds", "2", "--splits", "0", "3",
                     "--year", "2024", "--ensemble", "mine.toml", *changes, "--set-later", "model__drop_path=0.15",
                     "--set-round", "2", "pseudo__power=1.8"]) == 0
    assert seen == {"folders": (Path("in"), Path("work")), "recipe": "tiny", "rounds": 2, "splits": [0, 3],
                    "every_round": False, "until_no_gain": False, "seed": 0, "year": 2024,
                    "ensemble": Path("mine.toml"), "changes": {
                        "train__epochs": 5, "model__backbone": "resnet34", "inference__scales": [1, 2]},
                    "later": {"model__drop_path": 0.15}, "by_round": {2: {"pseudo__power": 1.8}}}
    assert capsys.readouterr().out == "submission: work/submission.csv\n"


def test_a_failed_notebook_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the executed copy, where the whole story is."""

    def fail(*_: object, **__: object) -> Path:
        raise PipelineError("03_train_fold_round0_split0 failed in cell 7")

    monkeypatch.setattr(making, "run", fail)
    assert cli.main(["pipeline", "in", "work"]) == 1
    assert capsys.readouterr().err == "birdkit: 03_train_fold_round0_split0 failed in cell 7\n"


def test_train_hands_its_options_on_and_says_what_there_is(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A script needs the path of the checkpoint, and must not take an unfinished run for a finished one."""
    seen = []

    def note(run: training.Run) -> SimpleNamespace:
        seen.append(run)
        return SimpleNamespace(best=Path("run/best.safetensors"), finished=len(seen) == 1)

    monkeypatch.setattr(training, "train", note)
    assert cli.main(["train", "in", str(tmp_path), "--recipe", "tiny", "--split", "3", "--set", "train__epochs=5",
                     "--noise", "nocall=/data/ff1010bird"]) == 0
    assert seen == [training.Run(Path("in"), tmp_path, "tiny", split=3, changes={"train__epochs": 5},
                                 noise={"nocall": "/data/ff1010bird"})]
    assert capsys.readouterr().out == "checkpoint: run/best.safetensors\n"
    assert cli.main(["train", "in", str(tmp_path), "--split", "1"]) == 0
    assert capsys.readouterr().out == f"not finished: {tmp_path / 'round0_split1'}; start it again\n"
    with pytest.raises(SystemExit):
        cli.main(["train", "in", "work", "--noise", "nocall"])
    assert "'nocall' is not NAME=DIR" in capsys.readouterr().err


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """`birdkit compare` with a table of two runs and nothing trained: what it was asked, and what it shall find."""
    table = tmp_path / "mixing.toml"
    table.write_text('recipe = "tiny"\nbaseline = "a"\n[runs.a]\n[runs.b]\n')
    found = SimpleNamespace(table=str(table), asked={}, outcomes=())

    def note(table: experiments.Table, *folders: Path, **options: object) -> experiments.Report:
        found.asked = {"seeds": table.seeds, "changes": table.changes, "year": table.year, **options}
        wanted = experiments.trials(table, *folders)
        return experiments.Report(table, None, pd.DataFrame(), tuple(wanted), found.outcomes, tmp_path / "mixing.csv")

    monkeypatch.setattr(experiments, "run_table", note)
    return found


def test_compare_hands_its_options_on(compared: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer seeds, runs and epochs than the table asks for are a first look."""
    levels = [logging.getLogger(name).level for name in ("birdkit", "birdkit.profiles")]
    assert cli.main(["compare", compared.table, "in", "work"]) == 0
    assert compared.asked == {"seeds": (0, 1, 2), "changes": {}, "year": 0, "jobs": 1, "only": [],
                              "truth": None}
    assert [logging.getLogger(name).level for name in ("birdkit", "birdkit.profiles")] == levels
    assert cli.main(["compare", compared.table, "in", "work", "--jobs", "2", "--seeds", "0", "5", "--only", "b",
                     "--year", "2024", "--set", "train__epochs=1", "--truth", "truth.csv"]) == 0
    assert compared.asked == {"seeds": (0, 5), "changes": {"train__epochs": 1}, "year": 2024, "jobs": 2, "only": ["b"],
                              "truth": Path("truth.csv")}
    assert capsys.readouterr().out.splitlines()[-1] == "missing: b/split0_seed5"


def test_compare_says_what_there_is_and_then_what_failed(
        compared: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A failed training must not hide the table of the others, nor end as if nothing had happened."""
    (tmp_path / "train.log").write_text("out of memory\n")
    compared.outcomes = (jobs.Outcome(jobs.Job("b/split0_seed0", [], tmp_path / "train.log"), 1, 2.0),)
    assert cli.main(["compare", compared.table, "in", "work"]) == 1
    said = capsys.readouterr()
    assert "missing: a/split0_seed0" in said.out and "out of memory" in said.err and "Traceback" not in said.err


def test_rounds_of_several_seeds_are_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of a README, and the file and picture beside it."""
    for seed in range(2):
        for number in range(2):
            student(tmp_path / str(seed), number, skill=0.5 + 2 * number, seed=seed)
    assert cli.main(["rounds", str(tmp_path / "0"), str(tmp_path / "1"), "--markdown", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "| 1 |" in said and "+0." in said and said.endswith(f"{tmp_path / 'rounds.png'}\n")
    assert len(pd.read_csv(tmp_path / "rounds.csv")) == 2 and (tmp_path / "rounds.png").stat().st_size > 5000
    assert cli.main(["rounds", str(tmp_path / "none")]) == 1


def test_a_reader_who_leaves_early_is_no_fault(files: Path) -> None:
    """As in `birdkit score ... | head`: nothing is said of it, neither by the command nor by the interpreter."""
    command = [sys.executable, "-c", "import sys, time; from birdkit import cli; time.sleep(0.5); sys.exit(cli.main())",
               "score", str(files / "submission.csv"), str(files / "truth.csv"), "--year", "2025"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141 and "Broken" not in said and "birdkit:" not in said


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who stops a matrix wants to know that it can be gone on with, in the exit status that shells know."""

    def stop(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "run", stop)
    assert cli.main(["pipeline", "in", "work"]) == 130
    assert capsys.readouterr().err == "birdkit: stopped; the same command goes on from here\n"
