"""What goes into the model: signals with their targets and weights."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of training examples.

    signal      (B, N) waves before the front end, (B, C, F, T) unfolded spectrograms after it
    target      (B, K) in [0, 1]
    weight      (B,) importance of each example, >= 0
    background  a second batch of B soundscape clips that an augmentation may mix in: its target holds their
                pseudo-labels, or zeros where nothing is known about them
    """

    signal: Tensor
    target: Tensor
    weight: Tensor
    background: Batch | None = None

    def replace(self, **changes: Any) -> Batch:
        """A batch with some fields changed.

        >>> import torch
        >>> Batch(torch.zeros(2, 4), torch.zeros(2, 3), torch.ones(2)).replace(weight=torch.zeros(2)).weight
        tensor([0., 0.])
        """
        return replace(self, **changes)

    def to(self, device: str) -> Batch:
        """The batch, with its background, on another device."""
        background = None if self.background is None else self.background.to(device)
        return Batch(self.signal.to(device, non_blocking=True), self.target.to(device, non_blocking=True),
                     self.weight.to(device, non_blocking=True), background)

    def __len__(self) -> int:
        return len(self.signal)
