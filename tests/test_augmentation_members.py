"""Augmentations, member by member: waves by themselves, and spectrograms."""
from __future__ import annotations

import math

import pytest
import torch
from augmentation_batches import RATE_HZ, build, seeded, tones, waves

from birdkit.batch import Batch

# Wave -----------------------------------------------------------------------------------------------------------------


def test_gain_stays_in_its_range() -> None:
    """The option is in decibels of amplitude."""
    ones = torch.ones(200, 4)
    gain_db = 20 * build("gain", min_db=-6.0, max_db=3.0)(waves(ones), seeded(0)).signal[:, 0].log10()
    assert -6 <= float(gain_db.min()) < -5.5
    assert 2.5 < float(gain_db.max()) <= 3


def test_a_shift_in_time_loses_no_sample() -> None:
    """A call that is shifted out would leave its label behind."""
    signal = torch.arange(64.0).repeat(20, 1)
    shifted = build("time_shift")(waves(signal), seeded(0)).signal
    assert torch.equal(shifted.sort(1).values, signal)
    steps = shifted.diff(dim=1)
    assert bool(((steps == 1) | (steps == -63)).all())
    assert len(set(shifted[:, 0].tolist())) > 10


@pytest.mark.parametrize("snr_db", [-3.0, 0.0, 17.0])
def test_noise_has_the_ratio_that_was_asked_for(snr_db: float) -> None:
    """A ratio that is off by the level of the recording is no setting at all."""
    signal = tones(12)
    noise = build("noise", min_snr_db=snr_db, max_snr_db=snr_db)(waves(signal), seeded(0)).signal - signal
    measured_db = 10 * (signal.square().mean(1) / noise.square().mean(1)).log10()
    assert torch.allclose(measured_db, torch.tensor(snr_db), atol=0.1)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_has_the_colour_that_was_drawn(exponent: float) -> None:
    """White, pink and brown noise fall by 0, 3 and 6 dB an octave."""
    signal = torch.ones(16, 32_000)
    noise = build("noise", min_exponent=exponent, max_exponent=exponent)(waves(signal), seeded(0)).signal - signal
    power = torch.fft.rfft(noise).abs().square().mean(0)  # (16001,), 1 Hz each
    fall_db = 10 * (power[1000:1400].mean() / power[4000:5600].mean()).log10()
    assert float(fall_db) == pytest.approx(exponent * 6.02, abs=0.5)


def test_examples_of_a_batch_get_different_noise() -> None:
    """Equal noise across a batch could be learnt."""
    signal = tones(1).repeat(32, 1)
    noise = build("noise")(waves(signal), seeded(0)).signal - signal
    noise = noise / noise.norm(dim=1, keepdim=True)
    assert float((noise @ noise.T - torch.eye(32)).abs().max()) < 0.9


@pytest.mark.parametrize("speed", [0.85, 1.0, 1.18])
def test_speed_moves_a_tone_and_keeps_its_amplitude_and_the_clips_length(speed: float) -> None:
    """Pitch and tempo go together; a clip of another length would not fit the front end."""
    signal = torch.sin(2 * math.pi * 2000.0 * torch.arange(32_000) / RATE_HZ)[None]
    heard = build("speed", min_speed=speed, max_speed=speed)(waves(signal), seeded(0)).signal[0]
    assert len(heard) == 32_000
    middle = heard[4000:12_000]  # away from the ends
    spectrum = torch.fft.rfft(middle * torch.hann_window(8000)).abs()
    assert float(spectrum.argmax()) * 4 == pytest.approx(2000 * speed, rel=0.01)
    assert float(middle.abs().max()) == pytest.approx(1, abs=1e-3)


def test_speed_is_band_limited() -> None:
    """Straight lines between samples would mirror a call of 10 kHz to another frequency, where another bird sings."""
    signal = torch.sin(2 * math.pi * 10_000.0 * torch.arange(32_000) / RATE_HZ)[None]
    heard = build("speed", min_speed=0.9, max_speed=0.9)(waves(signal), seeded(0)).signal[0]
    power = torch.fft.rfft(heard * torch.hann_window(32_000)).abs().square()
    assert float(power[8900:9100].sum() / power.sum()) > 0.9999


def test_a_faster_clip_goes_on_from_its_start_and_a_slower_one_keeps_a_stretch() -> None:
    """Silence in the gap would be a click that no recorder makes; a fixed stretch would lose the same calls always."""
    turn = torch.sin(2 * math.pi * torch.arange(32_000) / 32_000).repeat(40, 1)  # its values tell the place
    fast = build("speed", min_speed=1.25, max_speed=1.25)(waves(turn), seeded(0)).signal
    assert torch.allclose(fast[:, :25_600], turn[:, ::5][:, torch.arange(25_600) // 4], atol=2e-3)
    assert torch.equal(fast[:, 25_600:], fast[:, :6400])
    slow = build("speed", min_speed=0.8, max_speed=0.8)(waves(turn), seeded(0)).signal
    assert len({round(float(start), 4) for start in slow[:, 0]}) > 20
    assert float(slow.diff(dim=1).abs().max()) < 2e-4  # one stretch, no seam


# Spectrogram ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["mean", "min"])
@pytest.mark.parametrize(("name", "axis"), [("time_mask", 3), ("frequency_mask", 2)])
def test_masks_cover_whole_frames_or_bands_and_no_more_than_allowed(name: str, axis: int, fill: str) -> None:
    """A mask along the wrong axis hides the call's pitch where its time was meant, and trains on."""
    signal = torch.rand(50, 2, 100, 120, generator=seeded(0))
    batch = Batch(signal, torch.eye(50), torch.ones(50))
    result = build(name, max_masks=3, max_share=0.2, fill=fill)(batch, seeded(0)).signal
    covered = build(name, max_masks=3, max_share=0.2)(batch, seeded(0)).signal != signal
    assert torch.equal(result[~covered], signal[~covered])
    lines = covered.all(2 if axis == 3 else 3)[:, 0]
    assert torch.equal(covered.any(2 if axis == 3 else 3)[:, 0], lines)
    widest = lines.float().mean(1)
    assert float(widest.max()) <= 0.6 + 1e-6
    assert 0.05 < float(widest.mean()) < 0.3
    for row in range(50):
        values = result[row, 1][covered[row, 1]]
        expected = signal[row, 1].mean() if fill == "mean" else signal[row, 1].min()
        assert torch.allclose(values, expected)


def test_masks_reach_both_ends() -> None:
    """The first and the last frame are as likely to teach something as any other."""
    signal = torch.rand(400, 1, 4, 50, generator=seeded(0))
    result = build("time_mask", max_share=0.3)(Batch(signal, torch.zeros(400, 1), torch.ones(400)), seeded(0)).signal
    share = (result != signal).float().mean((0, 1, 2))
    assert float(share[0]) > 0
    assert float(share[-1]) > 0


@pytest.mark.parametrize("name", ["time_mask", "frequency_mask"])
def test_each_part_of_an_example_gets_masks_of_its_own(name: str) -> None:
    """A share of 30 s covers a whole part of 5 s; what is left of it then carries a label that nobody can hear."""
    signal = torch.rand(40, 1, 30, 120, generator=seeded(0))
    batch = Batch(signal, torch.zeros(40, 1), torch.ones(40))
    options = {"max_masks": 1, "max_share": 0.5}
    covered = (build(name, parts=3, **options)(batch, seeded(0)).signal != signal).view(40, 30, 3, 40)
    share = covered.float().mean((1, 3))  # (40, parts)
    assert float(share.max()) <= 0.5 + 1e-6 and 0.2 < float(share.mean()) < 0.3
    assert float((share[:, 0] - share[:, 1]).abs().max()) > 0.2
    with pytest.raises(ValueError, match="120 frames cannot be cut into 7 equal parts"):
        build(name, parts=7, **options)(batch, seeded(0))


def test_holes_are_rectangles_of_the_allowed_size() -> None:
    """Up to four holes with sides of 5 to 20 %: never more than 16 % of an image."""
    signal = torch.rand(60, 1, 100, 100, generator=seeded(0))
    batch = Batch(signal, torch.zeros(60, 1), torch.ones(60))
    covered = (build("coarse_dropout")(batch, seeded(0)).signal != signal)[:, 0]
    assert float(covered.float().mean((1, 2)).min()) >= 0.0025
    assert float(covered.float().mean((1, 2)).max()) <= 0.16
    single = (build("coarse_dropout", max_holes=1)(batch, seeded(0)).signal != signal)[:, 0]
    area = single.any(1).sum(1) * single.any(2).sum(1)
    assert torch.equal(single.sum((1, 2)), area)
    fixed = build("coarse_dropout", max_holes=1, min_share=0.1, max_share=0.1)(batch, seeded(0)).signal != signal
    assert torch.equal(fixed[:, 0].sum((1, 2)), torch.full((60,), 100))  # none runs over an edge
