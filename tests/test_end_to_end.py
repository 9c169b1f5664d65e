"""The whole way on a tiny generated competition: the notebooks as a user runs them, to a score and a page."""
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from birdkit import checkpoint, pipeline, pseudolabel, reports, submission, synthesis
from birdkit.profiles import read_classes

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[synthesis.Generated, Path]:
    """A generated competition, and the work folder after 01, 03, 02, 03 and 04; by the command that a person types."""
    folder = tmp_path_factory.mktemp("whole")
    generated = synthesis.generate(folder / "competition", **synthesis.TINY, progress=False)
    command = ["pipeline", str(generated.competition_dir), str(folder / "work"), "--recipe", "tiny"]
    done = subprocess.run([sys.executable, "-m", "birdkit.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"submission: {folder / 'work' / 'submission.csv'}\n"
    return generated, folder / "work"


def test_the_submission_is_valid_and_scored(finished) -> None:
    """Rows, columns, range: what the host checks; and the metric is a number."""
    generated, work = finished
    table = submission.validate(work / "submission.csv", generated.competition_dir)
    assert len(table) == 2 * 4
    assert 0 <= submission.score(work / "submission.csv", generated.truth_path, 2025) <= 1


def test_each_round_left_its_checkpoint_and_its_labels(finished) -> None:
    """Provenance from end to end: the student's checkpoint, the table it learnt from, the teacher of that table."""
    generated, work = finished
    classes = read_classes(generated.competition_dir)
    teacher = checkpoint.load(work / "round0_split0" / "best.safetensors")
    student = checkpoint.load(work / "round1_split0" / "best.safetensors")
    assert teacher.classes == student.classes == classes
    labels = pseudolabel.read(work / "pseudo_labels_r1.parquet", classes=classes, expected_round=1)
    soundscapes = pd.read_parquet(work / "soundscapes.parquet")
    assert set(labels["file"]) == set(soundscapes["file"])
    assert teacher.seen.isdisjoint(soundscapes["file"])
    used = soundscapes.loc[soundscapes["split"] != 0, "file"]
    assert student.seen & set(soundscapes["file"]) == set(used)


def test_the_notebooks_show_pictures_and_no_errors(finished) -> None:
    """What a person sees in the executed copies."""
    for path in sorted((finished[1] / "executed").glob("*.ipynb")):
        outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs), path.name
        assert not any(output["output_type"] == "error" for output in outputs), path.name


def test_the_page_says_that_the_audio_is_generated_and_holds_the_scores(finished) -> None:
    """Nobody should take a synthetic score for a real one."""
    generated, work = finished
    page = reports.page(generated.competition_dir, work, truth=generated.truth_path).read_text(encoding="utf-8")
    assert "Generated audio" in page and "chance" in page and page.count("data:image/png") >= 4
    assert "<h2>Rounds</h2>" in page and 'href="pseudo_labels_r1.html"' in page
    assert len(pd.read_csv(work / "rounds.csv")) == 2 and (work / "pseudo_labels_r1.html").is_file()
    assert "http" not in page.replace("http-equiv", "")


def test_a_finished_pipeline_does_nothing_again(finished, monkeypatch) -> None:
    """Started again, it goes on where it was: at the end."""
    import papermill

    generated, work = finished
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("a step ran again"))
    assert pipeline.run(generated.competition_dir, work, recipe="tiny") == work / "submission.csv"
