"""The forms of 2021 and 2022, names and True or False: rows, cells, what the host refuses, and the score."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from birdkit import submission
from birdkit.config import Member
from birdkit.profiles import profile
from birdkit.submission import SubmissionError, SubmissionReport

Write = Callable[..., SubmissionReport]
Damage = Callable[[pd.DataFrame], pd.DataFrame]
CLASSES, SCORED = ("frog", "owl", "wren"), ("frog", "wren")
HALF = Member("threshold", {"threshold": 0.5})
NO_FAULTS = pd.DataFrame({"file": [], "reason": []}, dtype=str)
STEMS = {2021: ("11_COR_20190904", "7_SSW_20170423"), 2022: ("soundscape_2", "soundscape_3")}
IDS = {2021: ("11_COR", "7_SSW"), 2022: STEMS[2022]}


@pytest.fixture(params=[2021, 2022])
def year(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, year: int) -> Path:
    """A year's layout with two test files, and Kaggle's stub of a sample submission, which knows neither."""
    folder = tmp_path / "competition"
    for name in ("test_soundscapes", "train_short_audio", "train_soundscapes"):
        (folder / name).mkdir(parents=True)
    for stem in STEMS[year]:
        (folder / "test_soundscapes" / f"{stem}.ogg").touch()
    (folder / "train_metadata.csv").write_text("primary_label\nwren\nowl\nfrog\nwren\n")
    if year == 2022:
        (folder / "scored_birds.json").write_text('["wren", "frog"]')
    cells = "row_id,birds\nstub_x_5,nocall\n" if year == 2021 else "row_id,target\nstub_frog_5,False\n"
    (folder / "sample_submission.csv").write_text(cells)
    return folder


def predicted(year: int, *, windows: int = 0, stems: tuple[str, ...] = ()) -> pd.DataFrame:
    """Random probabilities for every window of the test files, classes in another order."""
    windows = windows or profile(year).windows
    stems = stems or STEMS[year]
    table = pd.DataFrame({"file": [f"test_soundscapes/{stem}.ogg" for stem in stems for _ in range(windows)]})
    table["start_s"] = np.tile(np.arange(windows) * 5.0, len(stems))
    table["end_s"] = table["start_s"] + 5
    values = np.random.default_rng(0).random((len(table), 3))
    return table.assign(wren=values[:, 0], frog=values[:, 1], owl=values[:, 2])


@pytest.fixture
def write(folder: Path, year: int, tmp_path: Path) -> Write:
    """submission.write with everything but the predictions filled in."""

    def write(predictions: pd.DataFrame, faults: pd.DataFrame = NO_FAULTS) -> SubmissionReport:
        return submission.write(predictions, faults, competition=profile(year), competition_dir=folder,
                                path=tmp_path / "submission.csv", decision=HALF)

    return write


@pytest.fixture
def good(write: Write, year: int) -> Path:
    """A submission that the host would take."""
    return write(predicted(year)).path


def test_every_cell_says_what_was_predicted_for_its_row(good: Path, year: int) -> None:
    """A bird in the row of another window, or under the name of another bird, is a wrong answer twice."""
    rows = pd.read_csv(good, dtype={"row_id": str}).set_index("row_id").iloc[:, 0]
    table = predicted(year)
    assert len(rows) == (2 * 120 if year == 2021 else 2 * 12 * 2)
    for stem, (_, row) in zip(np.repeat(IDS[year], profile(year).windows), table.iterrows(), strict=True):
        heard = {name for name in CLASSES if row[name] >= 0.5}
        if year == 2021:
            assert set(rows[f"{stem}_{row['end_s']:.0f}"].split()) == (heard or {"nocall"})
        else:
            assert {name for name in SCORED if rows[f"{stem}_{name}_{row['end_s']:.0f}"]} == heard & set(SCORED)


def test_what_was_written_is_valid_and_reads_back(good: Path, folder: Path, year: int) -> None:
    """One table of windows and classes for every form: what scores and reports work on."""
    table = submission.validate(good, folder)
    assert set(table.columns) == set(CLASSES if year == 2021 else SCORED) and len(table) == 2 * profile(year).windows
    values = predicted(year)[list(table.columns)].to_numpy() >= 0.5
    np.testing.assert_array_equal(table.to_numpy(), values)


def test_files_that_cannot_be_read_are_silent_and_counted(write: Write, folder: Path, year: int) -> None:
    """A mean of probabilities would put the commonest bird into every row of a file that nobody heard."""
    faults = pd.DataFrame({"file": [f"test_soundscapes/{STEMS[year][1]}.ogg"], "reason": ["not audio"]})
    report = write(predicted(year, stems=STEMS[year][:1]), faults)
    rows = 120 if year == 2021 else 24
    assert report.filled.to_dict("records") == [{"file": IDS[year][1], "rows": rows, "reason": "not audio"}]
    table = submission.validate(report.path, folder)
    assert not table.iloc[len(table) // 2:].to_numpy().any() and table.iloc[:len(table) // 2].to_numpy().any()
    assert report.labels == pytest.approx(table.to_numpy().sum() / len(table)) and "labels a window" in str(report)


def test_without_a_decision_nothing_is_written(folder: Path, year: int, tmp_path: Path) -> None:
    """A threshold that nobody chose would be a submission spent."""
    with pytest.raises(SubmissionError, match=rf"{year} holds .*needs to be told the decision"):
        submission.write(predicted(year), NO_FAULTS, competition=profile(year), competition_dir=folder,
                         path=tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_a_sample_that_knows_the_files_gives_rows_and_order(write: Write, folder: Path, good: Path, year: int) -> None:
    """In the scored run it holds the real rows."""
    rows = pd.read_csv(good, dtype=str)["row_id"].tolist()[::-1]
    sample = pd.read_csv(folder / "sample_submission.csv", dtype=str)
    pd.DataFrame({"row_id": rows, sample.columns[1]: sample.iloc[0, 1]}).to_csv(folder / "sample_submission.csv",
                                                                               index=False)
    path = write(predicted(year)).path
    assert pd.read_csv(path, dtype=str)["row_id"].tolist() == rows
    submission.validate(path, folder)


@pytest.mark.parametrize(("year", "damage", "message"), [
    (2021, lambda t: t.assign(birds=t["birds"].where(t.index > 0, "")), "row 11_COR_5 holds ''"),
    (2021, lambda t: t.assign(birds=t["birds"].where(t.index > 0, "nocall owl")), "row 11_COR_5 holds 'nocall"),
    (2021, lambda t: t.assign(birds=t["birds"].where(t.index > 0, "owl owl")), "row 11_COR_5 holds 'owl owl'"),
    (2021, lambda t: t.assign(birds=t["birds"].where(t.index > 0, "bat")), "1 names that are no class: bat"),
    (2021, lambda t: t.assign(birds="nocall"), "all 240 rows are equal, which tells nothing"),
    (2021, lambda t: t.rename(columns={"birds": "target"}), "1 columns missing: birds; 1 unknown: target"),
    (2022, lambda t: t.assign(target=t["target"].where(t.index > 0, "0.7")), "frog_5 holds '0.7'"),
    (2022, lambda t: t.assign(target=t["target"].where(t.index > 0, "")), "frog_5 holds ''"),
    (2022, lambda t: t.assign(target="False"), "all 24 rows are equal, which tells nothing"),
    (2022, lambda t: t.replace("soundscape_2_frog_5", "soundscape_2_owl_5"),
          "1 rows missing: soundscape_2_frog_5; 1 unknown: soundscape_2_owl_5"),
    *((year, lambda t: t.iloc[:-1], "1 rows missing") for year in (2021, 2022)),
    *((year, lambda t: t.iloc[::-1], "rows are in another order") for year in (2021, 2022)),
    *((year, lambda t: pd.concat([t, t.iloc[:1]]), "rows that appear twice") for year in (2021, 2022)),
], indirect=["year"])
def test_a_wrong_file_is_refused_and_the_place_named(folder: Path, good: Path, damage: Damage, message: str) -> None:
    """One of five submissions a day is gone with a file that the host does not understand."""
    damage(pd.read_csv(good, dtype=str)).to_csv(good, index=False)
    with pytest.raises(SubmissionError, match=message):
        submission.validate(good, folder)


def test_the_score_is_the_hosts_over_rows_in_any_order(good: Path, year: int, tmp_path: Path) -> None:
    """2021: sets of labels, row by row, with nocall as one of them; 2022: an independent implementation."""
    raw = pd.read_csv(good, dtype=str)
    truth, column = tmp_path / "truth.csv", raw.columns[1]
    raw.assign(**{column: np.roll(raw[column], 3)}).sample(frac=1, random_state=0).to_csv(truth, index=False)
    labels = pd.read_csv(truth, dtype=str).set_index("row_id")[column]
    said = raw.set_index("row_id")[column].loc[labels.index]
    if year == 2021:
        pairs = [(set(one.split()), set(other.split())) for one, other in zip(labels, said, strict=True)]
        expected = np.mean([2 * len(one & other) / (len(one) + len(other)) for one, other in pairs])
    else:
        birds = labels.index.str.split("_").str[2]
        expected = np.mean([balanced_accuracy_score(labels[birds == name], said[birds == name]) for name in SCORED])
    assert submission.score(good, truth, year) == pytest.approx(expected)
    interval = submission.score_interval(good, truth, year)
    assert interval.low <= interval.value <= interval.high and interval.value == pytest.approx(expected)
    table = submission.score_classes(good, truth)
    assert set(table["class"]) == set(CLASSES if year == 2021 else SCORED) and "balanced_accuracy" in table
    assert table["roc_auc"].is_monotonic_increasing


def test_two_files_of_different_forms_are_not_compared(good: Path, tmp_path: Path, year: int) -> None:
    """The truth of another year has rows of other names at best, and a score that means nothing at worst."""
    other = tmp_path / "other.csv"
    other.write_text("row_id,owl,frog\nx_5,0,1\n")
    with pytest.raises(SubmissionError, match=f"holds {profile(year).row_format}, but .*other.csv holds probabilities"):
        submission.score(good, other, year)


@pytest.mark.parametrize("year", [2021], indirect=True)
def test_a_file_without_the_parts_of_a_row_is_named(folder: Path) -> None:
    """2021's rows are named by the first two parts of the file's name: a file without them has no rows, and costs
    those of the others nothing."""
    before = submission.expected_rows(folder, profile(2021))
    (folder / "test_soundscapes" / "morning.ogg").touch()
    asked = submission.ask(folder, profile(2021))
    assert list(asked.rows) == before and list(asked.odd) == ["morning.ogg"]
    assert "in 2021 files are named id_site_date" in asked.odd["morning.ogg"]
    for stem in STEMS[2021]:
        (folder / "test_soundscapes" / f"{stem}.ogg").unlink()
    with pytest.raises(SubmissionError, match=r"none of 1 test files has rows: morning.ogg: in 2021 files are named"):
        submission.expected_rows(folder, profile(2021))
