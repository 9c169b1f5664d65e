"""Losses: the contract that every registered loss keeps, and the formulas against hand, torch and torchvision."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from birdkit.losses import LOSSES, Loss
from birdkit.output import SEDOutput

everyone = pytest.mark.parametrize("name", LOSSES.names())


def output_of(logits: Tensor, segments: int = 4) -> SEDOutput:
    """Every segment says what the clip says."""
    return SEDOutput(logits, logits[:, None].repeat(1, segments, 1),
                     torch.full((len(logits), segments, logits.shape[1]), 1 / segments))


def example(n: int = 6, classes: int = 5, seed: int = 0) -> tuple[SEDOutput, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    segments = 2 * torch.randn(n, 4, classes, generator=g)
    output = SEDOutput(segments.mean(1), segments, torch.full_like(segments, 0.25))
    return output, torch.rand(n, classes, generator=g), torch.rand(n, generator=g) + 0.5


def rows(output: SEDOutput, index: Any) -> SEDOutput:
    return SEDOutput(output.clip_logits[index], output.segment_logits[index], output.attention[index])


@everyone
@pytest.mark.parametrize("extreme", [100.0, -100.0])
def test_loss_and_gradient_are_finite_at_extreme_logits(name: str, extreme: float) -> None:
    """Logits of 100 occur early in training; one NaN gradient ends the run."""
    for target in (torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 0.5)):
        logits = torch.tensor([[extreme, -extreme, 0.0], [extreme] * 3], requires_grad=True)
        value = LOSSES.build(name)(output_of(logits), target, torch.ones(2))
        value.backward()
        assert value.ndim == 0
        assert bool(value.isfinite())
        assert bool(logits.grad.isfinite().all())


@everyone
def test_weight_zero_removes_an_example(name: str) -> None:
    """Not only its own loss: it must not count in the mean either."""
    loss, (output, target, weight) = LOSSES.build(name), example()
    weight[2] = 0
    keep = [0, 1, 3, 4, 5]
    torch.testing.assert_close(loss(output, target, weight), loss(rows(output, keep), target[keep], weight[keep]))


@everyone
def test_weight_two_is_the_same_as_the_example_twice(name: str) -> None:
    """So a weight means as much as a place in the table of recordings."""
    loss, (output, target, _) = LOSSES.build(name), example()
    weight = torch.ones(6)
    weight[1] = 2
    twice = [0, 1, 1, 2, 3, 4, 5]
    torch.testing.assert_close(loss(output, target, weight), loss(rows(output, twice), target[twice], torch.ones(7)))


@everyone
def test_a_batch_of_weight_zero_teaches_nothing(name: str) -> None:
    """Zero divided by zero would be NaN."""
    logits = torch.randn(2, 3, requires_grad=True)
    value = LOSSES.build(name)(output_of(logits), torch.ones(2, 3), torch.zeros(2))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 3))


@everyone
def test_the_loss_is_lower_when_the_answer_is_right(name: str) -> None:
    """And lower still when it is right and sure."""
    loss, target = LOSSES.build(name), torch.eye(4)
    right, sure = (loss(output_of(size * (2 * target - 1)), target, torch.ones(4)) for size in (1.0, 3.0))
    wrong = loss(output_of(1 - 2 * target), target, torch.ones(4))
    assert float(sure) < float(right) < float(wrong)


@everyone
def test_the_loss_is_float32_under_autocast(name: str) -> None:
    """A sum over classes in half precision loses the rare ones."""
    loss, (output, target, weight) = LOSSES.build(name), example()
    half = SEDOutput(output.clip_logits.bfloat16(), output.segment_logits.bfloat16(), output.attention.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, target, weight)
    assert value.dtype == torch.float32
    whole = SEDOutput(half.clip_logits.float(), half.segment_logits.float(), half.attention.float())
    torch.testing.assert_close(value, loss(whole, target, weight))


@everyone
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    """The analytic gradient is what trains; a detached term would go unnoticed in the value."""
    output, target, _ = example(n=2)
    loss = LOSSES.build(name).double()

    def of(segments: Tensor) -> Tensor:
        whole = SEDOutput(segments.mean(1), segments, torch.full_like(segments, 0.25))
        return loss.per_example(whole, target.double())

    assert torch.autograd.gradcheck(of, output.segment_logits.double().requires_grad_())


def test_bce_equals_torchs() -> None:
    """The mean over classes and examples, where all weigh the same."""
    output, target, _ = example()
    expected = F.binary_cross_entropy_with_logits(output.clip_logits, target)
    torch.testing.assert_close(LOSSES.build("bce")(output, target, torch.ones(6)), expected)


def test_focal_without_focus_is_bce() -> None:
    """Gamma 0 and alpha 1 take both factors away, for soft targets too."""
    output, target, weight = example()
    torch.testing.assert_close(LOSSES.build("focal", alpha=1.0, gamma=0.0)(output, target, weight),
                               LOSSES.build("bce")(output, target, weight))


def test_focal_equals_torchvisions_where_the_formulas_coincide() -> None:
    """On hard targets: with alpha 1 everywhere (torchvision's alpha off), with alpha 0.25 on the positives."""
    ops = pytest.importorskip("torchvision.ops")
    output, target, _ = example()
    hard = target.round()
    expected = ops.sigmoid_focal_loss(output.clip_logits, hard, alpha=-1, gamma=2.0).mean(1)
    torch.testing.assert_close(LOSSES.build("focal", alpha=1.0).per_example(output, hard), expected)
    ones = torch.ones_like(hard)
    expected = ops.sigmoid_focal_loss(output.clip_logits, ones, alpha=0.25, gamma=2.0).mean(1)
    torch.testing.assert_close(LOSSES.build("focal", alpha=0.25).per_example(output, ones), expected)


def test_focal_equals_its_formula_by_hand() -> None:
    """p = 0.8, t = 0.3: (0.3 * 0.25 * 0.2^2 + 0.7 * 0.8^2) * BCE."""
    p, t = torch.tensor(0.8), torch.tensor(0.3)
    bce = -(t * p.log() + (1 - t) * (1 - p).log())
    value = LOSSES.build("focal").per_example(output_of(p.logit().view(1, 1)), t.view(1, 1))
    torch.testing.assert_close(value[0], (0.3 * 0.25 * 0.2**2 + 0.7 * 0.8**2) * bce)


@pytest.mark.parametrize(("alpha", "target", "expected"), [
    (0.25, 0.1, 0.058), (0.25, 0.5, 0.303), (0.25, 0.8, 0.658), (0.25, 0.9, 0.843),
    (0.8, 0.1, 0.092), (0.8, 0.5, 0.468), (0.8, 0.8, 0.782),
])
def test_focal_draws_soft_targets_down_as_its_docstring_says(alpha: float, target: float, expected: float) -> None:
    """Whoever thresholds probabilities learnt with it needs these numbers."""
    p = torch.linspace(0.001, 0.999, 999)
    losses = LOSSES.build("focal", alpha=alpha).per_example(output_of(p.logit()[:, None]), torch.full((999, 1), target))
    assert float(p[losses.argmin()]) == pytest.approx(expected, abs=0.0015)


def test_alpha_can_differ_from_class_to_class() -> None:
    """The second seed indexed its list by the 0/1 target: class 0's and class 1's number served all classes."""
    alpha = [0.1, 0.5, 0.9]
    output = output_of(torch.zeros(3, 3))
    per_class = LOSSES.build("focal", alpha=alpha, gamma=0.0).per_example(output, torch.eye(3))
    log2 = torch.tensor(2.0).log()
    torch.testing.assert_close(per_class, torch.tensor([(a + 2) / 3 for a in alpha]) * log2)
    with pytest.raises(ValueError, match="3 numbers for 5 classes"):
        LOSSES.build("focal", alpha=alpha).per_example(example()[0], torch.zeros(6, 5))


@pytest.mark.parametrize("base", ["bce", "focal", "cross_entropy"])
def test_two_way_without_the_second_way_is_its_base(base: str) -> None:
    """And with segments that all say the same it is the base twice."""
    output, target, weight = example()
    alone = LOSSES.build(base)(output, target, weight)
    torch.testing.assert_close(LOSSES.build("two_way", base=base, weight=0.0)(output, target, weight), alone)
    equal = output_of(output.clip_logits)
    for pooling in ("max", "mean"):
        both = LOSSES.build("two_way", base=base, pooling=pooling)(equal, target, weight)
        torch.testing.assert_close(both, 2 * alone)


def test_two_way_pools_over_segments_and_not_over_classes() -> None:
    """The maximum over time is what a bird that calls once needs."""
    segments = torch.tensor([[[3.0, -1.0], [0.0, -5.0], [-6.0, 0.0]]])  # (1, 3, 2)
    output = SEDOutput(torch.zeros(1, 2), segments, torch.full_like(segments, 1 / 3))
    target = torch.tensor([[1.0, 0.0]])
    first = F.binary_cross_entropy_with_logits(torch.zeros(1, 2), target)
    for pooling, pooled in (("max", [[3.0, 0.0]]), ("mean", [[-1.0, -2.0]])):
        second = F.binary_cross_entropy_with_logits(torch.tensor(pooled), target)
        value = LOSSES.build("two_way", base="bce", weight=0.5, pooling=pooling)(output, target, torch.ones(1))
        torch.testing.assert_close(value, first + 0.5 * second)


def test_two_way_hands_options_to_its_base() -> None:
    """An alpha that is lost on the way trains another model than the config says."""
    output, target, weight = example()
    with_options = LOSSES.build("two_way", base="focal", options={"alpha": 0.8}, weight=0.0)
    torch.testing.assert_close(with_options(output, target, weight),
                               LOSSES.build("focal", alpha=0.8)(output, target, weight))


def test_cross_entropy_equals_torchs() -> None:
    """With class probabilities as targets, and class by class where there are several labels."""
    output, target, _ = example()
    shares = target / target.sum(1, keepdim=True)
    loss: Loss = LOSSES.build("cross_entropy")
    expected = F.cross_entropy(output.clip_logits, shares, reduction="none")
    torch.testing.assert_close(loss.per_example(output, shares), expected)
    normalised = LOSSES.build("cross_entropy", normalise=True)
    torch.testing.assert_close(normalised.per_example(output, target), loss.per_example(output, shares))


def test_two_labels_weigh_twice_unless_normalised() -> None:
    """BirdCLEF 2025 first place left targets un-normalised on purpose."""
    output = output_of(torch.zeros(1, 4))
    target = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    log4 = float(torch.tensor(4.0).log())
    assert float(LOSSES.build("cross_entropy").per_example(output, target)) == pytest.approx(2 * log4)
    assert float(LOSSES.build("cross_entropy", normalise=True).per_example(output, target)) == pytest.approx(log4)
    assert float(LOSSES.build("cross_entropy", normalise=True).per_example(output, 0 * target)) == 0


@pytest.mark.parametrize(("name", "options"), [
    ("focal", {"alpha": -1.0}), ("focal", {"gamma": -1.0}), ("focal", {"alpha": [[0.5]]}),
    ("two_way", {"pooling": "attention"}), ("two_way", {"weight": -1.0}),
])
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any]) -> None:
    """The error comes when the run is set up, not in its first epoch."""
    with pytest.raises(ValueError, match="must be"):
        LOSSES.build(name, **options)
