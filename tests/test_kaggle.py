"""Paths and time on Kaggle, on folders that imitate its two mount layouts."""
from __future__ import annotations

import time
from pathlib import Path

import pytest

from birdkit import kaggle
from birdkit.kaggle import MissingInputError, Workspace


@pytest.fixture(autouse=True)
def _not_on_kaggle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def competition(folder: Path) -> Path:
    touch(folder / "sample_submission.csv", folder / "taxonomy.csv")
    return folder


def test_a_laptop_is_not_kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone at home must get files in the current folder, not in /kaggle/working."""
    monkeypatch.chdir(tmp_path)
    assert not kaggle.is_kaggle() and not kaggle.is_rerun() and kaggle.run_type() == ""
    assert kaggle.working_dir() == tmp_path


def test_the_environment_says_editor_saved_version_or_rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the scored rerun has the test files, so it must not be taken for a saved version, nor the other way."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert kaggle.is_kaggle() and kaggle.run_type() == "Batch" and not kaggle.is_rerun()
    assert kaggle.working_dir() == Path("/kaggle/working")
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert kaggle.is_rerun()


@pytest.mark.parametrize("layout", ["birdclef-2025", "competitions/birdclef-2025", "competitions/other", "a/b/other"])
def test_a_competition_is_found_in_every_mount_layout(tmp_path: Path, layout: str) -> None:
    """Kaggle moved its mounts in 2026 without notice; a notebook with a fixed path failed that day."""
    folder = competition(tmp_path / layout)
    touch(tmp_path / "datasets" / "someone" / "wheels" / "birdkit-0.1.0-py3-none-any.whl")
    assert kaggle.find_competition("birdclef-2025", roots=[tmp_path]) == folder


def test_a_path_that_is_given_wins(tmp_path: Path) -> None:
    """Who sets COMPETITION_DIR means it, whatever is mounted; and a typing error in it is not silently replaced."""
    competition(tmp_path / "input" / "birdclef-2025")
    given = competition(tmp_path / "mine")
    assert kaggle.find_competition("birdclef-2025", given=given, roots=[tmp_path / "input"]) == given
    with pytest.raises(MissingInputError, match="nothing-here is not a folder"):
        kaggle.find_competition("birdclef-2025", given=tmp_path / "nothing-here", roots=[tmp_path / "input"])


def test_a_missing_competition_tells_where_it_was_looked_for(tmp_path: Path) -> None:
    """The message is all that a person sees of a failed Kaggle run."""
    with pytest.raises(MissingInputError) as error:
        kaggle.find_competition("birdclef-2025", roots=[tmp_path])
    for place in (tmp_path / "birdclef-2025", tmp_path / "competitions" / "birdclef-2025"):
        assert str(place) in str(error.value)


def test_two_candidates_are_not_guessed_between(tmp_path: Path) -> None:
    """With two competitions attached, training on the wrong one would look like success."""
    competition(tmp_path / "birdclef-2024"), competition(tmp_path / "birdclef-2026")
    with pytest.raises(MissingInputError, match=r"2 folders have them.*birdclef-2024.*birdclef-2026"):
        kaggle.find_competition("birdclef-2025", roots=[tmp_path])


def test_the_search_is_bounded(tmp_path: Path) -> None:
    """/kaggle/input can hold hundreds of thousands of files behind a slow network."""
    competition(tmp_path / "a" / "b" / "c" / "d" / "deep")
    with pytest.raises(MissingInputError):
        kaggle.find_competition("birdclef-2025", roots=[tmp_path])


@pytest.mark.parametrize("layout", ["wheels", "datasets/someone/wheels", "notebooks/someone/wheels"])
def test_a_dataset_is_found_in_every_mount_layout(tmp_path: Path, layout: str) -> None:
    """Wheels and weights come as datasets, checkpoints as the output of another notebook."""
    (tmp_path / layout).mkdir(parents=True)
    assert kaggle.find_dataset("wheels", "someone", roots=[tmp_path]) == tmp_path / layout
    assert kaggle.find_dataset("wheels", roots=[tmp_path]) == tmp_path / layout


def test_datasets_of_one_name_need_their_owner(tmp_path: Path) -> None:
    """Taking the first of two "weights" would submit somebody else's model."""
    for owner in ("ann", "bob"):
        (tmp_path / "datasets" / owner / "weights").mkdir(parents=True)
    with pytest.raises(MissingInputError, match=r"2 inputs are named 'weights'.*ann.*bob"):
        kaggle.find_dataset("weights", roots=[tmp_path])
    assert kaggle.find_dataset("weights", "bob", roots=[tmp_path]).parent.name == "bob"
    with pytest.raises(MissingInputError, match="no dataset or notebook output 'wheels': looked at"):
        kaggle.find_dataset("wheels", roots=[tmp_path])
    with pytest.raises(ValueError, match="without its owner"):
        kaggle.find_dataset("ann/weights", roots=[tmp_path])


def test_the_test_audio_is_found_sorted(tmp_path: Path) -> None:
    """Rows follow the files; other files in the folder are no soundscapes."""
    touch(*(tmp_path / "test_soundscapes" / name for name in ("b.ogg", "a.OGG", "readme.txt")))
    files, rehearsal = kaggle.find_test_audio(tmp_path)
    assert [path.name for path in files] == ["a.OGG", "b.ogg"] and not rehearsal


@pytest.mark.parametrize("folder", kaggle.SOUNDSCAPE_FOLDERS)
def test_a_saved_version_rehearses_on_training_soundscapes(tmp_path: Path, folder: str) -> None:
    """Errors in the scored rerun are opaque: everything must have run once before, on real audio."""
    touch(*(tmp_path / folder / f"{n}.ogg" for n in range(9)), tmp_path / "test_soundscapes" / "readme.txt")
    files, rehearsal = kaggle.find_test_audio(tmp_path, rehearsal_files=2)
    assert [path.name for path in files] == ["0.ogg", "1.ogg"] and rehearsal


def test_a_year_without_soundscapes_rehearses_on_recordings(tmp_path: Path) -> None:
    """2022 and 2023 had none to train on: a version that could not be saved could not be submitted."""
    touch(*(tmp_path / "train_audio" / bird / f"XC{n}.ogg" for bird in ("owl", "finch") for n in range(3)))
    files, rehearsal = kaggle.find_test_audio(tmp_path)
    assert [path.parent.name for path in files] == ["finch", "finch", "finch", "owl"] and rehearsal


def test_a_rerun_without_test_audio_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent rehearsal in the scored run costs one of five submissions and scores 0.5."""
    touch(tmp_path / "train_soundscapes" / "a.ogg")
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    with pytest.raises(MissingInputError, match="scored rerun"):
        kaggle.find_test_audio(tmp_path)


def test_no_audio_at_all_is_an_error(tmp_path: Path) -> None:
    """There is nothing to rehearse with; both folders are named."""
    with pytest.raises(MissingInputError, match=r"test_soundscapes.*train_soundscapes"):
        kaggle.find_test_audio(tmp_path)


def test_what_a_notebook_writes_the_next_one_finds(tmp_path: Path) -> None:
    """At home all four share one folder, which is made if need be."""
    work = Workspace(tmp_path / "new" / "work", roots=[])
    assert work.folder.is_dir()
    touch(work.path("recordings.parquet"), work.path("soundscapes.parquet"), work.pseudo_labels_path(1),
          work.run_dir(0, 1) / "best.safetensors", work.run_dir(0, 0) / "best.safetensors",
          work.run_dir(1, 0) / "last.safetensors")
    assert work.recordings() == work.folder / "recordings.parquet"
    assert work.soundscapes() == work.folder / "soundscapes.parquet"
    assert work.pseudo_labels(1) == work.pseudo_labels_path(1)
    assert work.recording_labels(1) is None and work.recording_labels(0) is None
    touch(work.recording_labels_path(1))
    assert work.recording_labels(1) == work.folder / "recording_labels_r1.parquet"
    assert [path.parent for path in work.checkpoints(0)] == [work.run_dir(0, 0), work.run_dir(0, 1)]
    with pytest.raises(MissingInputError, match=r"round1_split\*/best.safetensors"):
        work.checkpoints(1)


def test_the_teachers_of_a_round_are_the_models_of_the_round_before(tmp_path: Path) -> None:
    """A model must not be its own teacher, and round 0 has none, which is no error."""
    work = Workspace(tmp_path, roots=[])
    touch(work.run_dir(0, 0) / "best.safetensors", work.run_dir(1, 0) / "best.safetensors")
    assert work.teachers(0) == [] and work.pseudo_labels(0) is None
    assert work.teachers(1) == work.checkpoints(0) and work.teachers(2) == work.checkpoints(1)


def test_the_newest_round_comes_first_and_splits_by_their_numbers(tmp_path: Path) -> None:
    """What is last is left out first when time is short, and the first one's settings hold for all: neither may be
    for an old round to say."""
    work = Workspace(tmp_path / "work", roots=[tmp_path / "input"])
    runs = [(2, 0), (2, 2), (2, 10), (1, 0), (1, 1), (10, 0), (0, 0)]
    for round, split in runs:
        touch(work.run_dir(round, split) / "best.safetensors", work.run_dir(round, split) / "openvino_f32/bundle.json")
    wanted = [work.run_dir(*run) for run in runs[:5]]
    assert [path.parent for path in work.checkpoints(2, earlier=1)] == wanted
    assert [path.parent for path in work.checkpoints(2, earlier=1, bundle="openvino_f32")] == wanted
    assert work.checkpoints(2, earlier=9) == [*work.checkpoints(2, earlier=1), work.run_dir(0, 0) / "best.safetensors"]
    attached = [tmp_path / "input" / f"train-{n}" / f"round3_split{n}" / "best.safetensors" for n in (9, 10)]
    touch(*attached)
    assert work.checkpoints(3) == attached


def test_on_kaggle_the_outputs_of_earlier_notebooks_are_found(tmp_path: Path) -> None:
    """There every split is trained by a notebook of its own, and their outputs are mounted apart."""
    roots = [tmp_path / "input"]
    trained = [roots[0] / "notebooks" / "me" / f"train-{n}" / f"round0_split{n}" / "best.safetensors" for n in (0, 1)]
    touch(*trained, roots[0] / "preprocess" / "recordings.parquet")
    work = Workspace(tmp_path / "working", roots=roots)
    assert work.checkpoints(0) == trained
    assert work.recordings() == roots[0] / "preprocess" / "recordings.parquet"


def test_the_work_folder_comes_before_attached_outputs(tmp_path: Path) -> None:
    """A model just trained must not be joined by one attached from last week."""
    touch(tmp_path / "input" / "old" / "round0_split0" / "best.safetensors")
    work = Workspace(tmp_path / "working", roots=[tmp_path / "input"])
    touch(work.run_dir(0, 3) / "best.safetensors")
    assert work.checkpoints(0) == [work.run_dir(0, 3) / "best.safetensors"]


def test_a_packing_is_found_in_the_work_folder_or_an_attached_output(tmp_path: Path) -> None:
    """Notebook 01 packs in one session, notebook 03 reads in another."""
    work = kaggle.Workspace(tmp_path / "work", roots=[tmp_path / "input"])
    assert work.packed() is None
    attached = tmp_path / "input" / "notebooks" / "me" / "preprocess" / "packed"
    for folder in (attached, work.packed_dir()):
        folder.mkdir(parents=True)
        (folder / "packing.json").touch()
        assert work.packed() == folder


def test_call_detectors_are_found_apart_from_the_models_they_gate(tmp_path: Path) -> None:
    """In the ensemble a detector would be a model of one unknown class; where there is none, nothing is gated."""
    roots = [tmp_path / "input"]
    work = Workspace(tmp_path / "working", roots=roots)
    assert work.call_detectors() == []
    attached = roots[0] / "notebooks" / "me" / "call" / "call_split0" / "best.safetensors"
    touch(attached, work.run_dir(0, 0) / "best.safetensors")
    assert work.call_detectors() == [attached] and len(work.checkpoints(0)) == 1
    touch(work.call_dir(1) / "best.safetensors", work.call_dir(2) / "last.safetensors")
    assert work.call_detectors() == [work.call_dir(1) / "best.safetensors"] and len(work.checkpoints(0)) == 1


def test_a_deadline_passes_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission that takes a second too long scores nothing."""
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    deadline = kaggle.Deadline(60)
    now_s = 159.0
    assert deadline.remaining() == 1 and not deadline.exceeded()
    assert repr(deadline) == "0.0 of 1.0 minutes left"
    now_s = 161.0
    assert deadline.remaining() == -1 and deadline.exceeded()
    for budget_s in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="budget_s"):
            kaggle.Deadline(budget_s)
