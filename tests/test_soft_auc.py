"""Soft AUC: its pairs against a double loop, its order against scikit-learn, its memory against a bound."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from birdkit.losses import LOSSES, soft_auc
from birdkit.output import SEDOutput


def loss_of(logits: Tensor, target: Tensor, weight: Tensor | None = None, cell_weight: Tensor | None = None, *,
            pool: str) -> Tensor:
    """The loss of clip logits (B, K); segments play no part."""
    segments = logits[:, None]
    output = SEDOutput(logits, segments, torch.ones_like(segments))
    return LOSSES.build("soft_auc", pool=pool)(output, target, torch.ones(len(logits)) if weight is None else weight,
                                               cell_weight)


def double_loop(logits: np.ndarray, target: np.ndarray, cells: np.ndarray) -> float:
    """The weighted mean over pairs of cells, as one reads it in the write-up; NaN without a pair."""
    total = weights = 0.0
    places = list(np.ndindex(logits.shape))
    for p in places:
        for n in places:
            if target[p] > 0.5 > target[n]:
                pair = cells[p] * cells[n]
                total += pair * math.log1p(math.exp(logits[n] - logits[p])) * (target[p] - 0.5) * (0.5 - target[n])
                weights += pair
    return total / weights if weights else math.nan


def example(clips: int = 7, classes: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, soft targets, weights, cell weights; class 0 has no positive, one target is exactly 0.5."""
    g = torch.Generator().manual_seed(3)
    logits, target = 2 * torch.randn(clips, classes, generator=g), torch.rand(clips, classes, generator=g)
    target[:, 0] *= 0.4
    target[2, 2] = 0.5
    return logits, target, torch.rand(clips, generator=g), torch.rand(clips, classes, generator=g).round(decimals=1)


@pytest.mark.parametrize("at_once", [1, 50, 1 << 20])
@pytest.mark.parametrize("pool", ["batch", "class"])
def test_soft_auc_is_the_mean_over_pairs(pool: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pairs fit into memory at a time; with example and cell weights, and a class that has no positive."""
    monkeypatch.setattr(soft_auc, "CPU_PAIRS", at_once)
    logits, target, weight, cell_weight = example()
    z, t, cells = logits.double().numpy(), target.numpy(), (weight[:, None] * cell_weight).double().numpy()
    if pool == "batch":
        expected = double_loop(z, t, cells)
    else:
        expected = float(np.nanmean([double_loop(z[:, k], t[:, k], cells[:, k]) for k in range(4)]))
        assert math.isnan(double_loop(z[:, 0], t[:, 0], cells[:, 0]))
    assert float(loss_of(logits, target, weight, cell_weight, pool=pool)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pool", ["batch", "class"])
def test_soft_auc_orders_models_as_roc_auc_does(pool: str) -> None:
    """Of logits that are ever less like the labels, the loss rises and scikit-learn's area falls."""
    g = torch.Generator().manual_seed(0)
    target = (torch.rand(60, 5, generator=g) < 0.3).float()
    noise = torch.randn(60, 5, generator=g)
    losses, areas = [], []
    for share in (0.0, 0.3, 0.6, 0.9):
        logits = 4 * ((1 - share) * (target - 0.5) + share * noise)
        losses.append(float(loss_of(logits, target, pool=pool)))
        flat = pool == "batch"
        areas.append(roc_auc_score(target.flatten() if flat else target, logits.flatten() if flat else logits))
    assert losses == sorted(losses)
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[-1] + 0.1


def test_a_sharp_soft_auc_counts_the_pairs_in_the_wrong_order() -> None:
    """Logits a thousand times as large make softplus a ramp; of pairs 1 apart, its mean is 1000 (1 - ROC-AUC) / 4."""
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    order = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    area = roc_auc_score(target, order)
    wrong = float(loss_of(1000 * order, target, pool="class")) * 4 / 1000
    ties = math.log(2) / 1000
    assert area == pytest.approx(0.5)
    assert wrong == pytest.approx(0.25, abs=ties)  # one pair of four the wrong way round, two ties, in both classes


def test_classes_are_compared_with_each_other_only_in_the_batch() -> None:
    """Macro ROC-AUC does not see the level of a class; the pooled loss does."""
    logits, target, _, _ = example()
    levels = torch.tensor([0.0, 3.0, -2.0, 5.0])
    torch.testing.assert_close(loss_of(logits + levels, target, pool="class"), loss_of(logits, target, pool="class"))
    torch.testing.assert_close(loss_of(logits + 3.0, target, pool="batch"), loss_of(logits, target, pool="batch"))
    assert not torch.isclose(loss_of(logits + levels, target, pool="batch"), loss_of(logits, target, pool="batch"))


@pytest.mark.parametrize("pool", ["batch", "class"])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_batch_without_pairs_teaches_nothing(pool: str, level: float) -> None:
    """A batch of background only is common with rare labels; it must not be NaN."""
    logits = example()[0].requires_grad_()
    value = loss_of(logits, torch.full((7, 4), level), pool=pool)
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros(7, 4))


def test_every_class_with_a_pair_counts_the_same() -> None:
    """As in macro ROC-AUC: twenty calls of a common bird must not drown the one of a rare bird."""
    target = torch.zeros(21, 2)
    target[:20, 0] = 1
    target[20, 1] = 1
    logits = torch.zeros(21, 2).requires_grad_()
    loss_of(logits, target, pool="class").backward()
    pulled = -(logits.grad * target).sum(0)
    torch.testing.assert_close(pulled[0], pulled[1])


def test_the_memory_of_all_pairs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 64 clips and 206 classes with soft targets can have 40 million pairs: 170 MB for each matrix."""
    monkeypatch.setattr(soft_auc, "CPU_PAIRS", 1000)
    sizes: list[int] = []
    real = torch.nn.functional.softplus
    monkeypatch.setattr(soft_auc.F, "softplus", lambda margin: (sizes.append(margin.numel()), real(margin))[1])
    g = torch.Generator().manual_seed(0)
    loss_of(torch.randn(16, 20, generator=g), torch.rand(16, 20, generator=g), pool="batch")
    assert max(sizes) <= 1000
    assert sum(sizes) > 16 * 20 * 100
