"""The losses' formulas, against hand, torch, timm and torchvision. The pairs of soft AUC are in test_soft_auc.py."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor
from torch.nn import functional as F

from birdkit.losses import LOSSES, Loss, bind_classes
from birdkit.output import SEDOutput


def output_of(logits: Tensor, segments: int = 4) -> SEDOutput:
    """Every segment says what the clip says."""
    return SEDOutput(logits, logits[:, None].repeat(1, segments, 1),
                     torch.full((len(logits), segments, logits.shape[1]), 1 / segments))


def example(n: int = 6, classes: int = 5) -> tuple[SEDOutput, Tensor, Tensor]:
    """Outputs of which the segments differ, soft targets, weights."""
    g = torch.Generator().manual_seed(0)
    segments = 2 * torch.randn(n, 4, classes, generator=g)
    output = SEDOutput(segments.mean(1), segments, torch.full_like(segments, 0.25))
    return output, torch.rand(n, classes, generator=g), torch.rand(n, generator=g) + 0.5


def alone(name: str, logits: Tensor, target: Tensor, cell_weight: Tensor | None = None, **options: Any) -> float:
    """The loss of one example, (K,) and (K,)."""
    cells = None if cell_weight is None else cell_weight[None]
    return float(LOSSES.build(name, **options)(output_of(logits[None]), target[None], torch.ones(1), cells))


def test_bce_equals_torchs() -> None:
    """The mean over classes and examples, where all weigh the same."""
    output, target, _ = example()
    expected = F.binary_cross_entropy_with_logits(output.clip_logits, target)
    torch.testing.assert_close(LOSSES.build("bce")(output, target, torch.ones(6)), expected)


def test_cell_weights_weigh_the_mean_over_classes() -> None:
    """sum_k c_k l_k / sum_k c_k: a clip with one known class weighs as much as one with all, and says that class."""
    logits, target = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    assert alone("bce", logits, target, torch.tensor([0.0, 1.0, 0.0])) == pytest.approx(float(losses[1]))
    expected = float(0.5 * losses[0] + losses[1] + 0.25 * losses[2]) / 1.75
    assert alone("bce", logits, target, torch.tensor([0.5, 1.0, 0.25])) == pytest.approx(expected)


def test_focal_without_focus_is_bce() -> None:
    """Gamma 0 and alpha 1 take both factors away, for soft targets too."""
    output, target, weight = example()
    torch.testing.assert_close(LOSSES.build("focal", alpha=1.0, gamma=0.0)(output, target, weight),
                               LOSSES.build("bce")(output, target, weight))


def test_focal_equals_torchvisions_where_the_formulas_coincide() -> None:
    """On hard targets: with alpha 1 everywhere (torchvision's alpha off), with alpha 0.25 on the positives."""
    ops = pytest.importorskip("torchvision.ops")
    output, target, _ = example()
    logits, hard, ones = output.clip_logits, target.round(), torch.ones_like(target)
    expected = ops.sigmoid_focal_loss(logits, hard, alpha=-1, gamma=2.0)
    torch.testing.assert_close(LOSSES.build("focal", alpha=1.0).per_cell(logits, hard), expected)
    expected = ops.sigmoid_focal_loss(logits, ones, alpha=0.25, gamma=2.0)
    torch.testing.assert_close(LOSSES.build("focal", alpha=0.25).per_cell(logits, ones), expected)


def test_focal_equals_its_formula_by_hand() -> None:
    """p = 0.8, t = 0.3: (0.3 * 0.25 * 0.2^2 + 0.7 * 0.8^2) * BCE."""
    p, t = torch.tensor(0.8), torch.tensor(0.3)
    bce = -(t * p.log() + (1 - t) * (1 - p).log())
    value = LOSSES.build("focal").per_cell(p.logit().view(1, 1), t.view(1, 1))
    torch.testing.assert_close(value[0, 0], (0.3 * 0.25 * 0.2**2 + 0.7 * 0.8**2) * bce)


@pytest.mark.parametrize(("name", "options", "target", "expected"), [
    ("focal", {"alpha": 0.25}, 0.1, 0.058), ("focal", {"alpha": 0.25}, 0.5, 0.303),
    ("focal", {"alpha": 0.25}, 0.8, 0.658), ("focal", {"alpha": 0.25}, 0.9, 0.843),
    ("focal", {"alpha": 0.8}, 0.1, 0.092), ("focal", {"alpha": 0.8}, 0.5, 0.468), ("focal", {"alpha": 0.8}, 0.8, 0.782),
    ("asl", {}, 0.1, 0.478), ("asl", {}, 0.3, 0.597), ("asl", {}, 0.5, 0.684), ("asl", {}, 0.7, 0.776),
    ("asl", {}, 0.9, 0.920), ("bce", {}, 0.3, 0.3),
])
def test_soft_targets_are_drawn_where_the_docstring_says(name: str, options: dict[str, Any], target: float,
                                                         expected: float) -> None:
    """Whoever thresholds probabilities learnt with it needs these numbers."""
    p = torch.linspace(0.001, 0.999, 999)
    losses = LOSSES.build(name, **options).per_cell(p.logit()[:, None], torch.full((999, 1), target))
    assert float(p[losses.argmin()]) == pytest.approx(expected, abs=0.0015)


@pytest.mark.parametrize(("name", "option", "expected"), [
    ("focal", "alpha", lambda numbers, k: numbers[k] + 2),
    ("asl", "gamma_pos", lambda numbers, k: 0.5 ** numbers[k] + 2),
    ("asl", "gamma_neg", lambda numbers, k: 1 + sum(0.5**number for j, number in enumerate(numbers) if j != k)),
])
def test_numbers_can_differ_from_class_to_class(name: str, option: str, expected: Callable[..., float]) -> None:
    """The second seed indexed its list by the 0/1 target: class 0's and class 1's number served all classes.

    Three examples at probability 0.5, one of each class: the positive and two negatives of each are log 2 times these.
    """
    numbers = [0.1, 0.5, 0.9]
    plain = {"gamma": 0.0} if name == "focal" else {"gamma_pos": 0.0, "gamma_neg": 0.0, "clip": 0.0}
    loss = LOSSES.build(name, **{**plain, option: numbers})
    per_example = loss.per_example(output_of(torch.zeros(3, 3)), torch.eye(3), torch.ones(3, 3))
    sums = torch.tensor([expected(numbers, k) for k in range(3)])
    torch.testing.assert_close(per_example, sums / 3 * torch.tensor(2.0).log())
    with pytest.raises(ValueError, match=f"{option} has 3 numbers for 5 classes"):
        loss.per_cell(torch.zeros(6, 5), torch.zeros(6, 5))


@pytest.mark.parametrize(("name", "option"), [("focal", "alpha"), ("asl", "gamma_pos"), ("asl", "gamma_neg")])
@pytest.mark.parametrize("inside", ["", "two_way", "sum"])
def test_numbers_by_class_name_are_those_of_the_columns(name: str, option: str, inside: str) -> None:
    """The order of the columns is the competition's and changes with the year; a name stays."""
    def build(value: Any) -> Loss:
        options = {option: value}
        return LOSSES.build(name, **options) if not inside else \
            LOSSES.build("two_way", base=name, options=options) if inside == "two_way" else \
            LOSSES.build("sum", members=[{"name": name, "options": options}])

    (output, target, weight), classes = example(), ["d", "b", "e", "a", "c"]
    loss = build({"a": 0.9, "default": 0.5, "b": 0.1})
    with pytest.raises(ValueError, match="nobody has said which classes there are"):
        loss(output, target, weight)
    bind_classes(loss, classes)
    torch.testing.assert_close(loss(output, target, weight), build([0.5, 0.1, 0.5, 0.9, 0.5])(output, target, weight))
    for wrong, message in (({"z": 0.9, "default": 0.5}, f"{option}: z are no classes of this run"),
                           ({"a": 0.9, "b": 0.5}, rf"{option} has no number for d, e, c \(3 of 5 classes\)"),
                           ([0.5, 0.1], f"{option} has 2 numbers for 5 classes")):
        with pytest.raises(ValueError, match=message):
            bind_classes(build(wrong), classes)


def test_asl_without_asymmetry_is_bce() -> None:
    """Gammas 0 and clip 0 leave the cross-entropy, for soft targets too."""
    output, target, weight = example()
    plain = LOSSES.build("asl", gamma_pos=0.0, gamma_neg=0.0, clip=0.0)
    torch.testing.assert_close(plain(output, target, weight), LOSSES.build("bce")(output, target, weight))


def test_asl_equals_its_formula_by_hand() -> None:
    """p = 0.8, t = 0.3, gammas 1 and 4, clip 0.05: q = 0.75."""
    p, t, q = torch.tensor(0.8), torch.tensor(0.3), torch.tensor(0.75)
    loss = LOSSES.build("asl", gamma_pos=1.0, gamma_neg=4.0, clip=0.05)
    value = loss.per_cell(p.logit().view(1, 1), t.view(1, 1))
    torch.testing.assert_close(value[0, 0], -0.3 * 0.2 * p.log() - 0.7 * q**4 * (1 - q).log())


@pytest.mark.parametrize("gamma_neg", [0.0, 0.5, 4.0])
def test_asl_leaves_easy_negatives_alone(gamma_neg: float) -> None:
    """Below probability `clip` a negative costs nothing and pulls at nothing; just above it does."""
    logits = torch.tensor([[1e-6, 0.049, 0.06]]).logit().requires_grad_()
    losses = LOSSES.build("asl", gamma_neg=gamma_neg, clip=0.05).per_cell(logits, torch.zeros(1, 3))
    losses.sum().backward()
    assert losses[0, :2].tolist() == logits.grad[0, :2].tolist() == [0, 0]
    assert losses[0, 2] > 0
    assert logits.grad[0, 2] > 0


@pytest.mark.parametrize("options", [{"gamma_pos": 0.0, "gamma_neg": 4.0, "clip": 0.05},
                                     {"gamma_pos": 1.0, "gamma_neg": 2.0, "clip": 0.2}])
def test_asl_equals_timms_on_hard_targets(options: dict[str, float]) -> None:
    """Its value and its gradient; in one row, since timm's versions differ in how they sum over rows."""
    target = example()[1].round().view(1, -1)
    results = []
    theirs = AsymmetricLossMultiLabel(eps=1e-12, disable_torch_grad_focal_loss=False, **options)
    for loss in (LOSSES.build("asl", **options).per_cell, theirs):
        logits = example()[0].clip_logits.view(1, -1).requires_grad_()
        value = loss(logits, target).sum()
        value.backward()
        results.append((value.detach(), logits.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("base", ["bce", "focal", "cross_entropy", "soft_auc", "sum"])
def test_two_way_without_one_way_is_its_base(base: str) -> None:
    """And with segments that all say the same it is the base twice."""
    output, target, weight = example()
    alone = LOSSES.build(base)(output, target, weight)
    torch.testing.assert_close(LOSSES.build("two_way", base=base, weight=0.0)(output, target, weight), alone)
    equal = output_of(output.clip_logits)
    for pooling in ("max", "mean"):
        both = LOSSES.build("two_way", base=base, pooling=pooling)(equal, target, weight)
        torch.testing.assert_close(both, 2 * alone)
        second = LOSSES.build("two_way", base=base, pooling=pooling, clip_weight=0.0)(equal, target, weight)
        torch.testing.assert_close(second, alone)


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


@pytest.mark.parametrize(("options", "expected"), [
    # Published: focal(clip) + focal(max), 2022; alpha 0.8 and the mean, second seed; 0.5 CE + 0.5 CE(max), 2025 first.
    ({"base": "focal", "options": {"alpha": 0.25, "gamma": 2.0}, "pooling": "max"},
     lambda clip, segments, t: _focal(clip, t, 0.25) + _focal(segments.amax(1), t, 0.25)),
    ({"base": "focal", "options": {"alpha": 0.8, "gamma": 2.0}, "pooling": "mean"},
     lambda clip, segments, t: _focal(clip, t, 0.8) + _focal(segments.mean(1), t, 0.8)),
    ({"base": "cross_entropy", "clip_weight": 0.5, "weight": 0.5},
     lambda clip, segments, t: 0.5 * F.cross_entropy(clip, t) + 0.5 * F.cross_entropy(segments.amax(1), t)),
])
def test_two_way_makes_the_published_losses(options: dict[str, Any], expected: Callable[..., Tensor]) -> None:
    """A run that names a write-up trains with its loss, coefficients and options included."""
    segments, target, _ = example()
    output = SEDOutput(segments.clip_logits + 0.3, segments.segment_logits, segments.attention)
    value = LOSSES.build("two_way", **options)(output, target, torch.ones(6))
    torch.testing.assert_close(value, expected(output.clip_logits, output.segment_logits, target))


def _focal(logits: Tensor, target: Tensor, alpha: float) -> Tensor:
    """[t alpha (1 - p)^2 + (1 - t) p^2] BCE, the mean over everything."""
    p = logits.sigmoid()
    factor = target * alpha * (1 - p) ** 2 + (1 - target) * p**2
    return (factor * F.binary_cross_entropy(p, target, reduction="none")).mean()


def test_the_sum_adds_its_losses_with_their_weights_and_options() -> None:
    """The published mix of soft AUC and a quarter of BCE is the default, and another one is what its list says."""
    output, target, weight = example()

    def value(name: str, **options: Any) -> Tensor:
        return LOSSES.build(name, **options)(output, target, weight)

    torch.testing.assert_close(value("sum"), value("soft_auc") + 0.25 * value("bce"))
    mixed = value("sum", members=[{"name": "focal", "options": {"alpha": 0.8}, "weight": 2},
                                 {"name": "soft_auc", "options": {"pool": "class"}}])
    torch.testing.assert_close(mixed, 2 * value("focal", alpha=0.8) + value("soft_auc", pool="class"))


def test_cross_entropy_equals_torchs() -> None:
    """With class probabilities as targets, and class by class where there are several labels."""
    output, target, _ = example()
    shares, ones = target / target.sum(1, keepdim=True), torch.ones_like(target)
    loss = LOSSES.build("cross_entropy")
    expected = F.cross_entropy(output.clip_logits, shares, reduction="none")
    torch.testing.assert_close(loss.per_example(output, shares, ones), expected)
    normalised = LOSSES.build("cross_entropy", normalise=True)
    torch.testing.assert_close(normalised.per_example(output, target, ones), expected)


def test_two_labels_weigh_twice_unless_normalised() -> None:
    """BirdCLEF 2025 first place left targets un-normalised on purpose."""
    logits, target = torch.zeros(4), torch.tensor([1.0, 1.0, 0.0, 0.0])
    log4 = float(torch.tensor(4.0).log())
    assert alone("cross_entropy", logits, target) == pytest.approx(2 * log4)
    assert alone("cross_entropy", logits, target, normalise=True) == pytest.approx(log4)
    assert alone("cross_entropy", logits, 0 * target, normalise=True) == 0


def test_an_unknown_class_does_not_compete() -> None:
    """Its logit in the softmax's sum would push the other classes: it would be a negative, which nobody said."""
    logits, target = torch.tensor([1.0, -2.0, 4.0, 0.5]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    known = torch.tensor([0, 1, 3])
    expected = alone("cross_entropy", logits[known], target[known])
    cells = torch.tensor([1.0, 1.0, 0.0, 1.0])
    assert alone("cross_entropy", logits, target, cells) == pytest.approx(expected)
    assert alone("cross_entropy", logits, target, cells, normalise=True) == pytest.approx(expected)
    halved = alone("cross_entropy", logits, target, torch.tensor([0.5, 1.0, 1.0, 0.1]))  # a cell weight scales a target
    assert halved == pytest.approx(alone("cross_entropy", logits, torch.tensor([0.5, 0.0, 1.0, 0.0])))


@pytest.mark.parametrize(("name", "options"), [
    ("focal", {"alpha": -1.0}), ("focal", {"gamma": -1.0}), ("focal", {"alpha": [[0.5]]}),
    ("focal", {"alpha": {"a": -1.0}}), ("focal", {"alpha": {}}), ("focal", {"alpha": "high"}),
    ("asl", {"gamma_pos": -1.0}), ("asl", {"gamma_neg": [1.0, -1.0]}), ("asl", {"clip": 1.0}), ("asl", {"clip": -0.1}),
    ("soft_auc", {"pool": "macro"}),
    ("sum", {"members": []}), ("sum", {"members": [{"name": "bce", "weight": -1}]}),
    ("sum", {"members": [{"name": "bce", "share": 1}]}), ("sum", {"members": [{"weight": 1}]}),
    ("two_way", {"pooling": "attention"}), ("two_way", {"weight": -1.0}), ("two_way", {"clip_weight": -1.0}),
    ("two_way", {"clip_weight": 0.0, "weight": 0.0}),
])
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any]) -> None:
    """The error comes when the run is set up, not in its first epoch."""
    with pytest.raises(ValueError, match="must be"):
        LOSSES.build(name, **options)
