"""Learned scaling of the image, the first layer of a network that asks for it; in float32 under autocast, too."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from birdkit.config import FrontEndConfig
from birdkit.folding import fold, unfold


class InputNorm(nn.Module):
    """(B, C, strips * F, T / strips) -> the same shape.

    "none"      as it is
    "band"      batch norm with a mean and a deviation per mel band (PANNs' bn0; first seed, 2022; HTS-AT): for front
                ends without a scaling of their own, so raw decibels are normalised before half precision sees them
    "channel"   batch norm with one per channel (second seed, 2025)
    "instance"  the mean and deviation of each image (call detector of the 2021 second place)
    """

    def __init__(self, kind: str, frontend: FrontEndConfig) -> None:
        super().__init__()
        self.kind = kind
        self.strips = frontend.strips
        self.norm: nn.Module = nn.Identity()
        if kind == "band":
            self.norm = nn.BatchNorm2d(frontend.n_mels)
        elif kind == "channel":
            self.norm = nn.BatchNorm2d(frontend.n_channels)
        elif kind == "instance":
            self.norm = nn.InstanceNorm2d(frontend.n_channels)
        elif kind != "none":
            raise ValueError(f"input_norm = {kind!r}; it must be one of none, band, channel, instance")

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.kind == "none":
            return image
        with torch.autocast(image.device.type, enabled=False):
            image = image.float()
            if self.kind != "band":
                return self.norm(image)
            bands = unfold(image, self.strips).transpose(1, 2)  # (B, F, C, T)
            return fold(self.norm(bands).transpose(1, 2), self.strips)
