"""Clips mixed with those of a source: example i of the batch with clip i of `batch.sources[source]`.

The backgrounds' targets are pseudo-labels, or zeros where nothing is known. Several backgrounds, such as the first
seed's three noises, are several members in a row with different `source`, `p` and ratio.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.drawing import check_range, per_example, uniform
from birdkit.augmentations.labels import Labels, joined
from birdkit.augmentations.level import check_level, snr_gain, unit_gain
from birdkit.batch import Batch
from birdkit.config import SOUNDSCAPES


class FromSource(Augmentation):
    """An augmentation that gives example i clip i of a source, if any.

    source  whose clips; a batch without them raises ValueError as soon as the member draws
    """

    mixes = True

    def __init__(self, p: float, source: str) -> None:
        super().__init__(p)
        self.source = source

    @property
    def sources(self) -> frozenset[str]:
        """The name of the source."""
        return frozenset({self.source})

    @property
    def source_shares(self) -> dict[str, float]:
        """No more clips than are used."""
        return {self.source: self.p}

    def chosen(self, batch: Batch, generator: Generator) -> Tensor:
        """Which examples are changed (B,), each with probability `p`, of those that have a clip."""
        drawn, factor = torch.rand(len(batch), generator=generator), batch.sources[self.source].p_factor
        return drawn < (self.p if factor is None else self.p * factor)


class BackgroundMixing(FromSource):
    """An augmentation that brings in clips of a source with their labels.

    weight_share  how much of the mixed weight is the background's; the rest is the example's own
    loss_weight   how much a pseudo-label counts in the loss beside a person's label: cell weights of classes that the
                  background alone holds are multiplied by this, those that the example holds as surely as the
                  background by 1, and in between by what lies between, as the example's target to the background's. The
                  second seed tried 1, 0.6 and 0.1 (experiments 93, 133, 177), and described it without its code
    """

    def __init__(self, p: float, source: str, weight_share: float, loss_weight: float) -> None:
        super().__init__(p, source)
        check_range("weight_share", weight_share, weight_share, least=0.0, most=1.0)
        check_range("loss_weight", loss_weight, loss_weight, least=0.0, most=1.0)
        self.weight_share, self.loss_weight = weight_share, loss_weight

    def background(self, batch: Batch) -> Batch:
        """The source's clips, one for each example."""
        return batch.sources[self.source]

    def labels(self, own: Labels, other: Labels, *, heard: Tensor, own_target_weight: float = 1.0,
               summed: bool = False) -> Labels:
        """Labels over a background that is heard in some examples (B,), whose targets are as they enter the mix.

        own_target_weight  the example's targets enter it times this; they vouch for a class as they are without
        """
        scaled = own.scaled(own_target_weight)
        both = joined([scaled, other], heard=torch.stack([torch.ones_like(heard), heard]), summed=summed)
        foreign = 1 - own.target / other.target.clamp_min(1e-8)  # below 0 where the example is the surer one
        loss_weight = 1 - (1 - self.loss_weight) * foreign.clamp_min(0) * (heard[:, None] & (other.target > 0))
        share = self.weight_share * heard
        return Labels(both.target, (1 - share) * own.weight + share * other.weight, loss_weight * both.cell_weight)


@AUGMENTATIONS.register("background")
class Background(BackgroundMixing):
    """The clip over a soundscape, at a random ratio of their powers.

    The first seed and the 2021 second place put three noises without birds one after the other on the clip, with
    p = 0.5, 0.25 and 0.25, at 0 to 3 dB, which is loud: 0.7 to 1 of the clip's RMS.

    min_snr_db, max_snr_db  power of the clip over that of the background, uniform in decibels
    target_weight           targets become max(target, target_weight * background's target)
    A silent clip stays silent and keeps its labels.
    """

    def __init__(self, p: float = 1.0, min_snr_db: float = 3.0, *, max_snr_db: float = 20.0,
                 target_weight: float = 1.0, weight_share: float = 0.0, loss_weight: float = 1.0,
                 source: str = SOUNDSCAPES) -> None:
        super().__init__(p, source, weight_share, loss_weight)
        check_range("snr_db", min_snr_db, max_snr_db)
        check_range("target_weight", target_weight, target_weight, least=0.0, most=1.0)
        self.min_snr_db, self.max_snr_db, self.target_weight = min_snr_db, max_snr_db, target_weight

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """snr_db (B,)."""
        return {"snr_db": uniform(len(batch), self.min_snr_db, self.max_snr_db, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves over their backgrounds."""
        background = self.background(batch)
        gain = snr_gain(batch.signal, background.signal, drawn["snr_db"])
        labels = self.labels(Labels.of(batch), Labels.of(background).scaled(self.target_weight), heard=gain > 0)
        return labels.given_to(batch, (background.signal * gain[:, None]).add_(batch.signal))


@AUGMENTATIONS.register("soundscape_mix")
class SoundscapeMix(BackgroundMixing):
    """Half clip, half pseudo-labelled soundscape, and what is in either is in the mix.

    BirdCLEF 2025 first place, the noisy-student stage: every example, always 0.5 and 0.5 (a random share failed), on
    waves of peak 1. Mixing all examples was better than any smaller p.

    own_gain  gain of the clip; the soundscape's is 1 - own_gain
    level     both are brought to this first: "peak" (magnitude 1), "rms" (unit power) or "none"
    """

    def __init__(self, p: float = 1.0, own_gain: float = 0.5, *, level: str = "peak",
                 weight_share: float = 0.5, loss_weight: float = 1.0, source: str = SOUNDSCAPES) -> None:
        super().__init__(p, source, weight_share, loss_weight)
        check_range("own_gain", own_gain, own_gain, least=0.0, most=1.0)
        check_level(level)
        self.own_gain, self.level = own_gain, level

    @property
    def sets_level(self) -> bool:
        """True unless `level` is "none"."""
        return self.level != "none"

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Nothing: the gains are fixed."""
        return {}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """own_gain * clip + (1 - own_gain) * soundscape."""
        background = self.background(batch)
        own = self.own_gain * unit_gain(batch.signal, self.level)
        other = (1 - self.own_gain) * unit_gain(background.signal, self.level)
        labels = self.labels(Labels.of(batch), Labels.of(background), heard=torch.ones_like(other, dtype=torch.bool))
        return labels.given_to(batch, _sum(batch, own, background, gain=other))


@AUGMENTATIONS.register("added_background")
class AddedBackground(BackgroundMixing):
    """A pseudo-labelled soundscape added to the clip, labels summed: clip + c * soundscape.

    Second seed, 2025: on a quarter of the examples, waves of peak 1, c from 0.2 to 0.8. Its targets were
    min(1, 0.8 * target + background's target); the 0.8 began as an accident and reached all examples, here only those
    that got a background (DataConfig.recording_target = 0.8 reaches all, with own_target_weight = 1).

    min_gain, max_gain  range of c, uniform
    own_target_weight, target_weight  targets become min(1, own_target_weight * target + target_weight * background's)
    level               both are brought to this first: "peak" (magnitude 1), "rms" (unit power) or "none"
    """

    def __init__(self, p: float = 0.25, min_gain: float = 0.2, *, max_gain: float = 0.8,
                 own_target_weight: float = 0.8, target_weight: float = 1.0, level: str = "peak",
                 weight_share: float = 0.0, loss_weight: float = 1.0, source: str = SOUNDSCAPES) -> None:
        super().__init__(p, source, weight_share, loss_weight)
        check_range("gain", min_gain, max_gain, least=0.0)
        check_range("own_target_weight", own_target_weight, own_target_weight, least=0.0, most=1.0)
        check_range("target_weight", target_weight, target_weight, least=0.0, most=1.0)
        check_level(level)
        self.min_gain, self.max_gain, self.level = min_gain, max_gain, level
        self.own_target_weight, self.target_weight = own_target_weight, target_weight

    @property
    def sets_level(self) -> bool:
        """True unless `level` is "none"."""
        return self.level != "none"

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """gain (B,) of the background."""
        return {"gain": uniform(len(batch), self.min_gain, self.max_gain, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """clip + gain * soundscape."""
        background = self.background(batch)
        gain = unit_gain(background.signal, self.level)
        labels = self.labels(Labels.of(batch), Labels.of(background).scaled(self.target_weight),
                             heard=torch.ones_like(gain, dtype=torch.bool), own_target_weight=self.own_target_weight,
                             summed=True)
        return labels.given_to(batch, _sum(batch, unit_gain(batch.signal, self.level), background,
                                           gain=drawn["gain"].to(gain) * gain))


@AUGMENTATIONS.register("source_only")
class SourceOnly(FromSource):
    """A clip of the source in the example's place, with its own labels: separate rows at the ratio `p`.

    Of noise only, at p = 0.05, so that silence is learnt, too; of labelled soundscapes at 2 / 64 (BirdCLEF 2026 first
    place); of pseudo-labelled windows at 0.5 (2025 fifth and seventh place) or 0.5 to 0.6 (2026 second place, for whom
    that was better than mixing).

    source  whose clips, such as a folder of noise, whose targets are all 0
    """

    def __init__(self, p: float = 0.05, source: str = SOUNDSCAPES) -> None:
        super().__init__(p, source)

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Nothing."""
        return {}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The source's clips."""
        clips = batch.sources[self.source]
        return Labels.of(clips).given_to(batch, clips.signal)


@AUGMENTATIONS.register("substitute")
class Substitute(SourceOnly):
    """A clip of the source in the example's place where there is one that has the example's class; else the example.

    BirdCLEF 2025 second place: with p = 0.4 an example is replaced by a pseudo-labelled window of its class, so that
    the balance of classes stays as the sampler made it. It belongs before all other members.

    source  one with SourceConfig.match above 0, whose clips are of weight 0 where it has none of the class
    """

    def __init__(self, p: float = 0.4, source: str = "matched") -> None:
        super().__init__(p, source)

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The source's clips where they weigh anything."""
        clips = super().transform(batch)
        there = batch.sources[self.source].weight > 0  # not as rows: a GPU would have to be waited for
        fields = ("signal", "target", "weight", "cell_weight")
        return batch.replace(**{name: torch.where(per_example(there, own), getattr(clips, name), own)
                                for name, own in ((name, getattr(batch, name)) for name in fields)})


def _sum(batch: Batch, own: Tensor, background: Batch, *, gain: Tensor) -> Tensor:
    """own (B,) * example + gain (B,) * background."""
    return (background.signal * gain[:, None]).addcmul_(batch.signal, own[:, None])
