"""Binary cross-entropy: every class is its own yes or no."""
from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from birdkit.losses.base import LOSSES, Loss
from birdkit.output import SEDOutput


@LOSSES.register("bce")
class BCE(Loss):
    """Binary cross-entropy of the clip logits, the mean over classes.

    Its minimum lies at probability = target, for soft targets too: the choice where probabilities are thresholded.
    """

    def __init__(self) -> None:
        super().__init__()

    def per_example(self, output: SEDOutput, target: Tensor) -> Tensor:
        """The loss of each example, (B,)."""
        return F.binary_cross_entropy_with_logits(output.clip_logits, target, reduction="none").mean(1)
