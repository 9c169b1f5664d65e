"""How far an exported network is from the model: the numbers, and how far it may be."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from birdkit.backends.base import Backend, ExportError
from birdkit.models.base import Model
from birdkit.output import SEDOutput

MAX_ERROR_SIGMA = 1e-4  # f32: measured 3e-6 to 6e-5 on EfficientNet-B0
MIN_ERROR = 2e-5  # logits: an untrained network has next to no sigma, and rounding of a logit of -4 is 5e-7


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from the model on the same waves.

    max_error        largest difference of a clip or segment logit
    sigma            deviation of the model's segment logits
    attention_error  largest difference of the attention, as a share of uniform attention
    rank_agreement   mean over classes of Spearman's correlation of the segment logits, 1 = same order
    """

    max_error: float
    sigma: float
    attention_error: float
    rank_agreement: float

    def __str__(self) -> str:
        return (f"logits differ by up to {self.max_error:.3g} = {self.max_error / max(self.sigma, 1e-12):.3g} of their "
                f"sigma {self.sigma:.3g}, attention by {self.attention_error:.3g}, "
                f"rank agreement {self.rank_agreement:.5f}")


def parity(model: Model, classifier: Backend, waves: Tensor) -> Parity:
    """Compare a classifier with the model itself, from the same waves (B, N) on."""
    with torch.inference_mode():
        wanted, got = model(waves), classifier(model.frontend(waves))
    return output_parity(wanted, got)


def output_parity(wanted: SEDOutput, got: SEDOutput) -> Parity:
    """Compare two outputs of the same clips."""
    errors = [float((got.clip_logits - wanted.clip_logits).abs().max()),
              float((got.segment_logits - wanted.segment_logits).abs().max())]
    attention = (got.attention - wanted.attention).abs().max() * wanted.attention.shape[1]
    ranks = rank_agreements(*(one.segment_logits.flatten(0, 1).numpy() for one in (wanted, got)))
    return Parity(max(errors) if np.isfinite(errors).all() else float("inf"),
                  float(wanted.segment_logits.std(correction=0)), float(attention), float(ranks.mean()))


def rank_agreements(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each column, (R, K) and (R, K) -> (K,) in [-1, 1].

    A column that is constant has no order: 1 where it is so on both sides, 0 where on one. What is not finite is no
    agreement in any column.

    >>> rank_agreements(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), np.array([[7.0, 1.0], [8.0, 1.0], [99.0, 1.0]]))
    array([1., 1.])
    """
    if not np.isfinite(got).all():
        return np.zeros(wanted.shape[1])
    centred = [ranks - ranks.mean(0) for ranks in (rankdata(values, axis=0) for values in (wanted, got))]
    spread = [(side**2).sum(0) for side in centred]
    scale = np.sqrt(spread[0] * spread[1])
    both_constant = (spread[0] == 0) & (spread[1] == 0)
    return np.where(both_constant, 1.0, (centred[0] * centred[1]).sum(0) / np.where(scale > 0, scale, 1.0))


def allowed_error(agreement: Parity) -> float:
    """How far a logit of an f32 network may be from the model's."""
    return max(MAX_ERROR_SIGMA * agreement.sigma, MIN_ERROR)


def require_parity(agreement: Parity) -> None:
    """Raise ExportError where an f32 classifier is too far from the model by its logits or its attention; for lower
    precisions see birdkit.export.gate, which hears real audio."""
    limit = allowed_error(agreement)
    if not (agreement.max_error <= limit and agreement.attention_error <= 10 * MAX_ERROR_SIGMA):
        raise ExportError(f"the exported network is not the model: {agreement}; f32 may differ by {limit:.3g}")
