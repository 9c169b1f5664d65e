"""The contract of a loss: logits, target and weights in, one number out."""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from birdkit.output import SEDOutput
from birdkit.registry import Registry

LOSSES: Registry[Loss] = Registry("loss")


class Loss(nn.Module):
    """A loss of a batch, one number, in float32 whatever the autocast state.

    Weight 2 is the same as the example twice, weight 0 removes it; a cell (one class of one example) with cell weight
    0 is unknown and has no influence. Where all weights are zero the loss is zero, with a gradient of zero.

    A member implements `per_batch`, or one of the smaller questions that its sort is made of: `per_example` of
    ExampleLoss, `per_cell` of CellLoss.

    Shape: output of B clips and K classes, target (B, K) in [0, 1], weight (B,) >= 0, cell_weight (B, K) in [0, 1] or
    None for ones -> scalar.
    """

    def per_batch(self, output: SEDOutput, target: Tensor, weight: Tensor, cell_weight: Tensor) -> Tensor:
        """The loss of the whole batch, a scalar; everything is of one floating type."""
        raise NotImplementedError

    def forward(self, output: SEDOutput, target: Tensor, weight: Tensor, cell_weight: Tensor | None = None) -> Tensor:
        """The loss of the batch, a float32 scalar."""
        with torch.autocast(target.device.type, enabled=False):
            full = replace(output, clip_logits=output.clip_logits.float(), attention=output.attention.float(),
                           segment_logits=output.segment_logits.float())
            target = target.float()
            cells = torch.ones_like(target) if cell_weight is None else cell_weight.float()
            return self.per_batch(full, target, weight.float(), cells)


class ExampleLoss(Loss):
    """A loss that asks each example alone: the weighted mean sum(w l) / sum(w) over the batch.

    An example of which no cell is known counts as weight 0.
    """

    def per_example(self, output: SEDOutput, target: Tensor, cell_weight: Tensor) -> Tensor:
        """The loss of each example, (B,); any finite number where no cell is known."""
        raise NotImplementedError

    def per_batch(self, output: SEDOutput, target: Tensor, weight: Tensor, cell_weight: Tensor) -> Tensor:
        """The weighted mean over examples, a scalar."""
        losses = self.per_example(output, target, cell_weight)
        weight = weight * (cell_weight > 0).any(1)
        return (weight * losses).sum() / weight.sum().clamp_min(1e-12)


class CellLoss(ExampleLoss):
    """A loss in which every class is a question of its own: sum_k c_k l_k / sum_k c_k over an example's classes."""

    def per_cell(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each class of each example, (B, K) and (B, K) -> (B, K)."""
        raise NotImplementedError

    def per_example(self, output: SEDOutput, target: Tensor, cell_weight: Tensor) -> Tensor:
        """The weighted mean over classes, (B,)."""
        losses = self.per_cell(output.clip_logits, target)
        return (cell_weight * losses).sum(1) / cell_weight.sum(1).clamp_min(1e-12)
