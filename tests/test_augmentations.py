"""Augmentations: the contract that every registered member keeps, repeats, and lists from a config."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from augmentation_batches import seeded
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from birdkit.augmentations import AUGMENTATIONS, Augmentation, Repeat, build_augmentations, joint_shares
from birdkit.batch import Batch
from birdkit.config import Member

N = 8000
SUMIX = {"name": "sumix", "options": {}}
FILTERS = ("low_pass", "random_eq", "reverb", "distance")
# Members that cannot do without options; every other one is tested as it comes.
OPTIONS: dict[str, dict[str, Any]] = {
    "part_mixup": {"parts": 4},  # 8000 samples and 64 frames are not six equal parts
    "repeat": {"counts": [1, 2], "per": "example", "member": SUMIX},
    "during": {"member": SUMIX},
    "one_of": {"members": [{**SUMIX, "share": 0.6}, {"name": "soundscape_mix", "options": {}, "share": 0.4}]},
    "substitute": {"source": "selected"},
    "selective_mixup": {"per": "example"},
    "filter_chain": {"members": [{"name": name, "options": {"p": 0.5}} for name in FILTERS]},
}
CASES = [(name, stage) for name in AUGMENTATIONS.names()
         for stage in AUGMENTATIONS.build(name, **OPTIONS.get(name, {})).stages]
everyone = pytest.mark.parametrize(("name", "stage"), CASES)
unmixed = pytest.mark.parametrize(("name", "stage"), [
    (name, stage) for name, stage in CASES if not AUGMENTATIONS.build(name, **OPTIONS.get(name, {})).mixes])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def build(name: str, **options: Any) -> Augmentation:
    return AUGMENTATIONS.build(name, **{"p": 1.0} | OPTIONS.get(name, {}) | options)


def batch_of(stage: str, n: int = 3, seed: int = 0) -> Batch:
    g = seeded(seed)
    shape = (n, N) if stage == "wave" else (n, 2, 24, 64)

    def clips() -> Batch:
        return Batch(torch.randn(shape, generator=g) * 0.1, torch.rand(n, 5, generator=g), torch.rand(n, generator=g),
                     torch.rand(n, 5, generator=g))

    return clips().replace(sources={"soundscapes": clips(), "selected": clips()})


def same(first: Batch, second: Batch, tolerance: float = 0.0) -> bool:
    return all(torch.allclose(getattr(first, key), getattr(second, key), rtol=0, atol=tolerance)
               for key in ("signal", "target", "weight", "cell_weight"))


def alone(drawn: Any, n: int) -> Any:
    """What belongs to the first example: tensors are drawn per example, everything else per batch."""
    if isinstance(drawn, Tensor):
        assert len(drawn) == n
        return drawn[:1]
    if isinstance(drawn, dict):
        return {key: alone(value, n) for key, value in drawn.items()}
    if isinstance(drawn, list):
        return [alone(value, n) for value in drawn]
    return drawn


# The contract ---------------------------------------------------------------------------------------------------------


@everyone
def test_shapes_types_and_input_are_kept(name: str, stage: str) -> None:
    """A member that changed its input would change the next member's, and the clean copy a teacher sees."""
    batch, before = batch_of(stage, n=6), batch_of(stage, n=6)
    result = build(name)(batch, seeded(1))
    assert same(batch, before)
    assert all(same(batch.sources[source], before.sources[source]) for source in before.sources)
    for key in ("signal", "target", "weight", "cell_weight"):
        assert getattr(result, key).shape == getattr(batch, key).shape
        assert getattr(result, key).dtype == getattr(batch, key).dtype
    assert result.sources is batch.sources
    assert not torch.equal(result.signal, batch.signal)


@pytest.mark.parametrize("name", [name for name, stage in CASES if stage == "wave"])
def test_a_member_says_whether_it_sets_levels(name: str) -> None:
    """Clips an eighth as loud come out an eighth as loud, unless the member brings them to a level of its own."""
    member, batch = build(name), batch_of("wave", n=6)
    sources = {key: source.replace(signal=source.signal / 8) for key, source in batch.sources.items()}
    quiet = member(batch.replace(signal=batch.signal / 8, sources=sources), seeded(1)).signal
    kept = torch.allclose(8 * quiet, member(batch, seeded(1)).signal, rtol=1e-4, atol=1e-6)
    assert member.sets_level == (not kept)


@everyone
def test_the_same_draw_gives_the_same_result(name: str, stage: str) -> None:
    """All randomness is in the draw: a run can be repeated, and a sound heard again."""
    member, batch = build(name), batch_of(stage)
    drawn = member.draw(batch, seeded(3))
    torch.manual_seed(1)
    first = member.apply(batch, **drawn)
    torch.manual_seed(2)
    assert same(first, member.apply(batch, **drawn))


@everyone
def test_the_same_seed_gives_the_same_result_and_another_one_another(name: str, stage: str) -> None:
    """Two runs of one config must see the same data; two epochs must not."""
    member, batch = build(name), batch_of(stage, n=6)
    assert same(member(batch, seeded(3)), member(batch, seeded(3)))
    if member.sample(batch, seeded(0)):
        assert not same(member(batch, seeded(3)), member(batch, seeded(4)))


@everyone
def test_torchs_own_random_state_is_left_alone(name: str, stage: str) -> None:
    """Adding an augmentation must not change the dropout or the shuffling of a run."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build(name)(batch_of(stage), seeded(3))
    assert torch.equal(torch.get_rng_state(), before)


@everyone
def test_nothing_happens_at_probability_zero_and_in_eval_mode(name: str, stage: str) -> None:
    """An augmentation that leaks into validation makes every score wrong."""
    batch = batch_of(stage)
    assert build(name, p=0.0)(batch, seeded(1)) is batch
    assert build(name).eval()(batch, seeded(1)) is batch


@everyone
def test_the_probability_is_per_example(name: str, stage: str) -> None:
    """Examples that are not drawn stay exactly as they were."""
    member, batch = build(name, p=0.5), batch_of(stage, n=8)
    drawn = member.draw(batch, seeded(2))
    applied = drawn["applied"]
    assert 0 < int(applied.sum()) < 8
    result = member.apply(batch, **drawn)
    assert torch.equal(result.signal[~applied], batch.signal[~applied])
    assert torch.equal(result.target[~applied], batch.target[~applied])
    assert torch.equal(result.weight[~applied], batch.weight[~applied])
    assert torch.equal(result.cell_weight[~applied], batch.cell_weight[~applied])


@everyone
def test_targets_and_weights_stay_in_range(name: str, stage: str) -> None:
    """A target above 1 or a negative weight breaks every loss without a word."""
    member, batch = build(name), batch_of(stage, n=16)
    for seed in range(5):
        result = member(batch, seeded(seed))
        assert float(result.target.min()) >= 0
        assert float(result.target.max()) <= 1
        assert float(result.weight.min()) >= 0
        assert float(result.cell_weight.min()) >= 0
        assert float(result.cell_weight.max()) <= 1


@everyone
def test_what_is_known_follows_what_is_heard(name: str, stage: str) -> None:
    """A masked label must stay masked in the share in which its sound is heard, and a known one known.

    Where only the animals that are there are known, a cell is known as far as its target says that one is there; where
    all is known it stays so, and where nothing is, nothing can be.
    """
    member, batch = build(name), batch_of(stage, n=16)

    def known(rule: Callable[[Tensor], Tensor], target: Callable[[Tensor], Tensor]) -> Batch:
        def part(one: Batch) -> Batch:
            return one.replace(target=target(one.target), cell_weight=rule(target(one.target)))

        return part(batch).replace(sources={source: part(clips) for source, clips in batch.sources.items()})

    for seed in range(3):
        result = member(known(torch.clone, lambda target: target.round()), seeded(seed))
        assert torch.allclose(result.cell_weight, result.target, atol=1e-6)
        result = member(known(torch.ones_like, torch.clone), seeded(seed))
        assert torch.allclose(result.cell_weight, torch.ones_like(result.target), atol=1e-6)
        result = member(known(torch.zeros_like, torch.clone), seeded(seed))
        assert torch.equal(result.cell_weight, torch.zeros_like(result.target))


@everyone
@pytest.mark.parametrize("background", [0.0, 0.1])
def test_silence_stays_finite(name: str, stage: str, background: float) -> None:
    """Recordings hold digital silence; one NaN ends a training run."""
    batch = batch_of(stage)
    silent = batch.replace(signal=torch.zeros_like(batch.signal),
                           sources={name: source.replace(signal=torch.full_like(batch.signal, background))
                                    for name, source in batch.sources.items()})
    result = build(name)(silent, seeded(1))
    assert bool(result.signal.isfinite().all())
    assert bool(result.target.isfinite().all())


@unmixed
def test_a_member_that_does_not_mix_treats_each_example_by_itself(name: str, stage: str) -> None:
    """The neighbours in a batch must not change an example, or batch size becomes a hidden setting."""
    member, batch = build(name), batch_of(stage)
    drawn = member.draw(batch, seeded(5))
    single = Batch(batch.signal[:1], batch.target[:1], batch.weight[:1], batch.cell_weight[:1])
    expected = member.apply(batch, **drawn)
    result = member.apply(single, **alone(drawn, 3))
    assert torch.allclose(result.signal, expected.signal[:1], atol=1e-6)
    assert same(expected.replace(signal=batch.signal), batch)


@everyone
def test_what_belongs_to_an_example_is_drawn_as_a_tensor(name: str, stage: str) -> None:
    """Whoever slices a batch can slice its draw: tensors go by example, all else is the batch's."""
    batch = batch_of(stage, n=7)
    alone(build(name).draw(batch, seeded(0)), 7)


@everyone
def test_autocast_changes_nothing(name: str, stage: str) -> None:
    """Half precision belongs in the network: in a wave it is audible noise."""
    member, batch = build(name), batch_of(stage)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = member(batch, seeded(1))
    assert same(result, member(batch, seeded(1)), tolerance=1e-6)
    assert result.signal.dtype == torch.float32


@everyone
def test_a_draw_follows_the_batch_to_its_device(name: str, stage: str) -> None:
    """Draws are made on the CPU; one that stayed there would stop a run on a GPU, for which "meta" stands in."""
    member, batch = build(name), batch_of(stage)
    drawn = member.draw(batch, seeded(1))
    for applied in (drawn.pop("applied"), torch.tensor([True, False, True])):
        assert member.apply(batch.to("meta"), applied, **drawn).signal.device.type == "meta"


class _LargeOnCPU(TorchDispatchMode):
    """Which operations give a tensor of the CPU that has at least so many numbers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device.type == "cpu" and result.numel() >= self.size:
            self.found.add(func.overloadpacket.__name__)
        return result


@everyone
def test_the_arithmetic_is_the_devices(name: str, stage: str) -> None:
    """A Fourier transform of noise on the CPU took 0.3 s of every step, while the GPU waited.

    Only random numbers may be made there, as many as a signal has.
    """
    member, batch = build(name), batch_of(stage)
    drawn = member.draw(batch, seeded(1))
    device = batch.to("meta")
    with _LargeOnCPU(batch.signal[0].numel()) as large:
        member.apply(device, **drawn)
    assert large.found <= {"randn", "normal_", "empty"}


@everyone
def test_a_source_that_is_missing_or_does_not_fit_is_refused_even_where_nothing_is_applied(name: str,
                                                                                          stage: str) -> None:
    """A run without its backgrounds must not look like one with them, whatever is drawn."""
    batch, member = batch_of(stage), build(name, p=0.0)
    bare = batch.replace(sources={})
    if not member.sources:
        assert member(bare, seeded(0)) is bare
        return
    with pytest.raises(ValueError, match=r"needs clips of the source '\w+'; this batch has none"):
        member(bare, seeded(0))
    with pytest.raises(ValueError, match="differ in shape"):
        member(batch.replace(sources={source: batch_of(stage, n=2) for source in batch.sources}), seeded(0))


FAINT = {"name": "background", "options": {"p": 0.3}}


@pytest.mark.parametrize(("name", "stage", "options", "share"), [
    *((name, stage, {"p": 0.3}, 1.0 if name in ("selective_mixup", "one_of") else 0.3) for name, stage in CASES
      if build(name).sources),
    ("during", "wave", {"member": FAINT}, 0.3), ("one_of", "wave", {"members": [{**FAINT, "share": 0.5}]}, 0.3),
    ("repeat", "wave", {"counts": [2], "member": FAINT}, 1.0)])
def test_a_member_uses_as_many_clips_where_only_its_share_of_them_was_decoded(name: str, stage: str, share: float,
                                                                             options: dict[str, Any]) -> None:
    """What it would not use need not be decoded: it is as often heard as before, and never where there is no clip."""
    member, n = build(name, **options), 4000
    assert list(member.source_shares.values()) == [share]
    signal = torch.randn((n, 4) if stage == "wave" else (n, 1, 2, 2), generator=seeded(0))
    there = torch.rand(n, generator=seeded(1)) < share
    clips = Batch(signal.flip(0), torch.ones(n, 1), torch.ones(n))
    thinned = clips.replace(p_factor=torch.where(there, 1 / share, 0.0))

    def heard(source: Batch) -> Tensor:
        batch = Batch(signal, torch.zeros(n, 1), torch.ones(n), sources={"soundscapes": source, "selected": source})
        return member(batch, seeded(2)).target[:, 0] > 0

    assert float(heard(thinned).float().mean()) == pytest.approx(float(heard(clips).float().mean()), abs=0.04)
    assert heard(thinned).any() and not bool((heard(thinned) & ~there).any())


def test_a_source_of_several_members_is_decoded_for_all_examples() -> None:
    """Two members that both find a clip, or both none, would choose the same examples."""
    noise, wind, noise_again = (build("background", p=p, source=source) for p, source in (
        (0.5, "noise"), (0.25, "wind"), (0.1, "noise")))
    assert joint_shares([noise, wind]) == {"noise": 0.5, "wind": 0.25}
    assert joint_shares([noise, wind, noise_again]) == {"noise": 1.0, "wind": 0.25}
    assert joint_shares([build("mixup")]) == {}


# Members of members, and lists ----------------------------------------------------------------------------------------


def test_sumix_is_repeated_as_often_as_the_counts_say() -> None:
    """[0, 1, 1, 2] means 25, 50 and 25 % of the batches."""
    repeat, g = Repeat(1.0, [0, 1, 1, 2], member=SUMIX), seeded(0)
    batch = batch_of("wave", n=2)
    counts = Counter(tuple(repeat.sample(batch, g)["count"].tolist()) for _ in range(2000))
    assert [counts[k, k] / 2000 for k in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_each_example_may_have_a_count_of_its_own() -> None:
    """Then some of a batch are mixed twice, some once and some not at all, in the same shares."""
    repeat, batch = Repeat(1.0, [0, 1, 1, 2], per="example", member=SUMIX), batch_of("wave", n=400)
    drawn = repeat.draw(batch, seeded(0))
    count = drawn["count"]
    assert [float((count == k).float().mean()) for k in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.07)
    mixed, sumix = repeat.apply(batch, **drawn), build("sumix")
    once = sumix.apply(batch, **drawn["times"]["any"][0])
    assert torch.equal(mixed.signal[count == 0], batch.signal[count == 0])
    assert torch.equal(mixed.signal[count == 1], once.signal[count == 1])
    assert not (mixed.signal[count == 2] == once.signal[count == 2]).all(1).any()
    loud = Repeat(1.0, [1, 2], per="example", member=SUMIX, by_count={"2": {"min_gain": 0.9}}).sample(batch, seeded(0))
    assert {name: len(times) for name, times in loud["times"].items()} == {"any": 1, "2": 2}
    assert float(loud["times"]["any"][0]["own"].min()) < 0.4 and float(loud["times"]["2"][1]["own"].min()) >= 0.9
    with pytest.raises(ValueError, match="per = 'clip'"):
        Repeat(per="clip", member=SUMIX)


def test_a_count_of_two_is_the_member_twice_and_of_zero_the_batch_itself() -> None:
    """Two rounds of SUMIX bring up to four birds together; none leaves the recording alone."""
    batch = batch_of("wave")
    twice = Repeat(1.0, [2], member=SUMIX)
    drawn = twice.draw(batch, seeded(0))
    first, second = drawn["times"]["any"]
    sumix = build("sumix")
    assert same(twice.apply(batch, **drawn), sumix.apply(sumix.apply(batch, **first), **second))
    assert same(Repeat(1.0, [0], member=SUMIX)(batch, seeded(0)), batch)


def test_options_can_depend_on_the_count() -> None:
    """The second seed draws from 0.3 when it mixes once and from 0.5 when it mixes twice."""
    repeat, g = Repeat(1.0, [1, 2], member=SUMIX, by_count={"2": {"min_gain": 0.5}}), seeded(0)
    least = {1: 1.0, 2: 1.0}
    for _ in range(50):
        drawn = repeat.sample(batch_of("wave", n=8), g)
        count, (times,) = int(drawn["count"][0]), drawn["times"].values()
        assert len(times) == count
        least[count] = min(least[count], *(float(time["own"].min()) for time in times))
    assert 0.3 <= least[1] < 0.4
    assert 0.5 <= least[2] < 0.6
    with pytest.raises(ValueError, match="by_count has 3"):
        Repeat(1.0, [1, 2], member=SUMIX, by_count={"3": {}})


BACKGROUND = {"name": "background", "options": {"source": "noise"}}


@pytest.mark.parametrize(("name", "options"), [
    ("repeat", {"counts": [0], "member": BACKGROUND}), ("during", {"start": 0.5, "member": BACKGROUND}),
    ("during", {"member": {"name": "repeat", "options": {"counts": [0], "member": BACKGROUND}}})])
def test_a_member_inside_another_still_asks_for_its_source(name: str, options: dict[str, Any]) -> None:
    """Only sources that someone asks for are decoded, and a forgotten one is found at once, not in the last epoch."""
    member = build(name, **options)
    assert member.sources == {"noise"}
    with pytest.raises(ValueError, match="needs clips of the source 'noise'; this batch has selected, soundscapes"):
        member(batch_of("wave"), seeded(0))
    assert build("filter_chain").sources == frozenset()


@pytest.mark.parametrize(("progress", "changes"), [(0.0, False), (0.25, True), (0.49, True), (0.5, False),
                                                   (0.99, False)])
def test_a_member_works_during_its_part_of_the_run_alone(progress: float, changes: bool) -> None:
    """The second seed stopped SpecAugment after a third; one epoch too many is another recipe."""
    batch = batch_of("wave").replace(progress=progress)
    member = build("during", start=0.25, end=0.5, member={"name": "gain", "options": {}})
    result = member(batch, seeded(0))
    assert (result is not batch) == changes
    if changes:
        assert same(result, build("gain").apply(batch, **member.draw(batch, seeded(0))["inner"]))


def test_what_is_drawn_does_not_depend_on_the_progress() -> None:
    """The members after it draw from the same generator: they must not change when it begins or ends."""
    member, batch = build("during", end=0.5, member=SUMIX), batch_of("wave")
    early, late = seeded(0), seeded(0)
    member.draw(batch, early)
    member.draw(batch.replace(progress=0.9), late)
    assert torch.equal(early.get_state(), late.get_state())


@pytest.mark.parametrize(("name", "options"), [
    ("repeat", {"counts": [1]}), ("during", {}), ("one_of", {}), ("filter_chain", {})])
def test_a_member_inside_another_may_do_without_options_and_not_without_a_name(name: str,
                                                                              options: dict[str, Any]) -> None:
    """As in a sum of losses; a KeyError of 'options' tells nobody what to write."""
    inner = "low_pass" if name == "filter_chain" else "sumix"

    def made(member: Any) -> Augmentation:
        many = name in ("one_of", "filter_chain")
        return AUGMENTATIONS.build(name, **options, **({"members": [member]} if many else {"member": member}))

    share = {"share": 1.0} if name == "one_of" else {}
    plain, full = made({"name": inner, **share}), made({"name": inner, "options": {}, **share})
    batch = batch_of("wave")
    assert same(plain(batch, seeded(0)), full(batch, seeded(0)))
    for wrong in ({"options": {}}, inner, {"name": inner, "option": {}}):
        with pytest.raises(ValueError, match="must be a dict with a name"):
            made(wrong)


def test_a_config_names_its_members_and_a_wrong_one_is_refused() -> None:
    """A typing error in a recipe must not train for six hours without its augmentation."""
    built = build_augmentations([Member("repeat", {"counts": [0, 1], "member": SUMIX}), Member("noise")], "wave")
    assert [type(member).__name__ for member in built] == ["Repeat", "Noise"]
    with pytest.raises(ValueError, match="time_mask"):
        build_augmentations([Member("time_mask")], "wave")
    with pytest.raises(TypeError, match="takes no min_snr"):
        build_augmentations([Member("noise", {"min_snr": 3})])


@pytest.mark.parametrize(("name", "options"), [
    ("noise", {"min_snr_db": 9.0, "max_snr_db": 3.0}), ("gain", {"p": 1.5}), ("sumix", {"labels": "sum"}),
    ("mixup", {"level": "loud"}), ("mixup", {"alpha": 0.0}), ("time_mask", {"max_share": 1.5}),
    ("coarse_dropout", {"fill": "zero"}), ("soundscape_mix", {"own_gain": 2.0}), ("low_pass", {"order": 0}),
    ("cutmix", {"labels": "slope"}), ("sumix", {"renormalise": "rms"}), ("repeat", {"counts": [], "member": SUMIX}),
    ("mixup", {"per": "epoch"}), ("during", {"start": 0.6, "end": 0.3, "member": SUMIX}), ("scene", {"counts": [-1]}),
    ("scene", {"counts": [1.5]}), ("repeat", {"counts": [1.5], "member": SUMIX}),
    ("one_of", {"members": [{**SUMIX, "share": -0.5}]}), ("one_of", {"members": [SUMIX]}),
    ("time_mask", {"min_masks": 3}), ("time_mask", {"parts": 0}),
    ("background", {"loss_weight": 1.5}), ("random_eq", {"shape": "curve"}), ("random_eq", {"min_bands": 9}),
    ("random_eq", {"bands": 4, "min_width": 0.3}), ("distance", {"humidity_percent": 150.0}),
    ("clipping", {"min_db": -3.0}), ("codec", {"min_limit_hz": 0.0}), ("speed", {"min_speed": 0.0}),
    ("sumix_freq", {"own_share": -0.5}),
])
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any]) -> None:
    """The error comes when the run is set up, not in its first epoch."""
    with pytest.raises(ValueError, match=r"is not|must be"):
        AUGMENTATIONS.build(name, **options)
