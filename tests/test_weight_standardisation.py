"""Standardised convolutions against the formula of their papers, and against themselves once folded."""
import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from birdkit.models.weight_standardisation import STANDARDISED, filter_norm, fold_weight_standardisation

OPTIONS = {"stride": 2, "groups": 2, "bias": True}
LAYERS = [StdConv2d(4, 6, 3, **OPTIONS), StdConv2dSame(4, 6, 3, **OPTIONS), ScaledStdConv2d(4, 6, 3, **OPTIONS),
          ScaledStdConv2dSame(4, 6, 3, **OPTIONS), ScaledStdConv2d(4, 6, 5, dilation=2, gamma=1.7, eps=1e-3)]


def by_the_paper(layer: nn.Conv2d) -> Tensor:
    """gain * gamma * (w - mean) / (deviation * sqrt(fan-in)), in float64 and filter by filter."""
    filters = []
    for index, one in enumerate(layer.weight.detach().double()):
        centred = (one - one.mean()) / (one.var(correction=0) + layer.eps).sqrt()  # type: ignore[operator]
        scaled = isinstance(layer, (ScaledStdConv2d, ScaledStdConv2dSame))
        filters.append(centred * layer.gain[index].detach() * layer.scale if scaled else centred)  # type: ignore
    return torch.stack(filters)


def trained(network: nn.Module) -> nn.Module:
    """A network whose filters are off zero mean and whose gains are not what they start with."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(1 + 0.5 * torch.randn_like(parameter) if name.endswith("gain") else
                            0.1 + 0.3 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_a_folded_layer_does_what_the_layer_did(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    """Stride, groups, dilation, bias and a padding that depends on the size; a gain that was forgotten would show."""
    trained(layer)
    image = torch.randn(2, 4, *size)
    folded = fold_weight_standardisation(layer)
    assert not isinstance(folded, STANDARDISED) and isinstance(folded, nn.Conv2d)
    with torch.inference_mode():
        assert torch.equal(folded(image), layer(image))
    assert torch.allclose(folded.weight.double(), by_the_paper(layer), rtol=1e-6, atol=1e-6)


def test_nothing_of_an_nfnet_standardises_once_it_is_folded() -> None:
    """51 layers deep inside blocks, and the last one outside; all other layers stay the objects they were."""
    network = timm.create_model("eca_nfnet_l0", in_chans=1, num_classes=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.normal_(1.0, 0.1)
    network.eval()
    others = [module for module in network.modules() if isinstance(module, nn.Conv1d)]
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        before = network.forward_features(image)
        assert fold_weight_standardisation(network) is network
        after = network.forward_features(image)
    assert (after - before).abs().max() <= 1e-6 * before.std()
    assert not any(isinstance(module, STANDARDISED) for module in network.modules())
    assert others and others == [module for module in network.modules() if isinstance(module, nn.Conv1d)]


def test_a_network_without_standardised_layers_is_left_alone() -> None:
    """Every export passes through here."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    layers = list(network)
    assert fold_weight_standardisation(network) is network and list(network) == layers


def test_the_norm_is_what_a_filter_is_divided_by() -> None:
    """The gain of an adapted first convolution is computed from it."""
    layer = trained(ScaledStdConv2d(3, 5, 3))
    gain, weight = layer.gain.detach(), layer.weight.detach()  # type: ignore[union-attr, operator]
    expected = gain * (weight - weight.mean((1, 2, 3), keepdim=True)) / filter_norm(weight, 1e-6)
    assert torch.allclose(by_the_paper(layer).float(), expected, atol=1e-6)  # type: ignore[arg-type]
