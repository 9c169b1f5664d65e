"""The contract that every registered loss keeps, with its options too."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from birdkit.losses import LOSSES
from birdkit.output import SEDOutput

# Every registered loss as it comes, and what else the options can make of it.
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LOSSES.names()),
    ("asl", {"gamma_neg": 0.5, "clip": 0.0}),
    ("cross_entropy", {"normalise": True}),
    ("soft_auc", {"pool": "class"}),
    ("sum", {"members": [{"name": "asl", "options": {"gamma_pos": 1.0}}, {"name": "cross_entropy", "weight": 2}]}),
    ("two_way", {"base": "cross_entropy", "clip_weight": 0.5, "weight": 0.5}),
    ("two_way", {"base": "soft_auc", "pooling": "mean"}),
    ("two_way", {"base": "sum"}),
]
everyone = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))


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
def test_loss_and_gradient_are_finite_at_extreme_logits(name: str, options: dict[str, Any], extreme: float) -> None:
    """Logits of 100 occur early in training; one NaN gradient ends the run."""
    for target in (torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 0.5), torch.eye(2, 3)):
        logits = torch.tensor([[extreme, -extreme, 0.0], [extreme] * 3], requires_grad=True)
        value = LOSSES.build(name, **options)(output_of(logits), target, torch.ones(2))
        value.backward()
        assert value.ndim == 0
        assert bool(value.isfinite())
        assert bool(logits.grad.isfinite().all())


@everyone
def test_weight_zero_removes_an_example(name: str, options: dict[str, Any]) -> None:
    """Not only its own loss: it must not count in the mean either, nor in a pair."""
    loss, (output, target, weight) = LOSSES.build(name, **options), example()
    weight[2] = 0
    keep = [0, 1, 3, 4, 5]
    torch.testing.assert_close(loss(output, target, weight), loss(rows(output, keep), target[keep], weight[keep]))


@everyone
def test_weight_two_is_the_same_as_the_example_twice(name: str, options: dict[str, Any]) -> None:
    """So a weight means as much as a place in the table of recordings."""
    loss, (output, target, _) = LOSSES.build(name, **options), example()
    weight = torch.ones(6)
    weight[1] = 2
    twice = [0, 1, 1, 2, 3, 4, 5]
    torch.testing.assert_close(loss(output, target, weight), loss(rows(output, twice), target[twice], torch.ones(7)))


@everyone
def test_a_batch_of_weight_zero_teaches_nothing(name: str, options: dict[str, Any]) -> None:
    """Zero divided by zero would be NaN; the same where no cell of the batch is known."""
    for weight, cells in ((torch.zeros(2), torch.ones(2, 3)), (torch.ones(2), torch.zeros(2, 3))):
        logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        value = LOSSES.build(name, **options)(output_of(logits), torch.eye(2, 3), weight, cells)
        value.backward()
        assert value.item() == 0
        assert torch.equal(logits.grad, torch.zeros(2, 3))


@everyone
def test_an_unknown_cell_has_no_influence(name: str, options: dict[str, Any]) -> None:
    """A secondary label that may or may not be heard must teach neither yes nor no, whatever the model says of it."""
    loss, (output, target, weight) = LOSSES.build(name, **options), example()
    cells = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) + 0.1
    unknown = torch.eye(6, 5, dtype=torch.bool)
    cells[unknown] = 0
    segments = output.segment_logits.clone().requires_grad_()
    value = loss(SEDOutput(segments.mean(1), segments, output.attention), target, weight, cells)
    value.backward()
    every_segment = unknown[:, None].expand_as(segments)
    assert not segments.grad[every_segment].any()
    assert bool(segments.grad[~every_segment].any())
    other = torch.where(every_segment, 5.0, output.segment_logits)
    changed = SEDOutput(other.mean(1), other, output.attention)
    torch.testing.assert_close(loss(changed, torch.where(unknown, 1 - target, target), weight, cells), value.detach())
    assert not torch.isclose(loss(changed, target, weight), loss(output, target, weight))  # it does where known


@everyone
def test_an_example_of_unknown_cells_counts_as_weight_zero(name: str, options: dict[str, Any]) -> None:
    """Otherwise clips of which nothing is known would thin out the gradient of the others."""
    loss, (output, target, weight) = LOSSES.build(name, **options), example()
    cells = torch.ones(6, 5)
    cells[2] = 0
    keep = [0, 1, 3, 4, 5]
    torch.testing.assert_close(loss(output, target, weight, cells),
                               loss(rows(output, keep), target[keep], weight[keep]))


@everyone
def test_cell_weights_of_one_change_nothing(name: str, options: dict[str, Any]) -> None:
    """A run that masks nothing trains what it trained before there were cell weights."""
    loss, (output, target, weight) = LOSSES.build(name, **options), example()
    assert torch.equal(loss(output, target, weight, torch.ones(6, 5)), loss(output, target, weight))


@everyone
def test_the_loss_is_lower_when_the_answer_is_right(name: str, options: dict[str, Any]) -> None:
    """And lower still when it is right and sure."""
    loss, target = LOSSES.build(name, **options), torch.eye(4)
    right, sure = (loss(output_of(size * (2 * target - 1)), target, torch.ones(4)) for size in (1.0, 3.0))
    wrong = loss(output_of(1 - 2 * target), target, torch.ones(4))
    assert float(sure) < float(right) < float(wrong)


@everyone
def test_the_loss_is_float32_under_autocast(name: str, options: dict[str, Any]) -> None:
    """A sum over classes in half precision loses the rare ones."""
    loss, (output, target, weight) = LOSSES.build(name, **options), example()
    half = SEDOutput(output.clip_logits.bfloat16(), output.segment_logits.bfloat16(), output.attention.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, target.bfloat16(), weight.bfloat16(), torch.full((6, 5), 0.5, dtype=torch.bfloat16))
    assert value.dtype == torch.float32
    whole = SEDOutput(half.clip_logits.float(), half.segment_logits.float(), half.attention.float())
    torch.testing.assert_close(value, loss(whole, target.bfloat16().float(), weight.bfloat16().float(),
                                           torch.full((6, 5), 0.5)))


@everyone
def test_the_gradient_is_that_of_finite_differences(name: str, options: dict[str, Any]) -> None:
    """The analytic gradient is what trains; a detached term would go unnoticed in the value."""
    output, target, weight = example(n=3)
    cells = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)).double()
    loss = LOSSES.build(name, **options)

    def of(segments: Tensor) -> Tensor:
        whole = SEDOutput(segments.mean(1), segments, torch.full_like(segments, 0.25))
        return loss.per_batch(whole, target.double(), weight.double(), cells)

    assert torch.autograd.gradcheck(of, output.segment_logits.double().requires_grad_())
