"""Binary cross-entropy: every class is its own yes or no."""
from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from birdkit.losses.base import LOSSES, CellLoss


@LOSSES.register("bce")
class BCE(CellLoss):
    """Binary cross-entropy of the clip logits, the mean over classes.

    Its minimum lies at probability = target, for soft targets too: the choice where probabilities are thresholded.
    """

    def __init__(self) -> None:
        super().__init__()

    def per_cell(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each class of each example, (B, K)."""
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
