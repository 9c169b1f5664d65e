"""The contract of a loss: logits, target and weight in, one number out."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from birdkit.output import SEDOutput
from birdkit.registry import Registry

LOSSES: Registry[Loss] = Registry("loss")


class Loss(nn.Module):
    """A loss of a batch: the weighted mean over examples of `per_example`, in float32 whatever the autocast state.

    Shape: output of B clips and K classes, target (B, K) in [0, 1], weight (B,) >= 0 -> scalar.
    The mean is sum(w l) / sum(w): weight 2 is the same as the example twice, weight 0 removes it.
    """

    def per_example(self, output: SEDOutput, target: Tensor) -> Tensor:
        """The loss of each example, (B,)."""
        raise NotImplementedError

    def forward(self, output: SEDOutput, target: Tensor, weight: Tensor) -> Tensor:
        """The weighted mean over the batch; zero, with a gradient of zero, where all weights are zero."""
        with torch.autocast(target.device.type, enabled=False):
            full = SEDOutput(output.clip_logits.float(), output.segment_logits.float(), output.attention.float())
            losses = self.per_example(full, target.float())
            weight = weight.float()
            return (weight * losses).sum() / weight.sum().clamp_min(1e-12)
