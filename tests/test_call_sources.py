"""Tables of calls and noise: from every source the right labels and spans, and no file in two splits."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, noise

from birdkit.audio import AudioError
from birdkit.config import DataConfig
from birdkit.data import DataError
from birdkit.data.tables import TABLE_COLUMNS, make_targets
from birdkit.preprocess import call_sources


def write(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, noise(seconds), RATE, subtype="PCM_16")
    return path


def write_csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty items in the format of freefield1010, every fourth without a bird, and one file that no row lists."""
    for item in range(21):
        write(tmp_path / "ff" / "wav" / f"{1000 + item}.wav", 1.0 + item / 10)
    rows = [f"{1000 + item},ff1010bird,{int(item % 4 > 0)}" for item in range(20)]
    write_csv(tmp_path / "ff.csv", "\n".join(["itemid,datasetid,hasbird", *rows]))
    return tmp_path


def test_a_labelled_folder_becomes_a_table(folder: Path) -> None:
    """The labels are the csv's by item, whatever the order of the files, and both kinds are in every split."""
    table = call_sources.labelled_folder(folder / "ff.csv", folder / "ff", root=folder)
    assert set(TABLE_COLUMNS) <= set(table.columns) and len(table) == 20
    assert table["file"].tolist()[:2] == ["ff/wav/1000.wav", "ff/wav/1001.wav"]
    assert table["label"].tolist() == ["nocall", "call", "call", "call"] * 5
    assert table["duration_s"].to_numpy() == pytest.approx(1 + np.arange(20) / 10)
    assert table[["start_s", "end_s"]].isna().all(axis=None)
    assert sorted(table["split"].unique()) == [0, 1, 2, 3, 4] and (table.groupby("split")["label"].nunique() == 2).all()
    assert make_targets(table, ["call"], DataConfig())[:, 0].tolist() == [0, 1, 1, 1] * 5


@pytest.mark.parametrize(("text", "fault"), [
    ("itemid,datasetid\n1000,ff", "missing: hasbird; unknown: none"),
    ("itemid,hasbird,notes\n1000,1,", "missing: none; unknown: notes"),
    ("itemid,hasbird\n1000,1\n1000,0", "1 rows repeat an earlier one, the first is 1000"),
    ("itemid,hasbird\n1000,yes", "hasbird of item 1000 is 'yes'"),
    ("itemid,hasbird\n1000,1\n77,0\n78,1", r"2 of 3 have no audio in .*ff, the first is item 77"),
    ("itemid,hasbird", "has no rows"), ("", "cannot be read")])
def test_a_csv_that_does_not_fit_is_refused_by_name(folder: Path, text: str, fault: str) -> None:
    """Rows dropped in silence are examples that were never trained on."""
    with pytest.raises(DataError, match=rf"bad\.csv.*{fault}"):
        call_sources.labelled_folder(write_csv(folder / "bad.csv", text), folder / "ff", root=folder)


def test_files_that_do_not_fit_are_refused_by_name(folder: Path) -> None:
    """The same: the message must say which of ten thousand it was."""
    source = (folder / "ff.csv", folder / "ff")
    with pytest.raises(DataError, match=r"1000\.wav is not in .*elsewhere"):
        call_sources.labelled_folder(*source, root=folder / "elsewhere")
    with pytest.raises(DataError, match="no audio in it"):
        call_sources.noise(folder / "elsewhere", root=folder)
    with pytest.raises(DataError, match=r"absent\.csv: there is no such file"):
        call_sources.labelled_folder(folder / "absent.csv", folder / "ff", root=folder)
    (folder / "ff" / "wav" / "1003.wav").write_text("not audio")
    with pytest.raises(AudioError, match=r"1003\.wav"):
        call_sources.labelled_folder(*source, root=folder)
    write(folder / "ff" / "copy" / "1002.flac")
    with pytest.raises(DataError, match=r"item 1002 could be .*1002\.flac or .*1002\.wav"):
        call_sources.labelled_folder(*source, root=folder)


def test_clips_cut_from_one_noise_recording_stay_together(tmp_path: Path) -> None:
    """Rain of one afternoon in training and in validation is the same rain."""
    for name in ("rain-1", "rain-2", "rain-3", "surf-1", "surf-2", "wind-1", "road-1", "mill-1"):
        write(tmp_path / "noise" / f"{name}.wav")
    table = call_sources.noise(tmp_path / "noise", root=tmp_path, n_splits=5)
    assert (table["label"] == "nocall").all() and len(table) == 8
    splits = table.groupby(table["file"].str[6:10])["split"].agg(set)
    assert all(len(found) == 1 for found in splits) and set.union(*splits) == {0, 1, 2, 3, 4}
    assert (call_sources.noise(tmp_path / "noise", root=tmp_path, n_splits=6)["split"] == -1).all()


@pytest.fixture
def labelled_2021(tmp_path: Path) -> Path:
    """Three soundscapes of 15 s labelled every 5 s, as in BirdCLEF 2021."""
    lines = ["row_id,site,audio_id,seconds,birds"]
    for audio_id, site, birds in ((7019, "COR", ["nocall", "rucwar", "nocall"]),
                                  (7954, "COR", ["rucwar grhcha1", "nocall", "nocall"]), (70, "SSW", ["nocall"] * 3)):
        write(tmp_path / "train_soundscapes" / f"{audio_id}_{site}_20190904.ogg.wav", 15.0)
        lines += [f"{audio_id}_{site}_{end_s},{site},{audio_id},{end_s},{names}"
                  for end_s, names in zip((5, 10, 15), birds, strict=True)]
    write_csv(tmp_path / "labels.csv", "\n".join(lines))
    return tmp_path


def test_labelled_soundscapes_become_spans(labelled_2021: Path) -> None:
    """`seconds` is the end of a window: taken for its start, every label would be one window late."""
    table = call_sources.labelled_soundscapes(labelled_2021 / "labels.csv", labelled_2021 / "train_soundscapes",
                                              root=labelled_2021, n_splits=3)
    assert table["start_s"].tolist() == [0.0, 5.0, 10.0] * 3 and table["end_s"].tolist() == [5.0, 10.0, 15.0] * 3
    assert table["label"].tolist() == ["nocall", "call", "nocall", "call", *["nocall"] * 5]
    assert table["file"].iloc[0] == "train_soundscapes/7019_COR_20190904.ogg.wav"
    assert table["duration_s"].unique().tolist() == [15.0]
    assert table.groupby("file")["split"].nunique().max() == 1 and table["split"].nunique() == 3


def test_a_soundscape_label_that_does_not_fit_is_refused_by_name(labelled_2021: Path) -> None:
    """Audio that is not there, twice there, or shorter than its labels."""
    labels, folder = labelled_2021 / "labels.csv", labelled_2021 / "train_soundscapes"
    head, more = "row_id,site,audio_id,seconds,birds\n", "70_SSW_20,SSW,70,20,nocall"
    for text, fault in ((more, r"70_SSW_20190904.*15 to 20 s is no span of a file of 15 s"),
                        (more.replace("20", "x"), r"seconds of 70_SSW_x is no number"),
                        (more.replace("70", "71"), r"1 of 1 have no audio in .*soundscape 71_SSW_\*")):
        with pytest.raises(DataError, match=fault):
            call_sources.labelled_soundscapes(write_csv(labels, head + text), folder, root=labelled_2021)
    write(folder / "70_SSW_20200101.wav", 15.0)
    with pytest.raises(DataError, match="soundscape 70_SSW_"):
        call_sources.labelled_soundscapes(write_csv(labels, head + more), folder, root=labelled_2021)


@pytest.fixture
def tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Two recordings, two soundscapes of 11 s, and pseudo-labels of their windows; nothing of it is on disk."""
    recordings = pd.DataFrame({"file": ["train_audio/a.ogg", "train_audio/b.ogg"], "label": ["ant", "bee"],
                               "secondary": ["bee", ""], "duration_s": [10.0, 20.0], "rating": [4.0, 0.0],
                               "split": [0, 1], "group": ["author:x", "author:y"]})
    soundscapes = pd.DataFrame({"file": ["s.ogg", "t.ogg"], "duration_s": [11.0, 11.0], "split": [1, 0]})
    pseudo_labels = pd.DataFrame({
        "file": ["s.ogg"] * 3 + ["t.ogg"] * 3, "start_s": [0.0, 5, 10] * 2, "end_s": [5.0, 10, 15] * 2,
        "ant": [0.01, 0.9, 0.01, 0.02, 0.3, 0.95], "bee": [0.02, 0.1, 0.01, 0.01, 0.2, 0.9]})
    return recordings, soundscapes, pseudo_labels


def test_a_competition_gives_calls_and_quiet_windows(tables: tuple[pd.DataFrame, ...]) -> None:
    """Sure windows are calls, quiet ones are not, and what teachers are unsure of is left out."""
    table = call_sources.competition(*tables, quiet_below=0.05, quiet_share=0, call_from=0.8)
    found = table[["file", "label", "start_s", "end_s", "split"]].to_numpy().tolist()
    assert table["file"].tolist()[:2] == ["train_audio/a.ogg", "train_audio/b.ogg"]
    assert table["label"].tolist()[:2] == ["call"] * 2 and table["split"].tolist()[:2] == [0, 1]
    assert found[2:] == [["s.ogg", "nocall", 0.0, 5.0, 1], ["s.ogg", "call", 5.0, 10.0, 1],
                         ["s.ogg", "nocall", 10.0, 11.0, 1],  # the window ends where the soundscape does
                         ["t.ogg", "nocall", 0.0, 5.0, 0], ["t.ogg", "call", 10.0, 11.0, 0]]
    assert set(table["secondary"]) == {""} and table["group"].tolist()[:3] == ["author:x", "author:y", "file:s.ogg"]


def test_the_quietest_windows_are_silent_however_high_teachers_stay_in_silence(
        tables: tuple[pd.DataFrame, ...]) -> None:
    """Teachers that have learnt for minutes are never below 0.05: their gate would learn from nothing. What they
    surely hear is no silence, though it were the quietest there is."""
    recordings, soundscapes, pseudo_labels = tables
    loud = pseudo_labels.assign(ant=pseudo_labels["ant"] / 2 + 0.3, bee=0.0)  # from 0.305 to 0.775

    def quiet(labels: pd.DataFrame, share: float) -> list[float]:
        table = call_sources.competition(recordings, soundscapes, labels, quiet_share=share, call_from=0.7)
        return table.loc[table["label"] == "nocall", "start_s"].tolist()

    assert quiet(loud, 0.5) == [0.0, 10.0, 0.0] and quiet(loud, 0.2) == [0.0, 10.0]
    assert quiet(loud, 1.0) == [0.0, 10.0, 0.0, 5.0]  # of six, two are above 0.7
    with pytest.raises(DataError, match=r"of 6 .* in one is 0\.9, .* call_from = 0\.7"):
        call_sources.competition(recordings, soundscapes, loud.assign(bee=0.9), call_from=0.7)


def test_pseudo_labels_without_a_quiet_window_are_refused(tables: tuple[pd.DataFrame, ...]) -> None:
    """A table made with least_peak has lost them, and a detector without noise says "call" to everything."""
    recordings, soundscapes, pseudo_labels = tables
    with pytest.raises(DataError, match=r"none of 6 .* in one is 0\.01, with quiet_below = 0\.001"):
        call_sources.competition(*tables, quiet_below=0.001, quiet_share=0)
    with pytest.raises(DataError, match=r"t\.ogg: pseudo-labelled, but not in the soundscapes table"):
        call_sources.competition(recordings, soundscapes[:1], pseudo_labels)
    with pytest.raises(ValueError, match="quiet_below"):
        call_sources.competition(*tables, quiet_below=0.9, call_from=0.1)
    with pytest.raises(ValueError, match="quiet_share 2"):
        call_sources.competition(*tables, quiet_share=2)


def test_tables_are_joined_if_no_file_is_in_two_splits(folder: Path) -> None:
    """A clip that trains under one source and validates under another measures memory."""
    birds = call_sources.labelled_folder(folder / "ff.csv", folder / "ff", root=folder)
    write(folder / "noise" / "rain.wav")
    rain = call_sources.noise(folder / "noise", root=folder)
    both = call_sources.join(birds, rain)
    assert len(both) == 21 and both.index.tolist() == list(range(21)) and both["file"].iloc[20] == "noise/rain.wav"
    with pytest.raises(DataError, match=r"1000\.wav: the same audio is in the tables twice"):
        call_sources.join(birds, birds[:1])
    part = birds[:1].assign(start_s=0.0, end_s=0.5, split=birds["split"].iloc[0] + 1)
    with pytest.raises(ValueError, match=r"1000\.wav.* is in 2 splits"):
        call_sources.join(birds, part)
