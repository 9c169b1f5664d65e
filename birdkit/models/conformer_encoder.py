"""The Conformer encoder: attention over the whole clip and convolution over its neighbourhood, turn by turn."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

RELATIVE = ("signed", "published")


def sinusoids(positions: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Sines and cosines of positions (L,) at dim / 2 wavelengths from 2 pi to 20,000 pi, (L, dim / 2) float32 each.

    Vaswani et al. 2017, arXiv:1706.03762.
    """
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10_000.0) / dim))
    angles = positions.float().unsqueeze(1) * rates
    return angles.sin(), angles.cos()


def relative_shift(scores: Tensor) -> Tensor:
    """Scores by distance to scores by key: (B, heads, S, L) -> (B, heads, S, S).

    Column k of the input is the distance S - 1 - k of a key before its query. With L = 2 * S - 1 columns, down to
    distance 1 - S, key j of query i gets distance i - j, whatever its sign. With L = S, down to distance 0, this is
    the shift of Transformer-XL (Dai et al. 2019), which was made for keys of the past: the next key gets 0, and a
    later one what the query after its own has for distance S + 1 - (j - i).

    >>> relative_shift(torch.tensor([[[[2.0, 1.0, 0.0, -1.0, -2.0]] * 3]])).squeeze()
    tensor([[ 0., -1., -2.],
            [ 1.,  0., -1.],
            [ 2.,  1.,  0.]])
    """
    batch, heads, n, length = scores.shape
    padded = functional.pad(scores, (1, 0)).reshape(batch, heads, length + 1, n)
    return padded[:, :, 1:].reshape(batch, heads, n, length)[..., :n]


class RelativeAttention(nn.Module):
    """Self-attention that knows how far apart two segments are, after Transformer-XL (Dai et al. 2019,
    arXiv:1901.02860), with its layer norm before and its residual around it: (B, S, D) -> (B, S, D), any S.

    relative  "signed": a segment's score depends on how many steps before or after the other lies.
              "published": as ConformerSED computes it, with the shift of a language model, see `relative_shift`: what
              comes later is scored by a distance that depends on the clip's length. For the authors' weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float, relative: str) -> None:
        super().__init__()
        if dim % heads or dim % 2:
            raise ValueError(f"dim {dim} must be even and a multiple of {heads} heads")
        if relative not in RELATIVE:
            raise ValueError(f"relative = {relative!r}; it must be one of {', '.join(RELATIVE)}")
        self.dim, self.heads, self.relative = dim, heads, relative
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.distance = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, dim // heads))
        self.distance_bias = nn.Parameter(torch.zeros(heads, dim // heads))
        self.out = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, segments: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        n = segments.shape[1]
        split = (self.heads, self.dim // self.heads)
        query, key, value = (part.unflatten(2, split) for part in self.qkv(self.norm(segments)).chunk(3, -1))
        length = 2 * n - 1 if self.relative == "signed" else n
        distances = n - 1 - torch.arange(length, device=segments.device)
        waves = torch.cat(sinusoids(distances, self.dim), -1)  # (L, D)
        position = self.distance(waves.to(segments.dtype)).unflatten(1, split).permute(1, 2, 0)  # (heads, d, L)
        by_content = (query + self.content_bias).transpose(1, 2) @ key.permute(0, 2, 3, 1)  # (B, heads, S, S)
        by_distance = relative_shift((query + self.distance_bias).transpose(1, 2) @ position)
        scores = (by_content + by_distance).float() / math.sqrt(split[1])
        share = scores.softmax(-1).to(value.dtype)
        heard = (share @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
        return segments + self.dropout(self.out(heard))


class LocalConvolution(nn.Module):
    """What a segment hears of its neighbours: (B, S, D) -> (B, S, D).

    Layer norm, pointwise to twice the width, gate, depthwise over `kernel` segments, batch norm, swish, pointwise.
    """

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel = {kernel} must be odd: an even one has no middle")
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.out = nn.Conv1d(dim, dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, segments: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        gated = functional.glu(self.widen(self.norm(segments).transpose(1, 2)), 1)  # (B, D, S)
        heard = self.out(functional.silu(self.batch_norm(self.depthwise(gated))))
        return self.dropout(heard.transpose(1, 2))


class ConformerBlock(nn.Module):
    """Half a feed-forward layer, attention, convolution, the other half, layer norm: (B, S, D) -> (B, S, D).

    After Conformer (Gulati et al. 2020, arXiv:2005.08100).
    """

    def __init__(self, dim: int, heads: int, kernel: int, expansion: int, dropout: float, relative: str) -> None:
        super().__init__()
        self.before, self.after = (nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, expansion * dim), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(expansion * dim, dim), nn.Dropout(dropout)) for _ in range(2))
        self.attention = RelativeAttention(dim, heads, dropout, relative)
        self.convolution = LocalConvolution(dim, kernel, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, segments: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        segments = self.attention(segments + 0.5 * self.before(segments))
        segments = segments + self.convolution(segments)
        return self.norm(segments + 0.5 * self.after(segments))


class ConformerEncoder(nn.Module):
    """Features to segments that have heard each other: (B, S, n_features) -> (B, S, dim), any S.

    A linear layer, layer norm, dropout, ReLU, sinusoidal positions, then the blocks (ConformerSED, Miyazaki et al.
    2020). Positions are made for the length that comes, so there is no longest clip.

    n_features  D of the features
    dim         width of the encoder, even and a multiple of heads
    blocks      Conformer blocks
    heads       attention heads
    kernel      segments under a depthwise convolution, odd
    expansion   width of a feed-forward layer's hidden units, in dims
    relative    see RelativeAttention
    """

    def __init__(self, n_features: int, *, dim: int, blocks: int, heads: int, kernel: int, expansion: int,
                 dropout: float, relative: str) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.Sequential(nn.Linear(n_features, dim), nn.LayerNorm(dim), nn.Dropout(dropout), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*[ConformerBlock(dim, heads, kernel, expansion, dropout, relative)
                                      for _ in range(blocks)])

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, n_features) -> (B, S, dim)."""
        at = torch.arange(features.shape[1], device=features.device)
        positions = torch.stack(sinusoids(at, self.dim), -1).flatten(1)  # (S, dim): sine, cosine, sine, ...
        return self.blocks(self.dropout(self.project(features) * math.sqrt(self.dim) + positions))
