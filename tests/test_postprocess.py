"""Post-processing: what must stay as it is, and what each function is for."""
from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from birdkit import postprocess
from birdkit.config import InferenceConfig, Member
from birdkit.postprocess import (
    GATES,
    POSTPROCESS,
    RecorderName,
    apply,
    count_places,
    delta_shift,
    frequency_penalty,
    gate,
    power_of_low_ranked,
    pull_to_file_max,
    scale_by_file_top,
    smooth,
    smooth_relatives,
)

CLASSES = tuple(f"bird{number:02d}" for number in range(40))
FILE = "soundscapes/BC2026_Test_0001_S22_20250114_060000.ogg"
TAXA = {name: ("Aves", "Aves", "Amphibia", "Insecta")[number % 4] for number, name in enumerate(CLASSES)}
HEARD = count_places([("x_S22_20250101_060000.ogg", ["bird00"])] * 6 + [("x_S22_20250101_180000.ogg", [])] * 6
                     + [("x_S08_20250101_060000.ogg", ["bird01"])] * 9)
# What a competition's files say, for the members that need it.
DATA: dict[str, dict[str, Any]] = {
    "smooth_by_group": {"groups": TAXA}, "smooth_relatives": {"groups": TAXA}, "site_hour_prior": {"prior": HEARD},
    "frequency_penalty": {"counts": {name: number + 1 for number, name in enumerate(CLASSES)}}}
# Settings at which a member changes nothing.
IDENTITY: dict[str, dict[str, Any]] = {
    "smooth": {"kernel": [1.0]}, "smooth_by_group": {"kernels": {}, "kernel": [1.0]}, "delta_shift": {"alpha": 0.0},
    "scale_by_file_top": {"power": 0.0}, "pull_to_file_max": {"alpha": 0.0}, "add_file_mean": {"weight": 0.0},
    "power_of_low_ranked": {"power": 1.0}, "smooth_relatives": {"weight": 0.0}, "frequency_penalty": {"weight": 0.0},
    "site_hour_prior": {"weight": 0.0}}
NO_LONGER_CERTAIN = {"frequency_penalty"}  # what is surely there is still said less often where the class is common

each_member = pytest.mark.parametrize("name", sorted(POSTPROCESS))


def minute(seed: int = 0, windows: int = 12, classes: int = 40) -> np.ndarray:
    """Probabilities of a minute, most of them low."""
    return np.random.default_rng(seed).random((windows, classes)) ** 4


def run(name: str, probabilities: np.ndarray, *, file: str = FILE, **options: Any) -> np.ndarray:
    """A member as inference applies it, with what it needs of a competition."""
    classes = CLASSES[:probabilities.shape[1]] if probabilities.ndim == 2 else CLASSES
    return apply(probabilities, [Member(name, {**DATA.get(name, {}), **options})], classes=classes, file=file)


@each_member
@pytest.mark.parametrize("windows", [1, 2, 3, 12, 48])
def test_every_function_keeps_shape_range_and_input(name: str, windows: int) -> None:
    """A file may be one window long; what comes out is submitted, so it must be a probability."""
    probabilities = minute(windows=windows)
    before = probabilities.copy()
    after = run(name, probabilities)
    assert after.shape == before.shape and after.min() >= 0 and after.max() <= 1
    np.testing.assert_array_equal(probabilities, before)


@each_member
def test_certainty_and_absence_stay(name: str) -> None:
    """A class that is surely there in all windows stays at 1, one that surely is not at 0."""
    for value in (0.0, 1.0):
        if not (value and name in NO_LONGER_CERTAIN):
            np.testing.assert_allclose(run(name, np.full((12, 40), value)), value)


@each_member
def test_every_member_has_settings_at_which_it_changes_nothing(name: str) -> None:
    """Who lowers a weight to nothing must get what the models said, not something scaled or clipped on the way."""
    np.testing.assert_allclose(run(name, minute(), **IDENTITY[name]), minute(), rtol=1e-12)
    assert not np.allclose(run(name, minute()), minute())


@each_member
def test_every_member_looks_at_one_soundscape(name: str) -> None:
    """The rows of a file must not depend on which files were predicted before it, nor on a call before this one."""
    alone = run(name, minute(seed=1))
    run(name, minute(seed=2), file="x_S08_20250101_200000.ogg")
    np.testing.assert_array_equal(run(name, minute(seed=1)), alone)


@each_member
def test_columns_may_come_in_any_order(name: str) -> None:
    """Groups, counts and priors go by the name of a class: by position they would give a frog's to a bird."""
    order = np.random.default_rng(3).permutation(40)
    probabilities, member = minute(), [Member(name, DATA.get(name, {}))]
    shuffled = apply(probabilities[:, order], member, classes=[CLASSES[k] for k in order], file=FILE)
    np.testing.assert_allclose(shuffled, run(name, probabilities)[:, order])


@each_member
@pytest.mark.parametrize("wrong", [np.full((12, 3), np.nan), np.full((12, 3), 1.2), np.full((12, 3), -3.0),
                                   np.zeros(12), np.zeros((0, 3))])
def test_what_is_no_probability_is_refused(name: str, wrong: np.ndarray) -> None:
    """Logits, NaN or an empty file would be smoothed and scaled into plausible numbers."""
    told = {option: value for option, value in (("classes", CLASSES[:3]), ("file", FILE))
            if option in inspect.signature(POSTPROCESS[name]).parameters}
    with pytest.raises(ValueError, match="probabilities"):
        POSTPROCESS[name](wrong, **told, **DATA.get(name, {}))


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
    with pytest.raises(KeyError, match="no post-processing named 'smoth'; there is: add_file_mean"):
        apply(minute(), [Member("smoth")])
    with pytest.raises(TypeError, match="'smooth' takes no width; it takes: kernel"):
        apply(minute(), [Member("smooth", {"width": 3})])


def test_every_function_that_changes_probabilities_can_be_named_in_a_config() -> None:
    """A function without an entry could be used in a notebook but not in validation. A gate is a setting of its own."""
    modules = [importlib.import_module(f"birdkit.postprocess.{found.name}")
               for found in pkgutil.iter_modules(postprocess.__path__)]
    functions = {name for module in modules for name, value in vars(module).items()
                 if takes_probabilities(value) and value.__module__ == module.__name__}
    assert functions - {"apply", "gate", "checked_probabilities"} == set(POSTPROCESS) == set(IDENTITY)


def takes_probabilities(value: object) -> bool:
    return inspect.isfunction(value) and next(iter(inspect.signature(value).parameters), "") == "probabilities"


def test_a_config_refuses_a_member_that_is_none() -> None:
    """Found at the first validation, a misspelt name has cost an epoch."""
    with pytest.raises(KeyError, match="no post-processing named 'smoth'"):
        InferenceConfig(postprocess=(Member("smoth"),))
    with pytest.raises(TypeError, match="takes no classes; it takes: groups, weight"):
        InferenceConfig(postprocess=(Member("smooth_relatives", {"classes": ["owl"]}),))


@pytest.mark.parametrize("name", sorted(DATA))
def test_data_that_nobody_has_read_is_an_error(name: str) -> None:
    """Without its groups or counts a member would do nothing, and be thought of no use."""
    with pytest.raises(ValueError, match=r"to be read from a competition's files: birdkit\.ensembles\.bind"):
        apply(minute(), [Member(name)], classes=CLASSES, file=FILE)
    with pytest.raises(ValueError, match=f"'{name}' goes by class names, but 3 were given for 40 columns"):
        apply(minute(), [Member(name, DATA[name])], classes=CLASSES[:3], file=FILE)


@pytest.mark.parametrize(("name", "options", "fault"), [
    ("delta_shift", {"alpha": 1.1}, "alpha = 1.1"), ("pull_to_file_max", {"alpha": -0.1}, "alpha = -0.1"),
    ("add_file_mean", {"weight": -1.0}, "weight = -1.0"), ("smooth_relatives", {"weight": 2.0}, "weight = 2.0"),
    ("frequency_penalty", {"weight": -0.4}, "weight = -0.4"), ("frequency_penalty", {"counts": {}}, "not all 0"),
    ("site_hour_prior", {"k_site": 0.0}, "k = 0.0"), ("site_hour_prior", {"use": ["month"]}, "month"),
    ("scale_by_file_top", {"k": 0}, "k = 0"), ("power_of_low_ranked", {"power": 0.0}, "power = 0.0")])
def test_options_that_cannot_be_meant_are_refused(name: str, options: dict[str, Any], fault: str) -> None:
    """A sign or a decimal point at the wrong place is found before a submission is spent on it."""
    with pytest.raises(ValueError, match=fault):
        run(name, minute(), **options)


def test_groups_are_smoothed_each_with_its_own_kernel() -> None:
    """Insects go on for minutes, birds do not: what helps the ones blurs the others."""
    after = run("smooth_by_group", minute(), kernels={"Insecta": [1.0, 1.0, 1.0]}, kernel=[1.0])
    insects = [TAXA[name] == "Insecta" for name in CLASSES]
    np.testing.assert_allclose(after[:, insects], smooth(minute(), kernel=(1, 1, 1))[:, insects])
    np.testing.assert_allclose(after[:, np.logical_not(insects)], minute()[:, np.logical_not(insects)])


def test_delta_shift_is_the_published_kernel_inside_a_file() -> None:
    """(0.075, 0.85, 0.075); only the ends differ, which count as their own neighbours."""
    np.testing.assert_allclose(delta_shift(minute())[1:-1], smooth(minute(), kernel=(0.075, 0.85, 0.075))[1:-1])
    np.testing.assert_allclose(delta_shift(np.full((5, 2), 0.4)), 0.4)


def test_adaptive_shift_leaves_what_is_sure() -> None:
    """A window with a certain animal needs no neighbours, a vague one does."""
    probabilities = np.array([[0.2, 0.0], [1.0, 0.3], [0.2, 0.0], [0.0, 0.0]])
    after = delta_shift(probabilities, alpha=0.2, adaptive=True)
    np.testing.assert_array_equal(after[1], probabilities[1])
    np.testing.assert_allclose(after[2, 0], 0.2 + 0.2 * 0.8 * (0.5 - 0.2))


def test_pulling_all_the_way_gives_the_maximum_and_never_lowers() -> None:
    """It says that an animal heard once is there all along; nothing becomes less likely by that."""
    np.testing.assert_allclose(pull_to_file_max(minute(), alpha=1.0), np.broadcast_to(minute().max(0), (12, 40)))
    assert (pull_to_file_max(minute()) >= minute() - 1e-12).all()


def test_relatives_lift_each_other_and_strangers_stay() -> None:
    """A frog that sounds like its sister; a class without relatives or group is as it was, and so is a group's sum."""
    probabilities, groups = minute(classes=4), {"bird00": "Rana", "bird01": "Rana", "bird02": "Strix"}
    after = smooth_relatives(probabilities, classes=CLASSES[:4], groups=groups, weight=0.5)
    np.testing.assert_array_equal(after[:, 2:], probabilities[:, 2:])
    np.testing.assert_allclose(after[:, :2].sum(1), probabilities[:, :2].sum(1))
    np.testing.assert_allclose(np.ptp(after[:, :2], axis=1), np.ptp(probabilities[:, :2], axis=1) / 2)


def test_the_penalty_is_the_first_seeds_and_keeps_the_order_of_rows() -> None:
    """p - 0.4 n / sum(n); where that is below 0 a tie would cost a metric that ranks rows of a class."""
    probabilities, counts = minute(classes=3), {"bird00": 10, "bird01": 30, "bird02": 0}
    after = frequency_penalty(probabilities, classes=CLASSES[:3], counts=counts)
    for column, share in enumerate((0.25, 0.75, 0.0)):
        clear = probabilities[:, column] > 0.4 * share + 0.01
        np.testing.assert_allclose(after[clear, column], probabilities[clear, column] - 0.4 * share)
    np.testing.assert_array_equal(after.argsort(0), probabilities.argsort(0))


@pytest.mark.parametrize(("file", "site", "hour"), [
    ("train_soundscapes/H02_20230420_074000.ogg", "H02", "07"), (FILE, "S22", "06"), ("00012", "", ""),
    ("10534_SSW_20170429.ogg", "SSW", ""), ("soundscape_1446779.ogg", "", ""), ("a_20241399_990000.ogg", "", ""),
    ("CBI-2_20240101_2359.wav", "CBI-2", "23"), ("2MA01_20240101_060000Z.flac", "2MA01", "06Z"),
    ("soundscape_0001_20240101_060000.ogg", "", ""), ("4-S22_20240101.ogg", "4-S22", "")])
def test_place_and_hour_are_read_from_every_years_names(file: str, site: str, hour: str) -> None:
    """2021, 2025 and 2026 name the recorder; a number that is no hour must not become one, nor a counter a site, nor
    six o'clock in UTC six in the morning."""
    assert RecorderName.read(file) == RecorderName(site, hour)


def test_a_prior_moves_towards_what_was_heard_there_and_then() -> None:
    """bird00 sings at S22 in the morning: there it becomes likelier, elsewhere and in the evening less likely."""
    vague = np.full((2, 40), 0.3)
    morning = run("site_hour_prior", vague)
    evening = run("site_hour_prior", vague, file="x_S22_20250101_180000.ogg")
    elsewhere = run("site_hour_prior", vague, file="x_S08_20250101_060000.ogg")
    assert morning[0, 0] > 0.3 > evening[0, 0] and elsewhere[0, 0] < 0.3 and elsewhere[0, 1] > 0.3
    for unknown in ("soundscape_1.ogg", "x_S99_20250101_230000.ogg"):
        np.testing.assert_allclose(run("site_hour_prior", vague, file=unknown), vague)


def test_a_site_prior_is_the_shrunk_share_by_hand() -> None:
    """12 windows at S22, 6 with bird00; all 21, 6: (6 + 8 * 6.5 / 22) / 20 against 6.5 / 22, a half of it in logits."""
    mean = 6.5 / 22
    expected = expit(logit(0.3) + 0.5 * (logit((6 + 8 * mean) / 20) - logit(mean)))
    after = run("site_hour_prior", np.full((1, 40), 0.3), use=["site"], weight=0.5)
    np.testing.assert_allclose(after[0, 0], expected)


def test_few_windows_say_little() -> None:
    """One owl in one labelled window is no owl wood: the larger k, the less a place counts."""
    def shift(k: float) -> float:
        return run("site_hour_prior", np.full((1, 40), 0.3), use=["site"], k_site=k)[0, 0] - 0.3

    assert shift(0.1) > shift(8.0) > shift(1e3) > 0


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
    (np.ones(12), {"how": "threshold", "threshold": 2.0}, r"threshold = 2.0 is not in \[0, 1\]")])
def test_a_gate_that_cannot_be_meant_is_refused(calls: np.ndarray, options: dict, fault: str) -> None:
    """A NaN of the detector would be a NaN of every class; a column would be taken for one window."""
    with pytest.raises(ValueError, match=fault):
        gate(minute(), calls, **options)
