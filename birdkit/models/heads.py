"""Heads: from features over segments to logits of segments and of the clip."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from birdkit.output import SEDOutput
from birdkit.registry import Registry

HEADS: Registry[Head] = Registry("head")


class Head(nn.Module):
    """Features (B, D, S) -> SEDOutput of K classes over S segments.

    n_features  D
    n_classes   K
    """

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_classes = n_classes


@HEADS.register("attention")
class AttentionHead(Head):
    """Attention over segments, one weight per class: a = softmax_s(tanh(att)), clip logit = sum_s a * logit.

    Logits are pooled, not probabilities, so that one sigmoid at the end is the only one. The attention starts
    uniform. After PANNs (Kong et al. 2020, arXiv:1912.10211) and the SED heads of BirdCLEF 2021 and 2025.

    kernel  segments that a convolution sees: 1, or 3 as the second seed
    """

    def __init__(self, n_features: int, n_classes: int, kernel: int = 1) -> None:
        super().__init__(n_features, n_classes)
        self.attention = nn.Conv1d(n_features, n_classes, kernel, padding=kernel // 2)
        self.classifier = nn.Conv1d(n_features, n_classes, kernel, padding=kernel // 2)
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)  # type: ignore[arg-type]
        nn.init.xavier_uniform_(self.classifier.weight)
        # A class is absent from most clips: starting near that share spares the first epoch from learning it.
        nn.init.constant_(self.classifier.bias, -4.0)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput."""
        attention = torch.softmax(torch.tanh(self.attention(features).float()), -1)  # (B, K, S)
        logits = self.classifier(features).float()  # (B, K, S)
        return SEDOutput((attention * logits).sum(-1), logits.transpose(1, 2), attention.transpose(1, 2))


@HEADS.register("mean")
class MeanHead(Head):
    """The mean of the segment logits."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__(n_features, n_classes)
        self.classifier = nn.Conv1d(n_features, n_classes, 1)
        nn.init.constant_(self.classifier.bias, -4.0)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput with uniform attention."""
        logits = self.classifier(features).float().transpose(1, 2)  # (B, S, K)
        return SEDOutput(logits.mean(1), logits, torch.full_like(logits, 1 / logits.shape[1]))
