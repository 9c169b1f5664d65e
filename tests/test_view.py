"""Which clips a network is shown, and where their segments lie, on counted samples."""
import numpy as np
import pytest
from conftest import RATE, noise

from birdkit.config import FrontEndConfig, RunConfig
from birdkit.inference import SoundscapeWave
from birdkit.inference.view import View
from birdkit.inference.windows import covering, window_bounds
from birdkit.settings import replace

LENGTHS_S = (0.1, 0.3, 3.9, 4.0, 5.0, 12.0, 60.0, 61.3)


def view(run: RunConfig, **changes: object) -> View:
    """The clips of a config, 4 s each unless changed."""
    return View.of(replace(run, **{f"inference__{name}": value for name, value in changes.items()}), "cpu")


WAYS = [{}, {"clip_step_s": 1.5}, {"clip_shifts_s": (1.0, 2.5)}, {"clip_step_s": 1.5, "doubled_context": True},
        {"clip_step_s": 2.0, "doubled_context": True, "clip_shifts_s": (0.5,)}]


@pytest.mark.parametrize("seconds", LENGTHS_S)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_moment_is_heard_with_and_without_what_augmentation_adds(small_run: RunConfig, seconds: float,
                                                                       way: dict[str, object]) -> None:
    """A gap between clips is a call that no model ever hears; when time is short it must not open either."""
    one, n = view(small_run, **way), round(seconds * RATE)
    starts, needed = one.starts(n), one.is_needed(n)
    assert (np.diff(starts) > 0).all() and starts[0] == 0
    for some in (starts, starts[needed]):
        heard = np.zeros(n, bool)
        for start in some:
            heard[start:start + one.own_samples] = True
        assert heard.mean() > 1 - 0.05 * RATE / n  # a rest of less than 0.05 s gets no clip of its own
        assert some[-1] + one.own_samples <= max(n, one.own_samples)


def test_what_is_needed_is_the_contiguous_grid_where_there_is_one(small_run: RunConfig) -> None:
    """Without augmentation a file must get what a config without augmentation gives it: other files did."""
    plain, n = view(small_run), 61 * RATE
    for way in ({"clip_shifts_s": (2.5,)}, {"clip_step_s": 2.0}, {"clip_step_s": 1.0}):
        one = view(small_run, **way)
        assert one.starts(n)[one.is_needed(n)].tolist() == plain.starts(n).tolist()
        assert len(one.starts(n)) > len(plain.starts(n)) + 10
    assert plain.is_needed(n).all()


def test_half_a_step_is_a_shift_of_half_a_clip(small_run: RunConfig) -> None:
    """Overlap and shift are two names for one grid."""
    n = 60 * RATE
    shifted = view(small_run, clip_shifts_s=(2.0,)).starts(n)
    assert view(small_run, clip_step_s=2.0).starts(n).tolist() == shifted.tolist()


def test_covering_keeps_no_clip_too_many() -> None:
    """Each clip too many is time that was short."""
    assert covering(np.array([0]), 10).tolist() == [True]
    assert np.flatnonzero(covering(np.arange(0, 100, 5), 12)).tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19]


def test_a_doubled_clip_is_the_second_seeds() -> None:
    """[t - 1, t + 5] and then [t, t + 6] for every five seconds; at the edges the outermost second is repeated."""
    run = RunConfig(frontend=FrontEndConfig())
    one = view(run, clip_step_s=5.0, doubled_context=True)
    wave = noise(60)
    clips = one.clips(SoundscapeWave(wave, RATE), one.starts(len(wave)))
    assert clips.shape == (12, 12 * RATE) and one.context_samples == RATE
    padded = np.concatenate([wave[:RATE], wave, wave[-RATE:]])
    for k, clip in enumerate(clips):
        first = padded[5 * k * RATE:(5 * k + 6) * RATE]
        second = padded[(5 * k + 1) * RATE:(5 * k + 7) * RATE]
        assert np.array_equal(clip, np.concatenate([first, second]))


@pytest.mark.parametrize("seconds", [0.1, 0.3, 1.6, 3.9, 6.1])
def test_doubled_clips_of_any_length_hold_nothing_invented(small_run: RunConfig, seconds: float) -> None:
    """Also of a file that is shorter than its context: every sample is one of the file's."""
    one, wave = view(small_run, clip_step_s=1.5, doubled_context=True), noise(seconds)
    clips = one.clips(SoundscapeWave(wave, RATE), one.starts(len(wave)))
    assert clips.shape[1] == 4 * RATE and np.isin(clips, wave).all()


def test_segments_of_a_doubled_clip_lie_where_their_half_does(small_run: RunConfig) -> None:
    """The first half begins a context earlier; taking it for contiguous audio would shift what is heard by seconds."""
    one = view(small_run, clip_step_s=1.5, doubled_context=True)  # 2 s a half, of 0.5 s of context and 1.5 s
    bounds = window_bounds(6 * RATE, 1.5 * RATE, 4)
    coverage = one.coverage(bounds, np.array([0, 1.5 * RATE]), 8, "time").reshape(4, 2, 8)
    assert coverage[:, 0].tolist() == [[0, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1], [0] * 8, [0] * 8]
    assert coverage[:, 1].tolist() == [[1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0],
                                       [0, 0, 0, 0, 0, 0, 0, 1], [0] * 8]
    bands = one.coverage(bounds, np.array([0]), 8, "frequency")
    assert bands[0].tolist() == [1] * 8 and not bands[1:].any()


@pytest.mark.parametrize(("changes", "words"), [
    ({"clip_step_s": 4.5}, "clip_step_s = 4.5"), ({"clip_shifts_s": (4.0,)}, "clip_shifts_s = \\(4.0,\\)"),
    ({"clip_shifts_s": (0.0,)}, "clip_shifts_s"), ({"doubled_context": True}, "doubled_context needs clip_step_s"),
    ({"doubled_context": True, "clip_step_s": 2.5}, "at most 2.0"), ({"window_shift": -1}, "window_shift = -1"),
    ({"doubled_context": True, "clip_step_s": 1.0, "scales": (1, 2)}, "one scale")])
def test_clips_that_cannot_be_are_refused(small_run: RunConfig, changes: dict[str, object], words: str) -> None:
    """Each would leave audio unheard, or be an experiment that was never run."""
    with pytest.raises(ValueError, match=words):
        view(small_run, **changes)
