"""The audit: every file ends in one of the tables, with its reason, and one bad file costs nothing but itself."""
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from birdkit import audio, preprocess
from birdkit.profiles import ProfileError

RATE = 32_000
COLUMNS = ("primary_label", "secondary_labels", "type", "filename", "collection", "rating", "url", "latitude",
           "longitude", "scientific_name", "common_name", "author", "license")
CLASSES = ("1139490", "bird1", "lost")


def wave(seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(RATE // 4)


def row(label: str, filename: str, **changes: str) -> dict[str, str]:
    return {**dict.fromkeys(COLUMNS, ""), "primary_label": label, "filename": filename, "secondary_labels": "['']",
            "rating": "3.5", "author": f"Author {filename}", **changes}


class Competition:
    """A small competition in the layout of 2025: two classes of four recordings, one class without, two soundscapes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder.parent / "work"
        self.rows = [row(label, f"{label}/XC{seed}{i}.ogg") for seed, label in enumerate(CLASSES[:2], 1)
                     for i in range(4)]
        for number, entry in enumerate(self.rows):
            self.sound(f"train_audio/{entry['filename']}", wave(number))
        for number in range(2):
            self.sound(f"train_soundscapes/H{number}.ogg", wave(100 + number))
        (folder / "taxonomy.csv").write_text(
            "primary_label,inat_taxon_id,scientific_name,common_name,class_name\n"
            + "".join(f"{name},1,x,y,Aves\n" for name in CLASSES))
        (folder / "sample_submission.csv").write_text(f"row_id,{','.join(CLASSES)}\n")

    def sound(self, file: str, samples: np.ndarray, **options: str) -> None:
        (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        sf.write(self.folder / file, samples, RATE, **options)

    def add(self, label: str, filename: str, samples: np.ndarray | None = None, **changes: str) -> None:
        self.rows.append(row(label, filename, **changes))
        if samples is not None:
            self.sound(f"train_audio/{filename}", samples)

    def audit(self, **options: int) -> tuple[preprocess.Audit, pd.DataFrame, dict[str, str]]:
        """The audit, its recordings by file and label, and the reasons by excluded file."""
        pd.DataFrame(self.rows, columns=COLUMNS).to_csv(self.folder / "train.csv", index=False)
        result = preprocess.audit(self.folder, self.work, **{"n_splits": 2, **options})
        excluded = pd.read_csv(result.excluded)
        return (result, pd.read_parquet(result.recordings).set_index("file", drop=False),
                dict(zip(excluded["file"], excluded["reason"], strict=True)))


@pytest.fixture
def competition(tmp_path: Path) -> Competition:
    folder = tmp_path / "competition"
    folder.mkdir()
    return Competition(folder)


def test_a_sound_competition_gives_both_tables(competition: Competition) -> None:
    """Everything that follows reads these columns, and numeric labels must still be text."""
    result, table, excluded = competition.audit()
    assert excluded == {}
    assert result.classes == CLASSES
    assert tuple(table.columns) == preprocess.RECORDING_COLUMNS
    assert table["label"].tolist() == ["1139490"] * 4 + ["bird1"] * 4
    assert table["file"].iloc[0] == "train_audio/1139490/XC10.ogg"
    assert table["duration_s"].tolist() == [0.25] * 8
    assert set(table["sample_rate_hz"]) == {RATE} and set(table["channels"]) == {1} and set(table["rating"]) == {3.5}
    assert sorted(table["split"]) == [0] * 4 + [1] * 4
    soundscapes = pd.read_parquet(result.soundscapes)
    assert tuple(soundscapes.columns) == preprocess.SOUNDSCAPE_COLUMNS
    assert sorted(soundscapes["split"]) == [0, 1]
    report = json.loads(result.report.read_text())
    assert report["counts"] == result.counts
    assert report["classes_without_recordings"] == ["lost"]
    assert report["settings"]["n_splits"] == 2 and report["versions"]["soundfile"] == sf.__version__


def test_bad_files_are_listed_with_their_reason_and_stop_nothing(competition: Competition) -> None:
    """On Kaggle the audit runs for an hour: the thousandth file must not end it."""
    holed = wave(20)
    holed[5] = np.nan
    bad: dict[str, tuple[bytes | np.ndarray | None, str]] = {
        "nan.wav": (holed, "NaN"), "zero.ogg": (b"", "empty"), "text.ogg": (b"hello\n" * 9, "text"),
        "lfs.ogg": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"), "gone.ogg": (None, "no such file"),
        "short.wav": (wave(21)[:99], "0.1 s"), "silent.wav": (np.zeros(RATE), "every sample is zero"),
    }
    for name, (content, _) in bad.items():
        for file in (f"train_audio/bird1/{name}", f"train_soundscapes/{name}"):
            if isinstance(content, np.ndarray):
                competition.sound(file, content, subtype="FLOAT")
            elif content is not None:
                (competition.folder / file).write_bytes(content)
        competition.add("bird1", f"bird1/{name}")
    result, table, excluded = competition.audit()
    assert len(table) == 8
    for name, (_, reason) in bad.items():
        assert reason in excluded[f"train_audio/bird1/{name}"]
    soundscapes = pd.read_parquet(result.soundscapes)["file"].tolist()
    assert soundscapes == ["train_soundscapes/H0.ogg", "train_soundscapes/H1.ogg", "train_soundscapes/silent.wav"]
    assert result.counts["excluded"] == len(excluded) == 7 + 5
    assert result.counts["excluded_refused"] == 5 and result.counts["excluded_soundscape_refused"] == 5


def test_rows_that_cannot_be_used_are_listed(competition: Competition) -> None:
    """A label that is no class, or one of two, teaches something wrong."""
    competition.add("stranger", "x/XC1.ogg", wave(30))
    competition.add("bird1", "1139490/XC10.ogg")
    competition.add("bird1", "../taxonomy.csv")
    competition.add("bird1", "/etc/passwd")
    competition.add("bird1", "")
    competition.sound("train_audio/bird1/unlisted.ogg", wave(31))
    result, table, excluded = competition.audit()
    assert len(table) == 7 and "train_audio/1139490/XC10.ogg" not in table.index
    assert excluded["train_audio/x/XC1.ogg"] == "its label 'stranger' is not a class"
    assert excluded["train_audio/1139490/XC10.ogg"] == "listed under several labels: 1139490, bird1"
    assert excluded["train_audio/bird1/unlisted.ogg"] == "on disk, but not in train.csv"
    assert {file for file, reason in excluded.items() if reason == "not a file inside train_audio"} == {
        "train_audio/../taxonomy.csv", "train_audio//etc/passwd", "train_audio/"}
    assert result.counts["excluded"] == len(excluded) == 6


def test_repeated_rows_become_one(competition: Competition) -> None:
    """A recording listed twice would be drawn twice as often."""
    competition.rows.append(competition.rows[0])
    competition.add("bird1", "bird1/XC20.ogg", secondary_labels="['1139490']")
    result, table, excluded = competition.audit()
    assert len(table) == 8 and excluded == {}
    assert table.loc["train_audio/bird1/XC20.ogg", "secondary"] == "1139490"
    assert result.counts["rows_repeated"] == 1 and result.counts["rows_merged"] == 1


def test_equal_audio_is_kept_once_for_each_label(competition: Competition) -> None:
    """Duplicates leak across splits; under two labels both animals are probably there, and neither is dropped."""
    samples = np.round(1000 * wave(40)) / 32768  # exactly what 16 bits hold, in whatever format
    competition.add("bird1", "bird1/XC99.flac", samples)
    competition.add("bird1", "bird1/copy.wav", samples, secondary_labels="['lost']")
    competition.add("1139490", "1139490/copy.flac", samples)
    result, table, excluded = competition.audit()
    assert excluded == {"train_audio/bird1/copy.wav": "the same audio as train_audio/bird1/XC99.flac"}
    first, other = table.loc["train_audio/bird1/XC99.flac"], table.loc["train_audio/1139490/copy.flac"]
    assert first["secondary"] == "1139490 lost" and other["secondary"] == "bird1"
    assert first["group"] == other["group"] and first["split"] == other["split"]
    assert result.counts["audio_under_several_labels"] == 1


def test_secondary_labels_are_classes_other_than_the_primary(competition: Competition) -> None:
    """A target for a class that is not there has no column."""
    competition.add("bird1", "bird1/XC9.ogg", wave(50),
                    secondary_labels="['bird1', 'stranger', 'lost', '1139490', 'lost']")
    result, table, _ = competition.audit()
    assert table.loc["train_audio/bird1/XC9.ogg", "secondary"] == "1139490 lost"
    assert result.counts["secondary_dropped"] == 1
    assert json.loads(result.report.read_text())["secondary_dropped"] == ["stranger"]


def test_a_missing_rating_counts_as_unrated(competition: Competition) -> None:
    """Zero is what Xeno-canto writes where nobody rated; a NaN weight would end the training."""
    competition.rows[0]["rating"] = ""
    competition.rows[1]["rating"] = "n/a"
    result, table, _ = competition.audit()
    assert table["rating"].tolist() == [0.0, 0.0] + [3.5] * 6
    assert result.counts["rating_missing"] == 2


def test_a_second_audit_decodes_only_what_changed(competition: Competition, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that died goes on where it was, even where its last line was cut short."""
    decoded: list[str] = []

    def check(path: Path, original: Callable[[Path], audio.AudioInfo] = audio.check) -> audio.AudioInfo:
        decoded.append(path.name)
        return original(path)

    monkeypatch.setattr(audio, "check", check)
    (competition.folder / "train_soundscapes/H0.ogg").write_bytes(b"")
    first, table, excluded = competition.audit()
    assert len(decoded) == 10
    decoded.clear()
    again, table_again, excluded_again = competition.audit()
    assert decoded == []
    pd.testing.assert_frame_equal(table_again, table)
    assert excluded_again == excluded and again.counts == first.counts

    changed = competition.folder / "train_audio/bird1/XC20.ogg"
    competition.sound("train_audio/bird1/XC20.ogg", wave(60))
    os.utime(changed, ns=(0, 0))
    store = competition.work / "decoded.jsonl"
    store.write_text(store.read_text()[:-20])
    competition.audit()
    assert sorted(decoded) == ["H1.ogg", "XC20.ogg"]
    decoded.clear()
    competition.audit()
    assert decoded == []


def test_a_competition_without_soundscapes_has_an_empty_table(competition: Competition) -> None:
    """Not every year gives unlabelled soundscapes."""
    for path in (competition.folder / "train_soundscapes").iterdir():
        path.unlink()
    (competition.folder / "train_soundscapes").rmdir()
    result, _, _ = competition.audit()
    soundscapes = pd.read_parquet(result.soundscapes)
    assert len(soundscapes) == 0 and tuple(soundscapes.columns) == preprocess.SOUNDSCAPE_COLUMNS


def test_rare_classes_are_reported_and_always_in_training(competition: Competition) -> None:
    """Whoever reads a validation score must know which classes it leaves out."""
    competition.add("lost", "lost/XC1.ogg", wave(70))
    result, table, _ = competition.audit()
    assert table.loc["train_audio/lost/XC1.ogg", "split"] == -1
    assert json.loads(result.report.read_text())["classes_always_in_training"] == ["lost"]
    assert result.counts["classes_without_recordings"] == 0


@pytest.mark.parametrize("text", ["['a'", "bird1", "{'a': 1}", "[1, 2]", "'a'", "__import__('os')"])
def test_secondary_labels_that_are_no_list_are_an_error_with_the_line(competition: Competition, text: str) -> None:
    """A table that was mangled on the way must not be read as one without secondary labels."""
    competition.rows[2]["secondary_labels"] = text
    with pytest.raises(ValueError, match=r"train\.csv, line 4, 1139490/XC12\.ogg: secondary_labels .* not a list"):
        competition.audit()


def test_missing_columns_are_an_error_with_their_names(competition: Competition) -> None:
    """The error must name the file and the columns, not be a KeyError an hour later."""
    pd.DataFrame(competition.rows).drop(columns=["rating", "author"]).to_csv(
        competition.folder / "train.csv", index=False)
    with pytest.raises(ValueError, match=r"train\.csv has no column rating, author"):
        preprocess.audit(competition.folder, competition.work)
    (competition.folder / "train.csv").write_text("")
    with pytest.raises(ValueError, match=r"train\.csv cannot be read"):
        preprocess.audit(competition.folder, competition.work)


def test_classes_that_do_not_agree_are_an_error(competition: Competition) -> None:
    """A submission with other columns than the taxonomy is scored zero."""
    (competition.folder / "sample_submission.csv").write_text("row_id,bird1,other\n")
    with pytest.raises(ProfileError, match="other"):
        competition.audit()


def test_nothing_usable_is_an_error_that_says_why(competition: Competition) -> None:
    """A wrong folder or label column must stop the run at once."""
    for entry in competition.rows:
        entry["filename"] = "renamed/" + entry["filename"]
    with pytest.raises(ValueError, match=r"none of its recordings can be used; .*excluded\.csv"):
        competition.audit()
    assert len(pd.read_csv(competition.work / "excluded.csv")) == 16
    for entry in competition.rows:
        entry["primary_label"] = "wrong column"
    with pytest.raises(ValueError, match=r"no primary_label is a class of taxonomy\.csv; the first are wrong"):
        competition.audit()


def test_an_audit_is_the_same_wherever_and_however_often_it_runs(competition: Competition) -> None:
    """Two people who train on the same data must hold out the same recordings."""
    _, table, _ = competition.audit(workers=1)
    competition.work = competition.folder.parent / "elsewhere"
    competition.rows.reverse()
    _, other, _ = competition.audit(workers=3)
    pd.testing.assert_frame_equal(other, table)
