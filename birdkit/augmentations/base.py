"""The contract of an augmentation: draw every random number first, then apply plain arithmetic."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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
        """The names of the sources of `batch.sources` that this member, or one inside it, mixes in; most need none."""
        return frozenset[str]().union(*(member.sources for member in self._inside()))

    @property
    def source_shares(self) -> dict[str, float]:
        """The share of the examples, by source, for which a clip is needed at most. A member that looks at `p_factor`
        (birdkit.batch) may ask for less than all; most do not."""
        inside = [member for member in self._inside() if not member._inside()]
        return joint_shares(inside) if inside else dict.fromkeys(self.sources, 1.0)

    @property
    def sets_level(self) -> bool:
        """True where this member, or one inside it, brings waves to a level of its own; most keep what they have."""
        return any(member.sets_level for member in self._inside())

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Every random number that `transform` needs, on the CPU.

        Tensors have a row per example, at whatever depth; everything else belongs to the batch.
        """
        raise NotImplementedError

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The changed batch; no randomness, no change of the input."""
        raise NotImplementedError

    def chosen(self, batch: Batch, generator: Generator) -> Tensor:
        """Which examples are changed (B,), on the CPU: each with probability `p`."""
        return torch.rand(len(batch), generator=generator) < self.p

    def draw(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """All random numbers of one call: those of `sample` and `applied` (B,), which examples are changed.

        Raises ValueError, at every p, where a source is missing or does not fit: a run without its backgrounds must
        not look like one with them.
        """
        for name in sorted(self.sources):
            self._check_source(batch, name)
        return {"applied": self.chosen(batch, generator), **self.sample(batch, generator)}

    def apply(self, batch: Batch, applied: Tensor, **drawn: Any) -> Batch:  # type: ignore[override]
        """The batch with the drawn change in the examples where `applied` is true."""
        if not bool(applied.any()):
            return batch
        if bool(applied.all()):
            return self.transform(batch, **drawn)
        chosen = applied.nonzero()[:, 0]
        rows = chosen.to(batch.signal.device)
        if self.mixes:
            part = examples(self.transform(batch, **drawn), rows)
        else:
            # Drawn tensors have an example per row, so the others need not be computed.
            part = self.transform(examples(batch, rows), **_drawn_for(drawn, chosen))
        return with_examples(batch, rows, part)

    def forward(self, batch: Batch, generator: Generator) -> Batch:
        """Draw and apply in training mode; the batch itself in eval mode."""
        if not self.training:
            return batch
        return self.apply(batch, **self.draw(batch, generator))

    def _inside(self) -> list[Augmentation]:
        return [module for module in self.modules() if isinstance(module, Augmentation) and module is not self]

    def _check_source(self, batch: Batch, name: str) -> None:
        if name not in batch.sources:
            raise ValueError(f"{type(self).__name__} needs clips of the source {name!r}; this batch has "
                             f"{', '.join(sorted(batch.sources)) or 'none'}")
        theirs, own = tuple(batch.sources[name].signal.shape), tuple(batch.signal.shape)
        if theirs != own:
            raise ValueError(f"source {name!r} {theirs} and signal {own} differ in shape")


def build_member(member: Mapping[str, Any], *, also: Collection[str] = (),
                 more: Mapping[str, Any] | None = None) -> Augmentation:
    """An augmentation inside another, from {"name": "gain", "options": {"max_db": 6.0}}; without options its defaults.

    also  keys besides that whoever it is inside reads
    more  options over those

    Raises ValueError for anything else, KeyError for a name that is not registered.
    """
    known = ("name", "options", *also)
    if not isinstance(member, Mapping) or "name" not in member or set(member) - set(known):
        raise ValueError(f"{member!r} must be a dict with a name, and with nothing but {', '.join(known)}")
    return AUGMENTATIONS.build(member["name"], **{**member.get("options", {}), **(more or {})})


def joint_shares(members: Iterable[Augmentation]) -> dict[str, float]:
    """The `source_shares` of several members together.

    A source that several need is needed for all examples: clips that both may use, or neither, would tie their choices
    of examples to each other.
    """
    found: dict[str, float] = {}
    for member in members:
        for name, share in member.source_shares.items():
            found[name] = 1.0 if name in found else share
    return found


def with_examples(batch: Batch, rows: Tensor, part: Batch) -> Batch:
    """The batch with other examples in these rows (n,), those of a batch of n."""
    return batch.replace(signal=batch.signal.index_copy(0, rows, part.signal),
                         target=batch.target.index_copy(0, rows, part.target),
                         weight=batch.weight.index_copy(0, rows, part.weight),
                         cell_weight=batch.cell_weight.index_copy(0, rows, part.cell_weight))


def examples(batch: Batch, rows: Tensor) -> Batch:
    """Some examples alone, without the sources."""
    return Batch(batch.signal[rows], batch.target[rows], batch.weight[rows], batch.cell_weight[rows],
                 progress=batch.progress)


def _drawn_for(drawn: Any, rows: Tensor) -> Any:
    """What was drawn for some examples alone: rows of every tensor, the rest as it is."""
    if isinstance(drawn, Tensor):
        return drawn[rows]
    if isinstance(drawn, dict):
        return {name: _drawn_for(value, rows) for name, value in drawn.items()}
    if isinstance(drawn, list):
        return [_drawn_for(value, rows) for value in drawn]
    return drawn
