"""What goes into the model: signals with their targets and weights."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of training examples.

    signal       (B, N) waves before the front end, (B, C, F, T) unfolded spectrograms after it
    target       (B, K) in [0, 1]
    weight       (B,) importance of each example, >= 0
    cell_weight  (B, K) importance of each label of each example, in [0, 1]: 0 where nothing is known about it; all 1
                 if not given
    sources      further batches of B clips that an augmentation may mix in, by the name of their source: "soundscapes"
                 with their pseudo-labels, or zeros where nothing is known about them; noise; chosen recordings
    progress     share of the run that is done, in [0, 1)
    p_factor     (B,) on the CPU, of a source's batch: times what a member's `p` is the probability that it uses this
                 clip. 0 where none was decoded, and so much above 1 elsewhere that `p` holds on the whole; None: 1
    teacher      (B, W) what a teacher says of each clip, a row of NaN where it has not heard it; None without a teacher
    """

    signal: Tensor
    target: Tensor
    weight: Tensor
    cell_weight: Tensor = None  # type: ignore[assignment]  # filled in below
    sources: Mapping[str, Batch] = field(default_factory=dict)
    progress: float = 0.0
    p_factor: Tensor | None = None
    teacher: Tensor | None = None

    def __post_init__(self) -> None:
        if self.cell_weight is None:
            object.__setattr__(self, "cell_weight", torch.ones_like(self.target))

    def replace(self, **changes: Any) -> Batch:
        """A batch with some fields changed.

        >>> Batch(torch.zeros(2, 4), torch.zeros(2, 3), torch.ones(2)).replace(weight=torch.zeros(2)).weight
        tensor([0., 0.])
        """
        return replace(self, **changes)

    def to(self, device: str) -> Batch:
        """The batch, with its sources, on another device."""
        tensors = {name: getattr(self, name).to(device, non_blocking=True)
                   for name in ("signal", "target", "weight", "cell_weight")}
        return Batch(**tensors, sources={name: source.to(device) for name, source in self.sources.items()},
                     progress=self.progress, p_factor=self.p_factor,
                     teacher=None if self.teacher is None else self.teacher.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.signal)
