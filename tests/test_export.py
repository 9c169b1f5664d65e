"""The exported network against the model itself."""
import functools
import logging
import multiprocessing
import sys

import pytest
import torch
from torch import nn

from birdkit.backends import (
    BACKENDS,
    PRECISIONS,
    Backend,
    ExportedBackend,
    ExportError,
    OpenVINOClassifier,
    TorchClassifier,
    choose_backend,
    exported_backend,
    has_openvino,
)
from birdkit.backends.choice import ORDER
from birdkit.backends.parity import Parity, parity, require_parity
from birdkit.checkpoint import golden_wave
from birdkit.config import OWN, FrontEndConfig, InferenceConfig, ModelConfig, RunConfig
from birdkit.export import export
from birdkit.models import HEADS, MODELS, build_model
from birdkit.models.base import Model
from birdkit.models.weight_standardisation import STANDARDISED
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.settings import replace

openvino = pytest.importorskip("openvino")


POOLINGS, NORMS = ("mean", "max", "gem", "mean_max"), ("none", "band", "channel", "instance")
HEAD_OPTIONS = [*((name, {}) for name in HEADS.names()), ("attention", {"kernel": 3}),
                ("attention", {"kernel": 3, "pool": "probabilities"}), ("grouped", {"groups": [1, 0, 1, 0, 2]}),
                ("grouped", {"groups": [1, 0, 1, 0, 1], "head_options": {"pool": "probabilities"}}),
                ("grouped", {"groups": [0, 1, 1, 1, 0], "head": "max"})]


class Patches(nn.Module):
    """The smallest backbone there is: one convolution over patches of 8 x 8."""

    num_features = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 8, 8, 8)

    def forward_features(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image)


@functools.lru_cache
def exported(frontend: FrontEndConfig, axis: str) -> tuple[Model, ExportedBackend]:
    """A model and its export, made once for all tests that do not change the model."""
    run = RunConfig(frontend=frontend, model=ModelConfig(backbone="resnet10t", hidden=32, head_axis=axis))
    model = trained(run)
    return model, export(model, some_waves(run))


def some_waves(run: RunConfig) -> torch.Tensor:
    wave = golden_wave(run.frontend.n_samples)
    return torch.cat([wave, wave.flip(1), torch.randn(1, wave.shape[1], generator=torch.Generator().manual_seed(0))])


def trained(run: RunConfig, n_classes: int = 5) -> Model:
    """A model whose batch norms have seen audio, and in which nothing is as it starts: no weight or bias is zero, so
    attention is not uniform, and logits differ as they do after training."""
    torch.manual_seed(0)
    model = build_model(run.model, run.frontend, n_classes).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() or (name.startswith("head.") and parameter.ndim > 1):
                parameter.normal_(0, 0.3)
        for _ in range(3):
            model(torch.randn(4, run.frontend.n_samples))
    return model.eval()


def assert_agreement(model: Model, classifier: Backend, waves: torch.Tensor) -> None:
    agreement = parity(model, classifier, waves)
    assert agreement.max_error <= 1e-4 * agreement.sigma and agreement.sigma > 0.02, str(agreement)
    assert agreement.attention_error <= 1e-4, str(agreement)
    image = model.frontend(waves)
    assert classifier(image).pooled == TorchClassifier(model)(image).pooled == model.pooled


def assert_exports(model: ModelConfig, frontend: FrontEndConfig, backend: str = "openvino") -> None:
    run = RunConfig(model=model, frontend=frontend)
    one = trained(run)
    waves = some_waves(run)
    assert_agreement(one, export(one, waves, backend=backend), waves)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_is_submitted_as_it_was_validated(name: str, backend: str) -> None:
    """A registered model that a runtime understands in another way would be found out by its score."""
    assert_exports(MODELS.get(name).small, MODELS.get(name).small_frontend, backend)


@pytest.mark.parametrize("name", [name for name in MODELS.names() if MODELS.get(name).small.backbone == OWN])
def test_every_model_exports_with_another_backbone(name: str) -> None:
    """A pretrained CNN in the place of a model's own is the way to score with it."""
    kind = MODELS.get(name)
    assert_exports(replace(kind.small, backbone="scratch_resnet_s2"), kind.small_frontend)


@pytest.mark.parametrize("axis", ["time", "frequency"])
@pytest.mark.parametrize("index", range(len(HEAD_OPTIONS)))
def test_every_head_pooling_and_norm_is_submitted_as_it_was_validated(index: int, axis: str, monkeypatch) -> None:
    """Each head on both axes, each pooling and input norm, with and without smoothing and neck, in turn."""
    monkeypatch.setattr("birdkit.models.backbones.build_backbone", lambda config, in_chans: Patches(in_chans))
    head, options = HEAD_OPTIONS[index]
    turn = index + (axis == "frequency")
    config = ModelConfig(head=head, head_options=options, head_axis=axis, pooling=POOLINGS[turn % 4], hidden=16,
                         input_norm=NORMS[turn % 4], smoothing=turn % 3 == 0, neck=("linear", "none")[turn % 3 == 1])
    channels = ("one", "delta")[index % 2]
    assert_exports(config, FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64, channels=channels))


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_every_front_end_is_submitted_as_it_was_validated(name: str) -> None:
    """From the wave on, for every published image: its size, channels and scale."""
    assert_exports(replace(MODELS.get("sed").small, input_norm="band"), FRONT_ENDS[name])


def test_an_nfnet_is_exported_with_folded_filters(small_frontend: FrontEndConfig, monkeypatch) -> None:
    """The converter sees plain convolutions, and the model that was given keeps its own."""
    run = RunConfig(frontend=small_frontend, model=ModelConfig(backbone="eca_nfnet_l0", hidden=32))
    model, waves, seen = trained(run), some_waves(run), []
    convert = openvino.convert_model

    def spy(network: nn.Module, **options: object) -> object:
        seen.extend(network.modules())
        return convert(network, **options)

    monkeypatch.setattr(openvino, "convert_model", spy)
    classifier = export(model, waves)
    assert seen and not any(isinstance(module, STANDARDISED) for module in seen)
    assert any(isinstance(module, STANDARDISED) for module in model.modules())
    assert_agreement(model, classifier, waves)


@pytest.fixture
def waves(small_run: RunConfig) -> torch.Tensor:
    return some_waves(small_run)


@pytest.mark.parametrize("name", BACKENDS.names())
def test_every_backend_keeps_the_contract(name: str, small_run: RunConfig, waves: torch.Tensor) -> None:
    """float32 on the CPU for any batch, the precision by its name: what everything behind a backend relies on."""
    model, kind = trained(small_run), BACKENDS.get(name)
    classifier = TorchClassifier(model) if name == "torch" else export(model, waves, backend=name, threads=1)
    image = model.frontend(waves)
    for batch in (image, image[:1]):
        said = classifier(batch)
        values = (said.clip_logits, said.segment_logits, said.attention)
        shapes = [(len(batch), 5), *2 * [(len(batch), model.n_segments, 5)]]
        assert [tuple(value.shape) for value in values] == shapes
        assert {value.dtype for value in values} == {torch.float32}
    assert (classifier.backend, classifier.precision, classifier.pooled) == (name, "f32", model.pooled)
    assert set(kind.precisions) <= set(PRECISIONS) and set(BACKENDS.names()) == set(ORDER)
    assert InferenceConfig(backend=name).backend == name
    unknown = next(one for one in [*PRECISIONS, "f64"] if one not in kind.precisions)
    with pytest.raises(ValueError, match="must be one of f32"):
        TorchClassifier(model, precision=unknown) if name == "torch" else kind.convert(model, precision=unknown)  # type: ignore[attr-defined]


@pytest.mark.parametrize("axis", ["time", "frequency"])
def test_openvino_agrees_with_torch_from_the_wave_on(small_run: RunConfig, waves: torch.Tensor, axis: str) -> None:
    """What is submitted must be what was validated: 1e-4 of the logits' deviation, for any batch size."""
    model, classifier = exported(small_run.frontend, axis)
    for batch in (waves, waves[:1], waves.repeat(3, 1)):
        assert_agreement(model, classifier, batch)
        assert parity(model, classifier, batch).rank_agreement > 0.9999


def test_rows_come_back_in_the_order_they_went_in(small_run: RunConfig, waves: torch.Tensor) -> None:
    """Images are worked off by several streams at once; a swapped row would be another window's prediction."""
    model, classifier = exported(small_run.frontend, "time")
    images = model.frontend(waves)
    whole = classifier(images.repeat(4, 1, 1, 1)).segment_logits
    for index in range(12):
        assert torch.equal(whole[index], classifier(images[index % 3:index % 3 + 1]).segment_logits[0])


def test_the_precision_is_f32_unless_asked_otherwise(small_run: RunConfig) -> None:
    """OpenVINO alone picks bf16 where the CPU has it, which is percent of a sigma off."""
    model, classifier = exported(small_run.frontend, "time")
    assert classifier.precision == "f32"
    with pytest.raises(ValueError, match="fp16"):
        OpenVINOClassifier.convert(model, precision="fp16")
    assert InferenceConfig().precision == "f32"


def test_a_network_that_was_changed_after_export_fails_parity(small_run: RunConfig, waves: torch.Tensor) -> None:
    """The check must be able to fail: another classifier bias is not the model."""
    model = trained(small_run)
    classifier = export(model, waves)
    with torch.no_grad():
        model.head.classifier.bias += 0.01  # type: ignore[union-attr, operator]
    agreement = parity(model, classifier, waves)
    with pytest.raises(ExportError, match=r"differ by up to 0\.01"):
        require_parity(agreement)
    with pytest.raises(ExportError, match="f32 may differ"):
        require_parity(Parity(float("inf"), 1.0, 0.0, 1.0))


def test_a_model_in_training_mode_is_refused(small_run: RunConfig, waves: torch.Tensor) -> None:
    """Dropout and batch statistics would be baked in, or decide a validation score, without an error."""
    model = trained(small_run).train()
    with pytest.raises(ValueError, match="eval mode"):
        export(model, waves)
    with pytest.raises(RuntimeError, match=r"model\.eval"):
        TorchClassifier(model)(model.frontend(waves))


def test_an_export_tells_nobody(small_run: RunConfig, waves: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's telemetry forked the process for each of its events: on a machine without internet, four fifths of the
    time of an export, and a fork of a process that has threads may hang."""
    started: list[multiprocessing.Process] = []
    monkeypatch.setattr(multiprocessing.Process, "start", lambda self: started.append(self))
    export(trained(small_run), waves)
    assert not started


def test_f16_rounds_the_weights_and_nothing_else(small_run: RunConfig, waves: torch.Tensor) -> None:
    """Half the file at an error of some thousandths: weights have 11 bits, and the arithmetic stays in f32."""
    model = trained(small_run)
    network = OpenVINOClassifier.convert(model, precision="f16")
    agreement = parity(model, OpenVINOClassifier(network, precision="f16", pooled=model.pooled), waves)
    assert 1e-5 * agreement.sigma < agreement.max_error < 0.02 * agreement.sigma, str(agreement)
    assert agreement.rank_agreement > 0.98


def test_bf16_is_f32_where_the_cpu_has_none(small_run: RunConfig, waves: torch.Tensor, monkeypatch, caplog) -> None:
    """The scored rerun may be on another CPU than the rehearsal: it must not end there, and must say what it did."""
    model, compiled = trained(small_run), []
    real = openvino.Core.compile_model

    def without_bf16(self, network, device, options):
        compiled.append(real(self, network, device, {**options, "INFERENCE_PRECISION_HINT": "f32"}))
        return compiled[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", without_bf16)
    with caplog.at_level(logging.WARNING):
        network = OpenVINOClassifier.convert(model, precision="bf16")
        classifier = OpenVINOClassifier(network, precision="bf16", pooled=model.pooled)
    assert classifier.precision == "f32" and "no bf16" in caplog.text and compiled
    assert_agreement(model, classifier, waves)


def test_auto_takes_the_first_backend_that_is_there(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """Only a missing package may lead to a slower one, and it is said; asked for by name, it is an error."""
    assert has_openvino() and choose_backend("auto") == "openvino"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not has_openvino() and choose_backend("auto", of="best") == "onnxruntime"
    assert "openvino is not installed: best runs on onnxruntime" in caplog.text
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert choose_backend("auto") == "torch"
    assert "openvino, onnxscript are not installed" in caplog.text and "several times slower" in caplog.text
    with pytest.raises(ImportError, match="onnxscript"):
        choose_backend("onnxruntime")
    with pytest.raises(ValueError, match="one of auto, openvino"):
        choose_backend("onnx")
    with pytest.raises(ValueError, match="no network of its own"):
        exported_backend("torch")
