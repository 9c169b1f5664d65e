"""Soft AUC: positives should stand above negatives, by however much; what ROC-AUC counts, made smooth."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from birdkit.losses.base import LOSSES, Loss
from birdkit.output import SEDOutput

CPU_PAIRS = 1 << 16  # compared at a time: the few intermediate results of 256 KiB stay in the cache
GPU_PAIRS = 1 << 22  # 16 MiB each, and few kernels


@LOSSES.register("soft_auc")
class SoftAUC(Loss):
    """The mean over pairs of a positive cell (target y+ > 0.5) and a negative one (y- < 0.5) of

        softplus(z- - z+) (y+ - 0.5) (0.5 - y-)

    with clip logits z, so an unsure label counts less and a target of exactly 0.5 not at all: BirdCLEF 2025 fourth
    place (Dylan Liu). The 2026 second place added a quarter of BCE, see `Sum`: this loss only ranks, so alone it leaves
    the level of probabilities open, and classes without a positive in the batch untaught by "class".

    A pair weighs the product of its cells' w_i c_ik (weight of the example times weight of the cell), and the mean
    divides by the sum of those. Where there is no pair the loss is zero, with a gradient of zero. The loss of a part of
    a batch is no part of its loss: processes that share a batch must bring their logits together first.

    pool  "batch" pairs every positive cell with every negative cell of the batch, whatever their classes, as published:
          classes must agree about the level of their logits. "class" pairs within a class and takes the mean over
          classes that have a pair, which is nearer to macro ROC-AUC
    Raises ValueError for another pool.
    """

    def __init__(self, pool: str = "batch") -> None:
        super().__init__()
        if pool not in ("batch", "class"):
            raise ValueError(f"pool = {pool!r}; it must be one of batch, class")
        self.pool = pool

    def per_batch(self, output: SEDOutput, target: Tensor, weight: Tensor, cell_weight: Tensor) -> Tensor:
        """The mean over pairs, a scalar."""
        cells = weight[:, None] * cell_weight
        groups = [part.reshape(1, -1) if self.pool == "batch" else part.T
                  for part in (output.clip_logits, target, cells)]
        logits, target, cells = groups  # (G, M): M cells that are compared with each other, in G groups
        positive, negative = _shares(cells * (target > 0.5)), _shares(cells * (target < 0.5))
        paired = (positive.sum(1) > 0) & (negative.sum(1) > 0)
        positive = positive * (target - 0.5) * paired[:, None] / paired.sum().clamp_min(1)
        return _PairSum.apply(logits, positive, negative * (0.5 - target))


def _shares(weights: Tensor) -> Tensor:
    """Each row divided by its sum, (G, M); zeros stay zeros."""
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-12)


class _PairSum(torch.autograd.Function):
    """sum over g, p, n of positive_gp negative_gn softplus(z_gn - z_gp), with its gradient in z, in bounded memory.

    Autograd would keep the matrix of all pairs. The gradient is as simple as the sum, so both are made in one go, a few
    positives at a time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Three times (G, M) -> scalar."""
        total, gradient = logits.new_zeros(()), torch.zeros_like(logits)
        pairs_at_once = CPU_PAIRS if logits.device.type == "cpu" else GPU_PAIRS
        at_once = max(pairs_at_once // logits.shape[1], 1)
        for places in positive.nonzero().split(at_once):
            group, member = places.T
            margin = logits[group] - logits[group, member, None]  # (at_once, M)
            pairs = positive[group, member, None] * negative[group]
            total += (pairs * F.softplus(margin)).sum()
            slope = pairs * margin.sigmoid()
            gradient.index_add_(0, group, slope)
            gradient.index_put_((group, member), -slope.sum(1), accumulate=True)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient in the logits; targets and weights have none."""
        return grad * ctx.saved_tensors[0], None, None
