"""Notebook 02 and `birdkit label` on the files of a tiny generated competition."""
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_teacher import teacher

from birdkit import checkpoint, cli, preprocess, profiles, recipes, synthesis
from birdkit.kaggle import MissingInputError, Workspace
from birdkit.pseudolabel import PseudoLabelError, label, provenance, read
from birdkit.runs import labelling
from birdkit.runs.labelling import LabelRun, label_round
from birdkit.runs.training import Run, train
from birdkit.settings import replace

pytestmark = [pytest.mark.filterwarnings("ignore:Empty filters"),
              pytest.mark.filterwarnings("error:constrained_layout")]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A competition and a work folder with notebook 01's tables and the teachers of two splits and rounds."""
    folder = tmp_path_factory.mktemp("labels")
    competition = synthesis.generate(folder / "competition", **synthesis.TINY, progress=False).competition_dir
    work = Workspace(folder / "work", roots=[])
    preprocess.audit(competition, work.folder, n_splits=2, near_duplicates=False)
    recordings, classes = pd.read_parquet(work.recordings()), profiles.read_classes(competition)
    for round, split in ((0, 0), (0, 1), (1, 0), (1, 1)):
        config = replace(recipes.get("tiny").run(round, split), inference__backend="torch")
        trained = recordings[recordings["split"] != split]
        teacher(work.run_dir(round, split) / "best.safetensors", config, seed=10 * round + split, classes=classes,
                seen=trained["file"].tolist(), content=trained["content"].tolist())
    return competition, work.folder


def test_recordings_are_labelled_by_teachers_that_were_not_trained_on_them(places: tuple[Path, Path]) -> None:
    """A teacher repeats the labels that it was told: self-distillation would learn nothing but these."""
    competition, work = places
    done = label_round(LabelRun(competition, work, "tiny", 1, changes={"labelling__recordings": True}, device="cpu"),
                       progress=False)
    space, recordings = Workspace(work, roots=[]), pd.read_parquet(work / "recordings.parquet")
    classes = profiles.read_classes(competition)
    assert done.recording_labels == space.recording_labels_path(1) == space.recording_labels(1)
    rows = read(done.recording_labels, classes=classes, expected_round=1)
    for split in (0, 1):
        held_out = recordings.loc[recordings["split"] == split, "file"].tolist()
        alone = label(held_out, [space.run_dir(0, split) / "best.safetensors"], path=work / "alone.parquet", round=1,
                      root=competition, device="cpu", progress=False, classes=classes)
        pd.testing.assert_frame_equal(rows[rows["file"].isin(held_out)].reset_index(drop=True), alone)
    assert set(rows["file"]) == set(recordings.loc[recordings["split"] >= 0, "file"])
    assert [group["teachers"] for group in provenance(done.table)["labelled_by"]] == [[0, 1]]


def test_the_page_says_what_there_is_to_know(places: tuple[Path, Path]) -> None:
    """In round 2 with the change since round 1, each picture inside the page, and that the audio is generated."""
    competition, work = places
    for round in (1, 2):
        done = label_round(LabelRun(competition, work, "tiny", round, device="cpu"), progress=False)
    page = done.page.read_text(encoding="utf-8")
    assert done.page == work / "pseudo_labels_r2.html" and done.recording_labels is None
    assert "No file was labelled by two teachers" not in page
    assert "Generated audio" in page and "Pseudo-labels for round 2" in page and "files with a label" in page
    for title in ("How sure the teachers are", "What they hear", "The surest windows", "windows of a file differ",
                  "How far the teachers agree", "What has changed since the last round"):
        assert title in page
    assert page.count("data:image/png") == len(done.pictures) == 6 and "http" not in page
    assert done.trust.change is not None and done.trust.change.windows == done.trust.windows == 8


def test_the_round_before_is_found_in_an_attached_output(places: tuple[Path, Path], tmp_path: Path) -> None:
    """On Kaggle each round's notebook 02 writes into a folder of its own."""
    competition, work = places
    (tmp_path / "input" / "labels-of-round-1").mkdir(parents=True)
    space = Workspace(tmp_path / "working", roots=[tmp_path / "input"])
    run = LabelRun(competition, space.folder, "tiny", 2)
    assert labelling._previous(space, run) is None
    attached = tmp_path / "input" / "labels-of-round-1" / "pseudo_labels_r1.parquet"
    attached.touch()
    assert labelling._previous(space, run) == attached
    assert labelling._previous(space, dataclasses.replace(run, root=work)) is None  # other audio
    assert labelling._previous(space, dataclasses.replace(run, round=1)) is None


def test_ones_own_soundscapes_are_labelled_by_the_command(places: tuple[Path, Path], tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    """Years of recorders' cards in folders of their own, by named teachers, without a table of anything."""
    competition, work = places
    files = sorted((competition / "train_soundscapes").glob("*.ogg"))
    (tmp_path / "own" / "2024").mkdir(parents=True)
    (tmp_path / "own" / "2024" / "night.OGG").write_bytes(files[0].read_bytes())
    (tmp_path / "own" / "notes.txt").write_text("cloudy")
    arguments = ["label", str(competition), str(tmp_path / "empty"), "--round", "1", "--recipe", "tiny", "--device",
                 "cpu", "--teachers", str(work / "round0_split1" / "best.safetensors"), "--root", str(tmp_path / "own"),
                 "--set", "labelling__stride_s=2.5", "--out", str(tmp_path / "out.parquet")]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"labels: {tmp_path / 'out.parquet'}\npage: {tmp_path / 'out.html'}\n"
    rows = read(tmp_path / "out.parquet", expected_round=1)
    assert set(rows["file"]) == {"2024/night.OGG"} and np.diff(rows["start_s"]).tolist() == [2.5] * (len(rows) - 1)
    assert cli.main([*arguments[:-4], "--files", "gone.ogg", "--out", str(tmp_path / "b.parquet")]) == 1
    assert "none of 1 soundscapes could be labelled" in capsys.readouterr().err


def test_a_copy_of_a_recording_among_ones_own_audio_is_known(places: tuple[Path, Path], tmp_path: Path) -> None:
    """Both teachers' recordings under new names: each is labelled by the one that has not heard it."""
    competition, work = places
    recordings = pd.read_parquet(work / "recordings.parquet")
    chosen = [recordings.loc[recordings["split"] == split, "file"].iloc[0] for split in (0, 1)]
    for split, file in enumerate(chosen):
        (tmp_path / f"{split}.ogg").write_bytes((competition / file).read_bytes())
    done = label_round(LabelRun(competition, work, "tiny", 1, root=tmp_path, device="cpu"), progress=False)
    assert provenance(done.table)["labelled_by"] == [{"teachers": [0], "files": 1}, {"teachers": [1], "files": 1}]
    assert "No file was labelled by two teachers" in done.page.read_text(encoding="utf-8")


def test_round_0_has_no_teachers_and_says_so(places: tuple[Path, Path]) -> None:
    """The notebook runs in every round."""
    done = label_round(LabelRun(*places, "tiny", 0, device="cpu"), progress=False)
    assert done.trust.windows == 0 and list(done.pictures) == ["No labels"]
    assert "There are no teachers yet" in done.page.read_text(encoding="utf-8")


def test_what_is_missing_or_no_setting_is_said_early(places: tuple[Path, Path], tmp_path: Path) -> None:
    """Before a checkpoint is loaded."""
    competition, work = places
    with pytest.raises(ValueError, match="labelling__strides"):
        label_round(LabelRun(competition, work, "tiny", 1, changes={"labelling__strides": 1}))
    with pytest.raises(MissingInputError, match=r"soundscapes\.parquet"):
        label_round(LabelRun(competition, tmp_path, "tiny", 1, teachers=[work / "round0_split0/best.safetensors"]))
    with pytest.raises(MissingInputError, match="no audio"):
        label_round(LabelRun(competition, work, "tiny", 1, root=tmp_path))
    with pytest.raises(PseudoLabelError, match="of round 1"):
        label_round(LabelRun(competition, work, "tiny", 1, teachers=[work / "round1_split0/best.safetensors"],
                             device="cpu"), progress=False)


def test_one_split_alone_goes_through_its_rounds(places: tuple[Path, Path], tmp_path: Path) -> None:
    """Trained for real: the student of round 1 knows the other split's soundscapes, and labels them for round 2 again.

    In the strict mode the labelling says at once what is missing."""
    competition, work = places
    for name in ("recordings", "soundscapes"):
        (tmp_path / f"{name}.parquet").write_bytes((work / f"{name}.parquet").read_bytes())
    soundscapes = pd.read_parquet(work / "soundscapes.parquet")
    short = {"train__epochs": 1, "data__samples_per_epoch": 8, "inference__backend": "torch"}
    for number in range(3):
        if number:
            done = label_round(LabelRun(competition, tmp_path, "tiny", number, changes=short, device="cpu"),
                               progress=False)
            assert set(read(done.table)["file"]) == set(soundscapes["file"])
        result = train(Run(competition, tmp_path, "tiny", number, changes=short), progress=False)
    used = set(soundscapes.loc[soundscapes["split"] != 0, "file"])
    assert used and used == checkpoint.load(result.best).seen & set(soundscapes["file"])
    strict = {"labelling__out_of_fold": "all", "labelling__teachers": "all"}
    with pytest.raises(ValueError, match=r"all 2 splits in round 3, but there are those of 1 \(0\).*\(1\)"):
        label_round(LabelRun(competition, tmp_path, "tiny", 3, changes=strict))


def test_the_recipe_says_how_to_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe is the whole run, with its later rounds, and a change wins."""
    chosen = recipes.Recipe(recipes.get("tiny").config, later={"labelling__mean": "logits"})
    monkeypatch.setattr(recipes, "RECIPES", {"x": chosen})
    run = LabelRun(Path(), Path(), "x", 1, changes={"labelling__floor": 0.1})
    assert (run.config().mean, run.config().floor) == ("logits", 0.1)
    assert labelling.LabelRun(Path(), Path(), "x", 0).config().mean == "probabilities"


def test_a_student_can_learn_from_other_backbones_alone(places: tuple[Path, Path], tmp_path: Path) -> None:
    """A network that learns from its own kind repeats its mistakes, and grows surer of them."""
    competition, work = places
    classes, others = profiles.read_classes(competition), {"labelling__teachers": "other_families"}
    config = replace(recipes.get("tiny").run(0, 1), model__backbone="scratch_resnet", inference__backend="torch")
    own = work / "round0_split0/best.safetensors"
    other = teacher(tmp_path / "other.safetensors", config, classes=classes, content=["nothing that is here"])
    run = LabelRun(competition, work, "tiny", 1, changes=others, teachers=[own, other], device="cpu",
                   out=tmp_path / "pseudo_labels_r1.parquet")
    label_round(run, progress=False)
    tables = {group: provenance(tmp_path / f"pseudo_labels_r1{group}.parquet")["teachers"]
              for group in ("", "_not_test_resnet", "_not_scratch_resnet")}
    assert [[one["file"] for one in teachers] for teachers in tables.values()] == [
        ["best.safetensors", "other.safetensors"], ["other.safetensors"], ["best.safetensors"]]
    student = Run(competition, tmp_path, "tiny", 1, changes=others)
    assert student.pseudo_label_table() == tmp_path / "pseudo_labels_r1_not_test_resnet.parquet"
    third = Run(competition, tmp_path, "tiny", 1, changes={**others, "model__backbone": "scratch_resnet_s2"})
    everyone = Run(competition, tmp_path, "tiny", 1, changes={"labelling__teachers": "all"})
    assert third.pseudo_label_table() == everyone.pseudo_label_table() == tmp_path / "pseudo_labels_r1.parquet"
    with pytest.raises(ValueError, match=r"needs teachers of two backbones at least, but all 1 are test_resnet"):
        label_round(LabelRun(competition, work, "tiny", 1, changes=others, teachers=[own], device="cpu"))


def test_a_student_learns_from_the_teachers_of_its_own_split(places: tuple[Path, Path], tmp_path: Path) -> None:
    """The other split's teacher was trained on the very recordings that the student is validated on. Each table is what
    its teachers alone would have labelled, heard once."""
    competition, work = places
    teachers = [work / f"round0_split{split}/best.safetensors" for split in (0, 1)]
    how = {"teachers": teachers, "device": "cpu", "out": tmp_path / "pseudo_labels_r1.parquet"}
    done = label_round(LabelRun(competition, work, "tiny", 1, **how), progress=False)
    assert len(provenance(done.table)["teachers"]) == 2
    for split in (0, 1):
        own = Run(competition, tmp_path, "tiny", 1, split).pseudo_label_table()
        assert own == tmp_path / f"pseudo_labels_r1_split{split}.parquet"
        assert [one["split"] for one in provenance(own)["teachers"]] == [split]
        other = {**how, "teachers": [teachers[split]], "out": tmp_path / "alone.parquet"}
        alone = label_round(LabelRun(competition, work, "tiny", 1, **other), progress=False)
        pd.testing.assert_frame_equal(read(own), read(alone.table))
        assert not read(own).equals(read(done.table))
        given = Run(competition, tmp_path, "tiny", 1, split, pseudo_labels=alone.table)
        assert given.pseudo_label_table() == alone.table  # one teacher, who may teach it: needs no other table
    stranger = Run(competition, tmp_path, "tiny", 1, 1, pseudo_labels=tmp_path / "alone.parquet")
    assert stranger.pseudo_label_table() == tmp_path / "alone.parquet"
    with pytest.raises(FileNotFoundError, match=r"of split 0 .* must not learn from .*no alone_split0\.parquet"):
        Run(competition, tmp_path, "tiny", 1, 0, pseudo_labels=tmp_path / "alone.parquet").pseudo_label_table()
    everyone = Run(competition, tmp_path, "tiny", 1, 0, changes={"labelling__teachers": "all"})
    whole = Run(competition, tmp_path, "tiny", 1, -1)  # nothing validates it
    assert everyone.pseudo_label_table() == whole.pseudo_label_table() == done.table
    (tmp_path / "alone.parquet").replace(tmp_path / "pseudo_labels_r1_split0.parquet")
    with pytest.raises(PseudoLabelError, match="left from another labelling"):
        Run(competition, tmp_path, "tiny", 1, 0).pseudo_label_table()


def test_a_competition_without_soundscapes_has_its_recordings_labelled(places: tuple[Path, Path],
                                                                       tmp_path: Path) -> None:
    """Self-distillation needs no soundscapes: the years before 2024 had next to none."""
    competition, work = places
    for name in ("recordings", "soundscapes"):
        pd.read_parquet(work / f"{name}.parquet").iloc[:None if name == "recordings" else 0].to_parquet(
            tmp_path / f"{name}.parquet")
    changes = {"distil__self_share": 0.7}  # which asks for labels of the recordings by itself
    teachers = [work / f"round0_split{split}/best.safetensors" for split in (0, 1)]
    done = label_round(LabelRun(competition, tmp_path, "tiny", 1, changes=changes, teachers=teachers, device="cpu"),
                       progress=False)
    classes = profiles.read_classes(competition)
    assert not len(read(done.table, classes=classes, expected_round=1)) and done.recording_labels is not None
    student = Run(competition, tmp_path, "tiny", 1, changes=changes)
    labels = student.labels(student.config())
    assert len(labels["pseudo_labels"]) == 0 and len(labels["recording_labels"]) > 20
    there = tmp_path / "seed1" / "labels.parquet"  # a table of its own has the recordings' beside it
    done = label_round(LabelRun(competition, tmp_path, "tiny", 1, changes=changes, teachers=teachers[:1], device="cpu",
                                out=there), progress=False)
    assert done.recording_labels == there.with_name("recording_labels_r1.parquet")
    assert dataclasses.replace(student, pseudo_labels=there).recording_label_table() == done.recording_labels
    assert student.recording_label_table() == tmp_path / "recording_labels_r1.parquet"
