"""Examples mixed with each other. One permutation gives every example its partner: signal, target, weights."""
from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.drawing import beta, check_range, per_example
from birdkit.augmentations.labels import Labels, convex, joined
from birdkit.augmentations.level import check_level, unit_gain
from birdkit.batch import Batch


class Mixing(Augmentation):
    """An augmentation that gives each example a partner.

    level  waves are brought to this first: "peak" (magnitude 1), "rms" (unit power) or "none". Spectrograms are mixed
           as they are
    """

    stages: tuple[str, ...] = ("wave", "spectrogram")
    mixes = True

    def __init__(self, p: float, level: str) -> None:
        super().__init__(p)
        check_level(level)
        self.level = level

    @property
    def sets_level(self) -> bool:
        """True unless `level` is "none"."""
        return self.level != "none"

    def partners(self, batch: Batch) -> Batch:
        """Where the partners come from: the batch itself."""
        return batch

    def mix(self, batch: Batch, partner: Tensor, own: Tensor, *, other: Tensor) -> Tensor:
        """own (B,) * signal + other (B,) * the partner's, each brought to the level first."""
        pool, gain = self.partners(batch), unit_gain(batch.signal, self.level)
        pool_gain = gain if pool is batch else unit_gain(pool.signal, self.level)
        mixed = pool.signal.index_select(0, partner)
        mixed.mul_(per_example(other.to(gain) * pool_gain[partner], mixed))
        return mixed.addcmul_(batch.signal, per_example(own.to(gain) * gain, mixed))


@AUGMENTATIONS.register("mixup")
class Mixup(Mixing):
    """Convex mixing (Zhang et al. 2018, arXiv:1710.09412): signal, target and weights by the same share.

    alpha  the share is drawn from Beta(alpha, alpha), for each example
    per    what `p` is the probability of: that an "example" is mixed, or that all of a "batch" are, as in the first
           seed and the 2021 second place
    """

    def __init__(self, p: float = 1.0, alpha: float = 1.0, *, level: str = "rms", per: str = "example") -> None:
        super().__init__(p, level)
        check_range("alpha", alpha, alpha, least=1e-3)
        if per not in ("example", "batch"):
            raise ValueError(f"per = {per!r}; it must be one of example, batch")
        self.alpha, self.per = alpha, per

    def chosen(self, batch: Batch, generator: Generator) -> Tensor:
        """Which examples are mixed (B,): drawn for each, or once for all."""
        if self.per == "example":
            return super().chosen(batch, generator)
        return (torch.rand(1, generator=generator) < self.p).repeat(len(batch))

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """share (B,) of the example itself, partner (B,)."""
        return {"share": beta(len(batch), self.alpha, generator=generator),
                "partner": torch.randperm(len(batch), generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """share * example + (1 - share) * partner."""
        share, partner = drawn["share"].to(batch.signal.device), drawn["partner"].to(batch.signal.device)
        labels = convex(Labels.of(batch), Labels.of(self.partners(batch), partner), share)
        return labels.given_to(batch, self.mix(batch, partner, share, other=1 - share))


@AUGMENTATIONS.register("selective_mixup")
class SelectiveMixup(Mixup):
    """Mixup with examples of a source: classes that were chosen, such as the competition's scored ones, are met often.

    First seed, 2022: the batch of a second loader, of recordings with a scored bird, is shuffled and mixed into the
    batch of the first with p = 0.8, drawn once per batch, so that scored birds were heard ten times as often as others.

    At the spectrogram stage the source's signals must be spectrograms, too.
    """

    def __init__(self, p: float = 0.8, alpha: float = 1.0, *, source: str = "selected", level: str = "rms",
                 per: str = "batch") -> None:
        super().__init__(p, alpha, level=level, per=per)
        self.source = source

    @property
    def sources(self) -> frozenset[str]:
        """The name of the source whose examples are mixed in."""
        return frozenset({self.source})

    def partners(self, batch: Batch) -> Batch:
        """Where the partners come from: the source."""
        return batch.sources[self.source]


@AUGMENTATIONS.register("or_mixup")
class OrMixup(Mixing):
    """Two sounds at once, and what is in either is in the mix: targets by maximum.

    BirdCLEF 2023 and 2025 second place, 2025 first place (on waves of peak 1).

    alpha  None mixes halves; a number draws the gains (share, 1 - share) from Beta(alpha, alpha)
    """

    def __init__(self, p: float = 1.0, alpha: float | None = None, *, level: str = "peak") -> None:
        super().__init__(p, level)
        if alpha is not None:
            check_range("alpha", alpha, alpha, least=1e-3)
        self.alpha = alpha

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """share (B,) of the example itself, partner (B,)."""
        n = len(batch)
        share = torch.full((n,), 0.5) if self.alpha is None else beta(n, self.alpha, generator=generator)
        return {"share": share, "partner": torch.randperm(n, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """share * example + (1 - share) * partner, with the labels of both."""
        share, partner = drawn["share"].to(batch.signal.device), drawn["partner"].to(batch.signal.device)
        labels = joined([Labels.of(batch), Labels.of(batch, partner)])
        return labels.given_to(batch, self.mix(batch, partner, share, other=1 - share))


@AUGMENTATIONS.register("part_mixup")
class PartMixup(Augmentation):
    """Mixup inside each example: its parts are mixed with each other, so its labels stay as they are.

    2021 second place (its model 11): the six 5 s parts of 30 s. For models with ModelConfig.parts, whose head hears all
    parts and whose labels belong to all of them.

    parts  equal pieces of time that an example is cut into
    alpha  the share of the part itself is drawn from Beta(alpha, alpha), for each part
    """

    stages = ("wave", "spectrogram")

    def __init__(self, p: float = 1.0, parts: int = 6, *, alpha: float = 1.0) -> None:
        super().__init__(p)
        check_range("alpha", alpha, alpha, least=1e-3)
        if parts < 2:
            raise ValueError(f"parts = {parts} must be at least 2: one part has no other to be mixed with")
        self.parts, self.alpha = parts, alpha

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """share (B, P) of the part itself, order (B, P): which part of the same example is mixed in."""
        n = len(batch)
        return {"share": beta(n * self.parts, self.alpha, generator=generator).view(n, self.parts),
                "order": torch.rand(n, self.parts, generator=generator).argsort(1)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """share * part + (1 - share) * another part. Raises ValueError where the parts are not of equal length."""
        signal = batch.signal
        if signal.shape[-1] % self.parts:
            raise ValueError(f"{signal.shape[-1]} samples or frames cannot be cut into {self.parts} equal parts")
        parts = signal.unflatten(-1, (self.parts, -1)).movedim(-2, 1)  # (B, P, ..., time)
        share, order = drawn["share"].to(signal), drawn["order"].to(signal.device)
        other = parts[torch.arange(len(parts), device=signal.device)[:, None], order]
        share = share.view(*share.shape, *[1] * (parts.ndim - 2))
        return batch.replace(signal=(share * parts + (1 - share) * other).movedim(1, -2).flatten(-2))
