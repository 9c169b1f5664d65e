"""A setting of a loss that may differ from class to class."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Numbers = float | Sequence[float] | Mapping[str, float]  # of a setting, see PerClass
DEFAULT = "default"  # among class names, what all the others have


class PerClass(nn.Module):
    """One number >= 0 for all classes, or one for each: by its name, or in the order of the target's columns.

    By name is {"default": 0.25, "comcuc": 0.5}, which `bind_classes` brings into the order of the columns; without
    "default" every class must be named.

    Raises ValueError for what is no such number, list or dict, for names that are no classes, and where a list's length
    is not the number of classes; all name the setting.

    >>> PerClass("alpha", [0.2, 0.8])(torch.zeros(3, 2))
    tensor([0.2000, 0.8000])
    >>> PerClass("alpha", [0.2, 0.8])(torch.zeros(3, 5))
    Traceback (most recent call last):
    ValueError: alpha has 2 numbers for 5 classes
    """

    numbers: Tensor

    def __init__(self, name: str, value: Numbers) -> None:
        super().__init__()
        self.name = name
        self.by_name = dict(value) if isinstance(value, Mapping) else None
        given = value if self.by_name is None else list(self.by_name.values())
        try:
            numbers = torch.as_tensor(given, dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} = {value} must be numbers") from error
        if numbers.ndim > 1 or not numbers.numel() or not bool((numbers >= 0).all()):
            raise ValueError(f"{name} = {value} must be one number >= 0, or one for each class: a list, or a dict by "
                             "class name")
        # None until the classes of a dict are known: its own order is not that of the columns.
        self.register_buffer("numbers", numbers if self.by_name is None else None, persistent=False)

    def bind(self, classes: Sequence[str]) -> None:
        """Take the numbers of these classes, in the order of the target's columns."""
        if self.by_name is not None:
            unknown = sorted(set(self.by_name) - set(classes) - {DEFAULT})
            missing = [] if DEFAULT in self.by_name else [name for name in classes if name not in self.by_name]
            if unknown or missing:
                raise ValueError(f"{self.name}: {', '.join(unknown)} are no classes of this run" if unknown else
                                 f"{self.name} has no number for {', '.join(missing[:5])} ({len(missing)} of "
                                 f"{len(classes)} classes), and no {DEFAULT!r}")
            self.numbers = torch.tensor([float(self.by_name.get(name, self.by_name.get(DEFAULT, 0.0)))
                                         for name in classes])
        self._check(len(classes))

    def forward(self, target: Tensor) -> Tensor:
        """The numbers, () or (K,), of the type and on the device of a target (B, K)."""
        if self.numbers is None:
            raise ValueError(f"{self.name} = {self.by_name} is by class name, but nobody has said which classes there "
                             "are")
        self._check(target.shape[1])
        return self.numbers.to(target)

    def _check(self, n_classes: int) -> None:
        if self.numbers.ndim and len(self.numbers) != n_classes:
            raise ValueError(f"{self.name} has {len(self.numbers)} numbers for {n_classes} classes")


def bind_classes(loss: nn.Module, classes: Sequence[str]) -> None:
    """Tell a loss, and those inside it, the names of the K classes in the order of the target's columns.

    Raises ValueError where a setting names others, leaves one out, or is a list of another length.
    """
    for part in loss.modules():
        if isinstance(part, PerClass):
            part.bind(classes)
