"""Order, parameters and resuming, on four notebooks of one cell each."""
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import papermill
import pytest
import torch

from birdkit import cli, pipeline, recipes
from birdkit.kaggle import Workspace
from birdkit.pipeline import PipelineError
from birdkit.runs import rounds
from birdkit.settings import replace

NAMES = ("01_preprocess", "02_pseudolabel", "03_train_fold", "04_ensemble_infer")
Calls = list[tuple[str, dict[str, Any]]]
PARAMETERS = "COMPETITION_DIR = WORK_DIR = RECIPE = SUBMISSION = ''\nROUND = FOLD = EARLIER = 0\nCHANGES = {}"


def notebook(path: Path, *sources: str) -> None:
    """A notebook of a parameters cell and the given ones."""
    cells = [{"cell_type": "code", "id": str(n), "metadata": {"tags": [] if n else ["parameters"]}, "outputs": [],
              "execution_count": None, "source": source} for n, source in enumerate((PARAMETERS, *sources))]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": spec, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Four notebooks that do nothing."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in NAMES:
        notebook(folder / f"{name}.ipynb")
    return folder


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What papermill was asked to run, without running it."""
    calls: Calls = []

    def record(source: str, _: str, *, parameters: dict[str, Any], **__: object) -> None:
        calls.append((Path(source).stem[:2], parameters))

    monkeypatch.setattr(papermill, "execute_notebook", record)
    return calls


def test_the_order_is_label_after_train_and_train_after_label() -> None:
    """A round's teachers must be whole before they label, and all labels there before the next round trains."""
    plan = [step.name for step in pipeline.steps("tiny", [0, 1], rounds=2)]
    assert plan == ["01_preprocess", "03_train_fold_round0_split0", "03_train_fold_round0_split1",
                    "02_pseudolabel_round1", "03_train_fold_round1_split0", "03_train_fold_round1_split1",
                    "02_pseudolabel_round2", "03_train_fold_round2_split0", "03_train_fold_round2_split1",
                    "04_ensemble_infer_round2"]


def test_changes_reach_training_and_labelling_and_nothing_else(books: Path, executed: Calls, tmp_path: Path) -> None:
    """A setting tried in one split alone would compare two different ensembles."""
    pipeline.run(tmp_path, tmp_path / "w", recipe="tiny", rounds=1, splits=[0, 1], notebooks=books,
                 changes={"train__epochs": 1})
    changed = [(name, parameters.get("CHANGES")) for name, parameters in executed]
    asked = {"train__epochs": 1}
    assert changed == [("01", None), ("03", asked), ("03", asked), ("02", asked), ("03", asked), ("03", asked),
                       ("04", None)]


def test_students_and_single_rounds_have_settings_of_their_own(books: Path, executed: Calls, tmp_path: Path) -> None:
    """A way to use pseudo-labels does not belong into round 0, and powers differ by round."""
    command = ["pipeline", str(tmp_path), str(tmp_path / "w"), "--recipe", "tiny", "--rounds", "2", "--set",
               "train__epochs=1", "--set-later", "model__drop_path=0.15", "train__batch_size=4", "--set-round", "1",
               "pseudo__power=1.5", "--set-round", "2", "pseudo__power=1.8", "train__batch_size=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "find_notebooks", lambda: books)
        assert cli.main(command) == 0
        changes = [parameters["CHANGES"] for name, parameters in executed if name in ("02", "03")]
        first = {"train__epochs": 1, "model__drop_path": 0.15, "train__batch_size": 4, "pseudo__power": 1.5}
        second = {**first, "pseudo__power": 1.8, "train__batch_size": 2}
        assert changes == [{"train__epochs": 1}, first, first, second, second]
        executed.clear()
        for wrong in (["--set-round", "3", "pseudo__power=1"], ["--set-round", "2", "pseudo__powre=1"],
                      ["--set-round", "pseudo__power=1"], ["--set-round", "1", "pseudo__power"],
                      ["--set-later", "train__epochs=many"], ["--rounds", "0"]):
            assert cli.main([*command, *wrong]) == 1 and not executed


def test_another_seed_is_another_in_every_training(books: Path, executed: Calls, tmp_path: Path) -> None:
    """Three runs whose teachers are the same say nothing of how much teachers differ."""
    pipeline.run(tmp_path, tmp_path / "w", recipe="tiny", rounds=1, splits=[0, 1], notebooks=books, seed=2,
                 changes={"train__epochs": 1})
    seeds = [parameters["CHANGES"].get("seed") for name, parameters in executed if name in ("02", "03")]
    assert seeds == [2000, 2001, None, 2100, 2101]


@pytest.mark.parametrize("changes", [{"train__epoch": 1}, {"trian__epochs": 1}, {"train__epochs": "5"}])
def test_a_change_that_is_none_is_refused_before_anything_runs(
        books: Path, executed: Calls, tmp_path: Path, changes: dict[str, Any]) -> None:
    """A typing error must not cost the audit of 35,000 recordings first."""
    with pytest.raises((ValueError, TypeError), match="epoch"):
        pipeline.run(tmp_path, tmp_path / "w", recipe="tiny", notebooks=books, changes=changes)
    assert not executed


def test_call_detectors_alone_are_refused_before_anything_runs(books: Path, executed: Calls, tmp_path: Path) -> None:
    """Notebook 04 would find no model, after the audit and the training."""
    with pytest.raises(ValueError, match="'call_detector' trains call detectors, of which there is no submission"):
        pipeline.run(tmp_path, tmp_path / "w", recipe="call_detector", notebooks=books)
    assert not executed


def test_rounds_in_which_nobody_may_label_are_refused_before_anything_runs(books: Path, executed: Calls,
                                                                            tmp_path: Path) -> None:
    """Else the second round dies after the first was trained and the soundscapes were labelled."""
    strict = {"labelling__out_of_fold": "all", "labelling__teachers": "all"}
    with pytest.raises(ValueError, match=r"all 5 splits in round 2, but there are those of 2 \(0, 1\)"):
        pipeline.run(tmp_path, tmp_path / "w", recipe="small", rounds=2, notebooks=books, changes=strict)
    with pytest.raises(ValueError, match=r"labelling.teachers = 'same_split' its students learn from all but these"):
        pipeline.run(tmp_path, tmp_path / "w", recipe="small", rounds=2, notebooks=books, splits=range(5),
                     changes={"labelling__out_of_fold": "all"})
    assert not executed
    pipeline.run(tmp_path, tmp_path / "w", recipe="small", rounds=1, notebooks=books, changes=strict)
    pipeline.run(tmp_path, tmp_path / "v", recipe="small", rounds=2, notebooks=books, changes=strict, splits=range(5))


def test_rounds_that_nothing_validates_cannot_end_without_a_gain(books: Path, executed: Calls, tmp_path: Path) -> None:
    """It would be found out after round 1 was trained on everything."""
    with pytest.raises(ValueError, match=r"splits = \[-1\] validate on nothing"):
        pipeline.run(tmp_path, tmp_path / "w", recipe="tiny", splits=[-1], until_no_gain=True, notebooks=books)
    assert not executed


def test_without_rounds_there_is_no_labelling() -> None:
    """The shortest way to a submission."""
    assert [step.notebook[:2] for step in pipeline.steps("tiny", [0], rounds=0)] == ["01", "03", "04"]
    with pytest.raises(ValueError, match="rounds = -1"):
        pipeline.steps("tiny", [0], rounds=-1)
    with pytest.raises(ValueError, match=r"splits = \[\]"):
        pipeline.steps("tiny", [], rounds=0)


def test_every_round_can_be_submitted_to_compare_them() -> None:
    """Whether pseudo-labels helped is a question every person asks; only the last is called submission.csv."""
    plan = pipeline.steps("tiny", [0], rounds=1, every_round=True)
    names = [step.parameters["SUBMISSION"] for step in plan if step.notebook == pipeline.INFER]
    assert names == ["submission_round0.csv", "submission.csv"]


def test_every_step_gets_its_parameters(books: Path, tmp_path: Path, executed: Calls) -> None:
    """Absolute folders, for a kernel runs elsewhere."""
    path = pipeline.run(tmp_path / "in", tmp_path / "work", recipe="tiny", rounds=1, splits=[1], notebooks=books)
    assert path == tmp_path / "work" / "submission.csv"
    assert [name for name, _ in executed] == ["01", "03", "02", "03", "04"]
    folders = {"COMPETITION_DIR": str(tmp_path / "in"), "WORK_DIR": str(tmp_path / "work")}
    assert [parameters for _, parameters in executed] == [
        {**folders, "RECIPE": "tiny"}, {**folders, "RECIPE": "tiny", "ROUND": 0, "FOLD": 1},
        {**folders, "RECIPE": "tiny", "ROUND": 1}, {**folders, "RECIPE": "tiny", "ROUND": 1, "FOLD": 1},
        {**folders, "ROUND": 1, "EARLIER": 0, "SUBMISSION": "submission.csv"}]


def test_a_stated_year_reaches_every_notebook(books: Path, tmp_path: Path, executed: Calls) -> None:
    """Where the files fit two years, one notebook that recognises the other one spoils the run."""
    pipeline.run(tmp_path / "in", tmp_path / "work", recipe="tiny", rounds=1, splits=[0], year=2024, notebooks=books)
    assert len(executed) == 5 and {parameters["COMPETITION_YEAR"] for _, parameters in executed} == {2024}


def test_the_recipe_says_what_to_train_unless_told(books: Path, tmp_path: Path, executed: Calls,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe is the whole run: a figure in the README is reproduced by its name alone."""
    chosen = recipes.Recipe(recipes.get("tiny").config, splits=(0, 1), rounds=0)
    monkeypatch.setattr(recipes, "RECIPES", {"tiny": chosen})
    pipeline.run(tmp_path / "in", tmp_path / "work", recipe="tiny", notebooks=books)
    assert [name for name, _ in executed] == ["01", "03", "03", "04"]


def test_rounds_end_where_one_brings_nothing(books: Path, tmp_path: Path, executed: Calls,
                                             monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Hours for a round that cannot help are saved, what did help is submitted, and a person is told."""
    asked: list[int] = []

    def read(work: Workspace) -> list[SimpleNamespace]:
        trained = {int(path.stem[-8]) for path in (work.folder / "executed").glob("03_train_fold_round?_split?.json")}
        asked.append(max(trained))
        return [SimpleNamespace(number=number, helped=number < 2) for number in sorted(trained)]

    monkeypatch.setattr(rounds, "read_rounds", read)
    run = {"recipe": "tiny", "rounds": 5, "splits": [0, 1], "notebooks": books}
    pipeline.run(tmp_path, tmp_path / "work", until_no_gain=True, **run)
    assert asked == [1, 2]  # after both splits of a round, and not after round 0
    assert [name for name, _ in executed] == ["01", "03", "03", *["02", "03", "03"] * 2, "04"]
    assert (executed[-1][1]["ROUND"], executed[-1][1]["SUBMISSION"]) == (1, "submission.csv")
    assert "no further round: round 1 is submitted" in caplog.text
    executed.clear()
    pipeline.run(tmp_path, tmp_path / "work", until_no_gain=True, **run)
    assert executed == []
    pipeline.run(tmp_path, tmp_path / "work", **run)
    assert [name for name, _ in executed] == ["02", "03", "03"] * 3 + ["04"] and executed[-1][1]["ROUND"] == 5


def test_what_is_done_is_not_done_again(books: Path, tmp_path: Path, executed: Calls) -> None:
    """A session of nine hours that is cut off in the last step must cost the last step."""
    run = {"recipe": "tiny", "splits": [0], "notebooks": books}
    pipeline.run(tmp_path, tmp_path / "work", rounds=0, **run)
    executed.clear()
    pipeline.run(tmp_path, tmp_path / "work", rounds=0, **run)
    assert executed == []
    pipeline.run(tmp_path, tmp_path / "work", rounds=1, **run)
    assert [name for name, _ in executed] == ["02", "03", "04"]


def test_a_change_repeats_what_was_built_on_it(books: Path, tmp_path: Path, executed: Calls,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Old labels under a new model would be a result nobody can explain."""
    run = {"recipe": "tiny", "rounds": 1, "splits": [0], "notebooks": books}
    pipeline.run(tmp_path, tmp_path / "work", **run)
    executed.clear()
    notebook(books / "02_pseudolabel.ipynb", "changed = True")
    pipeline.run(tmp_path, tmp_path / "work", **run)
    assert [name for name, _ in executed] == ["02", "03", "04"]
    executed.clear()
    slower = replace(recipes.get("tiny").config, train__epochs=3)
    monkeypatch.setattr(recipes, "RECIPES", {"tiny": recipes.Recipe(slower)})
    pipeline.run(tmp_path, tmp_path / "work", **run)
    assert [name for name, _ in executed] == ["01", "03", "02", "03", "04"]


def test_a_training_that_was_stopped_is_not_done(books: Path, tmp_path: Path, executed: Calls) -> None:
    """A session's limit saves and ends the notebook without an error: a submission then would be of half a training."""
    run = {"recipe": "tiny", "rounds": 0, "splits": [0], "notebooks": books}
    folder = Workspace(tmp_path / "work").run_dir(0, 0)
    folder.mkdir()
    torch.save({"progress": {"finished": False}}, folder / "state.pt")
    with pytest.raises(PipelineError, match="03_train_fold_round0_split0 stopped before its end"):
        pipeline.run(tmp_path, tmp_path / "work", **run)
    assert [name for name, _ in executed] == ["01", "03"]
    torch.save({"progress": {"finished": True}}, folder / "state.pt")
    pipeline.run(tmp_path, tmp_path / "work", **run)
    assert [name for name, _ in executed] == ["01", "03", "03", "04"]


def test_a_submission_in_between_repeats_nothing(books: Path, tmp_path: Path, executed: Calls) -> None:
    """Asking afterwards for round 0's submission must not train again."""
    run = {"recipe": "tiny", "rounds": 1, "splits": [0], "notebooks": books}
    pipeline.run(tmp_path, tmp_path / "work", **run)
    executed.clear()
    pipeline.run(tmp_path, tmp_path / "work", every_round=True, **run)
    assert [(name, parameters["SUBMISSION"]) for name, parameters in executed] == [("04", "submission_round0.csv")]


@pytest.mark.notebook
def test_a_failing_notebook_stops_the_run_and_goes_on_when_mended(books: Path, tmp_path: Path) -> None:
    """With real kernels: the message tells cell and copy, and a second try runs the failed step alone."""
    work = tmp_path / "work"
    notebook(books / "01_preprocess.ipynb", "open('trace', 'a').write('1')")
    notebook(books / "03_train_fold.ipynb", "open('ready')", "open('trace', 'a').write('3')")
    run = {"recipe": "tiny", "rounds": 0, "splits": [0], "notebooks": books}
    with pytest.raises(PipelineError, match=r"03_train_fold_round0_split0 failed .*'ready'.*executed"):
        pipeline.run(tmp_path, work, **run)
    assert (work / "executed" / "03_train_fold_round0_split0.ipynb").is_file()
    (work / "ready").touch()
    pipeline.run(tmp_path, work, **run)
    assert (work / "trace").read_text() == "13"
    cells = json.loads((work / "executed" / "01_preprocess.ipynb").read_text())["cells"]
    assert "injected-parameters" in cells[1]["metadata"]["tags"] and str(work) in "".join(cells[1]["source"])


def test_the_notebooks_of_the_checkout_are_found() -> None:
    """Without being told where."""
    assert {path.stem for path in pipeline.find_notebooks().glob("*.ipynb")} >= set(NAMES)


def test_earlier_rounds_join_the_ensemble_but_not_more_than_there_are() -> None:
    """A recipe may average its rounds; the submission after round 0 can have no earlier one."""
    plan = pipeline.steps("tiny", [0], rounds=2, every_round=True, earlier=1)
    assert [step.parameters["EARLIER"] for step in plan if step.notebook == pipeline.INFER] == [0, 1, 1]


def test_self_distillation_without_teachers_for_its_recordings_never_begins(tmp_path: Path, books: Path,
                                                                            executed: Calls) -> None:
    """A recording is labelled by the model of its own split: with one split trained, by none."""
    settings: dict[str, Any] = {"recipe": "tiny", "rounds": 1, "notebooks": books,
                                "changes": {"distil__self_share": 0.7}}
    with pytest.raises(ValueError, match=r"of the 1 parts .* will label 0: .* 1 of 2 splits .*Train all splits"):
        pipeline.run(tmp_path, tmp_path / "work", **settings)
    assert not executed
    pipeline.run(tmp_path, tmp_path / "work", splits=[0, 1], **settings)
    assert [name for name, _ in executed] == ["01", "03", "03", "02", "03", "03", "04"]
