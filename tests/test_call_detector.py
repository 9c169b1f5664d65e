"""The call detector: the published order of operations, attention where something calls, and noise told from calls."""
from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE
from torch import Tensor, nn

from birdkit import recipes, training
from birdkit.config import FrontEndConfig, ModelConfig, RunConfig
from birdkit.export import export
from birdkit.folding import fold
from birdkit.inference import Predictor, load_predictors, predict, predict_wave
from birdkit.metrics import macro_roc_auc
from birdkit.models import MODELS, build_model
from birdkit.models.call_detector import CallDetector
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.settings import replace
from birdkit.synthesis.ambience import Place, render_place
from birdkit.synthesis.calls import SPECIES, draw_bout, draw_individual, render_bout

CLIP_S = 2.0
# 2 s * 32,000 Hz / 1000 = 64 frames of 32 mels: 4 segments of half a second.
TINY = replace(RunConfig(), name="calls", split=-1, model=CallDetector.small,
               frontend=FrontEndConfig(clip_s=CLIP_S, hop_samples=1000, n_mels=32, strips=1),
               data__samples_per_epoch=160, data__cache_gib=0.1, train__epochs=3, train__batch_size=16,
               train__workers=0, train__peak_lr=2e-3, train__precision="f32", inference__backend="torch")


def air(rng: np.random.Generator, seconds: float = CLIP_S) -> np.ndarray:
    """What an invented place sounds like when nothing calls, (N,) of unit RMS: wind, rain or far insects are noise."""
    place = Place(slope=rng.uniform(0, 2), bed=rng.choice([0, 3.0]), bed_hz=rng.uniform(4000, 8000),
                  wind=rng.choice([0, 2.0]), rain=rng.choice([0, 10.0]))
    wave = render_place(place, round(seconds * RATE), RATE, rng)
    return wave / wave.std()


def with_call(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same with an invented animal in all of it, 0 to 12 dB over the air while it sounds."""
    individual = draw_individual(SPECIES[rng.integers(len(SPECIES))], rng)
    seconds = len(wave) / RATE
    bout = render_bout(draw_bout(individual, rng, seconds), seconds, RATE)
    level = np.sqrt(np.mean(bout[np.abs(bout) > 0.01] ** 2))
    return wave + 10 ** (rng.uniform(0, 12) / 20) * bout / level


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Predictor], float]:
    """A detector trained on 96 clips for some seconds, and its ROC-AUC on 60 others."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for i in range(156):
        wave = air(rng) if i % 2 else with_call(air(rng), rng)
        sf.write(root / f"{i}.wav", 0.9 * wave / np.abs(wave).max(), RATE)
    files = [f"{i}.wav" for i in range(156)]
    table = pd.DataFrame({"file": files[:96], "label": ["call", "nocall"] * 48, "secondary": "", "duration_s": CLIP_S,
                          "rating": 0.0, "split": 0})
    result = training.fit(TINY, table, ["call"], root=root, out_dir=root / "run", progress=False)
    predictors = load_predictors([result.best])
    predicted = predict(files[96:], predictors, window_s=CLIP_S, root=root, progress=False).table
    return predictors, macro_roc_auc(np.tile([[1], [0]], (30, 1)), predicted[["call"]].to_numpy())


def test_calls_are_told_from_noise(trained: tuple[list[Predictor], float]) -> None:
    """A detector that learns nothing from a table of calls and noise would pass every test of shapes."""
    assert trained[1] > 0.95


def test_the_window_with_the_call_is_found(trained: tuple[list[Predictor], float]) -> None:
    """A gate that only knows that somewhere in the minute something calls would gate nothing."""
    rng = np.random.default_rng(5)
    wave = air(rng, 12.0)
    wave[3 * 2 * RATE:4 * 2 * RATE] = with_call(wave[3 * 2 * RATE:4 * 2 * RATE], rng)
    heard = predict_wave((wave / np.abs(wave).max()).astype(np.float32), trained[0], window_s=2.0)[:, 0]
    assert heard.argmax() == 3 and heard[3] > 0.5 and np.delete(heard, 3).max() < 0.5


def make(n_classes: int = 1, **changes: object) -> CallDetector:
    """A small detector with random weights, its batch norms calibrated, in eval mode."""
    torch.manual_seed(0)
    config = dataclasses.replace(CallDetector.small, **changes)  # type: ignore[arg-type]
    model = build_model(config, CallDetector.small_frontend, n_classes)
    assert isinstance(model, CallDetector)
    with torch.no_grad():
        model.train()(torch.randn(4, CallDetector.small_frontend.n_samples))
    return model.eval()


@pytest.mark.parametrize("n_classes", [1, 3])
def test_the_clip_is_the_published_models(n_classes: int) -> None:
    """They weigh features and decide once; here each segment is decided on and weighed. Both must be one number."""
    model = make(n_classes)
    image = 5 + 3 * torch.randn(2, 1, 64, 128)
    with torch.inference_mode():
        output = model.classify(image)
        features = model.backbone(nn.InstanceNorm2d(1)(image)).mean(2).permute(0, 2, 1)  # batch, time, features
        weights = torch.softmax(model.attention(features), dim=1)
        published = model.classifier((features * weights).sum(1))
    assert torch.allclose(output.clip_logits, published, atol=1e-5)
    assert torch.allclose((output.attention * output.segment_logits).sum(1), published, atol=1e-5)
    assert output.pooled == "logits" and output.attention.shape == (2, model.n_segments, n_classes)
    assert torch.allclose(output.attention, weights.expand(-1, -1, n_classes), atol=1e-6)


class Brightness(nn.Module):
    """A backbone one can compute in one's head: features are the image averaged over cells of 8 x 8."""

    num_features = 1

    def forward_features(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, 8)


@pytest.mark.parametrize("strips", [1, 2])
@pytest.mark.parametrize("at", [5, 70, 120])
def test_a_click_raises_attention_in_its_segment(at: int, strips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 frames in 16 segments of 8: attention along bands, or along folded columns, would be blind in time."""
    monkeypatch.setattr("birdkit.models.backbones.build_backbone", lambda config, in_chans: Brightness())
    frontend = FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64, strips=strips)
    model = CallDetector(ModelConfig(input_norm="instance", dropout=0.0), frontend, 1, attention_hidden=1).eval()
    for layer in (model.attention[0], model.attention[2]):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    spectrogram = torch.zeros(1, 1, 64, 128)
    quiet = model.classify(fold(spectrogram, strips)).attention[0, :, 0]
    assert torch.allclose(quiet, torch.full((16,), 1 / 16))
    spectrogram[..., at] = 1.0
    attention = model.classify(fold(spectrogram, strips)).attention[0, :, 0]
    assert int(attention.argmax()) == at // 8 and attention[at // 8] > 1.5 / 16


def test_gain_and_offset_of_the_image_change_nothing() -> None:
    """Recorders differ in level and noise floor; the instance norm, not the training data, must take care of it."""
    model, image = make(), torch.randn(1, 1, 64, 128)
    with torch.inference_mode():
        assert torch.allclose(model.classify(image).clip_logits, model.classify(7 * image - 40).clip_logits, atol=1e-3)


def test_any_number_of_segments_is_decided_on() -> None:
    """Clips at another scale and parts of a longer clip give more segments than training had."""
    model = make()
    features = torch.randn(2, model.backbone.n_features, 31)
    output = model.decide(features)
    assert output.segment_logits.shape == (2, 31, 1)
    assert torch.allclose(output.attention.sum(1), torch.ones(2, 1), atol=1e-5)


def test_half_precision_stays_inside_the_network() -> None:
    """A softmax in bf16 sums to anything between .99 and 1.01."""
    model = make()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = model.classify(torch.randn(2, 1, 64, 128))
    assert {output.clip_logits.dtype, output.segment_logits.dtype, output.attention.dtype} == {torch.float32}
    assert torch.allclose(output.attention.sum(1), torch.ones(2, 1), atol=1e-5)


def test_openvino_gives_the_same_numbers() -> None:
    """A gate runs in the same 90 CPU minutes as what it gates. `export` raises where the two differ."""
    pytest.importorskip("openvino")
    model = make(3)
    waves = 0.1 * torch.randn(2, model.frontend.config.n_samples)
    output = export(model, waves)(model.frontend(waves))
    with torch.inference_mode():
        assert torch.allclose(output.attention, model(waves).attention, atol=1e-5)


def test_the_published_sizes_build() -> None:
    """SE-ResNeXt-26t on 10 s: 626 frames / 32 = 20 segments, and attention of 512 over its 2048 features."""
    frontend = FRONT_ENDS[CallDetector.published_frontend]
    assert frontend.clip_s == 10.0 and frontend.image_size == (256, 626)
    model = build_model(CallDetector.published, frontend, 1).eval()
    assert isinstance(model, CallDetector) and model.n_segments == 20 and model.input_norm.kind == "instance"
    assert [tuple(weight.shape) for weight in model.attention.parameters()] == [(512, 2048), (512,), (1, 512), (1,)]


@pytest.mark.parametrize("change", [{"head": "max"}, {"head_axis": "frequency"}, {"smoothing": True}, {"hidden": 64}])
def test_a_setting_that_it_does_not_read_is_refused(change: dict) -> None:
    """An experiment with another head would be the same run under another name."""
    with pytest.raises(ValueError, match=f"model.{next(iter(change))} .* would not read it"):
        make(**change)
    with pytest.raises(TypeError, match="attention_hidden"):
        make(options={"attention_width": 3})


def test_the_recipe_shares_its_images_with_the_small_one() -> None:
    """A gate with a spectrogram of its own would cost the submission as much again on reading."""
    gate, birds = recipes.get("call_detector").config, recipes.get("small").config
    assert gate.frontend == birds.frontend and gate.inference.clip_step_s == birds.inference.clip_step_s
    assert gate.model.name == "call_detector" and gate.model.input_norm == "instance"
    assert "call_detector" in MODELS.names()
