"""Every guard of pseudo-labels, and the failures of the second seed that they would have caught."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, noise, tone
from tiny_teacher import CLASSES, teacher

from birdkit import checkpoint, frontend, pseudolabel
from birdkit.config import LabelConfig, RunConfig
from birdkit.inference import predict
from birdkit.predictor import Predictor, load_predictors
from birdkit.pseudolabel import PseudoLabelError, label, provenance, read
from birdkit.settings import replace, to_dict


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three soundscapes of 11 s under tmp_path."""
    for index in range(3):
        sf.write(tmp_path / f"{index}.wav", noise(11, seed=index) + tone(1000 * (index + 1), 11), RATE, subtype="FLOAT")
    return [f"{index}.wav" for index in range(3)]


def values(table: pd.DataFrame) -> np.ndarray:
    return table[list(CLASSES)].to_numpy()


def test_a_table_says_where_it_comes_from(small_run: RunConfig, tmp_path: Path, files: list[str]) -> None:
    """Which teachers, of which split and round, with which front end and thresholds, when, with what versions."""
    one = teacher(tmp_path / "one.safetensors", replace(small_run, split=3))
    table = label(files, [one], path=tmp_path / "labels.parquet", round=1, root=tmp_path, backend="torch",
                  progress=False, config=LabelConfig(floor=0.01))
    assert list(table.columns) == ["file", "start_s", "end_s", *CLASSES] and len(table) == 9
    origin = provenance(tmp_path / "labels.parquet")
    assert origin["teachers"] == [{"file": "one.safetensors", "hash": checkpoint.file_hash(one), "name": "default",
                                   "split": 3, "round": 0, "model": "sed", "family": "resnet10t",
                                   "frontend": pseudolabel.frontend_hash(small_run.frontend),
                                   "inference": to_dict(small_run.inference)}]
    assert origin["round"] == 1 and origin["thresholds"] == {"floor": 0.01, "least_peak": 0.0}
    assert origin["time"] and origin["versions"]["birdkit"]
    assert origin["versions"]["frontend"] == str(frontend.VERSION) and origin["settings"]["mean"] == "probabilities"


def test_a_labeller_that_repeats_the_first_window_is_an_error(small_run: RunConfig, tmp_path: Path, files: list[str],
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """The second seed's second round: 20 equal rows for every soundscape, found by nobody until the score fell."""
    one = teacher(tmp_path / "one.safetensors", small_run)
    correct = Predictor.window_probabilities

    def repeating(self: Predictor, *args: object, **named: object) -> np.ndarray:
        rows = correct(self, *args, **named)  # type: ignore[arg-type]
        return np.repeat(rows[:1], len(rows), axis=0)

    monkeypatch.setattr(Predictor, "window_probabilities", repeating)
    with pytest.raises(PseudoLabelError, match=r"0\.wav: all 3 windows have the same probabilities"):
        label(files, [one], path=tmp_path / "labels.parquet", round=1, root=tmp_path, backend="torch", progress=False)
    assert not (tmp_path / "labels.parquet").exists()
    monkeypatch.undo()  # the same command goes on once the labeller is mended, and finds nothing of the broken one
    mended = label(files, [one], path=tmp_path / "labels.parquet", round=1, root=tmp_path, backend="torch",
                   progress=False)
    assert all(np.ptp(values(rows), axis=0).any() for _, rows in mended.groupby("file"))


def test_silence_may_be_the_same_all_the_time(small_run: RunConfig, tmp_path: Path) -> None:
    """A recorder that was off is no broken labeller."""
    sf.write(tmp_path / "silent.wav", np.zeros(15 * RATE, np.float32), RATE)
    one = teacher(tmp_path / "one.safetensors", replace(small_run, frontend__clip_s=5.0))  # a clip is a window
    table = label(["silent.wav"], [one], path=tmp_path / "labels.parquet", round=1, root=tmp_path, backend="torch",
                  progress=False)
    assert len(table) == 3 and np.ptp(values(table), axis=0).max() == 0


def test_a_teacher_does_not_label_what_it_was_trained_on(small_run: RunConfig, tmp_path: Path,
                                                         files: list[str]) -> None:
    """A model repeats what it was told; only the teachers that did not see a file are averaged for it."""
    one = teacher(tmp_path / "one.safetensors", small_run, seen=[files[0], files[2]])
    two = teacher(tmp_path / "two.safetensors", small_run, seed=1, seen=[files[2]])
    table = label([tmp_path / file for file in files], [one, two], path=tmp_path / "labels.parquet", round=1,
                  root=tmp_path, backend="torch", progress=False)
    alone = {path: label(files[:2], [teacher(tmp_path / "x.safetensors", small_run, seed=seed)],
                         path=tmp_path / "alone.parquet", round=1, root=tmp_path, backend="torch", progress=False)
             for seed, path in enumerate((one, two))}
    by_file = {str(file): values(rows) for file, rows in table.groupby("file")}
    assert set(by_file) == {files[0], files[1]}
    assert np.allclose(by_file[files[0]], values(alone[two])[:3], atol=1e-6)
    assert np.allclose(by_file[files[1]], (values(alone[one])[3:] + values(alone[two])[3:]) / 2, atol=1e-6)
    assert provenance(tmp_path / "labels.parquet")["seen_by_all_teachers"] == [files[2]]
    with pytest.raises(PseudoLabelError, match="1 of 3 soundscapes were seen in training by every teacher"):
        label(files, [one, two], path=tmp_path / "x.parquet", round=1, root=tmp_path, leave_out_seen=False,
              backend="torch", progress=False)
    with pytest.raises(PseudoLabelError, match="none of 1 soundscapes could be labelled: 1 were seen"):
        label(files[2:], [one, two], path=tmp_path / "x.parquet", round=1, root=tmp_path, backend="torch",
              progress=False)


def test_columns_are_matched_by_name(small_run: RunConfig, tmp_path: Path, files: list[str]) -> None:
    """The second seed trained several experiments on labels that were shifted by one class."""
    one = teacher(tmp_path / "one.safetensors", small_run)
    path = tmp_path / "labels.parquet"
    table = label(files[:1], [one], path=path, round=1, root=tmp_path, backend="torch", progress=False)
    permuted = read(path, classes=["cat", "ant", "bee"])
    assert list(permuted.columns[3:]) == ["cat", "ant", "bee"]
    assert np.array_equal(values(permuted), values(table))
    with pytest.raises(PseudoLabelError, match="1 columns missing: dog; 1 unknown: cat"):
        read(path, classes=["ant", "bee", "dog"])


def test_a_table_of_another_round_or_without_origin_is_refused(small_run: RunConfig, tmp_path: Path,
                                                               files: list[str]) -> None:
    """Yesterday's labels lie in the same folder, and a csv turned parquet could come from anywhere."""
    one = teacher(tmp_path / "one.safetensors", small_run)
    path = tmp_path / "labels.parquet"
    table = label(files[:1], [one], path=path, round=1, root=tmp_path, backend="torch", progress=False)
    assert len(read(path, expected_round=1)) == len(table)
    with pytest.raises(PseudoLabelError, match="made for round 1, not for round 2"):
        read(path, expected_round=2)
    table.to_parquet(path)
    with pytest.raises(PseudoLabelError, match="does not say where its labels come from"):
        read(path)
    path.write_text("not parquet")
    with pytest.raises(PseudoLabelError, match="no parquet file"):
        read(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        read(tmp_path / "gone.parquet")
    with pytest.raises(PseudoLabelError, match="of round 1"):
        label(files, [teacher(tmp_path / "late.safetensors", replace(small_run, round=1))], path=path, round=1,
              root=tmp_path, progress=False, backend="torch")


def test_values_that_are_no_probabilities_are_refused(small_run: RunConfig, tmp_path: Path) -> None:
    """Logits in a label column would be trained on as if they were certain."""
    rows = pd.DataFrame({"file": ["a", "a"], "start_s": [0.0, 5.0], "end_s": [5.0, 10.0], "ant": [0.5, -3.0]})
    pseudolabel.write_table(tmp_path / "x.parquet", rows, ["ant"], {"round": 1})
    with pytest.raises(PseudoLabelError, match=r"1 values are not in \[0, 1\]"):
        read(tmp_path / "x.parquet")
    pseudolabel.write_table(tmp_path / "x.parquet", rows.assign(start_s=0.0, ant=0.5), ["ant"], {"round": 1})
    with pytest.raises(PseudoLabelError, match="1 windows appear twice, the first in a"):
        read(tmp_path / "x.parquet")


def test_the_first_round_has_an_empty_table(tmp_path: Path) -> None:
    """Notebook 02 runs in every round; without teachers it says so and writes a table without rows."""
    path = tmp_path / "labels.parquet"
    assert not len(label(["a.ogg"], [], path=path, round=0, classes=CLASSES))
    table = read(path, classes=CLASSES, expected_round=0)
    assert not len(table) and list(table.columns) == ["file", "start_s", "end_s", *CLASSES]


def test_unreadable_soundscapes_are_left_out_and_named(small_run: RunConfig, tmp_path: Path, files: list[str]) -> None:
    """One broken file in ten thousand must not cost a night of labelling, nor vanish without a word."""
    (tmp_path / "broken.ogg").write_text("not audio")
    one = teacher(tmp_path / "one.safetensors", small_run)
    table = label([files[0], "broken.ogg", files[1]], [one], path=tmp_path / "labels.parquet", round=1, root=tmp_path,
                  backend="torch", progress=False)
    assert set(table["file"]) == {files[0], files[1]}
    assert list(provenance(tmp_path / "labels.parquet")["faults"]) == ["broken.ogg"]


def test_thresholds_change_only_what_they_say(small_run: RunConfig, tmp_path: Path, files: list[str]) -> None:
    """A floor removes the haze, a least peak removes windows in which nothing is heard."""
    one = teacher(tmp_path / "one.safetensors", small_run)
    plain = label(files, [one], path=tmp_path / "a.parquet", round=1, root=tmp_path, backend="torch", progress=False)
    middle = float(np.median(values(plain)))
    peak = float(np.median(values(plain).max(1)))
    cut = label(files, [one], path=tmp_path / "b.parquet", round=1, root=tmp_path, backend="torch", progress=False,
                config=LabelConfig(floor=middle, least_peak=peak))
    kept = values(plain)[values(plain).max(1) >= np.float32(peak)]
    assert np.array_equal(values(cut), np.where(kept < np.float32(middle), 0, kept))


def test_labels_are_what_a_submission_would_hold(small_run: RunConfig, tmp_path: Path, files: list[str]) -> None:
    """One prediction path: a teacher labels exactly as it would have submitted."""
    one = teacher(tmp_path / "one.safetensors", small_run)
    table = label(files, [one], path=tmp_path / "a.parquet", round=1, root=tmp_path, backend="torch", progress=False)
    submitted = predict(files, load_predictors([one], backend="torch"), window_s=5.0, root=tmp_path, progress=False)
    assert np.array_equal(values(table), values(submitted.table))
