"""What is known of a sound that is made of several: target, weight and cell weight, whoever mixes.

Weights: where the mix is convex they are mixed with the signal's own coefficients. Where all sounds are there in full
and the labels are joined, the weight is the mean: the label rests on all alike, and a batch of which all are mixed
keeps its sum of weights.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from birdkit.batch import Batch


class Labels(NamedTuple):
    """Target (B, K), weight (B,) and cell weight (B, K) of B sounds, as in a Batch."""

    target: Tensor
    weight: Tensor
    cell_weight: Tensor

    @classmethod
    def of(cls, batch: Batch, rows: Tensor | None = None) -> Labels:
        """The labels of a batch, or of these examples of it in this order."""
        labels = cls(batch.target, batch.weight, batch.cell_weight)
        return labels if rows is None else cls(*(one[rows] for one in labels))

    def scaled(self, coefficient: Tensor | float) -> Labels:
        """Targets times a number, or one per example (B, 1)."""
        return self._replace(target=coefficient * self.target)

    def given_to(self, batch: Batch, signal: Tensor) -> Batch:
        """The batch with another signal and these labels."""
        changes: dict[str, Any] = self._asdict()
        return batch.replace(signal=signal, **changes)


def convex(own: Labels, other: Labels, share: Tensor) -> Labels:
    """Labels of a mix in which the first sound has `share` (B,) and the second the rest."""
    wide = share[:, None]
    return Labels(wide * own.target + (1 - wide) * other.target, share * own.weight + (1 - share) * other.weight,
                  wide * own.cell_weight + (1 - wide) * other.cell_weight)


def joined(parts: Sequence[Labels], *, heard: Tensor | None = None, summed: bool = False) -> Labels:
    """Labels of a mix in which all parts are there in full.

    heard   (P, B) which part is in whose mix, at least one in each; None: all are
    summed  targets are added, at most 1, instead of taking the largest

    A cell is known as well as it is in every part, or as well as one part knows that the class is there: what else the
    mix holds cannot take that away. Targets are those that enter the mix, so a part whose target was scaled down
    vouches for less.

    >>> sure, blank = torch.tensor([[1.0]]), torch.tensor([[0.0]])
    >>> one = torch.ones(1)
    >>> joined([Labels(sure, one, sure), Labels(blank, one, blank)]).cell_weight  # heard in one, unknown in the other
    tensor([[1.]])
    >>> joined([Labels(blank, one, sure), Labels(blank, one, blank)]).cell_weight  # absent in one, unknown in the other
    tensor([[0.]])
    """
    target, weight, cell_weight = (torch.stack(one) for one in zip(*parts, strict=True))
    here = torch.ones_like(weight, dtype=torch.bool) if heard is None else heard
    target, weight = target * here[..., None], weight * here
    everywhere = cell_weight.masked_fill(~here[..., None], 1).amin(0)
    return Labels(target.sum(0).clamp_max(1) if summed else target.amax(0), weight.sum(0) / here.sum(0),
                  torch.maximum(everywhere, (cell_weight * target).amax(0)))
