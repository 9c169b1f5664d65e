"""Models: axes where they belong, widths from the backbone, nothing that does not unfold."""

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.folding import fold, unfold
from birdkit.models import BACKBONES, HEADS, MODELS, build_model
from birdkit.models.backbones import build_backbone
from birdkit.models.input_norm import InputNorm
from birdkit.models.pooling import GeM, smooth_segments
from birdkit.models.sed import SED

NAMES = ["resnet10t", "tf_efficientnet_b0", "regnety_008", "convnext_atto", "hgnetv2_b0", *BACKBONES.names()]


class Brightness(nn.Module):
    """A backbone one can compute in one's head: features are the image averaged over cells of 8 x 8."""

    num_features = 1

    def forward_features(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, 8)


def bright_model(frontend: FrontEndConfig, monkeypatch: pytest.MonkeyPatch, head_axis: str = "time",
                 **changes: object) -> SED:
    """A SED model whose segment logits are the brightness of the segment."""
    monkeypatch.setattr("birdkit.models.backbones.build_backbone", lambda config, in_chans: Brightness())
    model = SED(ModelConfig(head_axis=head_axis, head="mean", **changes), frontend, 1)  # type: ignore[arg-type]
    model.neck = nn.Identity()
    model.head = HEADS.build("mean", n_features=1, n_classes=1)
    nn.init.ones_(model.head.classifier.weight)
    return model.eval()


@pytest.mark.parametrize("at", [5, 60, 70, 120])
def test_a_click_peaks_in_its_segment(at: int, monkeypatch: pytest.MonkeyPatch, small_frontend: FrontEndConfig) -> None:
    """128 frames in 16 segments of 8: frame 70, in the bottom strip, is segment 8, not segment 0."""
    model = bright_model(small_frontend, monkeypatch)
    spectrogram = torch.zeros(1, 1, 64, 128)
    spectrogram[..., at] = 1.0
    output = model.classify(fold(spectrogram, 2))
    assert output.segment_logits.shape == (1, 16, 1) and model.n_segments == 16
    assert int(output.segment_logits[0, :, 0].argmax()) == at // 8


@pytest.mark.parametrize("band", [3, 40])
def test_a_tone_peaks_in_its_band_when_the_head_pools_over_frequency(
        band: int, monkeypatch: pytest.MonkeyPatch, small_frontend: FrontEndConfig) -> None:
    """The first seed pooled over frequency without knowing: here it is a setting, and a tone proves it."""
    model = bright_model(small_frontend, monkeypatch, head_axis="frequency")
    spectrogram = torch.zeros(1, 1, 64, 128)
    spectrogram[:, :, band] = 1.0
    output = model.classify(fold(spectrogram, 2))
    assert output.segment_logits.shape == (1, 8, 1) and model.n_segments == 8
    assert int(output.segment_logits[0, :, 0].argmax()) == band // 8


@pytest.mark.parametrize("backbone", NAMES)
@pytest.mark.parametrize("channels", ["one", "delta"])
def test_every_backbone_works_with_one_and_three_channels(backbone: str, channels: str) -> None:
    """No width is typed in: 1280 in the second seed's head meant a fork of the file for every other backbone."""
    frontend = FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64, channels=channels)
    model = build_model(ModelConfig(backbone=backbone), frontend, 7).eval()
    with torch.inference_mode():
        output = model(torch.randn(2, frontend.n_samples))
    assert output.clip_logits.shape == (2, 7)
    assert output.segment_logits.shape == output.attention.shape == (2, model.n_segments, 7)
    assert torch.allclose(output.attention.sum(1), torch.ones(2, 7), atol=1e-5)
    assert torch.allclose((output.attention * output.segment_logits).sum(1), output.clip_logits, atol=1e-4)


HEAD_OPTIONS = [*((name, {}) for name in HEADS.names()), ("attention", {"kernel": 3}),
                ("attention", {"pool": "probabilities"}), ("grouped", {"groups": [1, 0, 1, 2]}),
                ("grouped", {"groups": [1, 0, 1, 0], "head": "max"})]


@pytest.mark.parametrize(("head", "options"), HEAD_OPTIONS)
def test_every_head_pools_as_it_says(head: str, options: dict) -> None:
    """Windows are pooled by the same rule as clips, so the rule that a head names must hold."""
    torch.manual_seed(0)
    output = HEADS.build(head, n_features=6, n_classes=4, **options).eval()(3 * torch.randn(3, 6, 9))
    assert output.segment_logits.shape == output.attention.shape == (3, 9, 4)
    assert torch.allclose(output.attention.sum(1), torch.ones(3, 4), atol=1e-5)
    attention, logits = output.attention, output.segment_logits
    pooled = {"logits": (attention * logits).sum(1), "max": logits.amax(1), "free": output.clip_logits,
              "probabilities": torch.logit((attention * logits.sigmoid()).sum(1))}
    assert torch.allclose(pooled[output.pooled], output.clip_logits, atol=1e-4)


def test_every_group_of_classes_has_its_head_and_its_place() -> None:
    """A vector put together in the order of the groups would give frogs the birds' probabilities."""
    groups = ["frog", "bird", "frog", "bird"]
    head = HEADS.build("grouped", n_features=3, n_classes=4, groups=groups, head="mean", hidden=2)
    for group, value in zip(head.heads, (1.0, 2.0), strict=True):
        torch.nn.init.zeros_(group.classifier.weight)
        group.classifier.bias.data = torch.tensor([value, value + 0.5])
    assert head(torch.randn(1, 3, 5)).clip_logits.tolist() == [[1.0, 2.0, 1.5, 2.5]]
    with pytest.raises(ValueError, match="3 classes, but there are 4"):
        HEADS.build("grouped", n_features=3, n_classes=4, groups=[0, 1, 2])


def test_gem_is_the_mean_at_power_one_and_the_maximum_at_a_large_one() -> None:
    """The 2021 second place's pooling; its power is learned, so both ends must be reachable."""
    features = torch.rand(2, 5, 7) + 0.1
    assert torch.allclose(GeM(1.0)(features, 2), features.mean(2), atol=1e-6)
    assert torch.allclose(GeM(200.0)(features, 2), features.amax(2), rtol=0.02)


def test_smoothing_spreads_a_peak_to_its_neighbours_alone() -> None:
    """Maximum plus mean of three: 1 + 1/3 at the peak and on both sides, nothing further away."""
    features = torch.zeros(1, 1, 7)
    features[0, 0, 3] = 1.0
    expected = torch.tensor([0, 0, 4 / 3, 4 / 3, 4 / 3, 0, 0])
    assert torch.allclose(smooth_segments(features)[0, 0], expected)


def in_parts(spectrogram: Tensor, parts: int) -> Tensor:
    """(B, C, F, P * T) as an image in parts, (B, P, C, 2 F, T / 2)."""
    return fold(spectrogram.unflatten(3, (parts, -1)).permute(0, 3, 1, 2, 4), 2)


def test_a_click_in_part_four_peaks_there(monkeypatch: pytest.MonkeyPatch, small_frontend: FrontEndConfig) -> None:
    """Six parts, 16 segments each; the first seed's Conformer read only the first part."""
    model = bright_model(small_frontend, monkeypatch, parts=6)
    spectrogram = torch.zeros(1, 1, 64, 6 * 128)
    spectrogram[..., 3 * 128 + 40] = 1.0
    output = model.classify(in_parts(spectrogram, 6))
    assert output.segment_logits.shape == (1, 96, 1)
    assert int(output.segment_logits[0, :, 0].argmax()) == 3 * 16 + 5


def test_the_order_of_the_parts_does_not_matter_to_gem() -> None:
    """GeM over all of the map, as in 2021: the six parts of a recording are a set."""
    frontend = FrontEndConfig(clip_s=2.0, hop_samples=1000, n_mels=64, strips=1)
    model = build_model(ModelConfig(backbone="scratch_resnet_s2", pooling="gem", neck="none", head="gem", parts=3),
                        frontend, 4).eval()
    wave = torch.randn(1, 3, frontend.n_samples, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, other = (model(wave[:, order].flatten(1)).clip_logits for order in ([0, 1, 2], [2, 0, 1]))
        alone = model(wave[:, 0]).clip_logits
    assert torch.allclose(one, other, atol=1e-5) and not torch.allclose(one, alone, atol=1e-3)


def test_parts_see_nothing_of_each_other_before_the_head(small_frontend: FrontEndConfig) -> None:
    """The cut is before the backbone: a segment of part 1 is the same whatever part 2 holds."""
    model = build_model(ModelConfig(backbone="resnet10t", hidden=16, parts=2), small_frontend, 3).eval()
    first, second, third = torch.randn(3, small_frontend.n_samples, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        a = model(torch.cat([first, second])[None]).segment_logits
        b = model(torch.cat([first, third])[None]).segment_logits
        alone = model(first[None]).segment_logits
    n = model.n_segments
    assert torch.allclose(a[:, :n], b[:, :n], atol=1e-5) and torch.allclose(a[:, :n], alone, atol=1e-5)
    assert not torch.allclose(a[:, n:], b[:, n:], atol=1e-3)


@pytest.mark.parametrize("strips", [1, 4])
@pytest.mark.parametrize("channels", ["one", "delta"])
def test_a_spectrogram_in_parts_goes_back_into_the_same_image(strips: int, channels: str) -> None:
    """Spectrogram augmentations see 30 s along true time; the way back must not move a frame."""
    frontend = FrontEndConfig(clip_s=2.0, hop_samples=1000, n_mels=64, strips=strips, channels=channels)
    model = build_model(ModelConfig(backbone="scratch_resnet_s2"), frontend, 2)
    wave = torch.randn(2, 3 * frontend.n_samples, generator=torch.Generator().manual_seed(0))
    image = model.image(model.spectrogram(wave))
    assert image.shape == (2, 3, frontend.n_channels, *frontend.image_size)
    for part, piece in enumerate(wave.split(frontend.n_samples, 1)):
        assert torch.equal(image[:, part], model.frontend(piece))
    with pytest.raises(ValueError, match="not whole clips"):
        model.spectrogram(wave[:, :-1])


@pytest.mark.parametrize("kind", ["band", "channel", "instance"])
@pytest.mark.parametrize("channels", ["one", "delta"])
def test_an_input_norm_scales_what_it_names(kind: str, channels: str) -> None:
    """Per mel band and not per image row: in a folded image, rows 3 and 67 of 128 are the same band."""
    frontend = FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64, channels=channels)
    norm = InputNorm(kind, frontend)
    image = 5 + 3 * torch.randn(8, frontend.n_channels, 128, 64, generator=torch.Generator().manual_seed(0))
    image[:, :, [3, 67]] += 20.0
    spectrogram = unfold(norm(image), 2)  # (B, C, F, T)
    over = {"band": (0, 1, 3), "channel": (0, 2, 3), "instance": (2, 3)}[kind]
    assert spectrogram.mean(over).abs().max() < 1e-4 and (spectrogram.var(over, correction=0) - 1).abs().max() < 1e-2


def test_the_option_of_another_model_is_refused(small_frontend: FrontEndConfig) -> None:
    """An option that nothing reads would be an experiment that was never run."""
    with pytest.raises(TypeError, match=r"takes no option blocks; it takes: none"):
        build_model(ModelConfig(backbone="resnet10t", options={"blocks": 3}), small_frontend, 3)


def test_the_attention_kernel_is_an_option() -> None:
    """The first seed used 1, the second 3."""
    head = HEADS.build("attention", n_features=6, n_classes=4, kernel=3)
    assert head.attention.weight.shape == (4, 6, 3)
    assert head(torch.randn(2, 6, 9)).segment_logits.shape == (2, 9, 4)


def test_a_seam_inside_a_feature_cell_is_refused() -> None:
    """48 mels are one and a half cells of 32: half a cell would mix the end of one strip with the start of the next."""
    frontend = FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=48)
    with pytest.raises(ValueError, match=r"a strip of 48 mels is 1\.5 feature rows"):
        build_model(ModelConfig(backbone="resnet10t"), frontend, 3)


def test_a_backbone_without_a_feature_map_is_refused(small_frontend: FrontEndConfig) -> None:
    """A transformer's tokens do not unfold; better said at once than after an hour."""
    with pytest.raises((ValueError, AssertionError)):
        build_model(ModelConfig(backbone="vit_tiny_patch16_224"), small_frontend, 3)


def test_an_unknown_model_lists_those_there_are(small_frontend: FrontEndConfig) -> None:
    """The message is the documentation."""
    with pytest.raises(KeyError, match=r"there is: .*sed"):
        build_model(ModelConfig(name="sed2"), small_frontend, 3)
    assert "sed" in MODELS.names()


def test_training_sees_the_same_image_as_inference(small_run) -> None:
    """forward is classify(frontend(wave)): nothing lies between."""
    model = build_model(small_run.model, small_run.frontend, 3).eval()
    wave = torch.randn(2, small_run.frontend.n_samples)
    with torch.inference_mode():
        assert torch.equal(model(wave).clip_logits, model.classify(model.frontend(wave)).clip_logits)


@pytest.mark.parametrize("name", [*NAMES, "eca_nfnet_l0", "tf_efficientnetv2_s"])
def test_drop_path_reaches_every_backbone(name: str) -> None:
    """The 2025 winner's stochastic depth must not be a setting that nothing reads."""
    for rate in (0.0, 0.15):
        network = build_backbone(ModelConfig(backbone=name, drop_path=rate), 1)
        rates = [float(part.drop_prob) for part in network.modules() if isinstance(part, DropPath)]
        assert max(rates, default=0.0) == pytest.approx(rate, abs=0.01)  # timm's EfficientNets stop a step short of it


def test_a_backbone_without_stochastic_depth_is_refused(monkeypatch) -> None:
    """A student that was to forget blocks and did not is another experiment."""
    monkeypatch.setattr("timm.create_model", lambda *_, **__: nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"resnet10t has no stochastic depth: drop_path = 0\.15 would do nothing"):
        build_backbone(ModelConfig(backbone="resnet10t", drop_path=0.15), 1)


def test_the_scratch_network_hears_pitch(small_run) -> None:
    """Moved up the rows, the same call is another one: a convolution with a row channel can tell."""
    torch.manual_seed(0)
    backbone = BACKBONES.build("scratch_resnet").eval()
    low, high = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    low[:, :, 18:22], high[:, :, 34:38] = 1.0, 1.0
    a, b = backbone.forward_features(low), backbone.forward_features(high)
    assert a.shape == (1, 192, 4, 4)
    assert (a.amax((2, 3)) - b.amax((2, 3))).abs().max() > 1e-3


def test_scratch_backbones_have_no_weights_to_load(small_frontend: FrontEndConfig) -> None:
    """Asking for them is a misunderstanding better cleared up at once."""
    with pytest.raises(ValueError, match="trained from scratch"):
        build_model(ModelConfig(backbone="scratch_resnet", weights="hub"), small_frontend, 3)


def test_one_loud_band_stands_out_with_mean_max_pooling(monkeypatch, small_frontend: FrontEndConfig) -> None:
    """The mean alone dilutes a narrow call among silent bands."""
    spectrogram = torch.zeros(1, 1, 64, 128)
    spectrogram[:, :, 8:16] = 1.0
    values = {}
    for pooling in ("mean", "mean_max"):
        model = bright_model(small_frontend, monkeypatch, pooling=pooling)
        silent = model.classify(torch.zeros(1, 1, 128, 64)).clip_logits
        values[pooling] = float((model.classify(fold(spectrogram, 2)).clip_logits - silent).item())
    assert values["mean"] == pytest.approx(1 / 8) and values["mean_max"] == pytest.approx(1 + 1 / 8)
