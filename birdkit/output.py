"""What comes out of a model, and the one aggregation that turns it into probabilities."""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from birdkit.config import POOLS


@dataclass(frozen=True)
class SEDOutput:
    """What a model says about a batch of clips.

    clip_logits     (B, K)     attention-weighted mean of the segment logits
    segment_logits  (B, S, K)  before attention; the S segments cover the clip evenly
    attention       (B, S, K)  >= 0, sums to one over S
    """

    clip_logits: Tensor
    segment_logits: Tensor
    attention: Tensor


def probabilities(output: SEDOutput, coverage: Tensor | None = None, *, pool: str = "segments") -> Tensor:
    """The one aggregation: curves, validation, pseudo-labels and submission all call it.

    Without `coverage`, the probability of each clip, (B, K). With it, the probability of each window, (W, K); a window
    that covers exactly one clip gets exactly that clip's probability, however it is pooled:

    "segments"  the same attention-weighted mean of logits as a clip's, over the segments that the window covers, of
                whatever clips they belong to: nothing outside the window is heard
    "clips"     the mean of the clips' probabilities, each weighted by how much of it the window covers: with
                overlapping clips, neighbours are heard too, which steadies calls that go on

    coverage  (W, B * S) share of each segment that lies inside each window, in [0, 1]. Every row must cover something.

    >>> import torch
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
    if pool == "clips":
        share = coverage.reshape(len(coverage), *output.attention.shape[:2]).sum(2)  # (W, B)
        return (share / share.sum(1, keepdim=True)) @ output.clip_logits.float().sigmoid()
    attention = output.attention.float().flatten(0, 1)  # (B * S, K)
    logits = output.segment_logits.float().flatten(0, 1)  # (B * S, K)
    mass = coverage @ attention  # (W, K)
    # Attention can leave a window next to nothing: the floor keeps the quotient finite and changes no other window.
    return ((coverage @ (attention * logits)) / mass.clamp_min(1e-12)).sigmoid()
