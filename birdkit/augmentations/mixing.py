"""Examples mixed with each other. One permutation of the batch gives every example its partner: signal, target, weight.

Weights: where the mix is convex they are mixed with the signal's own coefficients. Where both sounds are there in
full and the labels are joined, the weight is the mean of the two: the label rests on both alike, and a batch of which
all are mixed keeps its sum of weights.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.drawing import beta, check_range, per_example, uniform
from birdkit.augmentations.level import SILENT, check_level, peak, unit_gain
from birdkit.batch import Batch


class Mixing(Augmentation):
    """An augmentation that gives each example a partner from the batch.

    level  waves are brought to this first: "peak" (magnitude 1), "rms" (unit power) or "none". Spectrograms are mixed
           as they are
    """

    stages = ("wave", "spectrogram")
    mixes = True

    def __init__(self, p: float, level: str) -> None:
        super().__init__(p)
        check_level(level)
        self.level = level

    def mix(self, signal: Tensor, partner: Tensor, own: Tensor, *, other: Tensor) -> Tensor:
        """own (B,) * signal + other (B,) * signal[partner], each brought to the level first."""
        gain = unit_gain(signal, self.level)
        mixed = signal.index_select(0, partner)
        mixed.mul_(per_example(other.to(gain) * gain[partner], mixed))
        return mixed.addcmul_(signal, per_example(own.to(gain) * gain, mixed))


@AUGMENTATIONS.register("mixup")
class Mixup(Mixing):
    """Convex mixing (Zhang et al. 2018, arXiv:1710.09412): signal, target and weight by the same share.

    alpha  the share is drawn from Beta(alpha, alpha), for each example
    """

    def __init__(self, p: float = 1.0, alpha: float = 1.0, *, level: str = "rms") -> None:
        super().__init__(p, level)
        check_range("alpha", alpha, alpha, least=1e-3)
        self.alpha = alpha

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """share (B,) of the example itself, partner (B,)."""
        return {"share": beta(len(batch), self.alpha, generator=generator),
                "partner": torch.randperm(len(batch), generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """share * example + (1 - share) * partner."""
        share, partner = drawn["share"].to(batch.signal.device), drawn["partner"].to(batch.signal.device)
        return batch.replace(signal=self.mix(batch.signal, partner, share, other=1 - share),
                             **_convex(batch, partner, share))


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
        return batch.replace(signal=self.mix(batch.signal, partner, share, other=1 - share),
                             **_joined(batch, partner))


@AUGMENTATIONS.register("sumix")
class Sumix(Mixing):
    """SUMIX: both sounds with gains of their own, c1 * example + c2 * partner.

    BirdCLEF 2023 seventh place, with labels "slope"; second seed, 2025, with labels "max", applied 0, 1, 1 or 2 times
    (see "repeat"). With min_gain = 1 it is the seventh place's companion, the plain sum.

    min_gain     c1 and c2 are drawn from min_gain to 1, uniform, for each example
    labels       "max": what is in either is in the mix. "slope": the sum of both targets, each times its label
                 coefficient (1 where c >= 0.5, else 2 c), at most 1
    renormalise  "peak" divides the mix by its largest magnitude, "none" does not. Spectrograms are left as they are
    """

    def __init__(self, p: float = 1.0, min_gain: float = 0.3, *, labels: str = "max", level: str = "peak",
                 renormalise: str = "peak") -> None:
        super().__init__(p, level)
        check_range("min_gain", min_gain, 1.0, least=0.0)
        if labels not in ("max", "slope"):
            raise ValueError(f"labels = {labels!r}; it must be one of max, slope")
        if renormalise not in ("peak", "none"):
            raise ValueError(f"renormalise = {renormalise!r}; it must be one of peak, none")
        self.min_gain, self.labels, self.renormalise = min_gain, labels, renormalise

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """own (B,) and other (B,), the two gains; partner (B,)."""
        n = len(batch)
        return {"own": uniform(n, self.min_gain, 1.0, generator=generator),
                "other": uniform(n, self.min_gain, 1.0, generator=generator),
                "partner": torch.randperm(n, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """own * example + other * partner."""
        own, other, partner = (drawn[key].to(batch.signal.device) for key in ("own", "other", "partner"))
        signal = self.mix(batch.signal, partner, own, other=other)
        if self.renormalise == "peak" and signal.ndim == 2:
            signal.div_(peak(signal).clamp_min(SILENT)[:, None])
        joined = _joined(batch, partner)
        if self.labels == "slope":
            first, second = (2 * own).clamp_max(1)[:, None], (2 * other).clamp_max(1)[:, None]
            joined["target"] = (first * batch.target + second * batch.target[partner]).clamp_max(1)
        return batch.replace(signal=signal, **joined)


@AUGMENTATIONS.register("cutmix")
class CutMix(Mixing):
    """A stretch of time is cut out and replaced by the same stretch of the partner ("horizontal" CutMix).

    BirdCLEF 2024 first place; after Yun et al. 2019, arXiv:1905.04899.

    alpha   the share of the clip that stays is drawn from Beta(alpha, alpha), for each example
    labels  "convex": target and weight by the share of time. "max": what is in either is in the mix, weight the mean
    """

    def __init__(self, p: float = 1.0, alpha: float = 1.0, *, labels: str = "convex", level: str = "rms") -> None:
        super().__init__(p, level)
        check_range("alpha", alpha, alpha, least=1e-3)
        if labels not in ("convex", "max"):
            raise ValueError(f"labels = {labels!r}; it must be one of convex, max")
        self.alpha, self.labels = alpha, labels

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """share (B,) that stays, place (B,) of the cut from 0 (at the start) to 1 (at the end), partner (B,)."""
        return {"share": beta(len(batch), self.alpha, generator=generator),
                "place": torch.rand(len(batch), generator=generator),
                "partner": torch.randperm(len(batch), generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The example, but the partner within the cut."""
        share, place, partner = (drawn[key].to(batch.signal.device) for key in ("share", "place", "partner"))
        n = batch.signal.shape[-1]
        length = ((1 - share) * n).round()
        start = (place * (n - length)).round()
        time = torch.arange(n, device=batch.signal.device)
        cut = ((time >= start[:, None]) & (time < (start + length)[:, None])).to(batch.signal)  # (B, T)
        own = batch.signal * per_example(unit_gain(batch.signal, self.level), batch.signal)
        signal = own.index_select(0, partner)
        signal.sub_(own).mul_(cut.view(len(batch), *[1] * (own.ndim - 2), n)).add_(own)
        changes = _joined(batch, partner) if self.labels == "max" else _convex(batch, partner, 1 - length / n)
        return batch.replace(signal=signal, **changes)


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


def _convex(batch: Batch, partner: Tensor, share: Tensor) -> dict[str, Tensor]:
    """Target and weight of a mix in which the example has `share` (B,) and its partner the rest."""
    rest = 1 - share
    return {"target": share[:, None] * batch.target + rest[:, None] * batch.target[partner],
            "weight": share * batch.weight + rest * batch.weight[partner]}


def _joined(batch: Batch, partner: Tensor) -> dict[str, Tensor]:
    """Target and weight of a mix in which both examples are there in full."""
    return {"target": torch.maximum(batch.target, batch.target[partner]),
            "weight": (batch.weight + batch.weight[partner]) / 2}
