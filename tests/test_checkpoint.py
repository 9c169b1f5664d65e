"""Checkpoints prove themselves: whatever changes what the network sees or says makes the load fail."""
import json

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from birdkit import checkpoint, frontend
from birdkit.checkpoint import CheckpointError
from birdkit.models import build_model
from birdkit.settings import replace

CLASSES = ("ant", "bee", "crow")


@pytest.fixture
def saved(tmp_path, small_run):
    model = build_model(small_run.model, small_run.frontend, 3)
    for _ in range(3):  # running statistics that are not the initial ones
        model.train()(torch.randn(4, small_run.frontend.n_samples))
    path = tmp_path / "best.safetensors"
    checkpoint.save(path, model, config=small_run, classes=CLASSES, table_hash="t", seen=["b.ogg", "a.ogg"],
                    seen_content=["9f"], score=0.9)
    return path, model.eval()


def rewrite(path, change_tensors=None, change_meta=None) -> None:
    """The file with something changed, as an edit or a bad copy would."""
    tensors, meta = safetensors.torch.load_file(path), checkpoint.read_info(path)
    if change_tensors:
        change_tensors(tensors)
    if change_meta:
        change_meta(meta)
    safetensors.torch.save_file(tensors, path, metadata={"birdkit": json.dumps(meta)})


def test_what_was_saved_is_what_is_loaded(saved, small_run) -> None:
    """Weights, config, classes and provenance come back, and the model says the same."""
    path, model = saved
    loaded = checkpoint.load(path)
    assert loaded.config == small_run and loaded.classes == CLASSES
    assert loaded.seen == {"a.ogg", "b.ogg"} and loaded.info["score"] == 0.9 and loaded.info["table_hash"] == "t"
    assert loaded.seen_content == {"9f"}
    assert len(loaded.hash) == 64 and not loaded.model.training
    wave = torch.randn(2, small_run.frontend.n_samples)
    with torch.inference_mode():
        assert torch.equal(loaded.model(wave).clip_logits, model(wave).clip_logits)


def test_a_checkpoint_that_knows_no_contents_is_read(saved) -> None:
    """Those of earlier versions of this package."""
    rewrite(saved[0], change_meta=lambda meta: meta.pop("seen_content"))
    assert checkpoint.load(saved[0]).seen_content == frozenset()


def test_the_file_is_not_a_pickle(saved) -> None:
    """A checkpoint from a stranger must not run code."""
    with safetensors.safe_open(str(saved[0]), framework="pt") as file:
        assert "golden.image" in file.keys()  # noqa: SIM118


@pytest.mark.parametrize("breakage", ["swap", "frame", "normaliser", "bands"])
def test_a_changed_front_end_stops_at_the_load(saved, monkeypatch, breakage: str) -> None:
    """The second seed's lost weeks: the same weights scored 0.742 or 0.802 with two versions of the image."""
    original = frontend.FrontEnd.forward

    def forward(self, wave):
        image = original(self, wave)
        if breakage == "swap":
            return image.flip(-2)
        if breakage == "frame":
            return image.roll(1, -1)
        if breakage == "normaliser":
            return image * 1.01
        return image + 0.01

    monkeypatch.setattr(frontend.FrontEnd, "forward", forward)
    with pytest.raises(CheckpointError, match=r"golden\.image differs by .*Versions, written -> here"):
        checkpoint.load(saved[0])


def test_a_changed_aggregation_stops_at_the_load(saved, monkeypatch) -> None:
    """Pooled logits in training and pooled probabilities in submission were two functions in the second seed."""
    monkeypatch.setattr(checkpoint, "probabilities", lambda output: output.segment_logits.sigmoid().sum(1))
    with pytest.raises(CheckpointError, match=r"golden\.probabilities differs"):
        checkpoint.load(saved[0])


def test_a_changed_weight_stops_at_the_load(saved) -> None:
    """A file that was edited or cut is not the model that was validated."""

    def scale(tensors):
        tensors["model.head.classifier.weight"] *= 1.5

    rewrite(saved[0], scale)
    with pytest.raises(CheckpointError, match=r"golden\.clip_logits differs"):
        checkpoint.load(saved[0])


def test_versions_of_both_sides_are_in_the_message(saved) -> None:
    """So one knows which upgrade to undo."""
    rewrite(saved[0], lambda tensors: tensors["golden.image"].add_(0.1),
            lambda meta: meta["versions"].update(torch="1.0.0"))
    with pytest.raises(CheckpointError, match=rf"torch 1\.0\.0 -> {torch.__version__.split('+')[0]}"):
        checkpoint.load(saved[0])


def test_weights_that_do_not_fit_are_refused(saved) -> None:
    """No partial load without consent."""
    rewrite(saved[0], lambda tensors: tensors.pop("model.head.classifier.bias"))
    with pytest.raises(CheckpointError, match="do not fit the config"):
        checkpoint.load(saved[0])


def test_an_unknown_setting_in_the_file_is_refused(saved) -> None:
    """A checkpoint of a newer birdkit must not be half understood."""
    rewrite(saved[0], change_meta=lambda meta: meta["config"]["frontend"].update(pcen=True))
    with pytest.raises(ValueError, match="unknown key 'pcen'"):
        checkpoint.load(saved[0])
    rewrite(saved[0], change_meta=lambda meta: meta.update(format=99))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(saved[0])


def test_files_that_are_no_checkpoints_are_named(tmp_path) -> None:
    """The path is in every message."""
    (tmp_path / "text").write_text("hello")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    with pytest.raises(CheckpointError, match="text is not a safetensors file"):
        checkpoint.load(tmp_path / "text")
    with pytest.raises(CheckpointError, match="plain holds no birdkit metadata"):
        checkpoint.load(tmp_path / "plain")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "none")


def test_broken_weights_are_not_saved(tmp_path, small_run) -> None:
    """A best checkpoint full of NaN would be found out on the day of the submission."""
    model = build_model(small_run.model, small_run.frontend, 3)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        checkpoint.save(tmp_path / "x", model, config=small_run, classes=CLASSES, table_hash="", seen=[])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "a", "b")])
def test_class_names_must_be_as_many_as_the_logits(tmp_path, small_run, classes) -> None:
    """A shifted label column was behind several of the second seed's experiments."""
    model = build_model(small_run.model, small_run.frontend, 3)
    with pytest.raises(CheckpointError, match="class names"):
        checkpoint.save(tmp_path / "x", model, config=small_run, classes=classes, table_hash="", seen=[])


def test_loading_takes_no_front_end() -> None:
    """There is none to get wrong."""
    import inspect

    assert set(inspect.signature(checkpoint.load).parameters) == {"path", "device"}


def test_the_golden_wave_needs_no_random_generator() -> None:
    """Known values, so that no version of a library can change the sample both sides are compared on."""
    wave = checkpoint.golden_wave(32_000)[0].numpy()
    assert wave.dtype == np.float32 and np.isfinite(wave).all() and wave.max() > 0.9
    assert wave[:4].tolist() == pytest.approx([-0.0250, 0.0399, 0.0155, 0.0592], abs=1e-4)
    spectrum = np.abs(np.fft.rfft(wave[:4000]))
    assert spectrum[1:].argmax() < np.abs(np.fft.rfft(wave[-4000:]))[1:].argmax()


def test_pretrained_weights_are_not_fetched_again(tmp_path, small_run) -> None:
    """A checkpoint trained from hub weights must load with the internet off."""
    config = replace(small_run, model__weights="hub")
    model = build_model(small_run.model, small_run.frontend, 3)
    checkpoint.save(tmp_path / "x", model, config=config, classes=CLASSES, table_hash="", seen=[])
    assert checkpoint.load(tmp_path / "x").config.model.weights == "hub"
