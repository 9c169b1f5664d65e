"""A loss asked twice: of the clip as attention sums it up, and of its segments pooled without attention."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from birdkit.losses.base import LOSSES, Loss
from birdkit.output import SEDOutput


@LOSSES.register("two_way")
class TwoWay(Loss):
    """clip_weight * base(clip logits) + weight * base(segment logits pooled over the clip).

    The second term reaches every segment, also those that attention neglects. BirdCLEF entries:

        2022, first seed      focal, "max", weights 1 and 1 (published so; its committed code has the first term only)
        2025, second seed     focal with alpha 0.8, "mean", 1 and 1
        2025, first place     cross_entropy, "max", 0.5 and 0.5
        2026, second place    "mean", 0 and 1: trained on the mean of segments, predicted through attention

    base         name of a registered loss
    options      of that loss
    weight       of the second term, >= 0; at 0 only the first is left
    pooling      of the segment logits, "max" or "mean"
    clip_weight  of the first term, >= 0; at 0 only the second is left
    Raises ValueError for a negative weight, for two zeros, or for another pooling.
    """

    def __init__(self, base: str = "bce", options: dict[str, Any] | None = None, *, weight: float = 1.0,
                 pooling: str = "max", clip_weight: float = 1.0) -> None:
        super().__init__()
        if min(clip_weight, weight) < 0 or not clip_weight + weight:
            raise ValueError(f"clip_weight = {clip_weight} and weight = {weight} must be >= 0, and one of them above")
        if pooling not in ("max", "mean"):
            raise ValueError(f"pooling = {pooling!r}; it must be one of max, mean")
        self.base = LOSSES.build(base, **(options or {}))
        self.weight = weight
        self.clip_weight = clip_weight
        self.pooling = pooling

    def per_batch(self, output: SEDOutput, target: Tensor, weight: Tensor, cell_weight: Tensor) -> Tensor:
        """Both terms of the whole batch, a scalar."""
        segments = output.segment_logits  # (B, S, K)
        pooled = segments.amax(1) if self.pooling == "max" else segments.mean(1)  # (B, K)
        second = replace(output, clip_logits=pooled)
        return (self.clip_weight * self.base.per_batch(output, target, weight, cell_weight)
                + self.weight * self.base.per_batch(second, target, weight, cell_weight))
