"""Rows, columns and values of a submission, on a competition of two classes and files without sound."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from birdkit import submission
from birdkit.profiles import Competition, profile
from birdkit.submission import SubmissionError, SubmissionReport, writing

Write = Callable[..., SubmissionReport]
Damage = Callable[[pd.DataFrame], pd.DataFrame]
CLASSES = ("owl", "frog", "10")
NO_FAULTS = pd.DataFrame({"file": [], "reason": []}, dtype=str)
ROWS = [f"{stem}_{end_s}" for stem in ("s1", "s2") for end_s in range(5, 65, 5)]


@pytest.fixture
def year() -> Competition:
    return profile(2025)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """2025's layout: the test files s1 and s2, and Kaggle's stub of a sample submission, which knows neither."""
    folder = tmp_path / "competition"
    for name in ("test_soundscapes", "train_soundscapes"):
        (folder / name).mkdir(parents=True)
    for name in ("test_soundscapes/s2.ogg", "test_soundscapes/s1.ogg", "train_soundscapes/t1.ogg"):
        (folder / name).touch()
    (folder / "train.csv").write_text("primary_label\n")
    (folder / "taxonomy.csv").write_text("primary_label,class_name\n10,Insecta\nfrog,Amphibia\nowl,Aves\n")
    sample(folder, ["stub_5", "stub_10"])
    return folder


def sample(folder: Path, rows: list[str]) -> None:
    table = pd.DataFrame(0.5, index=pd.Index(rows, name="row_id"), columns=list(CLASSES))
    table.to_csv(folder / "sample_submission.csv")


def predicted(*stems: str, windows: int = 12, seed: int = 0) -> pd.DataFrame:
    """Random probabilities, with the classes in another order than the sample's."""
    table = pd.DataFrame({"file": [f"test_soundscapes/{stem}.ogg" for stem in stems for _ in range(windows)]})
    table["start_s"] = np.tile(np.arange(windows) * 5.0, len(stems))
    table["end_s"] = table["start_s"] + 5
    values = np.random.default_rng(seed).random((len(table), len(CLASSES))).astype(np.float32)
    return table.assign(**{name: values[:, k] for k, name in enumerate(("10", "owl", "frog"))})


@pytest.fixture
def write(folder: Path, year: Competition, tmp_path: Path) -> Write:
    """submission.write with everything but the predictions filled in."""

    def write(predictions: pd.DataFrame, faults: pd.DataFrame = NO_FAULTS, **changes: Any) -> SubmissionReport:
        options = {"competition": year, "competition_dir": folder, "path": tmp_path / "submission.csv", **changes}
        return submission.write(predictions, faults, **options)

    return write


@pytest.fixture
def good(write: Write) -> Path:
    """A submission that the host would take."""
    return write(predicted("s1", "s2")).path


def test_every_window_of_every_test_file_is_a_row_with_its_own_values(good: Path) -> None:
    """The second seed shifted columns between models: every cell must be the one predicted for that row and class."""
    table, truth = pd.read_csv(good, index_col="row_id"), predicted("s1", "s2")
    assert list(table.columns) == list(CLASSES) and list(table.index) == ROWS
    for name in CLASSES:
        np.testing.assert_array_equal(table[name].to_numpy(np.float32), truth[name].to_numpy())


def test_what_is_written_looks_as_the_sample_does(write: Write, folder: Path) -> None:
    """No quotes but where a file's name needs them, and every value whatever its size reads back as it was."""
    (folder / "test_soundscapes" / "a, b.ogg").touch()
    table = predicted("s1", "s2")
    table.loc[0, "owl"], table.loc[1, "owl"], table.loc[2, "owl"] = 1.0, 0.0, 1e-30
    path = write(table).path
    lines = path.read_text().splitlines()
    assert lines[0] == "row_id,owl,frog,10" and lines[1].startswith('"a, b_5",')
    read = pd.read_csv(path, index_col="row_id")
    assert list(read.index[:12]) == [f"a, b_{end_s}" for end_s in range(5, 65, 5)]
    np.testing.assert_array_equal(read.loc[ROWS, "owl"].to_numpy(np.float32), table["owl"].to_numpy())
    (folder / "test_soundscapes" / "a, b.ogg").unlink()
    assert '"' not in write(table).path.read_text()


def test_no_probability_shares_the_rank_of_the_hosts_padding(write: Write) -> None:
    """2023 adds rows of ones in truth and prediction: a false 1.0 beside them costs every class, 0.9999999 none."""
    table = predicted("s1", "s2").assign(owl=1.0)
    padded = dataclasses.replace(profile(2025), metric="padded_cmap")
    highest = pd.read_csv(write(table, competition=padded).path)["owl"]
    assert (highest < 1).all() and (highest > 0.9999999).all() and (highest.to_numpy(np.float32) < 1).all()
    assert (pd.read_csv(write(table).path)["owl"] == 1.0).all()


def test_the_order_of_the_predictions_does_not_matter(write: Write, good: Path, tmp_path: Path) -> None:
    """Files finish in any order on several threads."""
    shuffled = predicted("s1", "s2").sample(frac=1, random_state=3)[["frog", "end_s", "owl", "file", "10", "start_s"]]
    other = tmp_path / "other.csv"
    write(shuffled, path=other)
    assert other.read_bytes() == good.read_bytes()


def test_a_sample_that_knows_the_test_files_gives_the_order(write: Write, folder: Path) -> None:
    """In the scored run the sample may hold the real rows; then nothing but exactly these is right."""
    rows = [*ROWS[::-1], "s3_5"]
    sample(folder, rows)
    report = write(predicted("s1", "s2"))
    assert list(submission.validate(report.path, folder).index) == rows
    assert report.filled.to_dict("records") == [{"file": "s3", "rows": 1, "reason": "not predicted"}]


def test_an_unreadable_file_gets_neutral_rows_and_is_reported(write: Write, folder: Path) -> None:
    """One broken file must not cost the submission, must not look like a detection, and must not go unseen."""
    faults = pd.DataFrame({"file": ["test_soundscapes/s2.ogg"], "reason": ["not audio"]})
    report = write(predicted("s1"), faults)
    table = submission.validate(report.path, folder)
    assert report.n_rows == 24 and report.left_out == 0 and not report.rehearsal
    assert report.filled.to_dict("records") == [{"file": "s2", "rows": 12, "reason": "not audio"}]
    assert "12 of them filled, of 1 files" in str(report)
    for name in CLASSES:
        np.testing.assert_allclose(table.loc["s2_5":"s2_60", name], predicted("s1")[name].mean(), rtol=1e-6)


def test_windows_missing_from_a_cut_file_are_filled(write: Write, folder: Path) -> None:
    """A file that breaks off after half a minute still has twelve rows at the host's."""
    cut = pd.concat([predicted("s1"), predicted("s2", windows=6, seed=1)])
    report = write(cut)
    assert report.filled["rows"].tolist() == [6]
    assert list(submission.validate(report.path, folder).index) == ROWS


def test_windows_nobody_asked_for_are_left_out_and_counted(write: Write, folder: Path) -> None:
    """A row too many is a scoring error."""
    long = predicted("s1", "s2", windows=13)
    report = write(long)
    assert report.left_out == 2 and list(submission.validate(report.path, folder).index) == ROWS


def test_with_nothing_predicted_the_file_is_whole_all_the_same(write: Write, folder: Path) -> None:
    """Written, it is 1 / K throughout; validating it then says that it ranks nothing."""
    report = write(predicted())
    assert np.allclose(pd.read_csv(report.path)[list(CLASSES)], 1 / 3) and report.filled["rows"].sum() == 24
    with pytest.raises(SubmissionError, match="all 24 rows are equal"):
        submission.validate(report.path, folder)


def test_a_rehearsal_writes_the_rows_of_the_sample(write: Write, folder: Path) -> None:
    """A saved version without a valid submission.csv cannot be submitted at all."""
    for path in (folder / "test_soundscapes").iterdir():
        path.unlink()
    report = write(predicted("t1"))
    assert report.rehearsal and report.left_out == 12
    assert list(submission.validate(report.path, folder).index) == ["stub_5", "stub_10"]


def test_a_failed_write_leaves_the_old_file(write: Write, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up, or a run that is killed, must not leave half a submission."""
    before = good.read_bytes()

    def full_disk(table: object, file: BinaryIO, *_: object) -> None:
        file.write(b"row_id,ow")
        raise OSError("no space left on device")

    monkeypatch.setattr(writing, "write_csv", full_disk)
    with pytest.raises(OSError, match="no space"):
        write(predicted("s1", "s2", seed=9), path=good)
    assert good.read_bytes() == before


@pytest.mark.parametrize(("damage", "message"), [
    (lambda t: t.drop(columns="owl"), "1 columns missing: owl; 0 unknown: none"),
    (lambda t: t.assign(bat=0.5), "0 columns missing: none; 1 unknown: bat"),
    (lambda t: t.drop(columns="file"), "1 columns missing: file"),
    (lambda t: pd.concat([t, t[["owl"]]], axis=1), "columns that appear twice: owl"),
    (lambda t: pd.concat([t, t.iloc[:1]]), "windows predicted twice: s1_5"),
    (lambda t: t.assign(owl=t["owl"].where(t["end_s"] != 10)), "2 values are not in .*, the first nan in row s1_10"),
    (lambda t: t.assign(frog=t["frog"] + 1), "not in .* in row s1_5, column frog"),
    (lambda t: t.assign(end_s=t["end_s"] + 0.5), "a window ends at 5.5 s"),
])
def test_predictions_that_cannot_be_right_are_refused(write: Write, tmp_path: Path, damage: Damage,
                                                      message: str) -> None:
    """Filling gaps is for broken files, never for broken predictions: those are a bug to be shown."""
    with pytest.raises(SubmissionError, match=message):
        write(damage(predicted("s1", "s2")))
    assert not (tmp_path / "submission.csv").exists()


def test_of_two_test_files_of_one_name_the_competitions_own_counts(write: Write, folder: Path, year: Competition,
                                                                   ) -> None:
    """s1.ogg and s1.wav would share their rows: to refuse the folder would cost the day's entry for a stray file."""
    for name in ("s1.wav", "s1.FLAC", "a2.wav", "a2.flac"):
        (folder / "test_soundscapes" / name).touch()
    asked = submission.ask(folder, year)
    assert [path.name for path in asked.files] == ["a2.flac", "s1.ogg", "s2.ogg"]
    assert asked.odd == {"s1.wav": "another test file has this name: s1.ogg",
                         "s1.FLAC": "another test file has this name: s1.ogg",
                         "a2.wav": "another test file has this name: a2.flac"}
    assert list(asked.rows) == [*(f"a2_{end_s}" for end_s in range(5, 65, 5)), *ROWS]
    submission.validate(write(predicted("s1", "s2")).path, folder)


def test_a_stray_file_does_not_cost_the_samples_rows(folder: Path, year: Competition) -> None:
    """Where the sample holds every row of all files but one, the host wants those rows and no more; where it holds
    three of a file's twelve it is a stub, and says nothing."""
    (folder / "test_soundscapes" / "copy.ogg").touch()
    sample(folder, ROWS[::-1])
    asked = submission.ask(folder, year)
    assert list(asked.rows) == ROWS[::-1] and [path.name for path in asked.files] == ["s1.ogg", "s2.ogg"]
    assert asked.odd == {"copy.ogg": "sample_submission.csv has no row of it"}
    sample(folder, [*ROWS[:12], *ROWS[12:15]])
    assert len(submission.expected_rows(folder, year)) == 36
    sample(folder, ROWS)
    for name in ("copy2.ogg", "copy3.ogg"):  # as many that it does not know as it knows: which is stray?
        (folder / "test_soundscapes" / name).touch()
    assert len(submission.expected_rows(folder, year)) == 60


@pytest.mark.parametrize(("damage", "message"), [
    (lambda t: t.drop(columns="frog"), "1 columns missing: frog; 0 unknown"),
    (lambda t: t.rename(columns={"frog": "toad"}), "1 columns missing: frog; 1 unknown: toad"),
    (lambda t: t[["frog", "owl", "10"]], "another order .*: column 2 is frog, not owl"),
    (lambda t: t.iloc[::-1], "rows are in another order than the host's: row 1 is s2_60, not s1_5"),
    (lambda t: t.iloc[:-2], "2 rows missing: s2_55, s2_60; 0 unknown"),
    (lambda t: t.rename(index={"s1_5": "s1_05"}), "1 rows missing: s1_5; 1 unknown: s1_05"),
    (lambda t: pd.concat([t, t.iloc[:1]]), "rows that appear twice: s1_5"),
    (lambda t: t.assign(owl=t["owl"].where(t.index != "s1_10")), "1 cells hold no number, .* row s1_10, column owl"),
    (lambda t: t.assign(owl=["nan"] * 24), "24 cells hold no number, the first 'nan'"),
    (lambda t: t.assign(owl=[True, False] * 12), "24 cells hold no number, the first 'True'"),
    (lambda t: t * 2 - 1, "not in .* in row s1_"),
    (lambda t: t + np.inf, "72 values are not in .*, the first inf"),
    (lambda t: t * 0 + 0.3, "all 24 rows are equal"),
    (lambda t: t * 0 + [0.1, 0.2, 0.3], "all 24 rows are equal"),
    (lambda t: t.rename_axis("id"), "the first column is 'id', not 'row_id'"),
])
def test_a_wrong_file_is_refused_and_the_place_named(folder: Path, good: Path, damage: Damage, message: str) -> None:
    """Kaggle says "Submission Scoring Error" after an hour, and one of five submissions is gone."""
    damage(pd.read_csv(good, index_col="row_id")).to_csv(good)
    with pytest.raises(SubmissionError, match=message):
        submission.validate(good, folder)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "good.csv is no csv of a submission: No columns"),
    (b"row_id,owl,frog,10\ns1_5,1,0,0,0.5\n", "good.csv is no csv of a submission: .*Expected 4 fields .* saw 5"),
    (b"row_id,owl\n\xff\xfe,1\n", "good.csv is no csv of a submission: 'utf-8'"),
])
def test_what_is_no_table_is_named(folder: Path, tmp_path: Path, content: bytes, message: str) -> None:
    """"No columns to parse from file" says nothing to somebody who has three files before them."""
    path = tmp_path / "good.csv"
    path.write_bytes(content)
    with pytest.raises(SubmissionError, match=message):
        submission.validate(path, folder)


def test_a_doubled_column_is_refused(folder: Path, good: Path) -> None:
    """pandas renames the second to owl.1 on reading, which would hide it."""
    table = pd.read_csv(good, index_col="row_id")
    pd.concat([table, table[["owl"]]], axis=1).to_csv(good)
    with pytest.raises(SubmissionError, match="columns that appear twice: owl"):
        submission.validate(good, folder)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Which of 24 rows holds which class."""
    values = np.random.default_rng(5).random((24, 3)) < 0.3
    path = tmp_path / "truth.csv"
    pd.DataFrame(values.astype(int), index=pd.Index(ROWS, name="row_id"), columns=list(CLASSES)).to_csv(path)
    return path


def test_the_score_is_scikit_learns(good: Path, truth: Path) -> None:
    """An independent reference, as the host computes it."""
    labels, values = pd.read_csv(truth, index_col="row_id"), pd.read_csv(good, index_col="row_id")
    assert submission.score(good, truth, 2025) == pytest.approx(roc_auc_score(labels, values, average="macro"))


def test_a_year_to_come_is_scored_as_the_latest_of_its_form(good: Path, truth: Path,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    """Next spring's host has its metric before this package knows it; the guess is said."""
    assert submission.score(good, truth, 2031) == submission.score(good, truth, 2026)
    assert submission.score_interval(good, truth, 2031).value == submission.score(good, truth, 2026)
    assert "no profile for 2031; guessed: metric macro_roc_auc, as in 2026" in caplog.text


def test_rows_and_columns_are_aligned_by_name(good: Path, truth: Path) -> None:
    """A truth in another order must give the same score, not chance."""
    before = submission.score(good, truth, 2025)
    pd.read_csv(truth, index_col="row_id").sample(frac=1, random_state=0)[["10", "frog", "owl"]].to_csv(truth)
    assert submission.score(good, truth, 2025) == pytest.approx(before)


def test_the_interval_is_drawn_over_soundscapes(good: Path, truth: Path) -> None:
    """Windows of one file are alike: drawing rows would promise more certainty than there is."""
    interval = submission.score_interval(good, truth, 2025)
    assert interval.low <= interval.value <= interval.high
    assert interval.value == pytest.approx(submission.score(good, truth, 2025))
    for path in (good, truth):  # the same rows, said to be of one file: nothing is left to draw from
        table = pd.read_csv(path, index_col="row_id")
        table.set_axis(pd.Index([f"s1_{5 * n}" for n in range(24)], name="row_id")).to_csv(path)
    alone = submission.score_interval(good, truth, 2025)
    assert alone.low == alone.value == alone.high


def test_aligned_tables_name_their_classes(good: Path, truth: Path) -> None:
    """Per-class figures are drawn from them: a value under another bird's name is worse than none."""
    labels, probabilities, names = submission.align(good, truth)
    assert tuple(names) == CLASSES and labels.shape == probabilities.shape == (24, 3)
    np.testing.assert_array_equal(labels[:, 1], pd.read_csv(truth)["frog"])
    np.testing.assert_array_equal(probabilities[:, 1], pd.read_csv(good)["frog"])


def test_a_truth_of_other_rows_or_classes_is_refused(good: Path, truth: Path) -> None:
    """Scoring the overlap would hide that half the rows are missing."""
    table = pd.read_csv(truth, index_col="row_id")
    table.iloc[:-1].to_csv(truth)
    with pytest.raises(SubmissionError, match="0 rows missing: none; 1 unknown: s2_60"):
        submission.score(good, truth, 2025)
    table.rename(columns={"owl": "bat"}).to_csv(truth)
    with pytest.raises(SubmissionError, match="1 columns missing: bat; 1 unknown: owl"):
        submission.score(good, truth, 2025)
