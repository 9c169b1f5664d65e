"""Test-time augmentation on tones and clicks: shifts and overlaps change nothing steady and move nothing in time."""
import numpy as np
import pytest
import torch
from conftest import RATE, click, noise, tone
from loudness import SEGMENTS, loudness

from birdkit.inference import predict_wave
from birdkit.inference.view import LEAST_WINDOW_S
from birdkit.inference.windows import n_windows
from birdkit.output import probabilities
from birdkit.settings import replace

WINDOW_S = 5.0
WAYS = [{"clip_step_s": 1.5}, {"clip_shifts_s": (2.5,)}, {"window_shift": 2},
        {"clip_step_s": 1.5, "doubled_context": True}, {"clip_step_s": 2.0, "clip_shifts_s": (0.5,), "window_shift": 2},
        {"pool": "clips", "clip_step_s": 1.0}]
each_way = pytest.mark.parametrize("way", WAYS, ids=str)


def logits(wave: np.ndarray, **way: object) -> np.ndarray:
    """What the loudness listener says of each window, (W,)."""
    p = predict_wave(wave, [loudness(**way)], window_s=WINDOW_S)[:, 0].astype(float)  # type: ignore[arg-type]
    return np.log(p) - np.log1p(-p)


@each_way
def test_a_steady_sound_stays_what_it_is(way: dict[str, object]) -> None:
    """A tone that never changes is equally loud wherever a clip or a window begins."""
    wave = tone(2000, 60) + noise(60, amplitude=0.02)
    assert np.abs(logits(wave, **way) - logits(wave)).max() < 0.03  # of 10 dB


@pytest.mark.parametrize("at_s", [0.01, 4.9, 5.1, 20.1, 39.9, 59.98])
@each_way
def test_a_click_stays_in_its_window(way: dict[str, object], at_s: float) -> None:
    """At the edges, on both sides of seams of windows and of clips: its own window hears it most; those that neither
    hold it nor lie within the reach of a shift or an overlapping clip hear nothing."""
    quiet, loud = noise(60, amplitude=1e-3), click(at_s, 60)
    for spread in range(8):  # a click lasts 0.1 s, so that it is louder than any chance
        loud[min(round(at_s * RATE) + 37 * spread, 60 * RATE - 1)] += 0.9
    change = logits(loud, **way) - logits(quiet, **way)
    own = int(at_s // WINDOW_S)
    assert change.argmax() == own and change[own] > 0.005
    reach_s = 4.0 if way.get("pool") == "clips" else 0.5 if way.get("window_shift") else 0.1
    starts = WINDOW_S * np.arange(12)
    away = (starts - reach_s > at_s) | (starts + WINDOW_S + reach_s < at_s)
    assert away.sum() >= 9 and np.abs(change[away]).max() < 1e-3


@each_way
@pytest.mark.parametrize("seconds", [0.1, 0.3, 3.0, 4.0, 7.5, 61.3])
def test_any_length_has_its_windows_and_the_end_is_heard(way: dict[str, object], seconds: float) -> None:
    """A file shorter than a clip, or one with a rest, must neither crash nor lose its last window."""
    quiet = noise(seconds, amplitude=1e-3)
    ringing = quiet.copy()
    ringing[-max(RATE // 20, 1):] += tone(3000, seconds)[-max(RATE // 20, 1):]
    before, after = logits(quiet, **way), logits(ringing, **way)
    assert len(before) == n_windows(len(quiet), WINDOW_S * RATE, least_samples=LEAST_WINDOW_S * RATE)
    assert np.isfinite(after).all() and (after - before).argmax() == len(before) - 1
    assert (after - before)[-1] > 0.01


def test_shifted_clips_are_averaged_segment_by_segment() -> None:
    """By hand: each window is the mean over its segments, of both grids of clips, as far as they lie inside."""
    wave = np.concatenate([noise(6, amplitude=a, seed=k) for k, a in enumerate((0.3, 1e-3, 0.03, 0.1))])
    one = loudness(clip_shifts_s=(2.0,))
    clips = [wave[start * RATE:(start + 4) * RATE] for start in range(0, 21, 2)]
    levels = one(one.images(np.stack(clips))).segment_logits[..., 0].numpy()
    by_hand = []
    for start in range(0, 24, 5):
        segment_s = 2 * np.arange(11)[:, None] + np.arange(SEGMENTS) / 4
        inside = (segment_s >= start - 1e-9) & (segment_s < start + 5 - 1e-9)
        by_hand.append(levels[inside].mean())
    assert np.allclose(logits(wave, clip_shifts_s=(2.0,)), by_hand, atol=1e-4)


def test_a_window_shift_is_the_mean_of_three_windows() -> None:
    """By hand: two segments earlier, where it is, two later; at the edges as far as the soundscape goes."""
    wave = np.concatenate([noise(2, amplitude=a, seed=k) for k, a in enumerate((0.3, 1e-3, 0.03, 0.1, 0.01, 0.2))])
    one = loudness()
    output = one(one.images(wave.reshape(3, -1)))
    by_hand = []
    for start in (0, 20, 40):
        width = min(20, 48 - start)
        rows = np.zeros((3, 48), np.float32)
        for row, first in zip(rows, (start - 2, start, start + 2), strict=True):
            row[min(max(first, 0), 48 - width):][:width] = 1
        by_hand.append(probabilities(output, torch.from_numpy(rows)).mean(0))
    got = predict_wave(wave, [loudness(window_shift=2)], window_s=WINDOW_S)
    assert np.allclose(got, torch.stack(by_hand), atol=1e-5)
    assert np.abs(got - predict_wave(wave, [one], window_s=WINDOW_S)).max() > 0.01


def test_a_doubled_clip_says_of_its_seconds_what_they_are() -> None:
    """Louder and louder steps: each window's level is its own, though its clip shows the neighbours, too."""
    amplitudes = 10 ** np.linspace(-3, -1, 12)
    wave = np.concatenate([noise(5, amplitude=a, seed=k) for k, a in enumerate(amplitudes)])
    doubled = logits(wave, clip_step_s=1.25, doubled_context=True)
    assert np.abs(doubled - logits(wave)).max() < 0.02 and (np.diff(doubled) > 0.2).all()


def test_settings_that_a_model_cannot_follow_are_refused() -> None:
    """A shift by segments means nothing to a head over frequency; an odd number of segments has no halves."""
    one = loudness()
    run = replace(one.config, model__head_axis="frequency", inference__window_shift=2)
    with pytest.raises(ValueError, match="window_shift moves windows by segments of time"):
        type(one)(one.frontend, one.classify, config=run, classes=one.classes, n_segments=SEGMENTS)
    run = replace(one.config, inference__clip_step_s=1.0, inference__doubled_context=True)
    with pytest.raises(ValueError, match="7 segments cannot be halved"):
        type(one)(one.frontend, one.classify, config=run, classes=one.classes, n_segments=7)
