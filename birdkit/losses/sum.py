"""Several losses at once, each with a weight."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from birdkit.losses.base import LOSSES, Loss
from birdkit.output import SEDOutput

KEYS = ("name", "options", "weight")


@LOSSES.register("sum")
class Sum(Loss):
    """The weighted sum of other losses of the same logits. The default is that of BirdCLEF 2026 second place.

    members  one or more of {"name": a registered loss, "options": its options, "weight": a number >= 0}; where there
             are no options those of the loss, where there is no weight 1
    Raises ValueError where there is none, for another key, or for a negative weight.
    """

    def __init__(self, members: Sequence[Mapping[str, Any]] = ({"name": "soft_auc"},
                                                               {"name": "bce", "weight": 0.25})) -> None:
        super().__init__()
        for part in members:
            if "name" not in part or set(part) - set(KEYS) or part.get("weight", 1.0) < 0:
                raise ValueError(f"{dict(part)} must be a name with, if need be, options and a weight >= 0")
        if not members:
            raise ValueError("members = [] must be at least one loss")
        self.losses = nn.ModuleList(LOSSES.build(part["name"], **part.get("options", {})) for part in members)
        self.weights = [float(part.get("weight", 1.0)) for part in members]

    def per_batch(self, output: SEDOutput, target: Tensor, weight: Tensor, cell_weight: Tensor) -> Tensor:
        """The sum of the batch's losses, a scalar."""
        parts = [share * loss.per_batch(output, target, weight, cell_weight)  # type: ignore[operator]
                 for share, loss in zip(self.weights, self.losses, strict=True)]
        return sum(parts[1:], parts[0])
