"""The call detector: does anything call at all? One class for all animals, as a gate on the probabilities of others.

Its examples come from birdkit.preprocess.call_sources, which makes tables with the labels "call" and "nocall"; "nocall"
is no class. It is trained and validated like any other model:

    table = call_sources.join(call_sources.labelled_folder("ff1010bird.csv", "ff1010bird", root="."),
                              call_sources.noise("rain", root="."))
    config = recipes.get("call_detector").run(0, 0)
    training.fit(config, table, ["call"], root=".", out_dir=kaggle.Workspace().call_dir(0))

The checkpoint is then a gate: see `gates` of birdkit.inference.predict, and `gate` in InferenceConfig.
"""
from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.models.backbones import BackboneMap
from birdkit.models.base import MODELS, Model
from birdkit.models.pooling import AxisPool
from birdkit.output import SEDOutput


@MODELS.register("call_detector")
class CallDetector(Model):
    """Binary call / no call with one attention for all classes, K = 1 with the class "call" as a rule.

    The backbone's map is averaged over frequency, a small network says how much each segment counts, and one linear
    layer decides on the weighted sum of the segments' features. A weighted sum whose weights sum to one can be taken
    after a linear layer as well as before: so the same layer on each segment gives the segments' logits, and their
    weighted mean is exactly the clip's. 2021 second place (Henkel et al., arXiv:2107.07728), with 27,690 to 35,690
    clips of BirdVox, freefield1010 and warblrb10k.

    attention_hidden  width of the network that weighs the segments
    """

    published: ClassVar[ModelConfig] = ModelConfig(name="call_detector", backbone="seresnext26t_32x4d",
                                                   input_norm="instance", dropout=0.0)
    published_frontend: ClassVar[str] = "henkel2021-call"
    unread: ClassVar[tuple[str, ...]] = ("head", "head_axis", "head_options", "smoothing", "neck", "hidden")
    small: ClassVar[ModelConfig] = ModelConfig(name="call_detector", backbone="scratch_resnet_s2",
                                               input_norm="instance", dropout=0.0, options={"attention_hidden": 64})
    # 4 s * 32,000 Hz / 1000 = 128 frames of 64 mels, 8 segments of half a second.
    small_frontend: ClassVar[FrontEndConfig] = FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64, strips=1)

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int, *,
                 attention_hidden: int = 512) -> None:
        super().__init__(config, frontend, n_classes)
        self.backbone = BackboneMap(config, frontend)
        self.n_segments = self.backbone.n_segments
        self.pooling = AxisPool(config.pooling)
        self.dropout = nn.Dropout(config.dropout)
        width = self.backbone.n_features
        self.attention = nn.Sequential(nn.Linear(width, attention_hidden), nn.ReLU(), nn.Linear(attention_hidden, 1))
        self.classifier = nn.Linear(width, n_classes)

    def features(self, image: Tensor) -> Tensor:
        """(B, C, strips * n_mels, T / strips) -> (B, D, S)."""
        return self.pooling(self.backbone(image), 2)

    def decide(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput, its attention the same for every class."""
        segments = self.dropout(features.transpose(1, 2))  # (B, S, D)
        logits = self.classifier(segments).float()  # (B, S, K)
        attention = torch.softmax(self.attention(segments).float(), 1).expand_as(logits)
        return SEDOutput((attention * logits).sum(1), logits, attention)
