"""Heads: from features over segments to logits of segments and of the clip."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from birdkit.models.pooling import GeM
from birdkit.output import SEDOutput, pool_probabilities
from birdkit.registry import Registry

HEADS: Registry[Head] = Registry("head")

# A class is absent from most clips: starting near that share spares the first epoch from learning it.
START_LOGIT = -4.0


class Head(nn.Module):
    """Features (B, D, S) -> SEDOutput of K classes over S segments, S of any length.

    n_features  D
    n_classes   K
    pooled      how the segments make the clip, see SEDOutput
    """

    pooled: str = "logits"

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_classes = n_classes


def _classifier(n_features: int, n_classes: int, kernel: int = 1) -> nn.Conv1d:
    classifier = nn.Conv1d(n_features, n_classes, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(classifier.weight)
    nn.init.constant_(classifier.bias, START_LOGIT)  # type: ignore[arg-type]
    return classifier


def _uniform(logits: Tensor) -> Tensor:
    return torch.full_like(logits, 1 / logits.shape[1])


@HEADS.register("attention")
class AttentionHead(Head):
    """Attention over segments, one weight per class: a = softmax_s(tanh(att)), which starts uniform.

    After PANNs (Kong et al. 2020, arXiv:1912.10211) and the SED heads of BirdCLEF 2021 and 2025.

    kernel  segments that a convolution sees: 1, or 3 as the second seed; odd
    pool    "logits": clip logit = sum_s a * logit, so that one sigmoid at the end is the only one (both seeds' loss).
            "probabilities": the clip's probability = sum_s a * sigmoid(logit) (PANNs; what the second seed submitted)
    """

    def __init__(self, n_features: int, n_classes: int, kernel: int = 1, pool: str = "logits") -> None:
        super().__init__(n_features, n_classes)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel = {kernel} must be odd: an even one would shift the segments")
        if pool not in ("logits", "probabilities"):
            raise ValueError(f"pool = {pool!r}; it must be one of logits, probabilities")
        self.pooled = pool
        self.attention = nn.Conv1d(n_features, n_classes, kernel, padding=kernel // 2)
        self.classifier = _classifier(n_features, n_classes, kernel)
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput."""
        attention = torch.softmax(torch.tanh(self.attention(features).float()), -1).transpose(1, 2)  # (B, S, K)
        logits = self.classifier(features).float().transpose(1, 2)  # (B, S, K)
        clip = (attention * logits).sum(1) if self.pooled == "logits" else pool_probabilities(logits, attention)
        return SEDOutput(clip, logits, attention, self.pooled)


@HEADS.register("mean")
class MeanHead(Head):
    """The mean of the segment logits."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__(n_features, n_classes)
        self.classifier = _classifier(n_features, n_classes)

    def forward(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput with uniform attention."""
        logits = self.classifier(features).float().transpose(1, 2)  # (B, S, K)
        return SEDOutput(logits.mean(1), logits, _uniform(logits))


@HEADS.register("max")
class MaxHead(Head):
    """The largest segment logit of each class: one segment decides."""

    pooled = "max"

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__(n_features, n_classes)
        self.classifier = _classifier(n_features, n_classes)

    def forward(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput; attention is uniform, for nothing is weighed."""
        logits = self.classifier(features).float().transpose(1, 2)  # (B, S, K)
        return SEDOutput(logits.amax(1), logits, _uniform(logits), self.pooled)


@HEADS.register("gem")
class GeMHead(Head):
    """One linear layer on the generalised mean of the features over segments (2021 second place).

    With pooling "gem" over the bands, neck "none" and parts this is that place's model: GeM over all of the map. The
    segments' logits are the same layer on each segment's features.
    """

    pooled = "free"

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__(n_features, n_classes)
        self.gem = GeM()
        self.classifier = _classifier(n_features, n_classes)

    def forward(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput with uniform attention."""
        logits = self.classifier(features).float().transpose(1, 2)  # (B, S, K)
        clip = self.classifier(self.gem(features, 2).unsqueeze(2)).float().squeeze(2)
        return SEDOutput(clip, logits, _uniform(logits), self.pooled)


@HEADS.register("grouped")
class GroupedHead(Head):
    """A head of its own for each group of classes, such as birds, frogs and insects, on the same features.

    The second seed tried this for taxon groups. A group's head has a layer of its own before it, so groups can look
    for different things; the result is one output over all classes, in their usual order.

    groups  name of the group of each class, K of them; empty for one group of all. In a recipe it may be a column of
            the class table, see birdkit.recipes.for_competition
    head    the registered head of each group
    hidden  width of each group's own layer
    """

    def __init__(self, n_features: int, n_classes: int, groups: Sequence[str] = (), head: str = "attention",
                 hidden: int = 128, head_options: dict[str, Any] | None = None) -> None:
        super().__init__(n_features, n_classes)
        if isinstance(groups, str):
            raise ValueError(f"groups = {groups!r} is the name of a column; birdkit.recipes.for_competition reads it")
        groups = groups or [""] * n_classes
        if len(groups) != n_classes:
            raise ValueError(f"groups names the group of {len(groups)} classes, but there are {n_classes}")
        members = [[k for k, group in enumerate(groups) if group == name] for name in dict.fromkeys(groups)]
        self.layers = nn.ModuleList([nn.Sequential(nn.Conv1d(n_features, hidden, 1), nn.ReLU()) for _ in members])
        self.heads = nn.ModuleList([HEADS.build(head, n_features=hidden, n_classes=len(classes), **(head_options or {}))
                                    for classes in members])
        self.pooled = str(self.heads[0].pooled)
        order = torch.tensor([k for classes in members for k in classes])
        self.register_buffer("place", order.argsort(), persistent=False)

    def forward(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput of all groups, classes in their own order."""
        parts = [head(layer(features)) for layer, head in zip(self.layers, self.heads, strict=True)]
        place = self.get_buffer("place")
        return SEDOutput(torch.cat([part.clip_logits for part in parts], 1)[:, place],
                         torch.cat([part.segment_logits for part in parts], 2)[:, :, place],
                         torch.cat([part.attention for part in parts], 2)[:, :, place], self.pooled)
