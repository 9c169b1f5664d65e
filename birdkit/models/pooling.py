"""Pooling of one axis of a feature map."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class GeM(nn.Module):
    """Generalised mean with a learned power, (mean of x ** p) ** (1 / p): 1 is the mean, large is the maximum.

    Radenovic et al. 2017, arXiv:1711.02512; used by the 2021 second place and the 2025 winner. In float32: the cube of
    a feature leaves half precision.
    """

    def __init__(self, power: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(float(power)))
        self.floor = floor

    def forward(self, features: Tensor, axis: int) -> Tensor:
        """Features without the pooled axis."""
        with torch.autocast(features.device.type, enabled=False):
            return features.float().clamp_min(self.floor).pow(self.power).mean(axis).pow(1 / self.power)


class AxisPool(nn.Module):
    """What ModelConfig.pooling names, over an axis given with each call: "mean", "max", "mean_max", "gem"."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gem":
            self.gem = GeM()
        elif kind not in ("mean", "max", "mean_max"):
            raise ValueError(f"pooling = {kind!r}; it must be one of mean, max, gem, mean_max")

    def forward(self, features: Tensor, axis: int) -> Tensor:
        """Features without the pooled axis."""
        if self.kind == "gem":
            return self.gem(features, axis)
        if self.kind == "max":
            return features.amax(axis)
        pooled = features.mean(axis)
        return pooled + features.amax(axis) if self.kind == "mean_max" else pooled


def smooth_segments(features: Tensor) -> Tensor:
    """Maximum plus mean of three neighbouring segments, (B, D, S) -> (B, D, S) (PANNs, Kong et al. 2020)."""
    return functional.max_pool1d(features, 3, 1, 1) + functional.avg_pool1d(features, 3, 1, 1)
