"""Augmentations, member by member: examples mixed with each other."""
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from augmentation_batches import amplitudes, build, noisy, seeded, tones, waves

from birdkit.augmentations.labels import Labels, convex, joined
from birdkit.batch import Batch


@pytest.mark.parametrize(("name", "level"), [("mixup", "rms"), ("mixup", "peak"), ("or_mixup", "rms"),
                                             ("sumix", "peak"), ("mixup", "none")])
def test_the_audio_is_mixed_with_the_drawn_gains(name: str, level: str) -> None:
    """Tones of different loudness come out at the drawn ratio: each was brought to the same level first."""
    member, signal = build(name, level=level), tones(6)
    drawn = member.sample(waves(signal), seeded(2))
    own, other = (drawn["own"], drawn["other"]) if name == "sumix" else (drawn["share"], 1 - drawn["share"])
    heard = amplitudes(member.transform(waves(signal), **drawn).signal, 6)
    rows = torch.arange(6)
    expected = torch.zeros(6, 6)
    loudness = 0.1 * (1 + rows) if level == "none" else torch.ones(6)
    expected[rows, rows] += own * loudness
    expected[rows, drawn["partner"]] += other * loudness[drawn["partner"]]
    ratio = heard.sum(1) / expected.sum(1)
    assert torch.allclose(heard / ratio[:, None], expected, atol=2e-3)


def test_mixup_gives_labels_and_weights_the_share_of_the_audio() -> None:
    """Convex mixing says how much of each is heard: amplitudes, targets and weights agree."""
    member, signal = build("mixup", alpha=0.4), tones(6)
    drawn = member.sample(waves(signal), seeded(0))
    result = member.transform(waves(signal), **drawn)
    heard = amplitudes(result.signal, 6)
    assert torch.allclose(result.target, heard / heard.sum(1, keepdim=True), atol=2e-3)
    assert torch.allclose(result.weight, result.target @ torch.arange(1.0, 7), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 600), (5, 2, 24, 60)])
def test_parts_are_mixed_with_parts_of_the_same_example_alone(shape: tuple[int, ...]) -> None:
    """Every example is its own number times a number per part: nobody else's may come in, and labels stay."""
    own = (10.0 ** torch.arange(5)).view(-1, *[1] * (len(shape) - 1))
    part = torch.arange(1.0, 7).repeat_interleave(shape[-1] // 6)
    batch = Batch(own * part.expand(shape), torch.rand(5, 3), torch.rand(5))
    member = build("part_mixup", parts=6)
    drawn = member.sample(batch, seeded(0))
    mixed = member.transform(batch, **drawn)
    values = (mixed.signal / own).reshape(5, -1, 6, shape[-1] // 6).mean((1, 3))  # of each part
    expected = drawn["share"] * torch.arange(1.0, 7) + (1 - drawn["share"]) * (1.0 + drawn["order"])
    assert torch.allclose(values, expected, rtol=1e-4)
    assert torch.equal(mixed.target, batch.target) and torch.equal(mixed.weight, batch.weight)
    with pytest.raises(ValueError, match="cannot be cut into 7"):
        build("part_mixup", parts=7)(batch, seeded(0))


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}])
def test_or_mixup_keeps_both_labels_whole_and_takes_the_mean_weight(options: dict[str, Any]) -> None:
    """Both birds call, so both labels are 1; the label rests on both examples alike."""
    member, batch = build("or_mixup", **options), waves(tones(6))
    drawn = member.sample(batch, seeded(0))
    result = member.transform(batch, **drawn)
    assert torch.equal(result.target, torch.maximum(torch.eye(6), torch.eye(6)[drawn["partner"]]))
    assert torch.equal(result.weight, (batch.weight + batch.weight[drawn["partner"]]) / 2)
    assert float(result.weight.sum()) == pytest.approx(float(batch.weight.sum()))


def test_sumix_coefficients_fill_their_range_and_the_peak_is_one() -> None:
    """Both gains lie between 0.3 and 1, independently, as in BirdCLEF 2023 seventh place."""
    member, batch = build("sumix"), waves(torch.randn(500, 50, generator=seeded(0)))
    drawn = member.sample(batch, seeded(1))
    for key in ("own", "other"):
        assert 0.3 <= float(drawn[key].min()) < 0.32
        assert 0.98 < float(drawn[key].max()) <= 1
    assert abs(float(torch.corrcoef(torch.stack([drawn["own"], drawn["other"]]))[0, 1])) < 0.15
    assert torch.allclose(member.transform(batch, **drawn).signal.abs().amax(1), torch.ones(500))


def test_sumix_labels_follow_the_rule_that_was_asked_for() -> None:
    """"max" counts a faint bird as much as a loud one; "slope" lets its label fade below half."""
    batch = waves(tones(3))
    drawn = {"own": torch.tensor([0.3, 0.8, 0.5]), "other": torch.tensor([0.9, 0.4, 0.6]),
             "partner": torch.tensor([1, 0, 2])}
    slope = build("sumix", labels="slope").transform(batch, **drawn).target
    assert torch.allclose(slope, torch.tensor([[0.6, 1.0, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    both = build("sumix", labels="max").transform(batch, **drawn).target
    assert torch.equal(both, torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))


def test_sumup_is_the_plain_sum_of_sounds_and_labels() -> None:
    """The seventh place's companion of SUMIX needs no member of its own."""
    sumup = build("sumix", min_gain=1.0, labels="slope", level="none", renormalise="none")
    batch = noisy(6, 500)
    drawn = sumup.sample(batch, seeded(0))
    result, partner = sumup.transform(batch, **drawn), drawn["partner"]
    assert torch.allclose(result.signal, batch.signal + batch.signal[partner])
    assert torch.equal(result.target, (batch.target + batch.target[partner]).clamp_max(1))


def test_sumix_freq_takes_each_row_of_a_spectrogram_from_one_of_two() -> None:
    """A row is one recording's alone, of all its time and channels, and each example chooses for itself."""
    signal = torch.arange(1.0, 41)[:, None, None, None].expand(40, 2, 64, 10).contiguous()
    member = build("sumix_freq", bands=64)
    drawn = member.sample(waves(signal), seeded(0))
    result = member.transform(waves(signal), **drawn)
    rows = result.signal[:, 0, :, 0]
    assert torch.equal(result.signal, rows[:, None, :, None].expand_as(signal))
    both = torch.stack([torch.arange(1.0, 41), 1.0 + drawn["partner"]], 1)
    assert bool((rows[:, :, None] == both[:, None, :]).any(2).all())
    own = rows == both[:, :1]
    assert torch.equal(own[both[:, 0] != both[:, 1]], drawn["own"][both[:, 0] != both[:, 1]])
    assert 0.45 < float(drawn["own"].float().mean()) < 0.55
    assert len(drawn["own"].unique(dim=0)) == 40
    assert torch.equal(result.target, torch.maximum(torch.eye(40), torch.eye(40)[drawn["partner"]]))


def test_sumix_freq_takes_each_band_of_a_wave_from_one_of_two() -> None:
    """Tones in own bands stay, those of the partner come in elsewhere, and nobody else's is heard."""
    batch, member = waves(tones(6)), build("sumix_freq", bands=40, lowest_hz=500.0, level="none")
    drawn = member.sample(batch, seeded(3))
    heard = amplitudes(member.transform(batch, **drawn).signal, 6)
    octaves = torch.log2((1000.0 + 400.0 * torch.arange(6)) / 500.0) / math.log2(16_000 / 500.0)
    own = drawn["own"][:, (octaves * 40).long()]  # (6, 6), whether example i keeps the band of tone j
    expected = torch.zeros(6, 6)
    for row, partner in enumerate(drawn["partner"].tolist()):
        expected[row, row] += 0.1 * (1 + row) * own[row, row]
        expected[row, partner] += 0.1 * (1 + partner) * ~own[row, partner]
    assert torch.allclose(heard, expected, atol=1e-4)


@pytest.mark.parametrize("labels", ["convex", "max"])
def test_horizontal_cutmix_targets_are_the_share_of_time(labels: str) -> None:
    """The label of the stretch that came in is worth its length, or 1 where labels are joined."""
    signal = torch.arange(1.0, 7)[:, None].repeat(1, 1000)
    member = build("horizontal_cutmix", labels=labels, level="none")
    drawn = member.sample(waves(signal), seeded(4))
    result = member.transform(waves(signal), **drawn)
    own = (result.signal - signal).abs() < 1e-5
    moved = drawn["partner"] != torch.arange(6)
    assert bool((own.float().diff(dim=1).abs().sum(1) <= 2).all())
    if labels == "max":
        assert torch.equal(result.target, torch.maximum(torch.eye(6), torch.eye(6)[drawn["partner"]]))
    else:
        assert torch.allclose(result.target.diagonal()[moved], own.float().mean(1)[moved], atol=1e-6)
        assert torch.allclose(own.float().mean(1)[moved], drawn["share"][moved], atol=2e-3)


def test_cutmix_replaces_a_rectangle_and_its_targets_are_the_area() -> None:
    """Yun et al. 2019: a rectangle of the image's own proportions, cut off at the edges, label by what is left."""
    signal = torch.arange(1.0, 201)[:, None, None, None].expand(200, 2, 50, 80).contiguous()
    member = build("cutmix")
    drawn = member.sample(waves(signal), seeded(0))
    result = member.transform(waves(signal), **drawn)
    cut = (result.signal != signal).all(1)  # (200, 50, 80)
    moved = drawn["partner"] != torch.arange(200)
    assert torch.equal(result.signal[:, 0][cut], signal[drawn["partner"], 0][cut])
    assert torch.equal(cut.sum((1, 2)), cut.any(2).sum(1) * cut.any(1).sum(1))
    assert torch.allclose(result.target.diagonal()[moved], 1 - cut.float().mean((1, 2))[moved], atol=1e-6)
    whole = cut.any(2)[:, [0, -1]].any(1) | cut.any(1)[:, [0, -1]].any(1)  # touches an edge
    inside = moved & ~whole & (drawn["share"] < 0.9)
    assert int(inside.sum()) > 10
    assert torch.allclose(cut.float().mean((1, 2))[inside], 1 - drawn["share"][inside], atol=0.03)
    assert bool((cut.float().mean((1, 2)) <= 1 - drawn["share"] + 0.03).all())


@pytest.mark.parametrize("stage", ["wave", "spectrogram"])
def test_selective_mixup_takes_every_partner_from_the_source(stage: str) -> None:
    """First seed, 2022: the scored birds come from a loader of their own, the same share for sound, label, weights."""
    shape = (6, 400) if stage == "wave" else (6, 1, 20, 20)
    chosen = noisy(*shape, seed=1).replace(weight=torch.rand(6, generator=seeded(2)),
                                           cell_weight=torch.rand(6, 5, generator=seeded(3)))
    batch = noisy(*shape).replace(sources={"selected": chosen}, cell_weight=torch.rand(6, 5, generator=seeded(4)))
    member = build("selective_mixup", level="none")
    drawn = member.sample(batch, seeded(0))
    result, partner = member.transform(batch, **drawn), drawn["partner"]
    assert sorted(partner.tolist()) == list(range(6))
    for key in ("signal", "target", "weight", "cell_weight"):
        own, other = getattr(batch, key), getattr(chosen, key)[partner]
        share = drawn["share"].view(-1, *[1] * (own.ndim - 1))
        assert torch.allclose(getattr(result, key), share * own + (1 - share) * other, atol=1e-6)


def test_selective_mixup_brings_both_loaders_to_one_level() -> None:
    """A share of the labels that is not a share of the sound is a wrong label."""
    batch = waves(tones(4), tones(8)[4:] * 7, source="selected")
    member = build("selective_mixup")
    drawn = member.sample(batch, seeded(0))
    heard = amplitudes(member.transform(batch, **drawn).signal, 8)
    rows = torch.arange(4)
    own, other = heard[rows, rows], heard[rows, 4 + drawn["partner"]]
    assert torch.allclose(own / (own + other), drawn["share"], atol=2e-3)


@pytest.mark.parametrize("name", ["mixup", "selective_mixup"])
def test_the_probability_can_be_that_of_a_whole_batch(name: str) -> None:
    """The seeds drew once per batch: all are mixed or none is, 80 of 100 times."""
    batch = waves(torch.ones(5, 4), torch.ones(5, 4), source="selected")
    member, g = build(name, p=0.8, per="batch"), seeded(0)
    mixed = torch.stack([member.draw(batch, g)["applied"] for _ in range(500)])
    assert torch.equal(mixed.all(1), mixed.any(1))
    assert float(mixed[:, 0].float().mean()) == pytest.approx(0.8, abs=0.05)
    each = torch.stack([build(name, p=0.8, per="example").draw(batch, g)["applied"] for _ in range(500)])
    assert float((each.any(1) & ~each.all(1)).float().mean()) > 0.5


def test_spectrograms_are_mixed_as_they_are() -> None:
    """Levels belong to waves; decibels divided by their peak would be another image."""
    batch = noisy(3, 2, 24, 64)
    member = build("mixup", level="peak")
    drawn = member.sample(batch, seeded(0))
    share = drawn["share"].view(-1, 1, 1, 1)
    expected = share * batch.signal + (1 - share) * batch.signal[drawn["partner"]]
    assert torch.allclose(member.transform(batch, **drawn).signal, expected, atol=1e-6)




# What is known --------------------------------------------------------------------------------------------------------


def known(target: list[float], cell_weight: list[float]) -> Labels:
    return Labels(torch.tensor([target]), torch.ones(1), torch.tensor([cell_weight]))


def test_a_convex_mix_is_known_in_the_share_in_which_its_parts_are() -> None:
    """A label masked in three quarters of the sound counts a quarter."""
    mixed = convex(known([1.0, 0.0], [1.0, 0.0]), known([0.0, 0.0], [0.0, 1.0]), torch.tensor([0.25]))
    assert torch.allclose(mixed.cell_weight, torch.tensor([[0.25, 0.75]]))
    assert torch.allclose(mixed.target, torch.tensor([[0.25, 0.0]]))


def test_joined_sounds_are_known_if_both_are_or_one_is_surely_there() -> None:
    """A secondary label that was masked must not become a sure "absent" because the partner has none of it.

    Columns: both known, absent in one and unknown in the other, present and unknown, half present and unknown, both
    unknown.
    """
    one = known([0.0, 0.0, 1.0, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0])
    other = known([1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0])
    expected = torch.tensor([[1.0, 0.0, 1.0, 0.5, 0.0]])
    assert torch.equal(joined([one, other]).cell_weight, expected)
    assert torch.equal(joined([other, one]).cell_weight, expected)


def test_what_is_not_heard_neither_labels_nor_masks() -> None:
    """A part of a mix that is silent there is no part of it."""
    one, other = known([0.0, 1.0], [1.0, 0.5]), known([1.0, 0.0], [0.0, 0.0])._replace(weight=torch.tensor([9.0]))
    result = joined([one, other], heard=torch.tensor([[True], [False]]))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(result, one, strict=True))


def test_sumix_fades_what_is_known_of_a_quiet_bird_with_its_label() -> None:
    """With "slope" a bird at a gain of 0.3 has 0.6 of its label, and vouches for no more than that."""
    batch = waves(torch.ones(2, 8)).replace(cell_weight=torch.eye(2))
    drawn = {"own": torch.tensor([0.3, 1.0]), "other": torch.tensor([1.0, 0.3]), "partner": torch.tensor([1, 0])}
    result = build("sumix", labels="slope").transform(batch, **drawn)
    assert torch.allclose(result.cell_weight, torch.tensor([[0.6, 1.0], [0.6, 1.0]]))
