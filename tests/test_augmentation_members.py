"""Augmentations, member by member: what each one does to tones, clicks, noise and silence."""
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from birdkit.augmentations import AUGMENTATIONS, Augmentation, FilterChain
from birdkit.batch import Batch

RATE_HZ = 32_000
N = 8000
FILTERS = ("low_pass", "random_eq", "reverb")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def build(name: str, **options: Any) -> Augmentation:
    return AUGMENTATIONS.build(name, **{"p": 1.0} | options)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def noisy(*shape: int) -> Batch:
    """A batch of noise of this shape, without a background."""
    g = seeded(0)
    return Batch(torch.randn(shape, generator=g) * 0.1, torch.rand(shape[0], 5, generator=g), torch.ones(shape[0]))


def waves(signal: Tensor, background: Tensor | None = None) -> Batch:
    """A batch whose example i carries label i alone."""
    n = len(signal)
    sources = {}
    if background is not None:
        sources["soundscapes"] = Batch(background, torch.eye(n).flip(0), torch.full((n,), 3.0))
    return Batch(signal, torch.eye(n), torch.arange(1.0, n + 1), sources=sources)


def tones(n: int, first_hz: float = 1000.0) -> Tensor:
    """n waves, each a tone of its own frequency (all whole periods) and its own amplitude."""
    time_s = torch.arange(N) / RATE_HZ
    frequency = first_hz + 400.0 * torch.arange(n)[:, None]
    return (0.1 * (1 + torch.arange(n)))[:, None] * torch.sin(2 * math.pi * frequency * time_s)


def amplitudes(signal: Tensor, n: int, first_hz: float = 1000.0) -> Tensor:
    """Amplitude of each of the n tones in each wave, (B, n)."""
    bins = ((first_hz + 400.0 * torch.arange(n)) * N / RATE_HZ).round().long()
    return torch.fft.rfft(signal).abs()[:, bins] * 2 / N


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


# Filters --------------------------------------------------------------------------------------------------------------


def click(n: int = 1) -> Tensor:
    signal = torch.zeros(n, N)
    signal[:, 100] = 1
    return signal


def test_a_low_pass_takes_half_the_power_at_its_cut_off() -> None:
    """Its response is that of scipy's Butterworth filter of the same order."""
    scipy_signal = pytest.importorskip("scipy.signal")
    member = build("low_pass", min_cutoff_hz=6000.0, max_cutoff_hz=6000.0, order=3)
    response = torch.fft.rfft(member(waves(click()), seeded(0)).signal).abs()[0]
    _, expected = scipy_signal.freqs(*scipy_signal.butter(3, 6000.0, analog=True), worN=torch.arange(N // 2 + 1) * 4.0)
    assert torch.allclose(response, torch.as_tensor(abs(expected), dtype=torch.float32), atol=1e-4)
    assert float(response[1500] ** 2) == pytest.approx(0.5, abs=1e-3)


def test_an_equaliser_has_its_gains_at_its_bands() -> None:
    """The drawn decibels are what a tone in the middle of a band meets, and straight lines join them."""
    member = build("random_eq", bands=4, lowest_hz=2000.0)
    gains_db = torch.tensor([[-6.0, 3.0, 0.0, 6.0]])
    response_db = 20 * torch.fft.rfft(member.transform(waves(click()), gains_db=gains_db).signal).abs()[0].log10()
    at = {2000: -6.0, 4000: 3.0, 8000: 0.0, 16_000: 6.0, 100: -6.0, 4000 * 2**0.5: 1.5}
    for frequency_hz, expected in at.items():
        assert float(response_db[round(frequency_hz / 4)]) == pytest.approx(expected, abs=0.02)


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


def test_a_chain_of_filters_equals_the_filters_in_turn() -> None:
    """The chain is there to save time, not to be another augmentation."""
    batch = noisy(3, N)
    chain = FilterChain(1.0, [{"name": name, "options": {}} for name in FILTERS])
    drawn = chain.draw(batch, seeded(0))
    expected = batch
    for name, its_own in zip(FILTERS, drawn["filters"], strict=True):
        expected = build(name).transform(expected, **its_own)
    assert torch.allclose(chain.apply(batch, **drawn).signal, expected.signal, atol=1e-5)


def test_a_chain_gives_each_filter_its_own_probability() -> None:
    """A filter with p = 0 in a chain does nothing to anyone."""
    batch = noisy(3, N)
    for name in FILTERS:
        chain = FilterChain(1.0, [{"name": name, "options": {"p": 0.0}}])
        assert torch.allclose(chain(batch, seeded(0)).signal, batch.signal, atol=1e-6)
    with pytest.raises(ValueError, match="Gain"):
        FilterChain(1.0, [{"name": "gain", "options": {}}])


# Mixing ---------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("labels", ["convex", "max"])
def test_cutmix_targets_are_the_share_of_time(labels: str) -> None:
    """The label of the stretch that came in is worth its length, or 1 where labels are joined."""
    signal = torch.arange(1.0, 7)[:, None].repeat(1, 1000)
    member = build("cutmix", labels=labels, level="none")
    drawn = member.sample(waves(signal), seeded(4))
    result = member.transform(waves(signal), **drawn)
    own = (result.signal - signal).abs() < 1e-5
    moved = drawn["partner"] != torch.arange(6)
    assert bool((own.float().diff(dim=1).abs().sum(1) <= 2).all())
    if labels == "max":
        assert torch.equal(result.target, torch.maximum(torch.eye(6), torch.eye(6)[drawn["partner"]]))
    else:
        assert torch.allclose(result.target.diagonal()[moved], own.float().mean(1)[moved], atol=1e-6)


def test_spectrograms_are_mixed_as_they_are() -> None:
    """Levels belong to waves; decibels divided by their peak would be another image."""
    batch = noisy(3, 2, 24, 64)
    member = build("mixup", level="peak")
    drawn = member.sample(batch, seeded(0))
    share = drawn["share"].view(-1, 1, 1, 1)
    expected = share * batch.signal + (1 - share) * batch.signal[drawn["partner"]]
    assert torch.allclose(member.transform(batch, **drawn).signal, expected, atol=1e-6)


# Backgrounds ----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["background", "soundscape_mix", "added_background"])
def test_a_missing_background_is_an_error_even_where_nothing_is_applied(name: str) -> None:
    """A run without its backgrounds must not look like one with them."""
    batch = noisy(3, N)
    with pytest.raises(ValueError, match="needs clips of the source 'soundscapes'; this batch has none"):
        build(name, p=0.0)(batch, seeded(0))
    with pytest.raises(ValueError, match="differ in shape"):
        build(name)(batch.replace(sources={"soundscapes": noisy(2, N)}), seeded(0))


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
