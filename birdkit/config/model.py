"""The network behind the image."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from birdkit.config.base import at_least, in_unit, one_of

OWN = "own"  # as a backbone: the network of the model's own paper


@dataclass(frozen=True)
class ModelConfig:
    """The network behind the image.

    name            a registered model
    backbone        a timm model name, one of birdkit.models.scratch, or "own": the network of the model's own paper
    weights         "none" (from scratch), "hub" (timm's pretrained weights) or the path of a weights file: the
                    backbone's, the whole model's as its authors published it, or a birdkit checkpoint
    partial_weights True allows a weights file that fits only in part; what was left out is logged either way
    input_norm      learned scaling of the image: "none", "band" (batch norm, one per mel band: first seed, HTS-AT),
                    "channel" (batch norm of the image: second seed), "instance" (of each image: 2021 call detector)
    parts           training clips are this many clips long: each goes through the backbone alone, then their segments
                    are joined along time and decided on together (2021 second place, first seed). 1 for whole clips
    pooling         of the features over the axis that is not the head's: "mean", "max", "gem" (generalised mean,
                    Radenovic et al. 2017), or "mean_max" (mean + max), which lets one band stand out
    smoothing       True adds the maximum and the mean over three neighbouring segments (PANNs; the first seed's
                    "channel smoothing")
    neck            before the head: "linear" (dropout, linear, ReLU, dropout) or "none" (dropout)
    hidden          width of the linear neck, 0 for the backbone's own
    drop_path       stochastic depth, rising from 0 in the backbone's first block to about this in its last; 0 for none.
                    .15 in rounds with pseudo-labels gained the 2025 first place up to .005, and nothing without them
    head            a registered head
    head_axis       the axis the head pools over: "time", or "frequency" (segments are then bands)
    head_options    of the head
    options         of the model: sizes that only this model has
    """

    name: str = "sed"
    backbone: str = "tf_efficientnet_b0.ns_jft_in1k"
    weights: str = "none"
    partial_weights: bool = False
    input_norm: str = "none"
    parts: int = 1
    pooling: str = "mean"
    smoothing: bool = False
    neck: str = "linear"
    hidden: int = 0
    dropout: float = 0.2
    drop_path: float = 0.0
    head: str = "attention"
    head_axis: str = "time"
    head_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("head_axis", self.head_axis, ("time", "frequency"))
        one_of("pooling", self.pooling, ("mean", "max", "gem", "mean_max"))
        one_of("neck", self.neck, ("linear", "none"))
        one_of("input_norm", self.input_norm, ("none", "band", "channel", "instance"))
        in_unit("model.dropout", self.dropout)
        in_unit("model.drop_path", self.drop_path)
        at_least("model.hidden", self.hidden)
        at_least("model.parts", self.parts, 1)

    @property
    def family(self) -> str:
        """What it shares its mistakes with: its backbone, or where that is its own its name.

        >>> ModelConfig(backbone="eca_nfnet_l0.ra2_in1k").family, ModelConfig(name="conformer", backbone=OWN).family
        ('eca_nfnet_l0', 'conformer')
        """
        return self.name if self.backbone == OWN else self.backbone.partition(".")[0]
