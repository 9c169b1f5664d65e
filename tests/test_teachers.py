"""Teachers as tables and as networks: what they say of a clip, by name, by time, and with the arithmetic."""
import importlib.util
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import RATE, noise, tone
from onnx_file import write_teacher

from birdkit.config import DistilConfig
from birdkit.data import DataError
from birdkit.data.teacher_table import read_teacher_table
from birdkit.training import teacher_model
from birdkit.training.teacher_model import RUNTIMES, TeacherModel

CLASSES = ("ant", "bee", "crow")
N = 2 * RATE


def windows(**columns) -> pd.DataFrame:
    """Windows of 5 s: three of a.wav, one of b.wav."""
    return pd.DataFrame({"file": ["a.wav", "a.wav", "a.wav", "b.wav"], "start_s": [0.0, 5.0, 10.0, 0.0],
                         "end_s": [5.0, 10.0, 15.0, 5.0], **columns})


def read(config: DistilConfig, *, files=("a.wav", "b.wav"), clip_s: float = 5.0, classes=CLASSES):
    return read_teacher_table(config, classes, files=files, clip_s=clip_s)


@pytest.fixture(params=["parquet", "npz"])
def embeddings(request, tmp_path) -> DistilConfig:
    """Two features: the number of the window, and one."""
    values, path = np.array([[0, 1], [1, 1], [2, 1], [7, 1]], np.float32), tmp_path / f"teacher.{request.param}"
    if request.param == "parquet":
        windows(x=values[:, 0], y=values[:, 1]).sample(frac=1, random_state=0).to_parquet(path)
    else:
        table = windows()
        np.savez(path, files=table["file"].to_numpy(str), start_s=table["start_s"], window_s=5.0, embedding=values)
    return DistilConfig(teacher=str(path), width=2)


# Tables ---------------------------------------------------------------------------------------------------------------

def test_a_clip_gets_the_mean_of_the_windows_that_it_overlaps(embeddings) -> None:
    """Weighted by how much it overlaps them: a clip of another file, or of another place in it, has another sound."""
    table = read(embeddings)
    assert table.at("a.wav", 5.0, 10.0).tolist() == [1.0, 1.0]
    assert table.at("a.wav", 9.0, 14.0) == pytest.approx([(1 * 1 + 4 * 2) / 5, 1.0])
    assert table.at("b.wav", 0.0, 3.0).tolist() == [7.0, 1.0]
    assert table.begins("a.wav").tolist() == [0.0, 5.0, 10.0] and table.width == 2
    assert np.isnan(table.at("c.wav", 0.0, 5.0)).all() and np.isnan(table.at("a.wav", 15.0, 20.0)).all()


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_logits_are_matched_by_the_names_of_classes(tmp_path, kind: str) -> None:
    """By position, the crow's logits would teach the bee; of several windows the loudest counts."""
    values = np.array([[0, 9, 1], [4, 9, 0], [0, 9, 3], [5, 9, 6]], np.float32)
    names, path = ["crow", "dog", "ant"], tmp_path / f"teacher.{kind}"
    if kind == "parquet":
        windows(**dict(zip(names, values.T, strict=True))).to_parquet(path)
    else:
        np.savez(path, **windows().drop(columns="file"), files=windows()["file"].to_numpy(str), logits=values,
                 classes=names)
    table = read(DistilConfig(teacher=str(path), kind="logits"))
    assert table.known is not None and table.known.tolist() == [0, 2]
    assert table.at("b.wav", 0.0, 5.0).tolist() == [6.0, 5.0]
    assert table.at("a.wav", 5.0, 15.0).tolist() == [3.0, 4.0]
    assert table.at("a.wav", 9.9, 14.9).tolist() == [3.0, 0.0]  # a sliver of the window before


def test_what_is_not_distilled_is_counted(embeddings, caplog) -> None:
    """A table that covers a tenth of the recordings must not look like one that covers all; the rest is not kept."""
    with caplog.at_level(logging.INFO):
        table = read(embeddings, files=("b.wav", "c.wav"))
    assert "1 windows of 1 of 2 recordings, 2 numbers each" in caplog.text and len(table.values) == 1


@pytest.mark.parametrize(("change", "message"), [
    ({"x": [0.0, np.nan, 0.0, 0.0]}, r"a\.wav from 5 to 10 s holds values that are not finite, as of 1 of 4"),
    ({"end_s": [5.0, 10.0, 17.0, 5.0]}, r"a\.wav from 10 to 17 s is longer than a clip, .* clips are of 5 s"),
    ({"x": list("abcd")}, "the column x is no number"),
    ({"z": 1.0}, r"embeddings of 3 features, but distil\.width = 2"),
    ({"file": "d.wav"}, r"windows of none of the 2 training recordings, such as a\.wav"),
])
def test_tables_that_cannot_be_learnt_from_are_refused(tmp_path, change: dict, message: str) -> None:
    """At the start and with the values: in the middle of the night it would be a NaN, or nothing at all."""
    windows(**({"x": 0.0, "y": 1.0} | change)).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        read(DistilConfig(teacher=str(tmp_path / "t.parquet"), width=2))


def test_tables_that_lack_something_are_refused(tmp_path) -> None:
    """A missing file, column, array or class is named, with what there is instead."""
    config = DistilConfig(teacher=str(tmp_path / "t.parquet"), width=2)
    with pytest.raises(FileNotFoundError, match=r"no table .*t\.parquet"):
        read(config)
    windows(x=0.0, y=1.0).drop(columns="end_s").to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="the column end_s is missing"):
        read(config)
    windows(fox=0.0, bee=1.0).to_parquet(tmp_path / "t.parquet")
    logits = DistilConfig(teacher=str(tmp_path / "t.parquet"), kind="logits")
    with pytest.raises(DataError, match=r"knows 1 of the 3 classes \(ant, bee, crow, .*own 2 are fox, bee"):
        read(logits)
    with pytest.raises(DataError, match="class_names has 1 names for 3 classes"):
        read(DistilConfig(teacher=logits.teacher, kind="logits", class_names=("fox",)))
    npz = DistilConfig(teacher=str(tmp_path / "t.npz"), width=2)
    np.savez(tmp_path / "t.npz", files=["a.wav"], start_s=[0.0], embedding=np.ones((1, 2)))
    with pytest.raises(DataError, match="no array end_s, nor a window_s; it holds files, start_s, embedding"):
        read(npz)
    np.savez(tmp_path / "t.npz", files=["a.wav"], start_s=[0.0], window_s=5.0, embedding=np.ones((2, 2)))
    with pytest.raises(DataError, match=r"'embedding': 2\} rows"):
        read(npz)
    np.savez(tmp_path / "t.npz", files=np.array(["a.wav"], object), start_s=[0.0], window_s=5.0,
             embedding=np.ones((1, 2)))
    with pytest.raises(DataError, match="save names as an array of strings"):
        read(npz)


# Networks -------------------------------------------------------------------------------------------------------------

def runtime(name: str) -> object:
    absent = importlib.util.find_spec(name) is None
    return pytest.param(name, marks=pytest.mark.skipif(absent, reason=f"{name} is not installed"))


def weights(n: int = N, width: int = 4) -> np.ndarray:
    """Correlations with a few tones: what a wave makes of them is easily computed beside."""
    t = np.arange(n) / RATE
    return np.stack([np.sin(2 * np.pi * 1000 * (k + 1) * t) for k in range(width)], 1).astype(np.float32) / 1000


def teacher(config: DistilConfig, *, samples: int = N, rate: int = RATE, **options) -> TeacherModel:
    return TeacherModel(config, CLASSES, clip_samples=samples, sample_rate_hz=rate, **options)


def waves(seconds: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(np.stack([tone(1000, seconds), 0.05 * tone(3000, seconds), noise(seconds)]))


@pytest.mark.parametrize("name", [runtime(name) for name in RUNTIMES])
@pytest.mark.parametrize("batch", [None, 1])
def test_a_network_says_what_its_formula_says(tmp_path, name: str, batch: int | None) -> None:
    """Each wave at the level that the network was trained with, whether it takes them alone or together."""
    path = write_teacher(tmp_path / "t.onnx", weights(), batch=batch)
    for peak in (0.25, 0.0):
        said = teacher(DistilConfig(teacher=str(path), width=4, peak=peak), runtime=name)(waves())
        heard = waves() * (peak / waves().abs().amax(1, keepdim=True) if peak else 1)
        assert torch.allclose(said, torch.tanh(heard @ torch.from_numpy(weights())), atol=1e-5)
        assert said.dtype == torch.float32 and not said.requires_grad
    assert torch.equal(teacher(DistilConfig(teacher=str(path), width=4), runtime=name)(torch.zeros(1, N)),
                       torch.zeros(1, 4))  # silence is not brought to any level


needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@needs_openvino
def test_longer_clips_are_heard_window_by_window(tmp_path) -> None:
    """Perch hears 5 s; a clip of 10 s has the mean of two embeddings, and its loudest logits."""
    classes = np.array([[1, 0, -1], [0, 1, 0], [3, 0, 0], [0, 0, 2]], np.float32)
    path = write_teacher(tmp_path / "t.onnx", weights(RATE), classes=classes)
    each = torch.tanh(waves().reshape(-1, RATE) @ torch.from_numpy(weights(RATE))).reshape(3, 2, 4)
    config = DistilConfig(teacher=str(path), width=4, peak=0.0)
    assert torch.allclose(teacher(config)(waves()), each.mean(1), atol=1e-5)
    (tmp_path / "labels.csv").write_text("name\ncrow\nfox\nant\n")
    logits = DistilConfig(teacher=str(path), kind="logits", labels=str(tmp_path / "labels.csv"), peak=0.0)
    made = teacher(logits)
    assert made.output == "label" and made.known is not None and made.known.tolist() == [0, 2]
    expected = (each @ torch.from_numpy(classes))[:, :, [2, 0]].amax(1)
    assert torch.allclose(made(waves()), expected, atol=1e-5)


@needs_openvino
def test_waves_of_another_rate_are_resampled(tmp_path) -> None:
    """A tone of 1 kHz is one of 1 kHz at every rate: played at half the speed it would be another bird."""
    t = np.arange(2 * 16_000) / 16_000
    tones = np.stack([np.sin(2 * np.pi * f * t) for f in (500, 1000, 2000)], 1).astype(np.float32) / 1000
    path = write_teacher(tmp_path / "t.onnx", tones)
    said = teacher(DistilConfig(teacher=str(path), width=3, sample_rate_hz=16_000))(waves()[:1])
    assert said.abs().argmax() == 1 and said[0, 1] > 0.9 and said[0, [0, 2]].abs().max() < 0.01


@needs_openvino
@pytest.mark.parametrize(("settings", "samples", "message"), [
    ({}, 3 * RATE, r"windows of 2 s = 64000 samples; a clip of 3 s \* 32000 Hz = 96000 samples = 1\.500 windows"),
    ({}, RATE, r"= 0\.500 windows, not a whole number"),
    ({"width": 1536}, N, r"exactly one of them must be of shape \(batch, 1536\)"),
    ({"output": "spatial"}, N, r"'label': \(None, 3\)\}; spatial of them"),
    ({"output": "label"}, N, r"label of them must be of shape \(batch, 4\)"),
    ({"kind": "logits", "labels": "absent.csv"}, N, r"there is no file absent\.csv"),
])
def test_networks_that_do_not_fit_are_refused(tmp_path, settings: dict, samples: int, message: str) -> None:
    """Before the first step, with the shapes and the arithmetic."""
    path = write_teacher(tmp_path / "t.onnx", weights(), classes=np.ones((4, 3), np.float32))
    with pytest.raises((DataError, FileNotFoundError), match=message):
        teacher(DistilConfig(**{"teacher": str(path), "width": 4} | settings), samples=samples)


@needs_openvino
def test_files_that_are_no_networks_are_refused(tmp_path) -> None:
    """A download that was cut short, a network of something else, or nothing at all."""
    config = DistilConfig(teacher=str(tmp_path / "t.onnx"), width=4)
    with pytest.raises(FileNotFoundError, match="there is no network"):
        teacher(config)
    Path(config.teacher).write_bytes(b"<html>")
    with pytest.raises(DataError, match="cannot be read as an ONNX network"):
        teacher(config, runtime="openvino")
    write_teacher(Path(config.teacher), weights(), batch=8)
    with pytest.raises(DataError, match=r"\(8, 64000\).*its batch being any number or 1"):
        teacher(config)


def test_without_a_runtime_the_message_says_what_to_install(monkeypatch) -> None:
    """openvino is there on most machines that have birdkit; on Kaggle's image neither is."""
    monkeypatch.setattr(teacher_model, "has_openvino", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install birdkit\[distil\]"):
        teacher_model.choose_runtime()
