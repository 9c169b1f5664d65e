"""The audit: every file ends in one of the tables, with its reason, and one bad file costs nothing but itself."""
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from birdkit import audio, preprocess, reports
from birdkit.config import SplitConfig
from birdkit.preprocess.fingerprint import Fingerprint, Fingerprinter
from birdkit.profiles import ProfileError

RATE = 32_000
COLUMNS = ("primary_label", "secondary_labels", "type", "filename", "collection", "rating", "url", "latitude",
           "longitude", "scientific_name", "common_name", "author", "license")
CLASSES = ("1139490", "bird1", "lost")


def wave(seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(RATE // 4)


def song(seconds: float, seed: int) -> np.ndarray:
    """Whistles at random, (N,): what no other recording has."""
    random = np.random.default_rng(seed)
    samples = 0.01 * random.standard_normal(round(seconds * RATE))
    for start in range(0, len(samples) - RATE // 5, RATE // 4):
        pitch_hz = np.geomspace(*random.uniform(1500, 6500, 2), RATE // 5)
        samples[start:start + RATE // 5] += 0.3 * np.sin(2 * np.pi * np.cumsum(pitch_hz) / RATE) * np.hanning(RATE // 5)
    return samples


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

    def audit(self, **options: Any) -> tuple[preprocess.Audit, pd.DataFrame, dict[str, str]]:
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


def test_what_the_host_says_of_a_recording_is_kept(competition: Competition) -> None:
    """Weights by collection and splits by site need it, as text, as it was written."""
    competition.rows[1].update(collection="iNat", latitude="-1.50", longitude="30")
    _, table, _ = competition.audit(near_duplicates=False)
    kept = table.loc["train_audio/1139490/XC11.ogg", ["collection", "latitude", "longitude"]]
    assert kept.tolist() == ["iNat", "-1.50", "30"]
    assert set(table["collection"]) == {"", "iNat"} and set(table["near_duplicate"]) == {""}


@pytest.fixture
def twins(competition: Competition) -> Competition:
    """Of two recordings of 8 s there are copies: another author's, cut and turned down; and one under another label."""
    first, second = song(8, 1), song(8, 2)
    competition.add("bird1", "bird1/XC90.ogg", first)
    competition.add("bird1", "bird1/iNat7.ogg", 0.1 * first[RATE:6 * RATE])
    competition.add("bird1", "bird1/XC91.ogg", second)
    competition.add("1139490", "1139490/XC92.ogg", 0.5 * second + song(8, 3) * 0.05)
    mixed = 0.3 * song(20, 4)
    mixed[5 * RATE:11 * RATE] += first[RATE:7 * RATE]
    competition.sound("train_soundscapes/H9.ogg", 0.5 * mixed)
    return competition


def test_near_duplicates_are_listed_and_never_cross(twins: Competition) -> None:
    """The copy of a held-out recording in training is a score from memory; under another label, it is a wrong label."""
    result, table, excluded = twins.audit()
    assert excluded == {} and len(table) == 12
    one, cut, same, other = (f"train_audio/{name}.ogg" for name in (
        "bird1/XC90", "bird1/iNat7", "bird1/XC91", "1139490/XC92"))
    for pair in ((one, cut), (same, other)):
        assert table.loc[list(pair), "near_duplicate"].tolist() == [min(pair)] * 2
        assert table.loc[list(pair), ["group", "split"]].drop_duplicates().shape == (1, 2)
    assert (table["near_duplicate"] == "").sum() == 8
    written = json.loads(result.report.read_text())
    pairs = {(found["first"], found["second"]): found for found in written["near_duplicates"]}
    assert set(pairs) == {(one, cut), (other, same)}
    assert pairs[one, cut]["first_s"] - pairs[one, cut]["second_s"] == pytest.approx(1, abs=0.05)
    assert 4 < pairs[one, cut]["length_s"] < 6
    assert [found["first"] for found in written["near_duplicates_under_several_labels"]] == [other]
    heard = {(found["first"], found["second"]) for found in written["soundscapes_with_recordings"]}
    assert heard == {("train_soundscapes/H9.ogg", one), ("train_soundscapes/H9.ogg", cut)}
    assert result.counts["near_duplicates"] == 2 and result.counts["soundscapes_with_recordings"] == 2


def test_without_looking_near_duplicates_are_apart(twins: Competition) -> None:
    """Whoever cannot spare the time gets what there was before, and the report says so."""
    result, table, _ = twins.audit(near_duplicates=False)
    assert set(table["near_duplicate"]) == {""} and table["group"].nunique() == 12
    assert "near_duplicates" not in result.counts
    assert json.loads(result.report.read_text())["settings"]["near_duplicates"] is False


def test_equal_audio_is_no_near_duplicate(competition: Competition) -> None:
    """Under two labels it is listed as equal, once."""
    samples = np.round(20000 * song(6, 1)) / 32768
    competition.add("bird1", "bird1/XC90.flac", samples)
    competition.add("1139490", "1139490/XC91.flac", samples)
    result, table, _ = competition.audit()
    assert result.counts["near_duplicates"] == 0 and result.counts["audio_under_several_labels"] == 1
    assert set(table["near_duplicate"]) == {""}


def test_a_second_audit_fingerprints_only_what_is_new(twins: Competition, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than decoding; and what was kept finds the same pairs."""
    made: list[int] = []

    def make(maker: Fingerprinter, samples: np.ndarray,
             original: Callable[..., Fingerprint] = Fingerprinter.__call__) -> Fingerprint:
        made.append(len(samples))
        return original(maker, samples)

    monkeypatch.setattr(Fingerprinter, "__call__", make)
    first, table, _ = twins.audit()
    assert len(made) == 12 + 3
    made.clear()
    twins.add("bird1", "bird1/XC95.ogg", song(6, 9))
    again, table_again, _ = twins.audit()
    assert made == [6 * 16_000]
    assert again.counts["near_duplicates"] == first.counts["near_duplicates"]
    assert table_again["near_duplicate"].drop("train_audio/bird1/XC95.ogg").equals(table["near_duplicate"])


def test_marked_centres_come_into_the_table(competition: Competition) -> None:
    """Clips are centred on what people marked; a recording nobody marked is left to chance."""
    marks = competition.folder.parent / "marks.csv"
    marks.write_text("filename,centre_s\nbird1/XC20.ogg,0.125\n")
    _, table, _ = competition.audit(marks=marks)
    assert tuple(table.columns) == (*preprocess.RECORDING_COLUMNS, "centre_s")
    assert table["centre_s"].dropna().to_dict() == {"train_audio/bird1/XC20.ogg": 0.125}
    marks.write_text("filename,centre_s\nbird1/XC20.ogg,0.3\n")
    with pytest.raises(ValueError, match=r"bird1/XC20\.ogg: its marked centre_s = 0.3 is not inside"):
        competition.audit(marks=marks)
    marks.write_text("filename,centre_s\nXC20.ogg,0.1\n")
    with pytest.raises(ValueError, match=r"marks\.csv, line 2: 'XC20\.ogg' is not in the train table"):
        competition.audit(marks=marks)


def test_a_mark_of_an_excluded_recording_is_no_error(competition: Competition) -> None:
    """The person who marked it cannot know that the file is broken on this machine."""
    (competition.folder / "train_audio/bird1/XC20.ogg").write_bytes(b"")
    marks = competition.folder.parent / "marks.csv"
    marks.write_text("filename,centre_s\nbird1/XC20.ogg,0.1\nbird1/XC21.ogg,0.1\n")
    _, table, excluded = competition.audit(marks=marks)
    assert list(excluded) == ["train_audio/bird1/XC20.ogg"] and table["centre_s"].notna().sum() == 1


def test_splits_are_of_the_kind_that_is_asked_for(competition: Competition) -> None:
    """The recipe's setting decides, with the classes that the host scores."""
    (competition.folder / "scored_birds.json").write_text('["bird1"]')
    result, table, _ = competition.audit(splitting=SplitConfig("coverage", scored_only=True))
    assert table["split"].value_counts().to_dict() == {-1: 7, 0: 1}
    assert set(table.loc[table["split"] == 0, "label"]) == {"bird1"}
    settings = json.loads(result.report.read_text())["settings"]
    assert settings["splitting"]["kind"] == "coverage" and settings["splitting"]["scored_only"] is True


def texts(result: preprocess.Audit) -> str:
    """All words in the picture of an audit."""
    artists = reports.show_audit(result).findobj(lambda artist: hasattr(artist, "get_text"))
    return " | ".join(artist.get_text() for artist in artists)


def test_the_picture_of_an_audit_says_how_it_was_split(twins: Competition) -> None:
    """Which classes a score leaves out, and of what kind the splits are, must be seen before training."""
    twins.add("lost", "lost/XC1.ogg", wave(70))
    result, table, _ = twins.audit()
    assert "13 recordings of 3 classes" in texts(result) and "; 2 near-duplicates" in texts(result)
    assert "splits: stratified" in texts(result)
    for split, name in ((-1, "always trained on"), (0, "validates split 0"), (1, "validates split 1")):
        assert f"{name} ({(table['split'] == split).sum()})" in texts(result)
    assert sum(bar.get_height() for bar in reports.show_audit(result).axes[0].patches) == 13
    other, _, _ = twins.audit(near_duplicates=False, splitting=SplitConfig("site"))
    assert "splits: site" in texts(other) and "near-duplicates not looked for" in texts(other)
