"""The SED model: a timm backbone on the folded image, unfolded before anything is pooled, a head over segments."""
from __future__ import annotations

from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.models.backbones import BackboneMap
from birdkit.models.base import MODELS, Model
from birdkit.models.heads import HEADS
from birdkit.models.pooling import AxisPool, smooth_segments
from birdkit.output import SEDOutput


@MODELS.register("sed")
class SED(Model):
    """Sound event detection from weak labels: every segment of the clip gets logits, the head makes the clip's.

    The backbone sees the folded image as a plain image; its feature map (B, D, h, w) is unfolded to
    (B, D, h / strips, strips * w), so the segments run along true time again, and the bands are pooled.
    With head_axis "frequency" the roles of the axes are swapped: time is pooled, the segments are bands (what the
    first seed's committed models do, and Kaytoo's).

    Raises ValueError where the backbone's feature map does not unfold. After the second seed (BirdCLEF 2025, 56th
    place); in parts, after the first (2022) and the 2021 second place.
    """

    published = ModelConfig(head_options={"kernel": 3}, input_norm="channel")
    published_frontend = "seed2025-384"
    small = ModelConfig(backbone="scratch_resnet_s2", pooling="mean_max", hidden=64)
    small_frontend = FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64)

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int) -> None:
        super().__init__(config, frontend, n_classes)
        self.backbone = BackboneMap(config, frontend)
        self.along_time = config.head_axis == "time"
        self.n_segments = self.backbone.n_segments if self.along_time else self.backbone.n_bands
        self.pooling = AxisPool(config.pooling)
        width = self.backbone.n_features
        if config.neck == "linear":
            hidden = config.hidden or width
            self.neck = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, hidden), nn.ReLU(),
                                      nn.Dropout(config.dropout))
            width = hidden
        else:
            self.neck = nn.Sequential(nn.Dropout(config.dropout))
        self.head = HEADS.build(config.head, n_features=width, n_classes=n_classes, **config.head_options)
        self.pooled = self.head.pooled

    def features(self, image: Tensor) -> Tensor:
        """(B, C, strips * n_mels, T / strips) -> (B, D, S)."""
        return self.pooling(self.backbone(image), 2 if self.along_time else 3)

    def decide(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput."""
        if self.config.smoothing:
            features = smooth_segments(features)
        return self.head(self.neck(features.transpose(1, 2)).transpose(1, 2))
