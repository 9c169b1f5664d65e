"""What rounds brought: counted from the files of finished students, and a gain only where it is more than chance."""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from birdkit import pseudolabel, reports
from birdkit.kaggle import Workspace
from birdkit.metrics.comparison import Validated
from birdkit.reports import rounds as reports_rounds
from birdkit.runs import rounds

CLASSES = ("owl", "frog")


def student(work: Path, number: int, split: int = 0, *, skill: float, seed: int = 0, finished: bool = True,
            config: dict[str, object] | None = None) -> None:
    """A training run's folder: predictions that tell the classes apart the better the larger `skill`."""
    folder = work / f"round{number}_split{split}"
    folder.mkdir(parents=True)
    truth = np.tile(np.eye(2, dtype=np.uint8), (60, 1))
    heard = np.random.default_rng([seed, number, split]).normal(skill * (truth - 0.5), 1.0)
    Validated(truth, 1 / (1 + np.exp(-heard)), np.repeat(np.arange(24), 5), CLASSES, "macro_roc_auc",
              {"config": config} if config else {}).save(folder / "predictions.npz")
    torch.save({"progress": {"finished": finished}}, folder / "state.pt")


def labelled(work: Path, number: int, probability: float) -> None:
    """A pseudo-label table of two windows in each of two soundscapes, the owl in the first of one."""
    origin = {"round": number, "teachers": [{"hash": f"{number}" * 64, "file": "best.safetensors", "split": 0}]}
    start_s = np.array([0.0, 5.0])
    with pseudolabel.TableWriter(Workspace(work).pseudo_labels_path(number), CLASSES, origin) as writer:
        writer.add("a", start_s, start_s + 5, np.array([[probability, 0.1], [0.1, 0.1]]))
        writer.add("b", start_s, start_s + 5, np.array([[0.2, 0.1], [0.3, 0.2]]))


def read(work: Path) -> list[rounds.Round]:
    return rounds.read_rounds(Workspace(work, roots=()))


def test_a_gain_that_everyone_sees_is_one_and_none_is_none(tmp_path: Path) -> None:
    """The stop rule must neither end rounds that help nor go on with those that do not."""
    for split in range(4):
        for number, skill in enumerate((0.5, 2.5, 2.5)):
            student(tmp_path, number, split, skill=skill)
    first, better, same = read(tmp_path)
    assert (first.verdict, better.verdict, same.verdict) == ("supervised", "gain", "no gain")
    assert better.row.difference and better.row.difference.low > better.floor > 0
    assert rounds.last_that_helped([first, better, same]) == 1 and rounds.last_that_helped([first, better]) == 1
    assert "no gain that could be told from chance" in str(same) and "a gain" in str(better)
    assert reports_rounds.conclusion([first, better, same]).endswith("Submit round 1")
    assert reports_rounds.conclusion([first, better]).endswith("Another round may help")


def test_two_splits_are_too_few_for_a_noise_floor(tmp_path: Path) -> None:
    """From one degree of freedom it is 12.7 deviations, and a recipe of two splits would stop at every gain. Three
    rounds later there are three; and no verdict changes with what comes later."""
    verdicts: list[list[str]] = []
    for number in range(4):
        for split in range(2):
            student(tmp_path, number, split, skill=0.5 + number + 0.3 * split * (number == 1))
        found = read(tmp_path)
        verdicts.append([one.verdict for one in found])
    gains = [one.row.difference.low for one in found[1:] if one.row.difference]
    assert [np.isfinite(one.floor) for one in found] == [False, False, False, True] and min(gains[:2]) > 0
    assert verdicts[-1][:3] == verdicts[2] == ["supervised", "gain", "gain"]
    assert "too few students to know the noise between seeds: a gain" in str(found[1])
    own = [found[1].students[split, 0].score - found[0].students[split, 0].score for split in range(2)]
    assert np.mean(own) < 12.7 * np.std(own, ddof=1) / 2**0.5  # it would have been no gain


def test_two_seeds_are_too_few_as_well(tmp_path: Path) -> None:
    """Two trainings each leave two degrees of freedom: 4.3 deviations."""
    for seed in range(3):
        for number in range(2):
            student(tmp_path / str(seed), number, skill=1.0 + number, seed=seed)
    floors = [rounds.read_rounds(*(Workspace(tmp_path / str(seed), roots=()) for seed in range(n)))[1].floor
              for n in (2, 3)]
    assert np.isnan(floors[0]) and floors[1] > 0


def test_the_gain_is_the_mean_over_the_splits_that_both_have(tmp_path: Path) -> None:
    """A round trained on one split more is not better for an easier exam."""
    student(tmp_path, 0, 0, skill=1.0), student(tmp_path, 1, 0, skill=1.5), student(tmp_path, 1, 1, skill=4.0)
    before, after = read(tmp_path)
    own = {key: one.score for key, one in after.students.items()}
    assert after.row.difference and after.row.difference.value == pytest.approx(own[0, 0] - before.row.score.value)
    assert not np.isfinite(after.floor) and "too few students" in str(after)


def test_several_work_folders_are_seeds_and_give_the_noise_floor(tmp_path: Path) -> None:
    """A gain of one seed that another loses is no gain."""
    for seed, skills in enumerate(((1.0, 1.4), (1.0, 0.7), (1.0, 1.1))):
        for number, skill in enumerate(skills):
            student(tmp_path / str(seed), number, skill=skill, seed=seed)
    found = rounds.read_rounds(*(Workspace(tmp_path / str(seed), roots=()) for seed in range(3)))
    assert len(found[1].students) == 3 and found[1].floor > 0 and found[1].verdict == "no gain"


def test_a_student_that_has_not_finished_does_not_count(tmp_path: Path) -> None:
    """Its best epoch so far would be taken for what the round brought."""
    student(tmp_path, 0, skill=1.0), student(tmp_path, 1, skill=2.0, finished=False)
    assert len(read(tmp_path)) == 1
    (tmp_path / "round0_split0" / "predictions.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no finished student of round 0, with its predictions.npz"):
        read(tmp_path)
    assert rounds.update_rounds(Workspace(tmp_path, roots=())) == [] and not (tmp_path / "rounds.csv").exists()


@pytest.mark.parametrize(("teachers", "self_share", "splits", "biased"), [
    ("same_split", 0.0, (0, 1), False), ("all", 0.0, (0, 1), True), ("all", 0.0, (0,), False),
    ("same_split", 0.5, (0,), True)])
def test_who_learnt_from_teachers_that_knew_the_exam_is_told(tmp_path: Path, teachers: str, self_share: float,
                                                             splits: tuple[int, ...], biased: bool) -> None:
    """Round 0 has no such path, so the gain of round 1 is too high, and a round built on it is no better."""
    for number in range(3):
        for split in splits:
            how = teachers if number == 1 else "same_split"
            student(tmp_path, number, split, skill=1.0 + number, config={
                "labelling": {"teachers": how}, "distil": {"self_share": self_share * (number == 1)}})
    found = read(tmp_path)
    assert [one.biased for one in found] == [False, biased, biased]
    assert ("biased upwards from round 1" in reports.rounds_text(found)) == biased
    assert ("are honest" in reports.rounds_text(found)) != biased and ("biased" in str(found[1])) == biased
    assert rounds.rounds_table(found)["biased"].tolist() == [False, biased, biased]


def test_rounds_without_a_split_in_common_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their difference would be that of two exams; a notebook that has trained for hours says so and goes on."""
    student(tmp_path, 0, 0, skill=1.0), student(tmp_path, 1, 1, skill=1.0)
    with pytest.raises(FileNotFoundError, match="rounds 0 and 1 have no split in common"):
        read(tmp_path)
    assert rounds.update_rounds(Workspace(tmp_path, roots=())) == [] and not (tmp_path / "rounds.csv").exists()
    assert "no rounds.csv: rounds 0 and 1 have no split in common" in caplog.text


def test_the_file_holds_teachers_labels_students_and_scores(tmp_path: Path) -> None:
    """One line tells where a round came from and what it brought; a person reads it in half a year."""
    student(tmp_path, 0, skill=1.0), student(tmp_path, 1, skill=3.0)
    labelled(tmp_path, 1, 0.75)
    (tmp_path / "round1_split0" / "best.safetensors").write_bytes(b"weights")
    reports_rounds.update_picture(Workspace(tmp_path, roots=()))
    assert (tmp_path / "rounds.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(tmp_path / "rounds.csv")
    assert table["round"].tolist() == [0, 1]
    assert table["students"].tolist() == ["split0_seed0:gone",
                                          f"split0_seed0:{hashlib.sha256(b'weights').hexdigest()[:12]}"]
    later = table.iloc[1]
    assert later["teachers"] == 111111111111 and later["table"] == "pseudo_labels_r1.parquet"
    assert (later["windows"], later["soundscapes"], later["labels"], later["labelled"]) == (4, 2, 1, 0.5)
    assert later["score"] - table["score"][0] == pytest.approx(later["gain"]) and later["verdict"] == "gain"
    assert later["scores"] == f"split0_seed0:{later['score']:.4f}" and np.isnan(table["gain"][0])


def test_outputs_of_several_notebooks_are_found_together(tmp_path: Path) -> None:
    """On Kaggle each notebook's output is attached in a folder of its own."""
    student(tmp_path / "input" / "a", 0, 0, skill=1.0), student(tmp_path / "input" / "b", 0, 1, skill=1.0)
    student(tmp_path / "working", 1, 0, skill=2.0)
    found = rounds.read_rounds(Workspace(tmp_path / "working", roots=[tmp_path / "input"]))
    assert [len(one.students) for one in found] == [2, 1]


def test_the_picture_has_a_mark_for_every_student_and_gain(tmp_path: Path) -> None:
    """Also with one round, and with none: notebook 03 shows it after the first training."""
    for split in range(4):
        for number in range(3):
            student(tmp_path, number, split, skill=1.0 + number)
    figure = reports.rounds_picture(read(tmp_path))
    scores, gains = figure.axes
    assert [label.get_text() for label in scores.get_xticklabels()] == ["0\nsupervised", "1", "2"]
    assert [label.get_text() for label in gains.get_xticklabels()] == ["1 - 0", "2 - 1"] and len(gains.patches) == 2
    for some in (read(tmp_path)[:1], []):
        assert reports.rounds_picture(some)._repr_png_()
    assert reports.rounds_text(read(tmp_path), markdown=True).startswith("| round | soundscapes |")
