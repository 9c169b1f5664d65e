"""Augmentations, member by member: clips mixed with those of a source."""
from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from augmentation_batches import N, amplitudes, build, seeded, tones, waves
from torch import Tensor

from birdkit.batch import Batch


def test_a_background_has_the_ratio_that_was_asked_for() -> None:
    """Whatever the levels of clip and soundscape, their powers differ by the drawn decibels."""
    signal, below = tones(8), torch.randn(8, N, generator=seeded(0)) * torch.logspace(-3, 1, 8)[:, None]
    member = build("background", min_snr_db=-5.0, max_snr_db=15.0)
    drawn = member.sample(waves(signal, below), seeded(0))
    added = member.transform(waves(signal, below), **drawn).signal - signal
    measured_db = 10 * (signal.square().mean(1) / added.square().mean(1)).log10()
    assert torch.allclose(measured_db, drawn["snr_db"], atol=0.1)


def test_a_background_brings_its_labels_with_it() -> None:
    """A bird in the background is in the mix; the clip's own weight stays unless told otherwise."""
    batch = waves(tones(4), torch.ones(4, N))
    result = build("background", target_weight=0.5)(batch, seeded(0))
    assert torch.equal(result.target, torch.maximum(torch.eye(4), 0.5 * torch.eye(4).flip(0)))
    assert torch.equal(result.weight, batch.weight)
    shared = build("background", weight_share=0.25)(batch, seeded(0))
    assert torch.equal(shared.weight, 0.75 * batch.weight + 0.25 * 3.0)


def test_a_silent_clip_takes_no_label_of_a_background_that_is_not_heard() -> None:
    """Silence has no level to set a ratio against: nothing is added, neither sound nor label."""
    result = build("background")(waves(torch.zeros(4, N), torch.ones(4, N)), seeded(0))
    assert torch.equal(result.signal, torch.zeros(4, N))
    assert torch.equal(result.target, torch.eye(4))


def test_a_soundscape_is_mixed_in_at_half() -> None:
    """BirdCLEF 2025 first place: 0.5 and 0.5 at equal level, labels by maximum."""
    batch = waves(tones(4), tones(8)[4:] * 7)
    result = build("soundscape_mix")(batch, seeded(0))
    heard = amplitudes(result.signal, 8)
    rows = torch.arange(4)
    assert torch.allclose(heard[rows, rows], torch.full((4,), 0.5), atol=5e-3)
    assert torch.allclose(heard[rows, rows + 4], torch.full((4,), 0.5), atol=5e-3)
    assert torch.equal(result.target, torch.maximum(torch.eye(4), torch.eye(4).flip(0)))
    assert torch.equal(result.weight, 0.5 * batch.weight + 0.5 * 3.0)


def test_an_added_background_sums_labels_where_it_was_added_and_nowhere_else() -> None:
    """In the second seed the 0.8 reached examples without a background too: an accident not to repeat."""
    batch = waves(tones(40), torch.ones(40, N))
    member = build("added_background", p=0.25)
    drawn = member.draw(batch, seeded(0))
    result, applied = member.apply(batch, **drawn), drawn["applied"]
    assert torch.allclose(result.target[applied], (0.8 * torch.eye(40) + torch.eye(40).flip(0)).clamp_max(1)[applied])
    assert torch.equal(result.target[~applied], torch.eye(40)[~applied])
    assert 0.2 <= float(drawn["gain"].min()) <= float(drawn["gain"].max()) <= 0.8
    added = result.signal.mean(1)[applied]  # a tone of whole periods has mean zero
    assert torch.allclose(added, drawn["gain"][applied], atol=1e-3)
    half = batch.replace(target=torch.full((40, 40), 0.5))
    expected = (0.4 + torch.eye(40).flip(0)).clamp_max(1)
    assert torch.allclose(member.apply(half, **drawn).target[applied], expected[applied])
    faint = build("added_background", target_weight=0.3).apply(half, torch.ones(40, dtype=torch.bool),
                                                               gain=drawn["gain"])
    assert torch.allclose(faint.target, 0.4 + 0.3 * torch.eye(40).flip(0))


def test_three_noises_in_a_row_reach_the_share_of_examples_that_the_first_seed_had() -> None:
    """Each noise has its own source, probability and ratio: at least one on 1 - .5 * .75 * .75 = .719 of the clips."""
    batch = Batch(torch.ones(5000, 4), torch.zeros(5000, 1), torch.ones(5000), sources={
        source: Batch(torch.full((5000, 4), 0.01), torch.zeros(5000, 1), torch.ones(5000))
        for source in ("nocall", "soundscapes", "aicrowd")})
    noises = [build("background", p=p, min_snr_db=0.0, max_snr_db=3.0, source=source)
              for source, p in (("nocall", 0.5), ("soundscapes", 0.25), ("aicrowd", 0.25))]
    g, heard = seeded(0), batch
    for noise in noises:
        before = heard
        heard = noise(heard, g)
        ratio = (heard.signal - before.signal)[:, 0] / before.signal[:, 0]
        ratio = ratio[ratio > 0]
        assert 0.7 < float(ratio.min()) < 0.72 and 0.98 < float(ratio.max()) <= 1.0001  # 3 to 0 dB
        assert len(ratio) / 5000 == pytest.approx(noise.p, abs=0.02)
    assert float((heard.signal[:, 0] > 1).float().mean()) == pytest.approx(0.719, abs=0.02)


@pytest.mark.parametrize("name", ["background", "soundscape_mix", "added_background", "scene"])
def test_labels_of_the_background_alone_have_a_weight_in_the_loss_of_their_own(name: str) -> None:
    """The second seed's 1.0, 0.6 and 0.1: pseudo-labels count less, and a person's label beside them does not."""
    batch = waves(tones(4), torch.randn(4, N, generator=seeded(0)))
    options = {"counts": [0]} if name == "scene" else {}
    plain, scaled = (build(name, loss_weight=weight, **options)(batch, seeded(0)) for weight in (1.0, 0.6))
    assert torch.equal(plain.cell_weight, torch.ones(4, 4))
    assert torch.allclose(scaled.cell_weight, 1 - 0.4 * torch.eye(4).flip(0))
    assert torch.equal(scaled.target, plain.target) and torch.equal(scaled.signal, plain.signal)
    both = batch.replace(target=torch.ones(4, 4))
    assert torch.equal(build(name, loss_weight=0.6, **{"own_target_weight": 1.0} if name == "added_background" else {},
                             **options)(both, seeded(0)).cell_weight, torch.ones(4, 4))


@pytest.mark.parametrize("name", ["background", "soundscape_mix", "added_background", "scene"])
def test_what_a_person_labelled_keeps_its_weight_in_the_loss(name: str) -> None:
    """Own labels 1, .5 and 0 under a background of .6, and of none: only what the background adds counts less."""
    member = build(name, loss_weight=0.6, **({"counts": [0]} if name == "scene" else {}))
    batch = Batch(tones(4), torch.tensor([1.0, 0.5, 0.0, 0.5]).repeat(4, 1), torch.ones(4), sources={
        "soundscapes": Batch(torch.randn(4, N, generator=seeded(0)), torch.tensor([0.6, 0.6, 0.6, 0.0]).repeat(4, 1),
                             torch.ones(4))})
    expected = torch.tensor([1.0, 1 - 0.4 * (1 - 0.5 / 0.6), 0.6, 1.0])
    assert torch.allclose(member(batch, seeded(0)).cell_weight, expected.repeat(4, 1))
    full = batch.replace(sources={"soundscapes": batch.sources["soundscapes"].replace(target=torch.ones(4, 4))})
    expected = torch.tensor([1.0, 0.8, 0.6, 0.8])  # 1 also where own_target_weight makes 0.8 of it in the target
    assert torch.allclose(member(full, seeded(0)).cell_weight, expected.repeat(4, 1))


@pytest.mark.parametrize("name", ["background", "soundscape_mix", "added_background", "scene"])
def test_a_background_that_knows_only_some_classes_masks_the_others(name: str) -> None:
    """A pseudo-label in doubt says nothing; what the clip surely holds stays sure."""
    batch = waves(tones(4), torch.randn(4, N, generator=seeded(0)))
    doubtful = batch.sources["soundscapes"].replace(cell_weight=torch.zeros(4, 4))
    options = {"counts": [0]} if name == "scene" else {"own_target_weight": 1.0} if name == "added_background" else {}
    result = build(name, **options)(batch.replace(sources={"soundscapes": doubtful}), seeded(0))
    assert torch.equal(result.cell_weight, torch.eye(4))


def test_a_silent_clip_is_not_masked_by_a_background_that_is_not_heard() -> None:
    """Nothing is added, so nothing becomes unknown and no weight changes."""
    batch = waves(torch.zeros(4, N), torch.ones(4, N))
    doubtful = batch.sources["soundscapes"].replace(cell_weight=torch.zeros(4, 4))
    result = build("background", loss_weight=0.1, weight_share=0.5)(
        batch.replace(sources={"soundscapes": doubtful}), seeded(0))
    assert torch.equal(result.cell_weight, torch.ones(4, 4))
    assert torch.equal(result.weight, batch.weight)


def test_noise_alone_takes_the_examples_place_with_its_own_labels() -> None:
    """"Noise only" teaches that nothing is there: a bird's label must not stay behind."""
    batch = waves(tones(30), torch.randn(30, N, generator=seeded(0)), source="noise")
    noise = batch.sources["noise"].replace(target=torch.zeros(30, 30), cell_weight=torch.full((30, 30), 0.5))
    batch = batch.replace(sources={"noise": noise})
    member = build("source_only", p=0.3, source="noise")
    drawn = member.draw(batch, seeded(0))
    result, applied = member.apply(batch, **drawn), drawn["applied"]
    for key in ("signal", "target", "weight", "cell_weight"):
        assert torch.equal(getattr(result, key)[applied], getattr(noise, key)[applied])
        assert torch.equal(getattr(result, key)[~applied], getattr(batch, key)[~applied])


# Scenes ---------------------------------------------------------------------------------------------------------------


def scene_of(n: int, background: Tensor, **options: Any) -> tuple[dict[str, Any], Batch]:
    """What was drawn for the scenes of n tones, and the scenes."""
    batch, member = waves(tones(n), background), build("scene", **options)
    drawn = member.sample(batch, seeded(0))
    return drawn, member.transform(batch, **drawn)


def rows_heard(drawn: dict[str, Any]) -> list[list[int]]:
    """Which examples are in each scene, its own first."""
    return [[row, *drawn["neighbours"][row, :count].tolist()] for row, count in enumerate(drawn["count"].tolist())]


def test_every_animal_of_a_scene_has_its_own_level_over_the_place() -> None:
    """The place stays as loud as it is; each tone's power over it is what was drawn for it."""
    place = 0.01 * torch.randn(8, N, generator=seeded(1)) * torch.logspace(-1, 1, 8)[:, None]
    drawn, scene = scene_of(8, place, min_snr_db=-8.0, max_snr_db=16.0)
    assert -8 <= float(drawn["snr_db"].min()) < -6 and 14 < float(drawn["snr_db"].max()) <= 16
    alone = amplitudes(scene.signal - place, 8)
    power_db = 10 * (alone.square() / 2 / place.square().mean(1)[:, None]).log10()
    for row, heard in enumerate(rows_heard(drawn)):
        assert torch.allclose(power_db[row, heard], drawn["snr_db"][row, :len(heard)], atol=0.01)
        others = sorted(set(range(8)) - set(heard))
        assert float(alone[row, others].max()) < 1e-5


def test_a_scenes_labels_are_those_of_all_that_is_heard_and_its_weight_their_mean() -> None:
    """Own, neighbours' and background's labels by maximum; weights of the animals alone unless told otherwise."""
    place = torch.randn(6, N, generator=seeded(1))
    drawn, scene = scene_of(6, place, counts=[0, 1, 2])
    for row, heard in enumerate(rows_heard(drawn)):
        expected = torch.eye(6).flip(0)[row]
        expected[heard] = 1
        assert torch.equal(scene.target[row], expected)
        assert float(scene.weight[row]) == pytest.approx(sum(1 + other for other in heard) / len(heard))
    shared = scene_of(6, place, counts=[0, 1, 2], weight_share=0.25)[1]
    assert torch.allclose(shared.weight, 0.75 * scene.weight + 0.25 * 3.0)


def test_neighbours_are_others_all_different_and_everyone_is_asked_as_often() -> None:
    """An example beside itself would only be louder; one that is in every scene would be learnt by heart."""
    drawn = scene_of(10, torch.ones(10, N), counts=[3])[0]
    assert all(len(set(heard)) == 4 for heard in rows_heard(drawn))
    assert Counter(drawn["neighbours"].flatten().tolist()) == dict.fromkeys(range(10), 3)
    member, batch, g = build("scene"), waves(torch.ones(500, 4), torch.ones(500, 4)), seeded(0)
    counts = Counter(member.sample(batch, g)["count"].tolist())
    assert [counts[k] / 500 for k in range(3)] == pytest.approx([0.4, 0.4, 0.2], abs=0.06)


@pytest.mark.parametrize("n", [1, 2])
def test_a_batch_too_small_for_its_neighbours_has_fewer(n: int) -> None:
    """The last, smaller batch of an epoch must not end the run."""
    drawn, scene = scene_of(n, torch.ones(n, N), counts=[2])
    assert drawn["count"].tolist() == [n - 1] * n
    assert float(scene.target.sum()) == n * n


def test_a_scene_over_silence_has_levels_relative_to_its_own_example() -> None:
    """Digital silence has no level; the animals keep their ratios, and its labels are not there."""
    drawn, scene = scene_of(6, torch.zeros(6, N), counts=[2])
    heard = amplitudes(scene.signal, 6)
    for row, examples in enumerate(rows_heard(drawn)):
        expected = 0.1 * (1 + row) * 10 ** (drawn["snr_db"][row] / 20)
        assert torch.allclose(heard[row, examples], expected, rtol=1e-3)
        assert sorted(scene.target[row].nonzero()[:, 0].tolist()) == sorted(examples)


def test_a_silent_neighbour_brings_no_label() -> None:
    """A recording that begins with silence must not put its bird into another's scene."""
    signal = tones(4)
    signal[0] = 0
    batch = waves(signal, torch.randn(4, N, generator=seeded(1))).replace(target=torch.eye(4))
    clean = batch.sources["soundscapes"].replace(target=torch.zeros(4, 4))
    scene = build("scene", counts=[3])(batch.replace(sources={"soundscapes": clean}), seeded(0))
    assert scene.target[:, 0].tolist() == [1, 0, 0, 0]
    assert torch.allclose(scene.weight, torch.tensor([2.5, 3.0, 3.0, 3.0]))
