"""Composed soundscapes: levels, times and truth are what was asked for, measured back from the wave."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import welch

from birdkit.synthesis import composition
from birdkit.synthesis.ambience import coloured_noise
from birdkit.synthesis.composition import Bout, Event, compose, compose_from_recordings, window_truth

RATE = 16_000


def tone(duration_s: float, hz: float = 2000.0, gain: float = 0.5) -> np.ndarray:
    return (gain * np.sin(2 * np.pi * hz * np.arange(round(duration_s * RATE)) / RATE)).astype(np.float32)


def padded(wave: np.ndarray, before_s: float, after_s: float) -> np.ndarray:
    return np.concatenate([np.zeros(round(before_s * RATE)), wave, np.zeros(round(after_s * RATE))]).astype(np.float32)


def noise(duration_s: float = 20.0, seed: int = 0) -> np.ndarray:
    return 0.01 * coloured_noise(round(duration_s * RATE), np.random.default_rng(seed), slope=0.5)


def bout(label: str, *spans_s: tuple[float, float], duration_s: float = 20.0) -> Bout:
    audible = np.zeros(round(duration_s / composition.FRAME_S), dtype=bool)
    for start_s, end_s in spans_s:
        audible[round(start_s / composition.FRAME_S):round(end_s / composition.FRAME_S)] = True
    return Bout(label, 0.0, duration_s, 0.0, audible)


@pytest.mark.parametrize("snr_db", [-8.0, 0.0, 16.0])
@pytest.mark.parametrize("silence_s", [0.0, 3.0])
def test_an_event_has_the_level_asked_for_while_it_is_active(snr_db: float, silence_s: float) -> None:
    """Silence around a call must not make it louder, nor its own gain matter."""
    background = noise()
    for gain in (0.5, 0.001):
        event = Event(padded(tone(2, gain=gain), silence_s, silence_s), "a", 4.0, snr_db)
        added = compose(background, [event], RATE).wave - background
        start = round((4 + silence_s) * RATE)
        signal = np.mean(added[start:start + 2 * RATE] ** 2)
        stretch = composition._high_pass(background, RATE, 150)[4 * RATE:round((6 + 2 * silence_s) * RATE)]
        assert 10 * np.log10(signal / np.mean(stretch**2)) == pytest.approx(snr_db, abs=0.3)


def test_wind_below_150_hz_does_not_count_as_background() -> None:
    """A rumble nobody hears a bird over would otherwise drown every call in its own level."""
    event, rumble = Event(tone(2), "a", 4.0, 0.0), tone(20, hz=20, gain=0.5)
    calm, windy = (compose(wave, [event], RATE).wave - wave for wave in (noise(), noise() + rumble))
    assert np.std(windy) == pytest.approx(np.std(calm), rel=0.05)


def test_audible_time_is_the_call_not_the_silence_around_it() -> None:
    """Half of a focal clip can be silence; a window of it holds nothing to find."""
    event = Event(padded(tone(1.5), 2, 3), "a", 5.0, 5.0)
    (found,) = compose(noise(), [event], RATE).bouts
    ((start_s, end_s),) = found.spans_s
    assert (start_s, end_s) == (pytest.approx(7.0, abs=0.05), pytest.approx(8.5, abs=0.05))
    assert found.audible_s == pytest.approx(1.5, abs=0.08)


def test_gate_keeps_a_steady_insect_and_a_call_in_hiss_and_nothing_of_silence() -> None:
    """Three kinds of clip that a fixed threshold gets wrong."""
    assert composition.active_frames(tone(3), RATE).all()
    hiss = 0.03 * np.random.default_rng(0).standard_normal(6 * RATE).astype(np.float32)
    hiss[2 * RATE:3 * RATE] += tone(1)
    active = np.flatnonzero(composition.active_frames(hiss, RATE)) * composition.FRAME_S
    assert (active.min(), active.max()) == (pytest.approx(2, abs=0.03), pytest.approx(2.98, abs=0.03))
    assert not composition.active_frames(np.zeros(RATE), RATE).any()
    click = np.zeros(10 * RATE, dtype=np.float32)
    click[RATE] = 1
    assert composition.active_frames(click, RATE).sum() == 1


def test_truth_follows_the_two_rules() -> None:
    """0.2 s of a window, or 30 % of one bout however short; a crumb over the edge of a window is neither."""
    bouts = [bout("long", (3.0, 5.1)), bout("edge", (3.0, 5.2)), bout("click", (11.0, 11.06)),
             bout("split", (4.96, 5.04)), bout("sum", (15.0, 15.1)), bout("sum", (18.0, 18.1), (1.0, 2.0))]
    classes = ["click", "edge", "long", "none", "split", "sum"]
    truth = window_truth(bouts, classes, n_windows=4)
    assert {label: truth[:, classes.index(label)].tolist() for label in classes} == {
        "long": [1, 0, 0, 0], "edge": [1, 1, 0, 0], "click": [0, 0, 1, 0], "split": [1, 1, 0, 0],
        "sum": [1, 0, 0, 1], "none": [0, 0, 0, 0]}


def test_truth_does_not_count_two_overlapping_animals_twice() -> None:
    """Two birds calling for the same 0.1 s are 0.1 s of the class."""
    long = (6.0, 8.0)
    assert not window_truth([bout("a", (0.0, 0.1), long)] * 2, ["a"], n_windows=1)[0, 0]


def test_truth_refuses_a_label_without_a_column() -> None:
    """A misspelt label would otherwise be a class that is never right."""
    with pytest.raises(ValueError, match="bouts of b, which are not among the 1 classes"):
        window_truth([bout("b", (0, 1))], ["a"], n_windows=1)


def test_the_whole_is_scaled_down_only_when_it_would_clip() -> None:
    """A clipped soundscape has overtones that no animal made."""
    background = noise()
    quiet = compose(background, [Event(tone(1), "a", 0.0, 0.0)], RATE).wave
    np.testing.assert_array_equal(quiet[2 * RATE:], background[2 * RATE:])
    loud = compose(background, [Event(tone(1), "a", 0.0, 60.0)], RATE).wave
    assert np.abs(loud).max() == pytest.approx(0.99)


def test_an_event_over_the_end_is_cut_and_one_outside_refused() -> None:
    """What is not in the file must not be in its truth."""
    soundscape = compose(noise(10), [Event(tone(5), "a", 8.0, 0.0)], RATE)
    assert len(soundscape.wave) == 10 * RATE and soundscape.bouts[0].end_s == 10
    for wrong, message in ((Event(tone(1), "a", 10.0, 0.0), "outside"), (Event(tone(1), "a", -1.0, 0.0), "outside"),
                           (Event(0 * tone(1), "a", 1.0, 0.0), "silent"),
                           (Event(np.nan * tone(1), "a", 1.0, 0.0), "not finite")):
        with pytest.raises(ValueError, match=message):
            compose(noise(10), [wrong], RATE)
    with pytest.raises(ValueError, match="background is silent"):
        compose(np.zeros(RATE), [], RATE)


def recordings() -> list[tuple[composition.Wave, tuple[str, ...]]]:
    tones = [(f"c{i}", padded(tone(1.0, hz=1000 + 500 * i), 1, 4)) for i in range(8)]
    return [(wave, (label,)) for label, wave in tones]


def test_the_same_seed_gives_the_same_soundscapes_and_the_first_n_of_more() -> None:
    """A validation set that changes between epochs measures itself."""
    sets = [list(compose_from_recordings(recordings(), [noise()], rng=np.random.default_rng(seed), sample_rate_hz=RATE,
                                         n_soundscapes=n, soundscape_s=20)) for seed, n in ((5, 3), (5, 4), (6, 3))]
    for one, other in zip(sets[0], sets[1], strict=False):
        np.testing.assert_array_equal(one.wave, other.wave)
        assert [b.label for b in one.bouts] == [b.label for b in other.bouts]
    assert not np.array_equal(sets[0][0].wave, sets[2][0].wave)


def test_every_class_is_dealt_about_as_often() -> None:
    """Macro scores of rare classes need windows too, whatever the training set's tail looks like."""
    many = [(wave, labels) for wave, labels in recordings() for _ in range(20 if labels[0] == "c0" else 1)]
    made = list(compose_from_recordings(many, [], rng=np.random.default_rng(0), sample_rate_hz=RATE, n_soundscapes=16,
                                        soundscape_s=10))
    heard = [sum(any(b.label == f"c{i}" for b in one.bouts) for one in made) for i in range(8)]
    assert max(heard) - min(heard) <= 1
    assert all(3 <= len({b.label for b in one.bouts}) <= 7 for one in made)


def test_composed_truth_is_where_the_sound_is() -> None:
    """The set is worth what its truth is worth: a tone's band must be loud in its windows and quiet in the others."""
    inside, outside = [], []
    classes = [f"c{i}" for i in range(8)]
    for one in compose_from_recordings(recordings(), [noise()], rng=np.random.default_rng(2), sample_rate_hz=RATE,
                                       n_soundscapes=6, soundscape_s=20, snr_db=(6, 16)):
        truth = one.truth(classes)
        assert truth.shape == (4, 8) and truth.any()
        for window, label in np.ndindex(*truth.shape):
            hz, power = welch(one.wave[window * 5 * RATE:(window + 1) * 5 * RATE], RATE, nperseg=4096)
            own = power[abs(hz - 1000 - 500 * label) < 20].max() / np.median(power[(hz > 800) & (hz < 5000)])
            (inside if truth[window, label] else outside).append(own)
    assert np.median(inside) > 100 * np.median(outside)
    assert np.quantile(inside, 0.1) > np.quantile(outside, 0.9)


def test_a_recording_with_other_labels_is_used_only_where_there_is_no_cleaner_one() -> None:
    """A second animal in the clip would be heard and counted as absent."""
    mixed: list[tuple[composition.Wave, tuple[str, ...]]] = [(lambda: pytest.fail("loaded"), ("a", "b"))]
    list(compose_from_recordings([*mixed, (tone(3), ("a",))], [], rng=np.random.default_rng(0), sample_rate_hz=RATE,
                                 n_soundscapes=2, soundscape_s=5))
    made = list(compose_from_recordings([(tone(3), ("a", "b"))], [], rng=np.random.default_rng(0), sample_rate_hz=RATE,
                                        n_soundscapes=1, soundscape_s=5))
    assert {b.label for b in made[0].bouts} == {"a"}
    with pytest.raises(ValueError, match="no recordings"):
        list(compose_from_recordings([], [], rng=np.random.default_rng(0), sample_rate_hz=RATE, n_soundscapes=1))


@pytest.mark.parametrize("background", [np.zeros(5 * RATE), np.zeros(0), noise(2), noise(90)])
def test_any_background_gives_a_soundscape_of_the_wanted_length(background: np.ndarray) -> None:
    """Real unlabelled sets hold files of digital silence, short ones and long ones."""
    (made,) = compose_from_recordings(recordings(), [background], rng=np.random.default_rng(0), sample_rate_hz=RATE,
                                      n_soundscapes=1, soundscape_s=10)
    assert len(made.wave) == 10 * RATE and np.isfinite(made.wave).all() and np.std(made.wave) > 0


def test_reverberation_rings_on_and_decays() -> None:
    """A click gets a tail that is 60 dB lower after the decay time, and comes first itself."""
    click = np.zeros(RATE, dtype=np.float32)
    click[0] = 1
    wave = composition.reverberate(click, np.random.default_rng(0), RATE, decay_s=0.4, wet=0.5)
    assert np.abs(wave).argmax() == 0
    early, late = (np.mean(wave[round(s * RATE):round((s + 0.05) * RATE)] ** 2) for s in (0.05, 0.25))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)
    assert np.sum(wave[1:] ** 2) == pytest.approx(0.25, rel=0.1)


def test_low_pass_takes_the_high_tone_only() -> None:
    """Distance: the air swallows the top first."""
    for hz, share in ((500, 1.0), (7500, 0.02)):
        before = tone(1, hz=hz)
        assert np.std(composition.low_pass(before, RATE, 1500)) / np.std(before) == pytest.approx(share, abs=0.02)
    np.testing.assert_array_equal(composition.low_pass(tone(1), RATE, 8000), tone(1))
