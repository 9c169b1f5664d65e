"""Asymmetric loss: easy negatives, of which there are many, count less than positives."""
from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from birdkit.losses.base import LOSSES, CellLoss
from birdkit.losses.per_class import Numbers, PerClass

SMALLEST = 1e-30  # below it a power's gradient is no number; the loss there is zero anyway


@LOSSES.register("asl")
class ASL(CellLoss):
    """Asymmetric loss (Ridnik et al. 2021, arXiv:2009.14119); BirdCLEF 2026 twelfth place chose its numbers by class.

    With probability p = sigmoid(clip logit) and target t, for each class, then the mean over classes:

        -t (1 - p)^gamma_pos log(p) - (1 - t) q^gamma_neg log(1 - q)      with q = max(p - clip, 0)

    A negative below probability `clip` costs nothing; one that the model is sure of against its label is pulled less
    and less, since such labels are often wrong. Gammas and clip of 0 give the binary cross-entropy, also for soft
    targets. With others the minimum does not lie at a soft target; with the paper's numbers, the defaults, it is above:

        t     0.1    0.3    0.5    0.7    0.9
        p   0.478  0.597  0.684  0.776  0.920

    That is harmless where probabilities are only ranked; it is not where they meet a fixed threshold.

    gamma_pos  how fast an easy positive loses its weight, >= 0: one number, or one for each class, such as
               {"default": 0.0, "comcuc": 1.0} or a list in the order of the target's columns
    gamma_neg  the same of negatives
    clip       probability below which a negative is easy enough to be left alone, in [0, 1)
    Raises ValueError for a number out of range, and for gammas that do not fit the classes, see PerClass.
    """

    def __init__(self, gamma_pos: Numbers = 0.0, gamma_neg: Numbers = 4.0, clip: float = 0.05) -> None:
        super().__init__()
        if not 0 <= clip < 1:
            raise ValueError(f"clip = {clip} must be in [0, 1)")
        self.gamma_pos = PerClass("gamma_pos", gamma_pos)
        self.gamma_neg = PerClass("gamma_neg", gamma_neg)
        self.log_clip = math.log(clip) if clip else -math.inf

    def per_cell(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each class of each example, (B, K)."""
        missed = torch.exp(self.gamma_pos(target) * F.logsigmoid(-logits))  # (1 - p)^gamma_pos
        # log(1 - q) = min(log(1 - p + clip), 0) from logarithms: 1 - p is 0 in float32 from a logit of 17 on.
        no = torch.logaddexp(F.logsigmoid(-logits), logits.new_tensor(self.log_clip)).clamp_max(0)
        invented = (-torch.expm1(no)).clamp_min(SMALLEST).pow(self.gamma_neg(target))  # q^gamma_neg
        return -target * missed * F.logsigmoid(logits) - (1 - target) * invented * no
