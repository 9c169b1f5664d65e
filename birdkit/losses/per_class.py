"""A setting of a loss that may differ from class to class."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PerClass(nn.Module):
    """One number >= 0 for all classes, or one for each in the order of the target's columns.

    Raises ValueError for a negative number or a nested list, and when called, where the list's length is not the number
    of classes; both name the setting.

    >>> PerClass("alpha", [0.2, 0.8])(torch.zeros(3, 2))
    tensor([0.2000, 0.8000])
    >>> PerClass("alpha", [0.2, 0.8])(torch.zeros(3, 5))
    Traceback (most recent call last):
    ValueError: alpha has 2 numbers for 5 classes
    """

    numbers: Tensor

    def __init__(self, name: str, value: float | Sequence[float]) -> None:
        super().__init__()
        numbers = torch.as_tensor(value, dtype=torch.float32)
        if numbers.ndim > 1 or not bool((numbers >= 0).all()):
            raise ValueError(f"{name} = {value} must be one number >= 0, or a list with one for each class")
        self.name = name
        self.register_buffer("numbers", numbers, persistent=False)

    def forward(self, target: Tensor) -> Tensor:
        """The numbers, () or (K,), of the type and on the device of a target (B, K)."""
        if self.numbers.ndim and len(self.numbers) != target.shape[1]:
            raise ValueError(f"{self.name} has {len(self.numbers)} numbers for {target.shape[1]} classes")
        return self.numbers.to(target)
