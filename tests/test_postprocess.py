"""Post-processing: what must stay as it is, and what each function is for."""
from __future__ import annotations

import numpy as np
import pytest

from birdkit import postprocess
from birdkit.config import Member
from birdkit.postprocess import GATES, POSTPROCESS, apply, gate, power_of_low_ranked, scale_by_file_top, smooth


def minute(seed: int = 0, windows: int = 12, classes: int = 40) -> np.ndarray:
    """Probabilities of a minute, most of them low."""
    return np.random.default_rng(seed).random((windows, classes)) ** 4


@pytest.mark.parametrize("name", sorted(POSTPROCESS))
@pytest.mark.parametrize("windows", [1, 2, 3, 12, 48])
def test_every_function_keeps_shape_range_and_input(name: str, windows: int) -> None:
    """A file may be one window long; what comes out is submitted, so it must be a probability."""
    probabilities = minute(windows=windows)
    before = probabilities.copy()
    after = POSTPROCESS[name](probabilities)
    assert after.shape == before.shape and after.min() >= 0 and after.max() <= 1
    np.testing.assert_array_equal(probabilities, before)


@pytest.mark.parametrize("name", sorted(POSTPROCESS))
def test_certainty_and_absence_stay(name: str) -> None:
    """A class that is surely there in all windows stays at 1, one that surely is not at 0."""
    for value in (0.0, 1.0):
        np.testing.assert_allclose(POSTPROCESS[name](np.full((12, 40), value)), value)


@pytest.mark.parametrize("name", sorted(POSTPROCESS))
@pytest.mark.parametrize("wrong", [np.full((12, 3), np.nan), np.full((12, 3), 1.2), np.full((12, 3), -3.0),
                                   np.zeros(12), np.zeros((0, 3))])
def test_what_is_no_probability_is_refused(name: str, wrong: np.ndarray) -> None:
    """Logits, NaN or an empty file would be smoothed and scaled into plausible numbers."""
    with pytest.raises(ValueError, match="probabilities"):
        POSTPROCESS[name](wrong)


def test_smoothing_leaves_a_constant_alone_up_to_the_edges() -> None:
    """Weights lost at the edges must not make the first and last windows quieter."""
    np.testing.assert_allclose(smooth(np.full((12, 2), 0.37)), 0.37)


def test_smoothing_spreads_one_window_as_the_kernel_says() -> None:
    """In the middle of a file the answer is the kernel itself, and classes do not mix."""
    probabilities = np.zeros((9, 2))
    probabilities[4, 0] = 1
    after = smooth(probabilities)
    np.testing.assert_allclose(after[:, 0], [0, 0, 0.1, 0.2, 0.4, 0.2, 0.1, 0, 0])
    assert not after[:, 1].any()


def test_smoothing_agrees_with_a_convolution_away_from_the_edges() -> None:
    """An independent way to the same numbers, with a kernel that is not symmetric."""
    probabilities, kernel = minute(), (0.5, 0.3, 0.2)
    expected = np.array([np.correlate(column, kernel, mode="valid") for column in probabilities.T]).T
    np.testing.assert_allclose(smooth(probabilities, kernel=kernel)[1:-1], expected)


def test_a_kernel_of_one_changes_nothing_and_a_single_window_is_itself() -> None:
    """Ten-second files at the end of a set have too few neighbours, not another value."""
    np.testing.assert_allclose(smooth(minute(), kernel=[2.0]), minute())
    np.testing.assert_allclose(smooth(minute(windows=1)), minute(windows=1))


@pytest.mark.parametrize("kernel", [(0.5, 0.5), (), (1, 0, 1), (-1, 3, -1)])
def test_a_kernel_that_is_none_is_refused(kernel: tuple[float, ...]) -> None:
    """An even kernel would shift everything by half a window."""
    with pytest.raises(ValueError, match="kernel"):
        smooth(minute(), kernel=kernel)


@pytest.mark.parametrize("k", [1, 2, 20])
def test_scaling_keeps_the_order_of_windows_in_a_file(k: int) -> None:
    """Scaling compares files with each other; inside a file and class nothing may move."""
    probabilities = minute()
    after = scale_by_file_top(probabilities, k=k, power=0.7)
    np.testing.assert_array_equal(np.argsort(after, axis=0), np.argsort(probabilities, axis=0))


def test_scaling_parts_a_file_with_a_clear_call_from_one_without() -> None:
    """Two windows at 0.3: in one file beside a clear call, in the other alone."""
    clear, vague = np.array([[0.9], [0.7], [0.3]]), np.array([[0.3], [0.3], [0.3]])
    assert scale_by_file_top(clear, k=2)[2, 0] == pytest.approx(0.3 * 0.8)
    assert scale_by_file_top(vague, k=2)[2, 0] == pytest.approx(0.3 * 0.3)
    np.testing.assert_allclose(scale_by_file_top(clear, power=0), clear)


def test_low_ranked_classes_fall_and_the_top_ones_stay() -> None:
    """The thirty loudest classes of a file are left as they are."""
    probabilities = minute()
    after, top = power_of_low_ranked(probabilities), np.argsort(-probabilities.max(0))[:30]
    np.testing.assert_array_equal(after[:, top], probabilities[:, top])
    rest = np.setdiff1d(np.arange(40), top)
    np.testing.assert_allclose(after[:, rest], probabilities[:, rest] ** 2)


def test_members_are_applied_in_their_order_with_their_options() -> None:
    """A config's list is a recipe: scaling then smoothing is not smoothing then scaling."""
    scale, kernel = Member("scale_by_file_top", {"k": 2}), Member("smooth", {"kernel": [0.2, 0.6, 0.2]})
    after = apply(minute(), (scale, kernel))
    np.testing.assert_allclose(after, smooth(scale_by_file_top(minute(), k=2), kernel=[0.2, 0.6, 0.2]))
    assert not np.allclose(after, apply(minute(), (kernel, scale)))
    np.testing.assert_array_equal(apply(minute(), ()), minute())


def test_unknown_names_and_options_are_named_with_what_there_is() -> None:
    """A misspelt member that is skipped is a gain that was never there."""
    with pytest.raises(KeyError, match="no post-processing named 'smoth'; there is: power_of_low_ranked"):
        apply(minute(), [Member("smoth")])
    with pytest.raises(TypeError, match="'smooth' takes no width; it takes: kernel"):
        apply(minute(), [Member("smooth", {"width": 3})])


def test_every_function_of_the_module_can_be_named_in_a_config() -> None:
    """A function without an entry could be used in a notebook but not in validation. A gate is a setting of its own."""
    functions = {name for name, value in vars(postprocess).items()
                 if is_our_function(value) and not name.startswith("_") and name not in ("apply", "gate")}
    assert functions == set(POSTPROCESS)


def is_our_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") == postprocess.__name__


@pytest.mark.parametrize("how", GATES)
def test_a_gate_that_is_sure_of_a_call_changes_nothing(how: str) -> None:
    """A gate may only take away: where something surely calls, the birds are as likely as they were."""
    probabilities = minute()
    np.testing.assert_array_equal(gate(probabilities, np.ones(12), how=how), probabilities)


def test_a_gate_silences_windows_in_which_nothing_calls() -> None:
    """What is left is nothing, or a thousandth, far below any threshold of presence; the other windows stay."""
    probabilities, calls = minute() + 1e-6, np.ones(12)
    calls[[2, 7]] = 0.0
    for how, left in (("multiply", 0.0), ("threshold", 1e-3), ("none", 1.0)):
        after = gate(probabilities, calls, how=how)
        np.testing.assert_allclose(after[[2, 7]], left * probabilities[[2, 7]])
        np.testing.assert_array_equal(np.delete(after, [2, 7], 0), np.delete(probabilities, [2, 7], 0))


def test_a_threshold_passes_windows_as_they_are_and_keeps_the_order_of_the_others() -> None:
    """A tie at 0 would lose what a ranking metric could still see; the threshold itself passes."""
    probabilities, calls = minute(), np.linspace(0, 1, 12)
    before, after = probabilities.copy(), gate(probabilities, calls, how="threshold", threshold=calls[5])
    np.testing.assert_array_equal(probabilities, before)
    np.testing.assert_array_equal(after[5:], probabilities[5:])
    assert after[:5].max() <= 1e-3
    np.testing.assert_array_equal(after[:5].argsort(0), probabilities[:5].argsort(0))


def test_multiplying_lets_no_class_be_likelier_than_a_call() -> None:
    """P(bird) = P(bird | call) P(call), for every class of a window alike."""
    probabilities, calls = minute(), np.random.default_rng(1).random(12)
    after = gate(probabilities, calls, how="multiply")
    assert (after <= calls[:, None]).all()
    np.testing.assert_allclose(after, np.einsum("wk,w->wk", probabilities, calls))


@pytest.mark.parametrize(("calls", "options", "fault"), [
    (np.ones(11), {"how": "multiply"}, r"\(11,\) must be one for each of 12 windows"),
    (np.ones((12, 1)), {"how": "multiply"}, r"\(12, 1\) must be one"), (np.full(12, 1.5), {"how": "multiply"}, "1.5"),
    (np.full(12, np.nan), {"how": "threshold"}, "nan"), (np.ones(12), {"how": "add"}, "one of none, multiply, thresh"),
    (np.ones(12), {"how": "threshold", "threshold": 2.0}, r"threshold = 2.0 in \[0, 1\]")])
def test_a_gate_that_cannot_be_meant_is_refused(calls: np.ndarray, options: dict, fault: str) -> None:
    """A NaN of the detector would be a NaN of every class; a column would be taken for one window."""
    with pytest.raises(ValueError, match=fault):
        gate(minute(), calls, **options)
