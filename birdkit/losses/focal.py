"""Focal binary cross-entropy: classes that are already right count less."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from birdkit.losses.base import LOSSES, CellLoss
from birdkit.losses.per_class import Numbers, PerClass


@LOSSES.register("focal")
class Focal(CellLoss):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002) in the form that both seeds and many BirdCLEF entries use.

    With probability p = sigmoid(clip logit) and target t, for each class, then the mean over classes:

        (t alpha (1 - p)^gamma + (1 - t) p^gamma) * BCE(p, t)

    Unlike in the paper, `alpha` weighs the positives alone: negatives keep weight 1. gamma 0 and alpha 1 give the
    binary cross-entropy. The seeds use alpha 0.25 (2022) and 0.8 (2025), both with gamma 2.

    The product has its minimum at p = t for t = 0 and t = 1 only. With soft targets (mixing, smoothing, pseudo-labels)
    and gamma 2 it lies below:

        t              0.1    0.5    0.8    0.9
        alpha 0.25   0.058  0.303  0.658  0.843
        alpha 0.8    0.092  0.468  0.782

    That is harmless where probabilities are only ranked, as by ROC-AUC; it is not where they meet a fixed threshold.

    alpha   weight of the positives, >= 0: one number, or one for each class, such as {"default": 0.25, "comcuc": 0.5}
            or a list in the order of the target's columns
    gamma   how fast an easy class loses its weight, >= 0
    Raises ValueError for a negative number, and for an `alpha` that does not fit the classes, see PerClass.
    """

    def __init__(self, alpha: Numbers = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma = {gamma} must be >= 0")
        self.alpha = PerClass("alpha", alpha)
        self.gamma = gamma

    def per_cell(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each class of each example, (B, K)."""
        # p^gamma as exp(gamma log p): its gradient is finite at p = 0 for every gamma, that of a power is not.
        missed = torch.exp(self.gamma * F.logsigmoid(-logits))  # (1 - p)^gamma
        invented = torch.exp(self.gamma * F.logsigmoid(logits))  # p^gamma
        factor = target * self.alpha(target) * missed + (1 - target) * invented
        return factor * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
