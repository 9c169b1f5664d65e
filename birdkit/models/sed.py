"""The SED model: a timm backbone on the folded image, unfolded before anything is pooled, a head over segments."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.folding import unfold
from birdkit.models.base import MODELS, Model
from birdkit.models.heads import HEADS
from birdkit.models.scratch import BACKBONES
from birdkit.output import SEDOutput


def build_backbone(config: ModelConfig, in_chans: int) -> nn.Module:
    """A feature extractor with `config.weights`: "none", "hub", or the path of a weights file.

    A name in birdkit.models.scratch.BACKBONES is ours, any other is timm's. Raises ValueError where weights are asked
    for that do not exist, FileNotFoundError where the path does not; timm raises where the file does not fit.
    """
    if config.backbone in BACKBONES.names():
        if config.weights != "none":
            raise ValueError(f"backbone {config.backbone} is trained from scratch, not from {config.weights!r}")
        return BACKBONES.build(config.backbone, in_chans=in_chans, drop_path_rate=config.drop_path)
    options: dict[str, Any] = {"in_chans": in_chans, "num_classes": 0, "pretrained": config.weights != "none"}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if config.weights not in ("none", "hub"):
        if not Path(config.weights).is_file():
            raise FileNotFoundError(f"no weights file at {config.weights} for backbone {config.backbone}")
        options["pretrained_cfg_overlay"] = {"file": config.weights}
    return timm.create_model(config.backbone, **options)


@MODELS.register("sed")
class SED(Model):
    """Sound event detection from weak labels: every segment of the clip gets logits, attention makes the clip's.

    The backbone sees the folded image as a plain image; its feature map (B, D, h, w) is unfolded to
    (B, D, h / strips, strips * w), so the segments run along true time again, and the bands are pooled.
    With head_axis "frequency" the roles of the axes are swapped: time is pooled, the segments are bands.

    Raises ValueError where the backbone's feature map does not unfold, for instance because a seam between two
    strips would fall inside a feature cell. After the second seed (BirdCLEF 2025, 56th place).
    """

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int) -> None:
        super().__init__(config, frontend, n_classes)
        self.strips = frontend.strips
        self.backbone = build_backbone(config, frontend.n_channels)
        rows, columns = frontend.image_size
        height, width = self._feature_size(frontend, rows, columns)
        self.n_segments = width * self.strips if config.head_axis == "time" else height // self.strips
        n_features = int(self.backbone.num_features)  # type: ignore[arg-type]
        hidden = config.hidden or n_features
        self.neck = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(n_features, hidden), nn.ReLU(),
                                  nn.Dropout(config.dropout))
        self.head = HEADS.build(config.head, n_features=hidden, n_classes=n_classes, **config.options)

    def _feature_size(self, frontend: FrontEndConfig, rows: int, columns: int) -> tuple[int, int]:
        """Height and width of the feature map, from one pass of an empty image; refuses what does not unfold."""
        self.backbone.eval()
        with torch.no_grad():
            features = self.backbone.forward_features(torch.zeros(1, frontend.n_channels, rows, columns))  # type: ignore[operator]
        self.backbone.train()
        name = self.config.backbone
        if features.ndim != 4 or features.shape[1] != self.backbone.num_features:
            raise ValueError(f"backbone {name} gives features of shape {tuple(features.shape)}; "
                             f"a SED model needs (B, {self.backbone.num_features}, h, w)")
        height, width = int(features.shape[2]), int(features.shape[3])
        if frontend.strips > 1 and (rows % height or frontend.n_mels % (rows // height)):
            raise ValueError(f"image of {rows} rows -> {height} feature rows with backbone {name}: a strip of "
                             f"{frontend.n_mels} mels is {frontend.n_mels * height / rows:g} feature rows, "
                             "not a whole number, so a seam would fall inside a feature cell")
        return height, width

    def classify(self, image: Tensor) -> SEDOutput:
        """(B, C, strips * n_mels, T / strips) -> SEDOutput."""
        features = unfold(self.backbone.forward_features(image), self.strips)  # type: ignore[operator]  # (B, D, bands, S)
        axis = 2 if self.config.head_axis == "time" else 3
        pooled = features.mean(axis)  # (B, D, S)
        if self.config.pooling == "mean_max":
            pooled = pooled + features.amax(axis)
        return self.head(self.neck(pooled.transpose(1, 2)).transpose(1, 2))
