"""A small residual network for learning from nothing: where there are no pretrained weights and minutes to train."""
from __future__ import annotations

import itertools

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from birdkit.registry import Registry

BACKBONES: Registry[ScratchResNet] = Registry("backbone")


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut: (B, C_in, h, w) -> (B, C_out, h, w)."""

    def __init__(self, n_in: int, n_out: int, drop_path: float) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out))
        self.shortcut = nn.Identity() if n_in == n_out else nn.Sequential(
            nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))
        self.drop_path = DropPath(drop_path)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        return torch.relu(self.shortcut(features) + self.drop_path(self.convolutions(features)))


@BACKBONES.register("scratch_resnet")
class ScratchResNet(nn.Module):
    """Under a million parameters, one residual block per scale, the same interface as a timm backbone.

    A channel that says how high each row is goes in beside the image: pitch matters, and a convolution alone cannot
    see it (CoordConv, Liu et al. 2018, arXiv:1807.03247). Deep pretrained architectures hardly learn from a few
    hundred recordings in minutes; this one does.

    Shape: (B, C, H, W) -> (B, num_features, H / 16, W / 16).

    widths       channels of the stem and of each block
    stem_stride  1 keeps full resolution in the stem and pools after it; 2 costs a quarter of that
    """

    def __init__(self, in_chans: int = 1, drop_path_rate: float = 0.0, *,
                 widths: tuple[int, ...] = (16, 32, 64, 128, 192), stem_stride: int = 1) -> None:
        super().__init__()
        self.num_features = widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(in_chans + 1, widths[0], 3, stride=stem_stride, padding=1, bias=False),
                                   nn.BatchNorm2d(widths[0]), nn.ReLU()]
        if stem_stride == 1:
            layers.append(nn.MaxPool2d(2))
        last = len(widths) - 2
        for index, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            layers.append(Block(n_in, n_out, drop_path_rate * index / max(last, 1)))
            if index < last:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)

    def forward_features(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_features, H / 16, W / 16)."""
        height = torch.linspace(-1, 1, image.shape[2], dtype=image.dtype, device=image.device)
        rows = height.view(1, 1, -1, 1).expand(image.shape[0], 1, image.shape[2], image.shape[3])
        together = torch.cat([image, rows], 1)
        return self.layers(together.contiguous(memory_format=torch.channels_last))


@BACKBONES.register("scratch_resnet_s2")
class StridedScratchResNet(ScratchResNet):
    """`scratch_resnet` with a stem of stride 2: less than half the time, nearly the score."""

    def __init__(self, in_chans: int = 1, drop_path_rate: float = 0.0) -> None:
        super().__init__(in_chans, drop_path_rate, stem_stride=2)
