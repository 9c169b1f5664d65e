"""Softmax cross-entropy with soft targets: classes compete for one clip."""
from __future__ import annotations

import torch
from torch import Tensor

from birdkit.losses.base import LOSSES, ExampleLoss
from birdkit.output import SEDOutput


@LOSSES.register("cross_entropy")
class CrossEntropy(ExampleLoss):
    """-sum_k target_k log softmax(clip logits)_k, the sum over classes.

    BirdCLEF 2025 first place trained with it on several labels per clip and left the targets as they were, so a clip
    with two labels weighs twice; predictions were read through the sigmoid all the same (as the 2024 first place
    found, worth 0.04 of AUC). A clip without any label has loss zero and teaches nothing: this loss knows no negatives
    of their own.

    A class whose cell weight is 0 does not compete: it is left out of the softmax, and its target is ignored. A cell
    weight between 0 and 1 scales the target of its class, which competes as before.

    normalise  True divides each (scaled) target by its sum, so that every clip with labels weighs the same
    """

    def __init__(self, normalise: bool = False) -> None:
        super().__init__()
        self.normalise = normalise

    def per_example(self, output: SEDOutput, target: Tensor, cell_weight: Tensor) -> Tensor:
        """The loss of each example, (B,)."""
        target = cell_weight * target
        if self.normalise:
            target = target / target.sum(1, keepdim=True).clamp_min(1e-6)
        # The lowest finite number and not -inf, which times a target of zero would be NaN.
        lowest = torch.finfo(target.dtype).min
        competing = output.clip_logits.masked_fill(cell_weight == 0, lowest)
        return -(target * competing.log_softmax(1)).sum(1)
