"""Marks of people: one of each recording, inside of it, or an error that says which is not."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from birdkit.preprocess.marks import centres_of, read_marks

LISTED = {"train_audio/owl/XC1.ogg", "train_audio/owl/XC2.ogg"}


def read(folder: Path, text: str) -> dict[str, float]:
    (folder / "marks.csv").write_text(text)
    return read_marks(folder / "marks.csv", listed=LISTED, folder="train_audio")


def test_marks_are_read_by_file(tmp_path: Path) -> None:
    """By name, never by position; other columns are whoever marked's own."""
    assert read(tmp_path, "who,filename,centre_s\nann,owl/XC2.ogg,12.5\nbob,owl/XC1.ogg,3\n") == {
        "train_audio/owl/XC2.ogg": 12.5, "train_audio/owl/XC1.ogg": 3.0}
    assert read(tmp_path, "filename,centre_s\n") == {}


@pytest.mark.parametrize(("rows", "message"), [
    ("owl/XC1.ogg,3\nowl/XC9.ogg,3\n", r"marks\.csv, line 3: 'owl/XC9\.ogg' is not in the train table .*1 such"),
    ("owl/XC1.ogg,3\nowl/XC2.ogg,4\nowl/XC1.ogg,5\n", r"line 4: 'owl/XC1\.ogg' is marked more than once \('5'\)"),
    ("owl/XC1.ogg,\nowl/XC2.ogg,x\n", r"line 2: 'owl/XC1\.ogg' has a centre_s that is no number \(''\); 2 such"),
    ("owl/XC1.ogg,inf\n", "no number"),
])
def test_a_mark_that_fits_nothing_is_an_error_with_its_line(tmp_path: Path, rows: str, message: str) -> None:
    """Hours of marking must not be lost because a file was renamed."""
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "filename,centre_s\n" + rows)


def test_a_file_without_marks_is_an_error(tmp_path: Path) -> None:
    """The wrong file would leave every clip to chance."""
    with pytest.raises(ValueError, match=r"marks\.csv has no column centre_s; it has: filename, second"):
        read(tmp_path, "filename,second\n")
    with pytest.raises(ValueError, match=r"marks\.csv cannot be read"):
        read(tmp_path, "")


def test_centres_lie_inside_their_recordings() -> None:
    """A mark in minutes, or of another version of the file, is not a place in it."""
    table = pd.DataFrame({"file": ["a.ogg", "b.ogg", "c.ogg"], "duration_s": [10.0, 5.0, 7.0]})
    np.testing.assert_array_equal(centres_of(table, {"c.ogg": 7.0, "a.ogg": 0.0}), [0.0, np.nan, 7.0])
    assert centres_of(table, {}).isna().all() and centres_of(table.iloc[:0], {}).dtype == float
    for centre_s in (5.1, -0.1):
        with pytest.raises(ValueError, match=rf"b\.ogg: its marked centre_s = {centre_s} is not inside .* 5 s long"):
            centres_of(table, {"a.ogg": 2.0, "b.ogg": centre_s})
