"""The exported network against the model itself."""
import builtins
import functools

import pytest
import torch

from birdkit import export as exporting
from birdkit.checkpoint import golden_wave
from birdkit.config import FrontEndConfig, ModelConfig, RunConfig
from birdkit.export import (
    ExportError,
    OpenVINOClassifier,
    Parity,
    TorchClassifier,
    export,
    has_openvino,
    parity,
    require_parity,
)
from birdkit.models import build_model
from birdkit.models.base import Model

openvino = pytest.importorskip("openvino")


@functools.lru_cache
def exported(frontend: FrontEndConfig, axis: str) -> tuple[Model, OpenVINOClassifier]:
    """A model and its export, made once for all tests that do not change the model."""
    run = RunConfig(frontend=frontend, model=ModelConfig(backbone="resnet10t", hidden=32, head_axis=axis))
    model = trained(run)
    return model, export(model, some_waves(run))


def some_waves(run: RunConfig) -> torch.Tensor:
    wave = golden_wave(run.frontend.n_samples)
    return torch.cat([wave, wave.flip(1), torch.randn(1, wave.shape[1], generator=torch.Generator().manual_seed(0))])


def trained(run: RunConfig, n_classes: int = 5) -> Model:
    """A model whose batch norms have seen audio and whose attention is not uniform."""
    torch.manual_seed(0)
    model = build_model(run.model, run.frontend, n_classes).train()
    with torch.no_grad():
        for parameter in model.head.parameters():  # type: ignore[union-attr]
            parameter.normal_(0, 0.3)
        for _ in range(3):
            model(torch.randn(4, run.frontend.n_samples))
    return model.eval()


@pytest.fixture
def waves(small_run: RunConfig) -> torch.Tensor:
    return some_waves(small_run)


@pytest.mark.parametrize("axis", ["time", "frequency"])
def test_openvino_agrees_with_torch_from_the_wave_on(small_run: RunConfig, waves: torch.Tensor, axis: str) -> None:
    """What is submitted must be what was validated: 1e-4 of the logits' deviation, for any batch size."""
    model, classifier = exported(small_run.frontend, axis)
    for batch in (waves, waves[:1], waves.repeat(3, 1)):
        agreement = parity(model, classifier, batch)
        assert agreement.max_error <= 1e-4 * agreement.sigma, str(agreement)
        assert agreement.attention_error <= 1e-4
        assert agreement.rank_agreement > 0.9999


def test_rows_come_back_in_the_order_they_went_in(small_run: RunConfig, waves: torch.Tensor) -> None:
    """Images are worked off by several streams at once; a swapped row would be another window's prediction."""
    model, classifier = exported(small_run.frontend, "time")
    images = model.frontend(waves)
    whole = classifier(images.repeat(4, 1, 1, 1)).segment_logits
    for index in range(12):
        assert torch.equal(whole[index], classifier(images[index % 3:index % 3 + 1]).segment_logits[0])


def test_the_precision_is_f32_unless_asked_otherwise(small_run: RunConfig, waves: torch.Tensor) -> None:
    """OpenVINO alone picks bf16 where the CPU has it, which is percent of a sigma off."""
    model, classifier = exported(small_run.frontend, "time")
    assert classifier.precision == "f32"
    with pytest.raises(ValueError, match="fp16"):
        export(model, waves, precision="fp16")


def test_a_network_that_was_changed_after_export_fails_parity(small_run: RunConfig, waves: torch.Tensor) -> None:
    """The check must be able to fail: another classifier bias is not the model."""
    model = trained(small_run)
    classifier = export(model, waves)
    with torch.no_grad():
        model.head.classifier.bias += 0.01  # type: ignore[union-attr, operator]
    agreement = parity(model, classifier, waves)
    with pytest.raises(ExportError, match=r"differ by up to 0\.01"):
        require_parity(agreement, "f32")


def test_bf16_is_judged_by_the_order_it_keeps() -> None:
    """A ranking metric sees the order; logits that differ by percents may keep it."""
    require_parity(Parity(0.05, 1.0, 0.01, 0.999), "bf16")
    with pytest.raises(ExportError, match=r"rank agreement of 0\.98"):
        require_parity(Parity(0.05, 1.0, 0.01, 0.9), "bf16")
    with pytest.raises(ExportError, match="f32 may differ"):
        require_parity(Parity(float("inf"), 1.0, 0.0, 1.0), "f32")


def test_a_model_in_training_mode_is_refused(small_run: RunConfig, waves: torch.Tensor) -> None:
    """Dropout and batch statistics would be baked in, or decide a validation score, without an error."""
    model = trained(small_run).train()
    with pytest.raises(ValueError, match="eval mode"):
        export(model, waves)
    with pytest.raises(RuntimeError, match=r"model\.eval"):
        TorchClassifier(model)(model.frontend(waves))


def test_openvino_is_missed_by_its_import_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a missing package may lead to torch; any other failure must be seen."""
    assert has_openvino()
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name == "openvino":
            raise ImportError(name)
        return real(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    assert not exporting.has_openvino()
