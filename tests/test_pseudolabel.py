"""Every guard of pseudo-labels, and the failures of the second seed that they would have caught."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE, noise, tone
from tiny_teacher import CLASSES, teacher, tiny_run

from birdkit import checkpoint, frontend, pseudolabel, recipes
from birdkit.config import LabelConfig, RunConfig
from birdkit.inference import Predictor, load_predictors, predict
from birdkit.inference.repetition import spread_of_probabilities
from birdkit.output import SEDOutput
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


def repeat_one(patch: pytest.MonkeyPatch, stage: str) -> None:
    """A labeller that takes the first window, the output of the first clip, or its image, for all of a soundscape."""
    windows, outputs, images = Predictor.window_probabilities, Predictor.__call__, Predictor.images

    def one_window(self: Predictor, *args: object, **named: object) -> np.ndarray:
        rows = windows(self, *args, **named)  # type: ignore[arg-type]
        return np.repeat(rows[:1], len(rows), axis=0)

    def one_output(self: Predictor, given: torch.Tensor) -> SEDOutput:
        output = outputs(self, given)
        first = [one[:1].expand_as(one) for one in (output.clip_logits, output.segment_logits, output.attention)]
        return SEDOutput(*first, output.pooled)

    def one_image(self: Predictor, clips: np.ndarray) -> torch.Tensor:
        made = images(self, clips)
        return made[:1].expand_as(made).contiguous()

    name, broken = {"window": ("window_probabilities", one_window), "output": ("__call__", one_output),
                    "image": ("images", one_image)}[stage]
    patch.setattr(Predictor, name, broken)


# How a run of each kind predicts: `small` hears clips of 5 s every 1.25 s, each whole, `t4` clips of 10 s every 5 s,
# by segments and smoothed.
KINDS = {"small": replace(tiny_run(clip_s=5.0), inference=recipes.get("small").run(1, 0).inference),
         "t4": replace(tiny_run(clip_s=10.0), inference=recipes.get("t4").run(1, 0).inference),
         "contiguous": tiny_run(clip_s=5.0), "shorter clips": tiny_run(clip_s=2.0)}


@pytest.mark.parametrize("stage", ["window", "output", "image"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_labeller_that_repeats_the_first_window_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              kind: str, stage: str) -> None:
    """The second seed's second round: 20 equal rows for every soundscape, found by nobody until the score fell.

    With overlapping clips rows are equal but for rounding, and with partial ones they differ.
    """
    sf.write(tmp_path / "a.wav", np.concatenate([noise(15), noise(16) + tone(2000, 16)]), RATE, subtype="FLOAT")
    one = teacher(tmp_path / "one.safetensors", KINDS[kind])
    with monkeypatch.context() as patch:
        repeat_one(patch, stage)
        with pytest.raises(PseudoLabelError, match=r"a\.wav: all (7 windows|clips) have the same"):
            label(["a.wav"], [one], path=tmp_path / "labels.parquet", round=1, root=tmp_path, backend="torch",
                  progress=False)
    assert not (tmp_path / "labels.parquet").exists()
    # The same command goes on once the labeller is mended, and finds nothing of the broken one.
    mended = label(["a.wav"], [one], path=tmp_path / "labels.parquet", round=1, root=tmp_path, backend="torch",
                   progress=False)
    assert np.ptp(values(mended), axis=0).max() > 1e-3


@pytest.mark.parametrize("kind", ["small", "contiguous"])
def test_a_hum_may_be_the_same_all_the_time(tmp_path: Path, kind: str) -> None:
    """A recorder beside a transformer is no broken labeller, whatever the hum's phase where a clip begins."""
    sf.write(tmp_path / "hum.wav", tone(1000.3, 20), RATE, subtype="FLOAT")
    one = teacher(tmp_path / "one.safetensors", KINDS[kind])
    table = label(["hum.wav"], [one], path=tmp_path / "labels.parquet", round=1, root=tmp_path, backend="torch",
                  progress=False)
    assert len(table) == 4 and spread_of_probabilities(values(table)) < 0.01


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


def test_a_table_is_checked_again_before_it_is_trained_on(tmp_path: Path) -> None:
    """The second seed's broken table was read by training alone: whoever made it, what it holds must be possible."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"file": np.repeat(["a", "b", "c"], 20), "start_s": np.tile(5.0 * np.arange(20), 3)})
    rows = rows.assign(end_s=rows["start_s"] + 5, **{name: rng.uniform(0, 0.9, 60) for name in CLASSES})
    path, config = tmp_path / "x.parquet", LabelConfig()

    def trained_on(table: pd.DataFrame, config: LabelConfig = config, **origin: object) -> pd.DataFrame:
        pseudolabel.write_table(path, table, CLASSES, {"round": 1, "teachers": [], **origin})
        return pseudolabel.read_for_training(path, classes=CLASSES, expected_round=1, config=config)

    assert len(trained_on(rows)) == 60
    repeated, is_b = rows.copy(), rows["file"] == "b"
    repeated.loc[is_b, list(CLASSES)] = rows.loc[0, list(CLASSES)].to_numpy(float) + rng.uniform(0, 1e-8, (20, 3))
    with pytest.raises(PseudoLabelError, match=r"x\.parquet: b: all 20 windows have the same probabilities"):
        trained_on(repeated)
    assert len(trained_on(repeated, same_all_the_time={"files": ["b"], "tolerance": 1e-4})) == 60
    assert len(trained_on(rows.assign(**dict.fromkeys(CLASSES, 0.0)))) == 60  # a floor above all of them
    loud = rows.assign(ant=0.9 + 0.05 * rows["ant"])
    with pytest.raises(PseudoLabelError, match=r"x\.parquet: ant takes 60 of \d+ labels, .*most_share = 0\.4:"):
        trained_on(loud, LabelConfig(most_share=0.4))
    # Whoever made it has listened, and raised the share.
    assert len(trained_on(loud, LabelConfig(most_share=0.4), settings={"most_share": 0.9})) == 60


def test_what_was_heard_to_be_the_same_is_trained_on(tmp_path: Path) -> None:
    """The labeller had the audio; its table says which files sound the same all the time."""
    sf.write(tmp_path / "silent.wav", np.zeros(15 * RATE, np.float32), RATE)
    path = tmp_path / "labels.parquet"
    label(["silent.wav"], [teacher(tmp_path / "one.safetensors", KINDS["contiguous"])], path=path, round=1,
          root=tmp_path, backend="torch", progress=False)
    table = pseudolabel.read_for_training(path, classes=CLASSES, expected_round=1, config=LabelConfig())
    assert spread_of_probabilities(values(table)) == 0
    assert provenance(path)["same_all_the_time"] == {"files": ["silent.wav"], "tolerance": 1e-4}


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
