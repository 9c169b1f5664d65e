"""The seeds' backbones, by timm's names: shapes, time, seams, and weights for another number of channels."""
import copy
from collections.abc import Iterator

import pytest
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.models.backbones import BackboneMap, build_backbone, fit_channels, without_classifier
from birdkit.models.weights import load_weights

NAMES = ["tf_efficientnet_b0.ns_jft_in1k", "tf_efficientnet_b1.ns_jft_in1k", "tf_efficientnet_b2.ns_jft_in1k",
         "tf_efficientnet_b3.ns_jft_in1k", "tf_efficientnetv2_s.in21k", "eca_nfnet_l0", "resnest14d", "resnest26d",
         "regnety_008", "regnety_016", "seresnext26t_32x4d", "convnext_atto", "convnext_tiny", "hgnetv2_b0", "resnet34"]
MELS = 64
Networks = dict[int, nn.Module]


def front_end(channels: str = "one", strips: int = 2, n_mels: int = MELS, columns: int = 64) -> FrontEndConfig:
    """Strips of 64 mels and 64 frames of 1000 samples each: 2 x 2 cells of a backbone with stride 32."""
    return FrontEndConfig(clip_s=strips * columns * 1000 / 32_000, hop_samples=1000, n_mels=n_mels, strips=strips,
                          channels=channels)


@pytest.fixture(scope="module", params=NAMES)
def networks(request: pytest.FixtureRequest) -> Iterator[Networks]:
    """A backbone for one and one for three channels, built once for all tests of its name, in eval mode."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=request.param)
    yield {channels: build_backbone(config, channels).eval() for channels in (1, 3)}


@pytest.fixture
def build(networks: Networks, monkeypatch: pytest.MonkeyPatch):
    """BackboneMap of the networks that are there already."""
    monkeypatch.setattr("birdkit.models.backbones.build_backbone", lambda config, in_chans: networks[in_chans])
    return lambda frontend: BackboneMap(ModelConfig(), frontend).eval()


@pytest.mark.parametrize("strips", [1, 2])
@pytest.mark.parametrize("channels", ["one", "delta"])
def test_a_map_has_the_backbones_own_width(build, strips: int, channels: str) -> None:
    """320 to 2304 features: a 1280 typed into the second seed's head meant a file of its own for every backbone."""
    frontend = front_end(channels, strips)
    backbone = build(frontend)
    with torch.inference_mode():
        features = backbone(torch.randn(2, frontend.n_channels, *frontend.image_size))
    assert features.shape == (2, backbone.n_features, backbone.n_bands, backbone.n_segments)
    assert (backbone.n_bands, backbone.n_segments) == (MELS // 32, strips * 64 // 32)
    assert features.isfinite().all() and features.std() > 0


def hear_nearby(network: nn.Module) -> None:
    """Leave of each kernel its centre, where it strides the 3 x 3 around it, and no gate made of the whole image.

    An untrained backbone hears the whole of a small image nearly equally. Strides and paddings, which decide what lies
    where, stay.
    """
    for layer in network.modules():
        if type(layer).__name__ in ("SqueezeExcite", "SEModule"):
            layer.register_forward_hook(lambda _, inputs, output: inputs[0])
        if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] % 2 and layer.kernel_size[0] > 1:
            middle, reach = layer.kernel_size[0] // 2, int(layer.stride != (1, 1))
            near = slice(middle - reach, middle + reach + 1)
            kept = torch.zeros_like(layer.weight)
            kept[:, :, near, near] = layer.weight.detach()[:, :, near, near] * layer.kernel_size[0] / (1 + 2 * reach)
            layer.weight.data = kept


def place(gradient: Tensor) -> tuple[float, float]:
    """Row and column, in strips of MELS rows and cells of 32 columns, that an image's gradient is centred on."""
    energy = gradient.square().sum((0, 1))
    energy = energy / energy.sum()
    rows, columns = (torch.arange(size) + 0.5 for size in energy.shape)
    return float(energy.sum(1) @ rows) / MELS, float(energy.sum(0) @ columns) / 32


def test_segments_lie_along_time(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments 0 to 3 hear the upper strip from left to right, 4 to 7 the lower one. Backbones pad in their own ways,
    which moves the centre by up to half a cell; any other order of rows and columns moves it by one or more."""
    network, frontend = copy.deepcopy(networks[1]), front_end(columns=128)
    monkeypatch.setattr("birdkit.models.backbones.build_backbone", lambda config, in_chans: network)
    backbone = BackboneMap(ModelConfig(), frontend)
    torch.manual_seed(0)
    hear_nearby(network)
    for norm in network.modules():  # statistics of a batch, without which an untrained network's features vanish
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        backbone.train()(torch.randn(4, 1, *frontend.image_size))
    image = torch.randn(2, 1, *frontend.image_size, requires_grad=True)
    features = backbone.eval()(image)
    weights = torch.randn(features.shape[1])
    for segment in range(8):
        heard = (features[..., segment].mean(2) @ weights).sum()
        row, column = place(torch.autograd.grad(heard, image, retain_graph=True)[0])
        assert abs(row - (segment // 4 + 0.5)) < 0.6 and abs(column - (segment % 4 + 0.5)) < 0.9, (segment, row, column)


@pytest.mark.parametrize(("old", "new"), [(3, 1), (1, 3)])
def test_three_equal_channels_give_the_feature_of_one(networks: Networks, old: int, new: int) -> None:
    """ImageNet's weights on one channel, and the way back: the first layer must not hear the same sound louder. An
    NFNet's divides its sum of filters by another deviation; unless its gain is changed, it would."""
    start = {name: value.clone() for name, value in networks[new].state_dict().items()}
    weights = networks[old].state_dict() | {"head.fc.weight": torch.zeros(1)}
    if "gain" in "".join(weights):
        weights |= {name: value * torch.linspace(0.5, 2, len(value)).view(-1, 1, 1, 1)
                    for name, value in weights.items() if name == "stem.conv1.gain"}
    fitted, adapted = fit_channels(networks[new], weights)
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        load_weights(networks[old], {name: weights[name] for name in start}, path="x")
        expected = networks[old].forward_features(image.expand(-1, old, -1, -1))  # type: ignore[operator]
        report = load_weights(networks[new], {name: fitted[name] for name in start}, path="x", adapted=adapted)
        got = networks[new].forward_features(image.expand(-1, new, -1, -1))  # type: ignore[operator]
    networks[new].load_state_dict(start)
    assert sum(name.endswith("weight") for name in report.adapted) == 1
    assert (got - expected).abs().max() <= 1e-4 * expected.std()


def test_a_seam_inside_a_cell_is_refused(build) -> None:
    """48 mels are one and a half cells of 32: half a cell would mix the end of one strip with the start of the next."""
    with pytest.raises(ValueError, match=r"a strip of 48 mels is 1\.5 feature rows"):
        build(front_end(n_mels=48))
    build(front_end(n_mels=48, strips=1))  # without a seam there is nothing to mix


def test_the_classifier_is_told_by_its_layer_and_not_by_its_name() -> None:
    """ConvNeXt's last norm is called head.norm: it is part of what was pretrained."""
    backbone = build_backbone(ModelConfig(backbone="convnext_atto"), 1)
    weights = {name: torch.zeros(1) for name in ("head.norm.weight", "head.fc.weight", "head.fc.bias", "stem.0.weight")}
    assert set(without_classifier(backbone, weights)) == {"head.norm.weight", "stem.0.weight"}


def test_a_backbone_of_ours_is_left_alone() -> None:
    """It has a channel for the height of each row besides the image's: adapting would sum that, too."""
    backbone = build_backbone(ModelConfig(backbone="scratch_resnet"), 1)
    weights = build_backbone(ModelConfig(backbone="scratch_resnet"), 3).state_dict()
    assert without_classifier(backbone, weights) == weights and fit_channels(backbone, weights) == (weights, ())


def test_a_standardised_convolution_without_a_gain_is_adapted_too() -> None:
    """Its features keep their shape: the next norm takes care of their size."""
    backbone = nn.Module()
    backbone.stem, backbone.pretrained_cfg = StdConv2d(1, 4, 3), {"first_conv": "stem"}  # type: ignore[assignment]
    old = torch.randn(4, 3, 3, 3)
    fitted, adapted = fit_channels(backbone, {"stem.weight": old})
    assert adapted == ("stem.weight",) and torch.equal(fitted["stem.weight"], old.sum(1, keepdim=True))
