"""Backbones by name: timm's, or ours for learning from nothing; and what a weights file means to each."""
from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.folding import unfold
from birdkit.models.scratch import BACKBONES
from birdkit.models.weight_standardisation import filter_norm


def build_backbone(config: ModelConfig, in_chans: int) -> nn.Module:
    """A feature extractor: `forward_features` (B, C, H, W) -> (B, num_features, h, w).

    A name in birdkit.models.scratch.BACKBONES is ours, any other is timm's, with timm's weights where config.weights is
    "hub". Raises ValueError where such weights do not exist, or drop_path would do nothing; timm raises for a name it
    does not know.
    """
    if config.backbone in BACKBONES.names():
        if config.weights == "hub":
            raise ValueError(f"backbone {config.backbone} is trained from scratch: there are no weights on timm's hub")
        return BACKBONES.build(config.backbone, in_chans=in_chans, drop_path_rate=config.drop_path)
    options: dict[str, Any] = {"in_chans": in_chans, "num_classes": 0, "pretrained": config.weights == "hub"}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    network = timm.create_model(config.backbone, **options)
    if config.drop_path and not any(isinstance(part, DropPath) and part.drop_prob for part in network.modules()):
        raise ValueError(f"backbone {config.backbone} has no stochastic depth: drop_path = {config.drop_path} would do "
                         "nothing; set it to 0")
    return network


def without_classifier(backbone: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's weights without those of the classifier that they were trained with, which timm names."""
    classifiers = _layers(backbone, "classifier")
    return {name: value for name, value in weights.items() if name.rpartition(".")[0] not in classifiers}


def fit_channels(backbone: nn.Module, weights: dict[str, Tensor], prefix: str = "",
                 ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights whose first convolutions, which timm names, take as many channels as the backbone's, and their names.

    Filters of three channels are summed for one, those of one are shared out among three: three equal channels then
    give the feature that one gave. A standardised convolution (NFNet) divides the sum by another deviation, so its
    gain is changed by as much; without a gain (StdConv2d) the features keep their shape and not their size.

    prefix  of the backbone's names in `weights`
    """
    changed: dict[str, Tensor] = {}
    for name in _layers(backbone, "first_conv"):
        layer, key, gain = backbone.get_submodule(name), f"{prefix}{name}.weight", f"{prefix}{name}.gain"
        old = weights.get(key)
        if not isinstance(layer, nn.Conv2d) or old is None or old.ndim != 4 or old.shape[1] == layer.weight.shape[1]:
            continue
        channels = layer.weight.shape[1]
        new = changed[key] = old.float().sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
        if gain in weights:
            eps = float(layer.eps)  # type: ignore[arg-type]
            changed[gain] = weights[gain] * filter_norm(new, eps) / filter_norm(old.float(), eps)
    return weights | changed, tuple(changed)


class BackboneMap(nn.Module):
    """A backbone on the folded image and its feature map along true time, (B, C, H, W) -> (B, num_features, h, S).

    n_features  of the map
    n_bands     h, n_segments S

    Raises ValueError where the backbone's feature map does not unfold, for instance because a seam between two
    strips would fall inside a feature cell.
    """

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig) -> None:
        super().__init__()
        self.strips = frontend.strips
        self.network = build_backbone(config, frontend.n_channels)
        self.n_features = int(self.network.num_features)  # type: ignore[arg-type]
        rows, columns = frontend.image_size
        self.network.eval()
        with torch.no_grad():
            features = self.network.forward_features(torch.zeros(1, frontend.n_channels, rows, columns))  # type: ignore[operator]
        self.network.train()
        if features.ndim != 4 or features.shape[1] != self.n_features:
            raise ValueError(f"backbone {config.backbone} gives features of shape {tuple(features.shape)}; "
                             f"a model needs (B, {self.n_features}, h, w)")
        height, width = int(features.shape[2]), int(features.shape[3])
        if self.strips > 1 and (rows % height or frontend.n_mels % (rows // height)):
            raise ValueError(f"image of {rows} rows -> {height} feature rows with backbone {config.backbone}: a strip "
                             f"of {frontend.n_mels} mels is {frontend.n_mels * height / rows:g} feature rows, "
                             "not a whole number, so a seam would fall inside a feature cell")
        self.n_bands, self.n_segments = height // self.strips, width * self.strips

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, strips * n_mels, T / strips) -> (B, D, bands, S)."""
        return unfold(self.network.forward_features(image), self.strips)  # type: ignore[operator]


def _layers(backbone: nn.Module, role: str) -> tuple[str, ...]:
    """The layers that timm's pretrained_cfg names for a role; a backbone of ours has none."""
    names = getattr(backbone, "pretrained_cfg", {}).get(role) or ()
    return (names,) if isinstance(names, str) else tuple(names)
