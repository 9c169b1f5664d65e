"""Clips and windows of a soundscape, counted in samples."""
import numpy as np
import pytest

from birdkit.inference.windows import clip_starts, n_windows, window_bounds, window_coverage

RATE = 100


@pytest.mark.parametrize("seconds", [0.3, 4.0, 7.0, 12.0, 61.3, 240.0])
@pytest.mark.parametrize("step_s", [12.0, 5.0])
def test_every_sample_is_heard_and_no_clip_reaches_past_the_end(seconds: float, step_s: float) -> None:
    """A second that no clip hears is a call that nobody can find."""
    n, clip = round(seconds * RATE), 12 * RATE
    starts = clip_starts(n, clip, round(step_s * RATE))
    heard = np.zeros(max(n, clip), bool)
    for start in starts:
        heard[start:start + clip] = True
    assert heard[:n].all()
    assert starts[-1] + clip <= max(n, clip)
    assert (np.diff(starts) > 0).all()


def test_the_last_clip_is_shifted_back_to_end_with_the_soundscape() -> None:
    """Real context instead of padding: the last window is predicted from as much audio as any other."""
    assert clip_starts(61 * RATE, 12 * RATE, 12 * RATE)[-1] == 49 * RATE


def test_a_step_longer_than_the_clip_is_refused() -> None:
    """It would leave audio that no clip hears."""
    with pytest.raises(ValueError, match="heard by no clip"):
        clip_starts(6000, 500, 501)


@pytest.mark.parametrize(("seconds", "count"), [(0.3, 1), (5.0, 1), (7.0, 2), (60.0, 12), (61.3, 13), (240.0, 48)])
def test_a_window_for_every_begun_five_seconds(seconds: float, count: int) -> None:
    """Twelve rows for a minute, and a row for the rest of an odd length."""
    assert n_windows(round(seconds * RATE), 5 * RATE) == count


@pytest.mark.parametrize(("seconds", "stride_s", "count"), [(0.3, 1, 1), (5, 1, 1), (6, 1, 2), (60, 3, 20),
                                                            (60, 2.5, 23), (61.3, 2.5, 24), (70, 60, 2)])
def test_windows_with_a_stride_end_with_the_soundscape(seconds: float, stride_s: float, count: int) -> None:
    """One too few leaves the end unlabelled; one too many is a window of what its neighbour has heard already."""
    n = round(seconds * RATE)
    assert n_windows(n, 5 * RATE, stride_samples=stride_s * RATE) == count
    bounds = window_bounds(n, 5 * RATE, count, stride_samples=stride_s * RATE)
    assert bounds[:, 0].tolist() == [stride_s * RATE * k for k in range(count)]
    assert (bounds[:, 1] == np.minimum(bounds[:, 0] + 5 * RATE, n)).all()
    assert (bounds[-1, 1] == n) == (stride_s <= 5 or bounds[-1, 0] + 5 * RATE >= n)


def test_a_stride_of_one_window_changes_no_bit() -> None:
    """Submissions must not change because labelling can overlap."""
    n, window = 61_300 * 32 + 7, 4.999 * RATE
    assert (window_bounds(n, window, 13) == window_bounds(n, window, 13, stride_samples=window)).all()
    assert n_windows(n, window) == n_windows(n, window, stride_samples=window)


def test_a_few_samples_too_many_make_no_window_and_no_clip() -> None:
    """Decoders give a minute some samples more; a thirteenth row would be one the host does not know."""
    assert n_windows(60 * RATE + 3, 5 * RATE, least_samples=10) == 12
    assert len(clip_starts(60 * RATE + 3, 5 * RATE, 5 * RATE, least_samples=5)) == 12


def test_windows_that_are_clips_cover_exactly_their_own_segments() -> None:
    """Then a window's probability is its clip's, to the last bit."""
    n, clip, segments = 60 * RATE, 5 * RATE, 7
    bounds = window_bounds(n, clip, 12)
    coverage = window_coverage(bounds, clip_starts(n, clip, clip), clip, segments)
    assert (coverage == np.kron(np.eye(12), np.ones(segments))).all()


def test_windows_share_all_segments_between_them() -> None:
    """Contiguous windows over contiguous clips: every segment's shares sum to one."""
    n, clip = 60 * RATE, 12 * RATE
    coverage = window_coverage(window_bounds(n, 5 * RATE, 12), clip_starts(n, clip, clip), clip, 24)
    assert coverage.shape == (12, 5 * 24)
    assert np.allclose(coverage.sum(0), 1)
    assert np.allclose(coverage.sum(1), 10)  # 5 s of segments of half a second


def test_repeated_audio_of_a_short_soundscape_counts_in_no_window() -> None:
    """A soundscape of 3 s is repeated to fill the clip; its one window is about the 3 s that exist."""
    bounds = window_bounds(3 * RATE, 5 * RATE, 1)
    coverage = window_coverage(bounds, np.array([0]), 12 * RATE, 12)
    assert coverage.tolist() == [[1.0] * 3 + [0.0] * 9]


def test_segments_that_are_bands_count_by_the_time_of_their_clip() -> None:
    """With a head over frequency every segment lasts the whole clip."""
    coverage = window_coverage(np.array([[0, 500], [500, 1000]]), np.array([0, 500]), 800, 4, axis="frequency")
    assert np.allclose(coverage, np.repeat([[5 / 8, 0], [3 / 8, 5 / 8]], 4, axis=1))
