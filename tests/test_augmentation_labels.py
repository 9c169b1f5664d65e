"""Augmentations: labels and weights follow the audio, for every member, by the rule that it declares here."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from augmentation_batches import seeded
from test_augmentations import CASES, build
from torch import Tensor

from birdkit.augmentations import AUGMENTATIONS
from birdkit.batch import Batch

# What becomes of labels and weight where a member makes one sound of several. "kept": nobody else is heard, and they
# stay. "convex": each sound's share of the audio is its share of target and weight, 1 where it takes another's place.
# "joined": whatever is heard has a label and nothing else, and the weight lies between theirs.
RULES = {
    **dict.fromkeys(("clipping", "coarse_dropout", "codec", "distance", "filter_chain", "frequency_mask", "gain",
                     "low_pass", "noise", "part_mixup", "polarity", "random_eq", "reverb", "speed", "time_mask",
                     "time_shift"), "kept"),
    **dict.fromkeys(("cutmix", "horizontal_cutmix", "mixup", "selective_mixup", "source_only", "substitute"), "convex"),
    **dict.fromkeys(("added_background", "background", "during", "one_of", "or_mixup", "repeat", "scene",
                     "soundscape_mix", "sumix", "sumix_freq"), "joined")}
# Options that change the rule, and members inside others, which keep their own.
OTHER: list[tuple[str, str, dict[str, Any], str]] = [
    ("cutmix", "spectrogram", {"labels": "max"}, "joined"), ("horizontal_cutmix", "wave", {"labels": "max"}, "joined"),
    ("sumix", "wave", {"labels": "slope"}, "joined"), ("mixup", "wave", {"per": "batch"}, "convex"),
    ("during", "wave", {"member": {"name": "mixup", "options": {}}}, "convex"),
    ("repeat", "wave", {"counts": [2], "member": {"name": "mixup", "options": {"level": "none"}}}, "convex")]
UNLIKE = ("time_shift", "speed")  # their noise is no longer like itself
N, EACH = 32_000, 5  # samples; sounds of the batch and of each source
SOURCES = ("soundscapes", "selected")
SOUNDS = EACH * (1 + len(SOURCES))
HEARD = 0.05  # of the loudest; chance alone makes two noises of 32,000 samples alike by 0.02


def sounds(stage: str) -> Tensor:
    """Sounds that are orthogonal to each other: noise as waves; as spectrograms one channel each, all over it."""
    if stage == "wave":
        return torch.linalg.qr(torch.randn(N, SOUNDS, generator=seeded(0))).Q.T.contiguous()
    return torch.eye(SOUNDS)[:, :, None, None].expand(SOUNDS, SOUNDS, 24, 64).contiguous()


def shares(signal: Tensor, every: Tensor) -> Tensor:
    """How much of each sound is in each signal, (B, SOUNDS)."""
    if signal.ndim == 2:
        return signal @ every.T
    return signal.mean((2, 3))


def batch_of(every: Tensor, weight: Tensor) -> Batch:
    """The first five sounds over sources of the others; sound k has label k alone."""
    def part(k: int) -> Batch:
        rows = slice(k * EACH, (k + 1) * EACH)
        return Batch(every[rows].clone(), torch.eye(SOUNDS)[rows], weight[rows])

    return part(0).replace(sources={name: part(1 + k) for k, name in enumerate(SOURCES)})


def test_every_member_says_what_becomes_of_its_labels() -> None:
    """A new member without a rule would be one that nobody has asked."""
    assert set(RULES) == set(AUGMENTATIONS.names())


@pytest.mark.parametrize(("name", "stage", "options", "rule"), [
    *((name, stage, {}, RULES.get(name, "none")) for name, stage in CASES), *OTHER])
def test_labels_and_weights_are_mixed_as_the_audio_is(name: str, stage: str, options: dict[str, Any],
                                                      rule: str) -> None:
    """A label with another coefficient than its sound teaches the wrong thing in every step, and no run fails."""
    every, weight = sounds(stage), torch.linspace(0.2, 1.0, SOUNDS)[torch.randperm(SOUNDS, generator=seeded(1))]
    member, batch, mixed = build(name, **options), batch_of(every, weight), 0
    for seed in range(4):
        result = member(batch, seeded(seed))
        share = shares(result.signal, every)
        share = share / share.abs().amax(1, keepdim=True)
        here = share > HEARD
        if rule == "kept":
            assert torch.equal(result.target, batch.target) and torch.equal(result.weight, batch.weight)
            assert not bool((here & (batch.target == 0)).any()) or name in UNLIKE
            continue
        mixed += int((here & (batch.target == 0)).sum())
        if rule == "convex":
            # A stretch of noise is like the whole in its share, but for chance.
            tolerance = 0.04 if name == "horizontal_cutmix" and stage == "wave" else 1e-3
            assert torch.allclose(share / share.sum(1, keepdim=True), result.target, atol=tolerance)
            assert torch.allclose(result.weight, result.target @ weight, atol=1e-5)
        else:
            assert torch.equal(result.target > 0, here)
            least, most = (torch.where(here, weight, other) for other in (2.0, -1.0))
            assert bool((result.weight >= least.amin(1) - 1e-6).all() & (result.weight <= most.amax(1) + 1e-6).all())
    assert mixed or rule == "kept"
