"""A loss asked twice: of the clip as attention sums it up, and of its segments pooled without attention."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from birdkit.losses.base import LOSSES, Loss
from birdkit.output import SEDOutput


@LOSSES.register("two_way")
class TwoWay(Loss):
    """base(clip logits) + weight * base(segment logits pooled over the clip).

    The second term reaches every segment, also those that attention neglects. BirdCLEF 2021 to 2025, many entries:
    focal with "max" (2022), focal with "mean" (the second seed, 2025), cross-entropy with "max" (2025 first place).

    base     name of a registered loss
    options  of that loss
    weight   of the second term, >= 0; at 0 only the first is left
    pooling  of the segment logits, "max" or "mean"
    """

    def __init__(self, base: str = "bce", options: dict[str, Any] | None = None, *, weight: float = 1.0,
                 pooling: str = "max") -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight = {weight} must be >= 0")
        if pooling not in ("max", "mean"):
            raise ValueError(f"pooling = {pooling!r}; it must be one of max, mean")
        self.base = LOSSES.build(base, **(options or {}))
        self.weight = weight
        self.pooling = pooling

    def per_example(self, output: SEDOutput, target: Tensor) -> Tensor:
        """The loss of each example, (B,)."""
        segments = output.segment_logits  # (B, S, K)
        pooled = segments.amax(1) if self.pooling == "max" else segments.mean(1)  # (B, K)
        first = self.base.per_example(output, target)
        return first + self.weight * self.base.per_example(replace(output, clip_logits=pooled), target)
