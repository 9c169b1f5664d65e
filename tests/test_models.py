"""Models: axes where they belong, widths from the backbone, nothing that does not unfold."""
import dataclasses

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.folding import fold
from birdkit.models import BACKBONES, HEADS, MODELS, build_model
from birdkit.models.sed import SED

NAMES = ["resnet10t", "tf_efficientnet_b0", "regnety_008", "convnext_atto", "hgnetv2_b0", *BACKBONES.names()]


class Brightness(nn.Module):
    """A backbone one can compute in one's head: features are the image averaged over cells of 8 x 8."""

    num_features = 1

    def forward_features(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, 8)


def bright_model(frontend: FrontEndConfig, monkeypatch: pytest.MonkeyPatch, head_axis: str = "time") -> SED:
    """A SED model whose segment logits are the brightness of the segment."""
    monkeypatch.setattr("birdkit.models.sed.build_backbone", lambda config, in_chans: Brightness())
    model = SED(ModelConfig(head_axis=head_axis, head="mean"), frontend, 1)
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


@pytest.mark.parametrize("head", HEADS.names())
def test_every_head_pools_segment_logits_with_its_attention(head: str) -> None:
    """Windows are pooled by the same rule as clips, so the rule must hold for every head."""
    output = HEADS.build(head, n_features=6, n_classes=4).eval()(torch.randn(3, 6, 9))
    assert output.segment_logits.shape == output.attention.shape == (3, 9, 4)
    assert torch.allclose((output.attention * output.segment_logits).sum(1), output.clip_logits, atol=1e-5)
    assert torch.allclose(output.attention.sum(1), torch.ones(3, 4), atol=1e-5)


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


def test_backbone_weights_come_from_a_file(tmp_path, small_frontend: FrontEndConfig) -> None:
    """On Kaggle the internet is off: pretrained weights are a file in a dataset."""
    donor = timm.create_model("resnet10t", num_classes=1000)
    safetensors.torch.save_file(donor.state_dict(), tmp_path / "w.safetensors")
    model = build_model(ModelConfig(backbone="resnet10t", weights=str(tmp_path / "w.safetensors")), small_frontend, 3)
    assert torch.equal(model.backbone.layer4[0].conv1.weight, donor.layer4[0].conv1.weight)
    assert model.backbone.conv1[0].weight.shape[1] == 1
    with pytest.raises(FileNotFoundError, match="no weights file"):
        build_model(ModelConfig(backbone="resnet10t", weights="missing.pth"), small_frontend, 3)


def test_weights_of_another_backbone_are_refused(tmp_path, small_frontend: FrontEndConfig) -> None:
    """A silent partial load trains from scratch without saying so."""
    safetensors.torch.save_file(timm.create_model("resnet14t").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(RuntimeError, match="layer"):
        build_model(ModelConfig(backbone="resnet10t", weights=str(tmp_path / "w.safetensors")), small_frontend, 3)


def test_training_sees_the_same_image_as_inference(small_run) -> None:
    """forward is classify(frontend(wave)): nothing lies between."""
    model = build_model(small_run.model, small_run.frontend, 3).eval()
    wave = torch.randn(2, small_run.frontend.n_samples)
    with torch.inference_mode():
        assert torch.equal(model(wave).clip_logits, model.classify(model.frontend(wave)).clip_logits)


def test_drop_path_reaches_the_backbone(small_run) -> None:
    """The 2025 winner's stochastic depth must not be a setting that nothing reads."""
    config = dataclasses.replace(small_run.model, drop_path=0.5)
    model = build_model(config, small_run.frontend, 3)
    assert any("DropPath" in type(module).__name__ for module in model.modules())


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
        model = bright_model(small_frontend, monkeypatch)
        model.config = dataclasses.replace(model.config, pooling=pooling)
        silent = model.classify(torch.zeros(1, 1, 128, 64)).clip_logits
        values[pooling] = float((model.classify(fold(spectrogram, 2)).clip_logits - silent).item())
    assert values["mean"] == pytest.approx(1 / 8) and values["mean_max"] == pytest.approx(1 + 1 / 8)
