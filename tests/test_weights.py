"""Warm starts: what a weights file gives to a model, what is said of the rest, and files that nobody should trust."""
import collections
import functools
import logging
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from birdkit import checkpoint
from birdkit.config import FrontEndConfig, ModelConfig, RunConfig
from birdkit.models import MODELS, build_model
from birdkit.models.base import Model
from birdkit.models.weights import WeightsError, load_weights, read_weights
from birdkit.settings import replace

BACKBONE = "resnet10t"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The state dict of a timm backbone for three channels, with the classifier that it was trained with."""
    torch.manual_seed(1)
    network = timm.create_model(BACKBONE, num_classes=6)
    return {name: value + 0.1 if value.is_floating_point() else value for name, value in network.state_dict().items()}


def model_from(path: Path | str, frontend: FrontEndConfig, **changes: object) -> Model:
    config = ModelConfig(backbone=BACKBONE, hidden=16, weights=str(path), **changes)  # type: ignore[arg-type]
    return build_model(config, frontend, 3).eval()


def within(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def same(ones: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return ones.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in ones.items())


def test_a_backbone_of_timms_fills_all_but_the_classifier(tmp_path, published) -> None:
    """The classifier of 6 or 1000 other classes is nobody's loss: leaving it out needs no consent and no warning."""
    path = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file(published, path)
    model = model_from(path, FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64, channels="delta"))
    backbone = {name: value for name, value in published.items() if not name.startswith("fc.")}
    assert same(within(model.state_dict(), "backbone.network."), backbone)
    report = model.weights_report
    assert report is not None and set(report.loaded) == set(backbone) and not report.left_out and not report.adapted


@pytest.mark.parametrize(("name", "wrap"), [
    ("plain.pth", lambda w: w),
    ("lightning.ckpt", lambda w: {"epoch": 3, "state_dict": {f"model.{name}": value for name, value in w.items()}}),
    ("parallel.pt", lambda w: {"model": {f"module.{name}": value for name, value in w.items()}, "optimizer": {}}),
    ("compiled.pt", lambda w: {f"module._orig_mod.{name}": value for name, value in w.items()}),
    ("sed.ckpt", lambda w: {"state_dict": {f"sed_model.{name}": value for name, value in w.items()}}),
    ("parameters.bin", lambda w: {name: nn.Parameter(value) if value.is_floating_point() else value
                                  for name, value in w.items()})])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_trainers_wrap_around_weights_is_taken_off(tmp_path, published, name: str, wrap, zipped: bool) -> None:
    """Lightning, DataParallel and torch.compile; and the format of before 2020, in which timm's older files are."""
    torch.save(wrap(published), tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(tmp_path / name), published)


def test_averaged_weights_come_before_the_last(tmp_path) -> None:
    """A file that holds both was validated with the average."""
    torch.save({"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": {"a": torch.ones(1)}}, tmp_path / "both.pt")
    assert read_weights(tmp_path / "both.pt")["a"].item() == 1.0


def test_a_prefix_of_some_names_is_part_of_the_names(tmp_path) -> None:
    """Taken off one half only, two tensors could get the same name."""
    torch.save({"model.a": torch.zeros(1), "a": torch.ones(1)}, tmp_path / "x.pt")
    assert set(read_weights(tmp_path / "x.pt")) == {"model.a", "a"}


def test_classes_that_are_not_installed_do_not_matter(tmp_path, published, monkeypatch) -> None:
    """A Lightning file of 2021 names the trainer's classes, and its author's: none of them is imported to be read."""
    settings = type("AttributeDict", (dict,), {"__module__": "an_old_trainer"})
    schedule = type("Schedule", (), {"__module__": "an_old_trainer", "rate": property(lambda self: 0.1)})
    one = schedule()
    one.last = 3
    with monkeypatch.context() as patch:
        there = types.ModuleType("an_old_trainer")
        there.AttributeDict, there.Schedule = settings, schedule  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "an_old_trainer", there)
        torch.save({"callbacks": {schedule: one}, "hyper_parameters": settings(lr=0.1), "path": Path("x"),
                    "log": collections.defaultdict(list, {"loss": [1.0]}), "score": np.float64(0.8),
                    "norm": functools.partial(nn.LayerNorm, eps=1e-6), "state_dict": published}, tmp_path / "x.ckpt")
    assert same(read_weights(tmp_path / "x.ckpt"), published)
    assert "an_old_trainer" not in sys.modules


class Attack:
    """Runs something when it is unpickled."""

    def __init__(self, function, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.system, eval])
def test_a_file_that_would_run_code_is_refused(tmp_path, published, function, zipped: bool) -> None:
    """Weights come from strangers. Nothing runs, and the good weights beside it do not make it a good file."""
    trace = tmp_path / "trace"
    order = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w').close()"
    path = tmp_path / "x.pth"
    torch.save({"state_dict": published, "x": Attack(function, order)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"x\.pth .*(system|eval)"):
        read_weights(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have


@pytest.mark.parametrize("name", ["cut.pth", "cut_old.pth", "cut.safetensors", "text.pth", "text.safetensors",
                                  "empty.pth", "no_tensors.pth", "no_tensors.safetensors", "number.pt", "module.pt"])
def test_a_file_that_holds_no_weights_is_named(tmp_path, published, name: str) -> None:
    """A download that broke off must not look like a model that does not fit, or like an error of ours."""
    path = tmp_path / name
    if name.endswith(".safetensors"):
        safetensors.torch.save_file({} if name.startswith("no") else published, path)
    else:
        content = {"no_tensors.pth": {"epoch": 3}, "number.pt": 3, "module.pt": nn.Linear(2, 2)}.get(name, published)
        torch.save(content, path, _use_new_zipfile_serialization="old" not in name)
    if name.startswith(("cut", "text", "empty")):
        keep = {"cut": path.read_bytes()[:path.stat().st_size // 2], "tex": b"<html>not found</html>", "emp": b""}
        path.write_bytes(keep[name[:3]])
    with pytest.raises(WeightsError, match=f"{name} (cannot be read as weights|holds no named tensors)"):
        read_weights(path)


def test_a_path_without_a_file_is_named(tmp_path, small_frontend) -> None:
    """Not a random start."""
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*there\.pth"):
        model_from(tmp_path / "there.pth", small_frontend)


def altered(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """One tensor missing, one of another shape, one that no model has."""
    weights = {name: value for name, value in published.items() if name != "bn1.bias"}
    return weights | {"layer1.0.bn1.weight": torch.zeros(5), "teacher.weight": torch.zeros(2)}


def test_weights_that_fit_in_part_are_refused_by_name(tmp_path, published, small_frontend) -> None:
    """The first seed's HTS-AT may have been loaded with strict=False: half a model, and nobody knew."""
    torch.save(altered(published), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"(?s)1 missing: bn1\.bias.*1 mismatched: layer1\.0\.bn1\.weight "
                                           r"\(\[5\] -> \[64\]\).*1 unexpected: teacher\.weight"):
        model_from(tmp_path / "x.pth", small_frontend)


def test_with_consent_a_part_is_taken_and_the_rest_reported(tmp_path, published, small_frontend, caplog) -> None:
    """Every tensor is accounted for, in the log and in the model's report, whatever their number."""
    weights = altered(published) | {f"teacher.{i}": torch.zeros(1) for i in range(20)}
    torch.save(weights, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO, "birdkit.models.weights"):
        model = model_from(tmp_path / "x.pth", small_frontend, partial_weights=True)
    report, network = model.weights_report, model.backbone.network  # type: ignore[union-attr]
    assert report is not None and report.missing == ("bn1.bias",) and len(report.unexpected) == 21
    assert [name.split()[0] for name in report.mismatched] == ["layer1.0.bn1.weight"]
    counters = {name for name in network.state_dict() if "num_batches" in name}  # type: ignore[union-attr]
    assert set(report.loaded) | {"bn1.bias", "layer1.0.bn1.weight"} | counters == set(network.state_dict())  # type: ignore
    assert torch.equal(network.bn1.weight, published["bn1.weight"])  # type: ignore[union-attr]
    assert torch.equal(network.bn1.bias, torch.zeros(64))  # type: ignore[union-attr]
    assert "teacher.19" in caplog.text and caplog.records[0].levelname == "WARNING"


def test_a_file_of_something_else_is_refused_even_with_consent(tmp_path, small_frontend) -> None:
    """Consent to a part is no consent to nothing."""
    torch.save({"weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"nothing in .*x\.pth fits"):
        model_from(tmp_path / "x.pth", small_frontend, partial_weights=True)


def test_a_refused_file_leaves_the_module_as_it_was() -> None:
    """All or nothing: whoever catches the error must not go on with half the weights."""
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    with pytest.raises(WeightsError, match="1 missing: bias"):
        load_weights(module, {"weight": torch.ones(2, 2)}, path="x")
    assert torch.equal(module.weight, before)


def test_the_counters_of_batch_norm_may_be_absent() -> None:
    """Files of before 2018 lack them, and no forward pass reads them."""
    module = nn.BatchNorm1d(2)
    report = load_weights(module, {name: torch.full((2,), 3.0) for name in ("weight", "bias", "running_mean",
                                                                           "running_var")}, path="x")
    assert not report.left_out and module.weight.tolist() == [3.0, 3.0]


def saved(path: Path, config: RunConfig, n_classes: int) -> Model:
    """A birdkit checkpoint of a model whose batch norms have statistics."""
    torch.manual_seed(3)
    model = build_model(config.model, config.frontend, n_classes).train()
    model(torch.randn(2, config.frontend.n_samples))
    checkpoint.save(path, model, config=config, classes=[f"c{k}" for k in range(n_classes)], table_hash="", seen=[])
    return model


@pytest.mark.parametrize("name", MODELS.names())
def test_a_checkpoint_of_other_classes_gives_what_does_not_depend_on_them(tmp_path, name: str) -> None:
    """Pretraining on ten thousand species, as the 2025 winner: all but the classifier must arrive."""
    kind, path = MODELS.get(name), tmp_path / "pretrained.safetensors"
    config = RunConfig(model=kind.small, frontend=kind.small_frontend)
    old = saved(path, config, 2)
    torch.manual_seed(4)
    model = build_model(replace(kind.small, weights=str(path)), config.frontend, 5)
    taken = [n for n in model.state_dict() if n.startswith(tuple(f"{part}." for part in kind.class_free))]
    assert taken and all(torch.equal(model.state_dict()[n], old.state_dict()[n]) for n in taken)
    report = model.weights_report
    assert report is not None and set(report.loaded) == set(taken) and not report.left_out
    assert not any(torch.equal(value, old.state_dict()[n]) for n, value in model.state_dict().items()
                   if n not in taken and value.ndim > 1 and value.shape == old.state_dict()[n].shape and value.any())


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path, small_run) -> None:
    """Names such as conv1.weight are common to many networks: what fits by chance is no warm start."""
    saved(tmp_path / "x.safetensors", replace(small_run, model__backbone="scratch_resnet_s2"), 2)
    with pytest.raises(WeightsError, match=r"x\.safetensors"):
        model_from(tmp_path / "x.safetensors", small_run.frontend)


def test_a_checkpoint_of_one_channel_starts_a_model_of_three(tmp_path, small_run) -> None:
    """As a backbone's file does: three equal channels give the features that one gave."""
    path = tmp_path / "x.safetensors"
    old = saved(path, small_run, 2).eval()
    frontend = replace(small_run.frontend, channels="repeat")
    model = build_model(replace(small_run.model, weights=str(path)), frontend, 5).eval()
    assert model.weights_report is not None and model.weights_report.adapted == ("backbone.network.conv1.0.weight",)
    image = torch.randn(1, 1, *frontend.image_size)
    with torch.inference_mode():
        assert torch.allclose(model.features(image.expand(-1, 3, -1, -1)), old.features(image), atol=1e-5)


def test_a_checkpoint_outlives_the_file_it_was_started_from(tmp_path, published, small_run) -> None:
    """On Kaggle the submission has the checkpoint and not the weights that its training began with."""
    start, path = tmp_path / "start.pth", tmp_path / "best.safetensors"
    torch.save(published, start)
    config = replace(small_run, model__weights=str(start))
    model = saved(path, config, 3).eval()
    start.unlink()
    loaded = checkpoint.load(path)
    assert loaded.config.model.weights == str(start)
    wave = torch.randn(1, config.frontend.n_samples)
    with torch.inference_mode():
        assert torch.equal(loaded.model(wave).clip_logits, model(wave).clip_logits)
