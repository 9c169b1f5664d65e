"""The contract of an augmentation: draw every random number first, then apply plain arithmetic."""
from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from birdkit.batch import Batch
from birdkit.registry import Registry

AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


class Augmentation(nn.Module):
    """A random change of a batch. `draw` makes every random number, `apply` is arithmetic without any.

    A member implements `sample` and `transform`; this class adds the probability `p`, which is drawn too, as a mask
    over the examples, and does nothing in eval mode. Inputs are never changed in place. Draws come from a CPU
    generator, so one seed gives the same numbers on every device.

    p       probability that an example is changed, in [0, 1]
    stages  where a member may stand: "wave" for signals (B, N), "spectrogram" for unfolded (B, C, F, T)
    mixes   True where examples are combined with each other or with the background, and so depend on the batch
    """

    stages: tuple[str, ...] = ("wave",)
    mixes: bool = False

    def __init__(self, p: float = 1.0) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p = {p} is not in [0, 1]")
        self.p = p

    @property
    def sources(self) -> frozenset[str]:
        """The names of the sources of `batch.sources` that this member mixes in; most need none."""
        return frozenset()

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Every random number that `transform` needs, on the CPU.

        Tensors have a row per example, at whatever depth; everything else belongs to the batch.
        """
        raise NotImplementedError

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The changed batch; no randomness, no change of the input."""
        raise NotImplementedError

    def draw(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """All random numbers of one call: those of `sample` and `applied` (B,), which examples are changed."""
        applied = torch.rand(len(batch), generator=generator) < self.p
        return {"applied": applied, **self.sample(batch, generator)}

    def apply(self, batch: Batch, applied: Tensor, **drawn: Any) -> Batch:  # type: ignore[override]
        """The batch with the drawn change in the examples where `applied` is true."""
        if not bool(applied.any()):
            return batch
        if bool(applied.all()):
            return self.transform(batch, **drawn)
        if self.mixes:
            changed, rows = self.transform(batch, **drawn), applied.nonzero()[:, 0].to(batch.signal.device)
            part = Batch(changed.signal[rows], changed.target[rows], changed.weight[rows], changed.cell_weight[rows])
        else:
            # Drawn tensors have an example per row, so the others need not be computed.
            chosen = applied.nonzero()[:, 0]
            rows = chosen.to(batch.signal.device)
            own = _examples(drawn, chosen)
            part = self.transform(Batch(batch.signal[rows], batch.target[rows], batch.weight[rows],
                                        batch.cell_weight[rows]), **own)
        return batch.replace(signal=batch.signal.index_copy(0, rows, part.signal),
                             target=batch.target.index_copy(0, rows, part.target),
                             weight=batch.weight.index_copy(0, rows, part.weight),
                             cell_weight=batch.cell_weight.index_copy(0, rows, part.cell_weight))

    def forward(self, batch: Batch, generator: Generator) -> Batch:
        """Draw and apply in training mode; the batch itself in eval mode."""
        if not self.training:
            return batch
        return self.apply(batch, **self.draw(batch, generator))


def _examples(drawn: Any, rows: Tensor) -> Any:
    """What was drawn for some examples alone: rows of every tensor, the rest as it is."""
    if isinstance(drawn, Tensor):
        return drawn[rows]
    if isinstance(drawn, dict):
        return {name: _examples(value, rows) for name, value in drawn.items()}
    if isinstance(drawn, list):
        return [_examples(value, rows) for value in drawn]
    return drawn
