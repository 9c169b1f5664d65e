"""The figures that speak for or against a table, against plain numpy and pandas."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from birdkit.pseudolabel import assess, table, write_table
from birdkit.pseudolabel.agreement import Agreement

CLASSES = ["ant", "bee"]


def rows(*, seed: int, files: int = 5, windows: int = 4) -> pd.DataFrame:
    """Probabilities at random."""
    p = np.random.default_rng(seed).random((files * windows, 2)).astype(np.float32)
    start_s = np.tile(5.0 * np.arange(windows), files)
    return pd.DataFrame({"file": np.repeat([f"{n}.ogg" for n in range(files)], windows), "start_s": start_s,
                         "end_s": start_s + 5, "ant": p[:, 0], "bee": p[:, 1]})


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, pd.DataFrame]:
    """A table in groups of three rows: a file lies across two."""
    monkeypatch.setattr(table, "GROUP_ROWS", 3)
    made = rows(seed=0)
    write_table(tmp_path / "new.parquet", made, CLASSES, {"round": 2, "teachers": []})
    return tmp_path / "new.parquet", made


def test_figures_are_those_of_the_whole_table(new: tuple[Path, pd.DataFrame]) -> None:
    """Read file by file, what a page says must be what is in the table."""
    path, made = new
    found, sure = assess(path), made[CLASSES] >= 0.5
    assert (found.windows, found.files) == (20, 5)
    assert found.labels.tolist() == sure.sum().tolist()
    assert found.label_files.tolist() == sure.groupby(made["file"]).any().sum().tolist()
    assert found.labelled_files == sure.any(axis=1).groupby(made["file"]).any().sum()
    assert found.histogram[0].tolist() == np.histogram(made["ant"], bins=20, range=(0, 1))[0].tolist()
    spread = made.groupby("file")[CLASSES].std(ddof=0).mean(axis=1)
    assert np.allclose(found.spread, spread, atol=1e-6)
    best = made.loc[made["bee"].idxmax()]
    assert [(one.file, one.start_s) for one in found.examples if one.name == "bee"] == [(best["file"], best["start_s"])]
    assert found.examples[0].probability >= found.examples[1].probability and found.change is None


def test_a_file_that_sounds_the_same_all_the_time_has_no_spread(tmp_path: Path) -> None:
    """The second seed's failure is the bar at 0."""
    made = rows(seed=0)
    made.loc[made["file"] == "2.ogg", CLASSES] = 0.25
    write_table(tmp_path / "x.parquet", made, CLASSES, {"round": 1, "teachers": []})
    assert (assess(tmp_path / "x.parquet").spread == 0).tolist() == [False, False, True, False, False]


def test_what_has_changed_is_matched_by_file_time_and_class(new: tuple[Path, pd.DataFrame]) -> None:
    """The table of the round before may have other files, another order and another set of classes."""
    path, made = new
    old = rows(seed=1, files=7).iloc[::-1].assign(yak=np.float32(0.9)).drop(columns="ant")
    write_table(path.with_name("old.parquet"), old, ["yak", "bee"], {"round": 1, "teachers": []})
    found = assess(path, previous=path.with_name("old.parquet")).change
    both = made.merge(old, on=["file", "start_s", "end_s"], suffixes=("", " old"))
    is_label, was_label = both["bee"] >= 0.5, both["bee old"] >= 0.5
    assert found is not None and (found.windows, found.round) == (20, 1)
    assert found.kept.tolist() == [0, (is_label & was_label).sum()]
    assert found.gained.tolist() == [0, (is_label & ~was_label).sum()]
    assert found.lost.tolist() == [0, (~is_label & was_label).sum()]
    assert np.isclose(found.difference, (both["bee"] - both["bee old"]).abs().mean(), atol=1e-6)


def test_a_file_of_many_row_groups_is_compared_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of a recorder is 17,280 windows, five row groups: what was left out would change every figure."""
    monkeypatch.setattr(table, "GROUP_ROWS", 3)
    new, old = (rows(seed=seed, files=3, windows=20) for seed in (0, 1))
    write_table(tmp_path / "new.parquet", new, CLASSES, {"round": 2, "teachers": []})
    write_table(tmp_path / "old.parquet", old, CLASSES, {"round": 1, "teachers": []})
    found = assess(tmp_path / "new.parquet", previous=tmp_path / "old.parquet").change
    assert found is not None and found.windows == 60
    assert np.isclose(found.difference, (new[CLASSES] - old[CLASSES]).abs().to_numpy().mean(), atol=1e-6)


def test_agreement_in_sums_is_agreement_of_everything_at_once() -> None:
    """Counted file by file, also where a teacher has not heard a file, or does not know a class."""
    random = np.random.default_rng(0)
    files = [random.random((3, n, 2)) for n in (4, 7)]
    files[0][1, :, 1] = np.nan  # teacher 1 knows no bee
    files[1][1, :, 1] = np.nan
    together, kept = Agreement(3, 2), files[1][[0, 2]]
    together.add(together.of(files[0], [0, 1, 2]))
    together.add(together.of(kept, [0, 2]))  # teacher 1 was trained on the second file
    assert together.of(files[1][:1], [0]).size == 0
    x, y = np.concatenate([files[0][0], kept[0]]).ravel(), np.concatenate([files[0][2], kept[1]]).ravel()
    assert np.isclose(together.correlation()[0, 2], np.corrcoef(x, y)[0, 1])
    assert np.isclose(together.same_labels()[2, 0], ((x >= .5) & (y >= .5)).sum() / ((x >= .5) | (y >= .5)).sum())
    ants = files[0][0, :, 0], files[0][1, :, 0]
    assert np.isclose(together.correlation()[0, 1], np.corrcoef(*ants)[0, 1])
    bees = np.concatenate([files[0][[0, 2], :, 1], kept[:, :, 1]], axis=1) >= 0.5
    assert np.isclose(together.per_class()[1], bees.all(0).sum() / bees.any(0).sum())
