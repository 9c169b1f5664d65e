"""Clips: each kind from where it should be, inside its recording, and short ones filled as asked."""
import numpy as np
import pytest
from conftest import RATE, noise, tone

from birdkit.data.crops import Energy, choose_start, fill


def starts(crop: str, n: int = 300, **options) -> np.ndarray:
    """Starts of clips of 5 s in 20 to 50 s of a file."""
    rng = np.random.default_rng(0)
    return np.array([choose_start(crop, 20.0, 45.0, 5.0, rng=rng, **options) for _ in range(n)])


def test_first_and_last_clips_do_not_move() -> None:
    """BirdCLEF 2024's third place trained on first and last crops alone."""
    assert set(starts("first")) == {20.0} and set(starts("last")) == {45.0}


def test_random_clips_are_spread_over_the_whole_recording() -> None:
    """A flag of the wrong type kept every crop of the second seed at the first twelve seconds."""
    found = starts("random")
    assert 20 <= found.min() < 21 and 44 < found.max() <= 45
    assert np.histogram(found, 5, (20, 45))[0].min() > 300 / 5 / 2


def test_marked_clips_are_centred_and_stay_inside() -> None:
    """The call that somebody marked is in the middle, or as near to it as the file allows."""
    assert set(starts("marked", centre_s=30.0)) == {27.5}
    assert set(starts("marked", centre_s=21.0)) == {20.0} and set(starts("marked", centre_s=49.0)) == {45.0}
    assert len(set(starts("marked"))) > 200  # nothing is marked: random


def test_energy_weighted_clips_are_where_the_sound_is() -> None:
    """A focal recording is half silence; a crop of silence teaches a wrong label."""
    wave = np.concatenate([noise(10, amplitude=0.01), tone(1000, 5), noise(15, amplitude=0.01)])
    energy = Energy.measure([wave], RATE, start_s=20.0)
    found = starts("rms", energy=lambda: energy)
    heard = (found > 25) & (found < 35)
    assert heard.mean() > 0.85 and found.min() >= 20 and found.max() <= 45
    assert set(np.round(found * 2) - found * 2) == {0.0}


def test_the_odds_of_a_clip_follow_its_rms() -> None:
    """Two seconds of a loud tone, two of one ten times quieter."""
    wave = np.concatenate([tone(1000, 2), 0.1 * tone(1000, 2)])
    found, odds = Energy.measure([wave], RATE).loud_starts(0.0, 2.0, 2.0)
    assert found.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert odds.sum() == pytest.approx(1.0) and odds[0] / odds[-1] == pytest.approx(10, rel=1e-3)
    silent = Energy.measure([np.zeros(RATE, np.float32)], RATE)
    assert silent.loud_starts(0.0, 0.75, 0.25)[1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("rate", [RATE, 22_051])
def test_energy_is_that_of_the_wave_however_it_is_read(rate: int) -> None:
    """Measured in pieces, as a long file is, and read at any time, it is what numpy says of the samples."""
    rng = np.random.default_rng(1)
    wave = (rng.standard_normal(round(7.3 * rate)) * np.linspace(0, 1, round(7.3 * rate))).astype(np.float32)
    block = round(0.25 * rate)
    pieces = [wave[:4 * block], wave[4 * block:20 * block], wave[20 * block:]]
    whole = Energy.measure([wave], rate)
    np.testing.assert_allclose(Energy.measure(pieces, rate).total, whole.total)
    assert whole.edges_s[-1] == pytest.approx(len(wave) / rate)
    for start_s in (0.0, 1.3, 2.77):
        clip = wave[round(start_s * rate):round((start_s + 3.1) * rate)]
        assert whole.rms(np.array([start_s]), 3.1)[0] == pytest.approx(np.sqrt(np.mean(clip ** 2)), rel=0.02)


def test_a_short_wave_is_repeated_never_filled_with_noise() -> None:
    """The second seed put full-scale noise between repeats: the bird was buried under it."""
    wave = noise(1)
    phases = set()
    for seed in range(20):
        clip = fill(wave, 7 * RATE // 2, "repeat", rng=np.random.default_rng(seed))
        assert np.array_equal(clip[:RATE], clip[RATE:2 * RATE]) and np.array_equal(clip[:RATE // 2], clip[3 * RATE:])
        assert sorted(clip[:RATE]) == sorted(wave)
        phases.add(clip[0])
    assert len(phases) > 10


def test_a_short_wave_is_placed_between_zeros_or_before_them() -> None:
    """At a random place a network cannot learn that calls are at the start; all of the wave must stay in."""
    wave = np.ones(100, np.float32)
    first = []
    for seed in range(50):
        clip = fill(wave, 150, "place", rng=np.random.default_rng(seed))
        assert len(clip) == 150 and clip.sum() == 100 and clip.dtype == np.float32
        assert np.flatnonzero(np.diff(np.flatnonzero(clip)) != 1).size == 0
        first.append(int(clip.argmax()))
    assert min(first) < 5 and max(first) > 45
    assert np.flatnonzero(fill(wave, 150, "start", rng=np.random.default_rng(0))).tolist() == list(range(100))
