"""Self-distillation: a clip learns what teachers heard in the part of the recording that it holds."""
import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, click
from tiny_run import run, tiny_config, write_tones

from birdkit import kaggle, preprocess, pseudolabel, synthesis, training
from birdkit.config import DistilConfig, RunConfig
from birdkit.data import AudioStore, ClipDataset, ClipSource, DataError
from birdkit.data.recording_labels import RecordingLabels, choose_recording_labels, lifted, refuse_uncovered
from birdkit.runs import training as runs_training
from birdkit.settings import replace

CLASSES = ("ant", "bee", "crow")
CONFIG = DistilConfig(self_share=0.7)


def windows() -> pd.DataFrame:
    """Of a.wav: a bee from second 5 to 10, perhaps a crow from 10 to 15."""
    return pd.DataFrame({"file": "a.wav", "start_s": [0.0, 5.0, 10.0], "end_s": [5.0, 10.0, 15.0],
                         "crow": [0.0, 0.1, 0.3], "ant": [0.5, 0.5, 0.5], "bee": [0.0, 0.8, 0.0]})


def test_the_target_is_the_published_mixture() -> None:
    """0.7 * f(p) + 0.3 * y, f(p) = clip(p * [p > 0.3] + p^2, 0, 1), the largest p of the windows, columns by name."""
    labels, own = RecordingLabels(windows(), CLASSES, CONFIG), np.array([1, 0, 0], np.float32)
    assert labels.target("a.wav", 0.0, 5.0, own) == pytest.approx([0.7 * 0.75 + 0.3, 0.0, 0.0])
    assert labels.target("a.wav", 6.0, 11.0, own) == pytest.approx([0.7 * 0.75 + 0.3, 0.7, 0.7 * 0.09])
    assert labels.target("a.wav", 20.0, 25.0, own) == pytest.approx([0.3, 0, 0])  # heard nothing there
    assert labels.target("b.wav", 0.0, 5.0, own) is own
    bold = RecordingLabels(windows(), CLASSES, DistilConfig(self_share=1.0, self_threshold=0.6))
    assert bold.target("a.wav", 5.0, 10.0, own) == pytest.approx([0.25, 1.0, 0.01])
    p = np.linspace(0, 1, 101)
    assert (np.diff(lifted(p, 0.3)) >= 0).all() and lifted(p, 0.3).max() == 1


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """A recording of 15 s, a click at second 7; and one that teachers did not label."""
    sf.write(tmp_path / "a.wav", click(7.0, 15), RATE, subtype="FLOAT")
    sf.write(tmp_path / "b.wav", click(1.0, 3), RATE, subtype="FLOAT")
    return pd.DataFrame({"file": ["a.wav", "b.wav"], "label": "ant", "secondary": "", "duration_s": [15.0, 3.0],
                         "rating": 0.0, "split": 0})


def test_the_position_of_a_crop_reaches_its_target(table, tmp_path, small_run: RunConfig) -> None:
    """The bee is told to the clips that hold its window, and to no others; so in a second loader of recordings."""
    labels, store = RecordingLabels(windows(), CLASSES, CONFIG), AudioStore(tmp_path, RATE)
    sources = {"chosen": ClipSource.recordings(table, CLASSES, small_run.data)}
    dataset = ClipDataset(table, CLASSES, small_run, store=store, sources=sources, recording_labels=labels)
    told = set()
    for position in range(30):
        example = dataset[(position, 0)]
        at = int(example["wave"].abs().argmax())
        start_s = 7.0 - at / RATE if float(example["wave"].abs().max()) > 0.5 else None
        if start_s is not None:  # the click is inside: so is a part of its window
            assert float(example["target"][1]) == pytest.approx(0.7)
        told.add(round(float(example["target"][1]), 3))
    assert told == {0.0, 0.7}
    assert dataset[(0, 1)]["target"].tolist() == [1.0, 0.0, 0.0]
    first = ClipDataset(table, CLASSES, replace(small_run, data__crop="first"), store=store, recording_labels=labels)
    assert first[(0, 0)]["target"].tolist() == pytest.approx([0.7 * 0.75 + 0.3, 0.0, 0.0])
    chosen = {tuple(dataset[(position, 0)]["sources"]["chosen"]["target"].tolist()) for position in range(20)}
    assert len(chosen) > 2


@pytest.mark.parametrize(("config", "round", "given", "message"), [
    (CONFIG, 1, None, r"self_share = 0\.7 in round 1 needs labels of the recordings, recording_labels_r1\.parquet"),
    (CONFIG, 0, windows(), r"3 windows, but distil\.self_share = 0\.7 in round 0 does not use them"),
    (DistilConfig(), 1, windows(), r"distil\.self_share = 0 in round 1 does not use them"),
    (CONFIG, 1, windows().assign(file="x.wav"), r"3 windows, are of none of the 2 training recordings, such as a\.wav"),
    (CONFIG, 1, windows().drop(columns="bee"), "no column for bee"),
])
def test_config_and_table_must_agree(config: DistilConfig, round: int, given: pd.DataFrame | None,
                                     message: str) -> None:
    """A run that was meant to learn from teachers and did not looks like one that gained nothing from them."""
    with pytest.raises((ValueError, DataError), match=message):
        choose_recording_labels(config, round, given, pd.Series(["a.wav", "b.wav"]), CLASSES)


def test_in_round_0_there_are_no_teachers_yet() -> None:
    """One recipe for all rounds: its first one learns from people alone."""
    files = pd.Series(["a.wav"])
    assert choose_recording_labels(CONFIG, 0, None, files, CLASSES) is None
    assert choose_recording_labels(DistilConfig(), 2, None, files, CLASSES) is None
    assert choose_recording_labels(CONFIG, 2, windows(), files, CLASSES) is not None


@pytest.mark.parametrize(("splits", "said"), [
    ([0], "of the 4 parts .* split 0 .* will label 0: those of the 1 of 5 splits that are trained \\(0\\)"),
    ([-1, 2], "of the 4 parts .* split 2 .* will label 0"), ([0, 3], ""), ([0, 1, 2, 3, 4], "")])
def test_a_recording_needs_a_teacher_of_its_own_split(splits: list[int], said: str,
                                                      caplog: pytest.LogCaptureFixture) -> None:
    """One split alone trains for hours before round 1 finds that nobody may label its recordings."""
    config = RunConfig(distil=CONFIG)
    with pytest.raises(ValueError, match=said) if said else contextlib.nullcontext():
        refuse_uncovered(config, splits)
    assert ("will label 1: those of the 2 of 5" in caplog.text) == (splits == [0, 3])
    refuse_uncovered(RunConfig(), splits)


def test_other_labels_of_recordings_are_another_run(tmp_path) -> None:
    """A student whose teachers were trained again must not be taken for the one that there is already."""
    table = write_tones(tmp_path)
    heard = pd.DataFrame({"file": table["file"], "start_s": 0.0, "end_s": 3.0, "high": 0.9, "low": 0.1})
    pseudo = pd.DataFrame({"file": ["1.wav"], "start_s": [0.0], "end_s": [2.0], "high": [1.0], "low": [0.0]})
    config = tiny_config(round=1, split=-1, train__epochs=1, distil__self_share=0.7)
    result = run(config, table, tmp_path, "run", pseudo_labels=pseudo, recording_labels=heard)
    assert run(config, table, tmp_path, "run", pseudo_labels=pseudo, recording_labels=heard).finished
    with pytest.raises(ValueError, match="another recording labels"):
        run(config, table, tmp_path, "run", pseudo_labels=pseudo, recording_labels=heard.assign(low=0.8))
    other = run(config, table, tmp_path, "other", pseudo_labels=pseudo, recording_labels=heard.assign(low=0.8))
    assert result.history["loss"].iloc[0] != other.history["loss"].iloc[0]


def write_labels(path: Path, table: pd.DataFrame, classes: tuple[str, ...], *, round: int) -> Path:
    pseudolabel.write_table(path, table, classes, {"round": round, "teachers": []})
    return path


def test_a_work_folder_knows_them_by_round(tmp_path) -> None:
    """Those of another round are another teacher's; a round without any is no error, notebook 02 may have made none."""
    work = kaggle.Workspace(tmp_path, roots=())
    path = write_labels(work.recording_labels_path(2), windows(), CLASSES, round=2)
    assert path.name == "recording_labels_r2.parquet" and work.recording_labels(2) == path
    assert work.recording_labels(0) is None and work.recording_labels(1) is None


def test_the_recordings_labels_reach_the_training(tmp_path, monkeypatch) -> None:
    """From the work folder by `distil__self_share`, checked against the round; without the setting they are left."""
    competition = synthesis.generate(tmp_path / "in", **synthesis.TINY, progress=False).competition_dir
    preprocess.audit(competition, tmp_path / "work", n_splits=2)
    work = kaggle.Workspace(tmp_path / "work")
    classes = tuple(runs_training.profiles.read_classes(competition))
    recordings = pd.read_parquet(work.recordings())
    said = pd.DataFrame({"file": recordings["file"], "start_s": 0.0, "end_s": 5.0, **dict.fromkeys(classes, 0.5)})
    labels = write_labels(work.recording_labels_path(1), said, classes, round=1)
    write_labels(work.pseudo_labels_path(1), said.head(2), classes, round=1)
    seen = []
    monkeypatch.setattr(training, "fit", lambda config, *_, **options: seen.append((config, options)))
    one = runs_training.Run(competition, tmp_path / "work", "tiny", 1, changes={"distil__self_share": 0.7})
    for asked in (one, dataclasses.replace(one, changes={})):
        runs_training.train(asked, progress=False)
    given = seen[0][1]["recording_labels"]
    pd.testing.assert_frame_equal(given, said, check_dtype=False)
    assert seen[0][0].distil.self_share == 0.7 and seen[1][1]["recording_labels"] is None
    other = said.assign(**{classes[0]: 0.25})
    before = one.learnt(one.config())["recording labels"]
    write_labels(labels, other, classes, round=1)
    assert one.learnt(one.config())["recording labels"] != before != ""
    write_labels(labels, said, classes, round=2)
    with pytest.raises(pseudolabel.PseudoLabelError, match="made for round 2, not for round 1"):
        runs_training.train(one, progress=False)
