"""Augmentations, member by member: filters, distance, recorders and formats."""
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from augmentation_batches import CLICK, RATE_HZ, N, build, click, noisy, seeded, tones, waves
from torch import Tensor

from birdkit.augmentations import FilterChain
from birdkit.augmentations.distance import air_db_per_m
from birdkit.augmentations.recorder import blocks, joined_blocks

FILTERS = ("low_pass", "random_eq", "reverb", "distance")


def test_a_low_pass_takes_half_the_power_at_its_cut_off() -> None:
    """Its response is that of scipy's Butterworth filter of the same order."""
    scipy_signal = pytest.importorskip("scipy.signal")
    member = build("low_pass", min_cutoff_hz=6000.0, max_cutoff_hz=6000.0, order=3)
    response = torch.fft.rfft(member(waves(click()), seeded(0)).signal).abs()[0]
    _, expected = scipy_signal.freqs(*scipy_signal.butter(3, 6000.0, analog=True), worN=torch.arange(N // 2 + 1) * 4.0)
    assert torch.allclose(response, torch.as_tensor(abs(expected), dtype=torch.float32), atol=1e-4)
    assert float(response[1500] ** 2) == pytest.approx(0.5, abs=1e-3)


def eq_response_db(gains_db: Tensor, edges: Tensor | None = None, **options: Any) -> Tensor:
    """What an equaliser with these gains does to each frequency, 4 Hz apart."""
    drawn = {"gains_db": gains_db, "edges": torch.empty(len(gains_db), 0) if edges is None else edges}
    return 20 * torch.fft.rfft(build("random_eq", **options).transform(waves(click()), **drawn).signal).abs()[0].log10()


def test_an_equaliser_has_its_gains_at_its_bands() -> None:
    """The drawn decibels are what a tone in the middle of a band meets, and straight lines join them."""
    response_db = eq_response_db(torch.tensor([[-6.0, 3.0, 0.0, 6.0]]), bands=4, lowest_hz=2000.0)
    at = {2000: -6.0, 4000: 3.0, 8000: 0.0, 16_000: 6.0, 100: -6.0, 4000 * 2**0.5: 1.5}
    for frequency_hz, expected in at.items():
        assert float(response_db[round(frequency_hz / 4)]) == pytest.approx(expected, abs=0.02)


def test_random_filtering_bands_are_even_in_hertz() -> None:
    """VSydorskyy's RandomFiltering reaches from 0 Hz to the top in equal steps, and only ever takes away."""
    options: dict[str, Any] = {"bands": 4, "spacing": "hertz", "min_db": -20.0, "max_db": 0.0}
    response_db = eq_response_db(torch.tensor([[-20.0, -5.0, 0.0, -10.0]]), **options)
    for frequency_hz, expected in {0: -20.0, 8000 / 3: -12.5, 16_000 / 3: -5.0, 32_000 / 3: 0.0, 16_000: -10.0}.items():
        assert float(response_db[round(frequency_hz / 4)]) == pytest.approx(expected, abs=0.02)
    gains_db = build("random_eq", **options).sample(waves(click(500)), seeded(0))["gains_db"]
    assert gains_db.shape == (500, 4)
    assert -20 <= float(gains_db.min()) < -19.5 and -0.5 < float(gains_db.max()) <= 0


@pytest.mark.parametrize("shape", ["step", "linear"])
def test_filter_augment_bands_begin_and_end_where_it_was_drawn(shape: str) -> None:
    """Steps are level between the edges; lines meet there."""
    edges, gains_db = torch.tensor([[0.25, 0.75]]), [[-6.0, 4.0, 0.0]] if shape == "step" else [[-6.0, 4.0, 0.0, 2.0]]
    response_db = eq_response_db(torch.tensor(gains_db), edges, shape=shape, places="random", spacing="hertz",
                                 bands=len(gains_db[0]))
    at = ({0.1: -6.0, 0.24: -6.0, 0.26: 4.0, 0.74: 4.0, 0.76: 0.0, 1.0: 0.0} if shape == "step" else
          {0.0: -6.0, 0.125: -1.0, 0.25: 4.0, 0.5: 2.0, 0.75: 0.0, 0.875: 1.0, 1.0: 2.0})
    for place, expected in at.items():
        assert float(response_db[round(place * 4000)]) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("shape", "inner"), [("step", 1), ("linear", 2)])
def test_random_bands_have_their_number_and_their_least_width(shape: str, inner: int) -> None:
    """A band of no width is a click in the spectrum; each example must get places of its own."""
    member, g = build("random_eq", bands=4, min_bands=2, shape=shape, places="random", min_width=0.2), seeded(0)
    met = set()
    for _ in range(30):
        drawn = member.sample(waves(click(20)), g)
        met.add(drawn["gains_db"].shape[1])
        assert drawn["edges"].shape == (20, drawn["gains_db"].shape[1] - inner)
        ends = torch.cat([torch.zeros(20, 1), drawn["edges"], torch.ones(20, 1)], 1)
        assert float(ends.diff(dim=1).min()) >= 0.2 - 1e-6
        if drawn["edges"].shape[1]:
            assert len(set(drawn["edges"][:, 0].tolist())) == 20
    assert met == {2, 3, 4}


def test_an_echo_follows_the_sound_and_dies_away() -> None:
    """Energy before the sound would move calls; an echo of the wrong strength would drown them."""
    member = build("reverb", min_decay_s=0.1, max_decay_s=0.1, min_direct_db=6.0, max_direct_db=6.0)
    heard = member(waves(click()), seeded(0)).signal[0]
    assert float(heard[100]) == pytest.approx(1, abs=1e-4)
    assert float(heard[:100].abs().max()) < 1e-4
    echo = heard[101:]
    assert 10 * math.log10(1 / float(echo.square().sum())) == pytest.approx(6, abs=0.1)
    fall_db = 10 * float((echo[:800].square().sum() / echo[1600:2400].square().sum()).log10())  # 0.05 s apart
    assert fall_db == pytest.approx(30, abs=2)


@pytest.mark.parametrize("name", ["reverb", "distance", "filter_chain"])
@pytest.mark.parametrize("at", [0, N - 96])
def test_an_echo_never_comes_before_its_sound(name: str, at: int) -> None:
    """A click at a clip's end echoed at its start; one at the start must have the whole of its echo."""
    echoing = {"reverb": {"min_direct_db": 0.0, "max_direct_db": 0.0}, "distance": {"min_m": 150.0}}
    options = echoing.get(name) or {"members": [{"name": each, "options": own} for each, own in echoing.items()]}
    member, signal = build(name, **options), torch.zeros(4, N)
    signal[:, at] = 1
    batch = waves(signal)
    drawn = member.draw(batch, seeded(0))
    heard = member.apply(batch, **drawn).signal
    before, after = heard[:, :max(at - 64, 0)], heard[:, at + 1:]  # what the air makes of a click has no delay
    assert not before.numel() or float(before.abs().max()) < 1e-4
    assert float(after.square().sum(1).min()) > 1e-4
    longer = member.apply(waves(torch.nn.functional.pad(signal, (0, N))), **drawn).signal
    assert torch.allclose(heard[:, :N - 64], longer[:, :N - 64], atol=1e-4)


def test_a_chain_of_filters_equals_the_filters_in_turn() -> None:
    """The chain is there to save time, not to be another augmentation.

    In turn, what rings beyond an end is lost each time, so the sound is in the middle, and the end is not compared.
    """
    batch = noisy(3, N)
    batch = batch.replace(signal=batch.signal * ((torch.arange(N) - N // 2).abs() < N // 8))
    chain = FilterChain(1.0, [{"name": name, "options": {}} for name in FILTERS])
    drawn = chain.draw(batch, seeded(0))
    expected = batch
    for name, its_own in zip(FILTERS, drawn["filters"], strict=True):
        expected = build(name).transform(expected, **its_own)
    assert torch.allclose(chain.apply(batch, **drawn).signal[:, :-500], expected.signal[:, :-500], atol=1e-4)


def test_a_chain_gives_each_filter_its_own_probability() -> None:
    """A filter with p = 0 in a chain does nothing to anyone."""
    batch = noisy(3, N)
    for name in FILTERS:
        chain = FilterChain(1.0, [{"name": name, "options": {"p": 0.0}}])
        assert torch.allclose(chain(batch, seeded(0)).signal, batch.signal, atol=1e-6)
    with pytest.raises(ValueError, match="Gain"):
        FilterChain(1.0, [{"name": "gain", "options": {}}])




# Distance -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature_c", "humidity_percent", "expected"), [
    (10.0, 70.0, [0.1, 0.4, 1.0, 1.9, 3.7, 9.7, 32.8, 117.0]),
    (20.0, 70.0, [0.1, 0.3, 1.1, 2.8, 5.0, 9.0, 22.9, 76.6]),
    (30.0, 70.0, [0.1, 0.3, 1.0, 3.1, 7.4, 12.7, 23.1, 59.3]),
    (15.0, 20.0, [0.3, 0.6, 1.2, 2.7, 8.2, 28.2, 88.8, 202.0])])
def test_air_absorbs_as_the_standard_says(temperature_c: float, humidity_percent: float, expected: list[float]) -> None:
    """Decibels per km in octaves from 63 Hz to 8 kHz, as printed in table 2 of ISO 9613-2:1996."""
    octaves_hz = 1000 * 10 ** (0.3 * torch.arange(-4, 4))
    lost_db_per_km = 1000 * air_db_per_m(octaves_hz, temperature_c, humidity_percent)
    assert torch.allclose(lost_db_per_km, torch.tensor(expected), rtol=0.005, atol=0.06)


def test_distance_makes_high_tones_fainter_than_low_ones() -> None:
    """A bird 100 m off has lost 0.5 dB at 1 kHz and 7.8 at 8 kHz: the echo apart, that is all that happens."""
    member = build("distance", min_m=100.0, max_m=100.0, equal_m=1e9)
    response_db = 20 * torch.fft.rfft(member(waves(click()), seeded(0)).signal).abs()[0].log10()
    assert float(response_db[0]) == pytest.approx(0, abs=0.01)
    assert float(response_db[250]) == pytest.approx(-0.5, abs=0.02)
    assert float(response_db[2000]) == pytest.approx(-7.76, abs=0.05)


@pytest.mark.parametrize("distance_m", [15.0, 150.0])
def test_the_echos_share_grows_with_the_distance(distance_m: float) -> None:
    """At 150 m the echo is as strong as the direct sound, at 15 m it is 20 dB below."""
    member = build("distance", min_m=distance_m, max_m=distance_m, max_decay_s=0.2, temperature_c=20.0)
    drawn = member.draw(waves(click()), seeded(0))
    drawn.pop("applied")
    spectrum = torch.ones(1, N + 1, dtype=torch.complex64)  # of a click and all of its echo
    member.echo(spectrum, 2 * N, drawn["distance_m"] / 150.0, **drawn)
    heard = torch.fft.irfft(spectrum, n=2 * N)[0]
    assert 10 * math.log10(float(heard[0] ** 2 / heard[1:].square().sum())) == pytest.approx(
        20 * math.log10(150 / distance_m), abs=0.1)
    air_db = distance_m * air_db_per_m(2.0 * torch.arange(N + 1), 20.0, 70.0)
    expected = torch.fft.irfft(spectrum * 10 ** (-air_db / 20), n=2 * N)[0].roll(CLICK)[:N]
    assert torch.allclose(member.transform(waves(click()), **drawn).signal[0], expected, atol=1e-5)


# Recorders and formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [0.0, 1.0])
def test_clipping_cuts_at_the_drawn_level(soft: float) -> None:
    """Hard: what is below the limit stays, what is above lies on it. Soft: all of it is bent, nothing passes."""
    batch = waves(tones(50))
    member = build("clipping", soft_share=soft)
    drawn = member.sample(batch, seeded(0))
    assert 1 <= float(drawn["below_peak_db"].min()) <= float(drawn["below_peak_db"].max()) <= 15
    clipped = member.transform(batch, **drawn).signal
    limit = (batch.signal.abs().amax(1) * 10 ** (-drawn["below_peak_db"] / 20))[:, None]
    if soft:
        assert torch.allclose(clipped, limit * (batch.signal / limit).tanh(), atol=1e-6)
    else:
        assert torch.allclose(clipped, batch.signal.sign() * torch.minimum(batch.signal.abs(), limit), atol=1e-6)
    assert bool((clipped.abs() <= limit + 1e-6).all())


def test_both_kinds_of_clipping_occur_in_a_batch() -> None:
    """Each example is clipped as it was drawn, not as its neighbour."""
    batch, member = waves(tones(20)), build("clipping", soft_share=0.3)
    drawn = member.sample(batch, seeded(0))
    assert 0 < int(drawn["soft"].sum()) < 20
    clipped = member.transform(batch, **drawn).signal
    for kind in (True, False):
        alone = member.transform(batch, **drawn | {"soft": torch.full((20,), kind)}).signal
        assert torch.equal(clipped[drawn["soft"] == kind], alone[drawn["soft"] == kind])


@pytest.mark.parametrize("n_samples", [1, 511, 767, 768, 8000, 160_000])
def test_blocks_put_together_again_are_the_wave(n_samples: int) -> None:
    """The codec must change only what it drops: seams between blocks would click 42 times a second."""
    wave = torch.randn(2, n_samples, generator=seeded(0))
    assert torch.allclose(joined_blocks(blocks(wave), n_samples), wave, atol=1e-6)


def test_a_codec_that_drops_nothing_leaves_the_wave() -> None:
    """The whole path there and back, with all thresholds out of reach."""
    batch = noisy(6, N)
    member = build("codec", min_limit_hz=16_000.0, min_mask_db=300.0, max_mask_db=300.0)
    assert torch.allclose(member(batch, seeded(0)).signal, batch.signal, atol=1e-6)


def test_a_codec_keeps_nothing_above_its_limit() -> None:
    """The hard edge in the spectrogram of an MP3, which a model may else take for the end of a call."""
    batch = noisy(5, 32_000)
    member = build("codec", min_mask_db=300.0, max_mask_db=300.0)
    drawn = member.sample(batch, seeded(0))
    power = torch.fft.rfft(member.transform(batch, **drawn).signal).abs().square()
    for row, limit_hz in zip(power, drawn["limit_hz"].tolist(), strict=True):
        assert 7000 <= limit_hz <= 16_000
        kept, lost = row[:round(limit_hz) - 100].mean(), row[round(limit_hz) + 100:].mean()
        assert float(lost / kept) < 1e-3


def test_a_codec_drops_a_faint_tone_beside_a_loud_one_and_keeps_it_alone_or_far_away() -> None:
    """Masking is what costs the quiet bird next to the loud one its place, not quietness as such."""
    time_s = torch.arange(32_000) / RATE_HZ
    loud, near, far = (torch.sin(2 * math.pi * hertz * time_s) for hertz in (4000.0, 4750.0, 9000.0))
    signal = torch.stack([loud + 0.03 * near, 0.03 * near, loud + 0.03 * far])
    member = build("codec", min_limit_hz=16_000.0, min_mask_db=6.0, max_mask_db=6.0)
    heard = member(waves(signal), seeded(0)).signal[:, 8000:24_000]
    spectrum = torch.fft.rfft(heard * torch.hann_window(16_000)).abs() / 4000
    assert float(spectrum[0, 2000]) == pytest.approx(1, rel=0.02)
    assert float(spectrum[0, 2375]) < 0.01
    assert float(spectrum[1, 2375]) == pytest.approx(0.03, rel=0.05)
    assert float(spectrum[2, 4500]) == pytest.approx(0.03, rel=0.05)
