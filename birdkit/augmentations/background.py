"""Clips mixed with those of a source: example i of the batch with clip i of `batch.sources[source]`.

The backgrounds' targets are pseudo-labels, or zeros where nothing is known. Weights: `weight_share` is how much of the
mixed weight is the background's; the rest is the example's own.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.drawing import check_range, uniform
from birdkit.augmentations.level import check_level, snr_gain, unit_gain
from birdkit.batch import Batch
from birdkit.config import SOUNDSCAPES


class BackgroundMixing(Augmentation):
    """An augmentation that needs a background; without one it raises ValueError as soon as it draws."""

    mixes = True

    def __init__(self, p: float, weight_share: float, source: str) -> None:
        super().__init__(p)
        check_range("weight_share", weight_share, weight_share, least=0.0, most=1.0)
        self.weight_share, self.source = weight_share, source

    @property
    def sources(self) -> frozenset[str]:
        """The names of the sources whose clips are mixed in."""
        return frozenset({self.source})

    def draw(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """All random numbers of one call, after a look at whether there is a background for every example."""
        self.background(batch)
        return super().draw(batch, generator)

    def background(self, batch: Batch) -> Batch:
        """The background of the batch, checked."""
        if self.source not in batch.sources:
            raise ValueError(f"{type(self).__name__} needs clips of the source {self.source!r}; this batch has "
                             f"{', '.join(sorted(batch.sources)) or 'none'}")
        background = batch.sources[self.source]
        if background.signal.shape != batch.signal.shape:
            raise ValueError(f"source {self.source!r} {tuple(background.signal.shape)} and signal "
                             f"{tuple(batch.signal.shape)} differ in shape")
        return background

    def mix(self, batch: Batch, own: Tensor, other: Tensor, *, target: Tensor) -> Batch:
        """own (B,) * example + other (B,) * background, with this target and the weights mixed by `weight_share`."""
        background = self.background(batch)
        signal = (background.signal * other[:, None]).addcmul_(batch.signal, own[:, None])
        weight = (1 - self.weight_share) * batch.weight + self.weight_share * background.weight
        return batch.replace(signal=signal, target=target, weight=weight)


@AUGMENTATIONS.register("background")
class Background(BackgroundMixing):
    """The clip over a soundscape, at a random ratio of their powers.

    BirdCLEF 2021 second place used noise without birds at 0 to 3 dB, which is loud: 0.7 to 1 of the clip's RMS.

    min_snr_db, max_snr_db  power of the clip over that of the background, uniform in decibels
    target_weight           targets become max(target, target_weight * background's target)
    weight_share            of the background in the mixed weight
    A silent clip stays silent and keeps its target.
    """

    def __init__(self, p: float = 1.0, min_snr_db: float = 3.0, *, max_snr_db: float = 20.0,
                 target_weight: float = 1.0, weight_share: float = 0.0, source: str = SOUNDSCAPES) -> None:
        super().__init__(p, weight_share, source)
        check_range("snr_db", min_snr_db, max_snr_db)
        check_range("target_weight", target_weight, target_weight, least=0.0, most=1.0)
        self.min_snr_db, self.max_snr_db, self.target_weight = min_snr_db, max_snr_db, target_weight

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """snr_db (B,)."""
        return {"snr_db": uniform(len(batch), self.min_snr_db, self.max_snr_db, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves over their backgrounds."""
        background = self.background(batch)
        other = snr_gain(batch.signal, background.signal, drawn["snr_db"])
        heard = (other > 0)[:, None] * self.target_weight * background.target
        return self.mix(batch, torch.ones_like(other), other, target=torch.maximum(batch.target, heard))


@AUGMENTATIONS.register("soundscape_mix")
class SoundscapeMix(BackgroundMixing):
    """Half clip, half pseudo-labelled soundscape, and what is in either is in the mix.

    BirdCLEF 2025 first place, the noisy-student stage: every example, always 0.5 and 0.5 (a random share failed), on
    waves of peak 1. Mixing all examples was better than any smaller p.

    own_gain      gain of the clip; the soundscape's is 1 - own_gain
    level         both are brought to this first: "peak" (magnitude 1), "rms" (unit power) or "none"
    weight_share  of the background in the mixed weight
    """

    def __init__(self, p: float = 1.0, own_gain: float = 0.5, *, level: str = "peak",
                 weight_share: float = 0.5, source: str = SOUNDSCAPES) -> None:
        super().__init__(p, weight_share, source)
        check_range("own_gain", own_gain, own_gain, least=0.0, most=1.0)
        check_level(level)
        self.own_gain, self.level = own_gain, level

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Nothing: the gains are fixed."""
        return {}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """own_gain * clip + (1 - own_gain) * soundscape."""
        background = self.background(batch)
        own = self.own_gain * unit_gain(batch.signal, self.level)
        other = (1 - self.own_gain) * unit_gain(background.signal, self.level)
        return self.mix(batch, own, other, target=torch.maximum(batch.target, background.target))


@AUGMENTATIONS.register("added_background")
class AddedBackground(BackgroundMixing):
    """A pseudo-labelled soundscape added to the clip, labels summed: clip + c * soundscape.

    Second seed, 2025: on a quarter of the examples, waves of peak 1, c from 0.2 to 0.8. Its targets were
    min(1, 0.8 * target + background's target); the 0.8 began as an accident and reached all examples, here only those
    that got a background.

    min_gain, max_gain  range of c, uniform
    own_target_weight, target_weight  targets become min(1, own_target_weight * target + target_weight * background's)
    level               both are brought to this first: "peak" (magnitude 1), "rms" (unit power) or "none"
    weight_share        of the background in the mixed weight
    """

    def __init__(self, p: float = 0.25, min_gain: float = 0.2, *, max_gain: float = 0.8,
                 own_target_weight: float = 0.8, target_weight: float = 1.0, level: str = "peak",
                 weight_share: float = 0.0, source: str = SOUNDSCAPES) -> None:
        super().__init__(p, weight_share, source)
        check_range("gain", min_gain, max_gain, least=0.0)
        check_range("own_target_weight", own_target_weight, own_target_weight, least=0.0, most=1.0)
        check_range("target_weight", target_weight, target_weight, least=0.0, most=1.0)
        check_level(level)
        self.min_gain, self.max_gain, self.level = min_gain, max_gain, level
        self.own_target_weight, self.target_weight = own_target_weight, target_weight

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """gain (B,) of the background."""
        return {"gain": uniform(len(batch), self.min_gain, self.max_gain, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """clip + gain * soundscape."""
        background = self.background(batch)
        other = unit_gain(background.signal, self.level)
        target = self.own_target_weight * batch.target + self.target_weight * background.target
        return self.mix(batch, unit_gain(batch.signal, self.level), drawn["gain"].to(other) * other,
                        target=target.clamp_max(1))
