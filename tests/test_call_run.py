"""What a call detector learns from: the host's labels, what teachers heard, and folders that lie elsewhere."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, noise

from birdkit import pseudolabel
from birdkit.data import DataError
from birdkit.kaggle import Workspace
from birdkit.runs.call_detector import call_table
from birdkit.runs.training import Run


def run_of(place: Path, **settings: Any) -> Run:
    """A detector of that competition."""
    return Run(place, place.parents[1] / "work", "call_detector", changes={"n_splits": 2}, **settings)


def wav(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, noise(seconds), RATE)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The tables of 2023's layout, which has no soundscapes, and two files of wind beside it."""
    folder = tmp_path / "data" / "competition"
    folder.mkdir(parents=True)
    (folder / "train_metadata.csv").write_text("primary_label,filename\nowl,owl/1.ogg\n")
    (folder / "eBird_Taxonomy_v2021.csv").touch()
    (folder / "sample_submission.csv").write_text("row_id,owl\n")
    for number in range(2):
        wav(tmp_path / "wind" / f"{number}.wav", 2.0)
    return folder


def test_a_competition_that_tells_no_calls_from_silence_is_said(place: Path, tmp_path: Path) -> None:
    """A detector that learnt from noise alone would silence every bird; from recordings alone, nothing."""
    with pytest.raises(ValueError, match="no soundscapes with calls and silence told apart"):
        call_table(run_of(place).config(), place, Workspace(tmp_path / "work"))


def test_labelled_files_and_noise_join_from_where_they_lie(place: Path, tmp_path: Path) -> None:
    """freefield1010 and the competition are two datasets: their files must be found from one root."""
    for item in ("7", "8"):
        wav(tmp_path / "ff1010" / f"{item}.wav", 3.0)
    (tmp_path / "ff1010.csv").write_text("itemid,hasbird\n7,1\n8,0\n")
    table, root = call_table(run_of(place).config(), place, Workspace(tmp_path / "work"),
                             labelled={str(tmp_path / "ff1010.csv"): tmp_path / "ff1010"},
                             noise={"wind": tmp_path / "wind"})
    assert root == tmp_path and all((root / file).is_file() for file in table["file"])
    assert dict(zip(table["file"], table["label"], strict=True)) == {
        "ff1010/7.wav": "call", "ff1010/8.wav": "nocall", "wind/0.wav": "nocall", "wind/1.wav": "nocall"}


def test_without_labels_the_teachers_of_a_round_are_asked(place: Path, tmp_path: Path) -> None:
    """What the competition of 2025 has itself; its files are below the root that the noise makes necessary."""
    work = Workspace(tmp_path / "work")
    pd.DataFrame({"file": ["train_audio/owl/1.ogg"], "label": ["owl"], "secondary": [""], "duration_s": [9.0],
                  "rating": [0.0], "split": [0], "group": ["author:a"]}).to_parquet(work.path("recordings.parquet"))
    pd.DataFrame({"file": ["heard/a.ogg"], "duration_s": [10.0], "split": [1]}).to_parquet(
        work.path("soundscapes.parquet"))
    labels = pd.DataFrame({"file": ["heard/a.ogg"] * 2, "start_s": [0.0, 5.0], "end_s": [5.0, 10.0],
                           "owl": np.float32([0.9, 0.01])})
    path = work.pseudo_labels_path(1)
    pseudolabel.write_table(path, labels, ["owl"], {"round": 1, "teachers": []})
    table, _ = call_table(run_of(place).config(), place, work, round=1, pseudo_labels=path,
                          noise={"wind": tmp_path / "wind"})
    inside = table[~table["file"].str.startswith("wind/")]
    assert inside["file"].tolist() == ["data/competition/train_audio/owl/1.ogg", *["data/competition/heard/a.ogg"] * 2]
    assert inside["label"].tolist() == ["call", "call", "nocall"]
    with pytest.raises(pseudolabel.PseudoLabelError, match="made for round 1, not for round 2"):
        call_table(run_of(place).config(), place, work, round=2, pseudo_labels=path)
    pseudolabel.write_table(path, labels, ["owl"], {"round": 1, "teachers": [], "settings": {"least_peak": 0.3}})
    with pytest.raises(DataError, match=r"_r1\.parquet was made with least_peak = 0\.3"):
        call_table(run_of(place).config(), place, work, round=1, pseudo_labels=path)


def test_it_is_validated_on_calls_whatever_the_year_asks_for(place: Path, tmp_path: Path) -> None:
    """2021's metric is of names: of one class it would choose the detector that hears birds in everything."""
    config = run_of(place, year=2021).config()
    assert (config.year, config.competition.metric, config.task.scored) == (2021, "macro_roc_auc", ())


def test_it_lies_where_notebook_04_looks_for_gates_and_is_the_same_in_every_round(place: Path) -> None:
    """As round1_split0 it would be a model of one class in the ensemble."""
    runs = [run_of(place, round=round, split=1) for round in (0, 1)]
    assert {run.folder for run in runs} == {Workspace(runs[0].work_dir).call_dir(1)}
    assert runs[0].config() == runs[1].config()


def test_files_with_and_without_birds_are_for_call_detectors_alone(place: Path) -> None:
    """A model of owls would train without them, and nobody would know."""
    with pytest.raises(ValueError, match=r"labelled = .*ff1010.* is for call detectors, which small trains none"):
        Run(place, place.parents[1] / "work", "small", labelled={"ff1010.csv": "ff1010"}).config()
