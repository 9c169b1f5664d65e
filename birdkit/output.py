"""What comes out of a model, and the one aggregation that turns it into probabilities."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from birdkit.config import POOLS

POOLED = ("logits", "probabilities", "max", "free")


@dataclass(frozen=True)
class SEDOutput:
    """What a model says about a batch of clips.

    clip_logits     (B, K)
    segment_logits  (B, S, K)  the S segments cover the clip evenly
    attention       (B, S, K)  >= 0, sums to one over S
    pooled          how the segments make the clip:
                    "logits"         clip logit = sum over s of attention * segment logit
                    "probabilities"  the same of probabilities: sigmoid(clip logit) = sum of attention * sigmoid
                    "max"            the largest segment logit
                    "free"           made beside the segments: from a token, or from pooled features
    """

    clip_logits: Tensor
    segment_logits: Tensor
    attention: Tensor
    pooled: str = "logits"

    def __post_init__(self) -> None:
        if self.pooled not in POOLED:
            raise ValueError(f"pooled = {self.pooled!r}; it must be one of {', '.join(POOLED)}")


def pool_probabilities(segment_logits: Tensor, attention: Tensor) -> Tensor:
    """The logit of the attention-weighted mean of probabilities, (B, S, K) and (B, S, K) -> (B, K), in logit space.

    A probability of 1e-9 has a logit, but 1 - 1e-9 is 1 in float32: neither tail is ever a difference from one.

    >>> pool_probabilities(torch.tensor([[[0.0], [0.0]]]), torch.full((1, 2, 1), 0.5))
    tensor([[0.]])
    """
    share = attention.float().clamp_min(1e-30).log()
    yes = torch.logsumexp(share + functional.logsigmoid(segment_logits.float()), 1)
    no = torch.logsumexp(share + functional.logsigmoid(-segment_logits.float()), 1)
    return yes - no


def probabilities(output: SEDOutput, coverage: Tensor | None = None, *, pool: str = "segments") -> Tensor:
    """The one aggregation: curves, validation, pseudo-labels and submission all call it.

    Without `coverage`, the probability of each clip, (B, K). With it, the probability of each window, (W, K); a window
    that covers exactly one clip gets exactly that clip's probability, however it is pooled:

    "segments"  what makes a clip of its segments (output.pooled) over the segments that the window covers, of whatever
                clips they belong to: nothing outside the window is heard. Where the clip is "free", the window's mean
                of segment logits is shifted by what its clips have above theirs
    "clips"     the mean of the clips' probabilities, each weighted by how much of it the window covers: with
                overlapping clips, neighbours are heard too, which steadies calls that go on

    coverage  (W, B * S) share of each segment that lies inside each window, in [0, 1]. Every row must cover something.

    >>> one = SEDOutput(torch.zeros(1, 1), torch.tensor([[[2.0], [-2.0]]]), torch.full((1, 2, 1), 0.5))
    >>> probabilities(one)
    tensor([[0.5000]])
    >>> probabilities(one, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).round(decimals=2)
    tensor([[0.8800],
            [0.1200],
            [0.5000]])
    """
    if coverage is None:
        return output.clip_logits.float().sigmoid()
    if bool((coverage.sum(1) <= 0).any()):
        raise ValueError(f"window {int((coverage.sum(1) <= 0).nonzero()[0])} covers no segment")
    if pool not in POOLS:
        raise ValueError(f"pool = {pool!r}; it must be one of {', '.join(POOLS)}")
    share = coverage.reshape(len(coverage), *output.attention.shape[:2]).sum(2)  # (W, B)
    share = share / share.sum(1, keepdim=True)
    if pool == "clips":
        return share @ output.clip_logits.float().sigmoid()
    attention = output.attention.float().flatten(0, 1)  # (B * S, K)
    logits = output.segment_logits.float().flatten(0, 1)  # (B * S, K)
    if output.pooled == "max":
        # A segment of which only a sliver is inside belongs to the neighbour.
        inside = coverage >= 0.5 * coverage.amax(1, keepdim=True)
        return torch.stack([logits[row].amax(0) for row in inside]).sigmoid()
    # Attention can leave a window next to nothing: the floor keeps the quotient finite and changes no other window.
    mass = (coverage @ attention).clamp_min(1e-12)  # (W, K)
    if output.pooled == "probabilities":
        return (coverage @ (attention * logits.sigmoid())) / mass
    mean = (coverage @ (attention * logits)) / mass
    if output.pooled == "free":
        of_segments = (output.attention.float() * output.segment_logits.float()).sum(1)  # (B, K)
        mean = mean + share @ (output.clip_logits.float() - of_segments)
    return mean.sigmoid()
