"""A soundscape put together from focal recordings: several animals at levels of their own, in one place."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.background import BackgroundMixing
from birdkit.augmentations.base import AUGMENTATIONS
from birdkit.augmentations.drawing import check_counts, check_range, uniform
from birdkit.augmentations.labels import Labels, joined
from birdkit.augmentations.level import SILENT, rms
from birdkit.batch import Batch
from birdkit.config import SOUNDSCAPES


@AUGMENTATIONS.register("scene")
class Scene(BackgroundMixing):
    """The example and some of its neighbours in the batch, each near or far, over a clip of the source.

    Of our own. In a soundscape every animal has a distance of its own and the place does not get quieter for it, so
    each example's power is set against that of the background, which stays as it is; what is in any of them is in the
    scene. The weight is the mean of the examples', then mixed with the background's by `weight_share`.

    counts                  further examples, drawn from alike for each example: [0, 0, 1, 1, 2] gives none, one and two
                            in 40, 40 and 20 % of the scenes
    min_snr_db, max_snr_db  power of each example over that of the background, uniform in decibels
    Over a silent background, levels are relative to the example's own. A silent example adds nothing, a silent
    neighbour no label either.
    """

    def __init__(self, p: float = 1.0, counts: Sequence[int] = (0, 0, 1, 1, 2), *, min_snr_db: float = -8.0,
                 max_snr_db: float = 16.0, weight_share: float = 0.0, loss_weight: float = 1.0,
                 source: str = SOUNDSCAPES) -> None:
        super().__init__(p, source, weight_share, loss_weight)
        check_counts(counts)
        check_range("snr_db", min_snr_db, max_snr_db)
        self.counts, self.most = list(counts), max(counts)
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """count (B,); neighbours (B, most), the example never among its own; snr_db (B, 1 + most), its own first.

        In a batch too small for so many neighbours there are fewer.
        """
        n = len(batch)
        most = min(self.most, n - 1)
        # Neighbours in a random order of the batch: all different, and every example is heard equally often.
        order = torch.randperm(n, generator=generator)
        neighbours = order[(order.argsort()[:, None] + torch.arange(1, most + 1)) % n]
        count = torch.tensor(self.counts)[torch.randint(len(self.counts), (n,), generator=generator)]
        snr_db = uniform(n * (1 + most), self.min_snr_db, self.max_snr_db, generator=generator)
        return {"count": count.clamp_max(most), "neighbours": neighbours, "snr_db": snr_db.view(n, 1 + most)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The scenes."""
        background, device = self.background(batch), batch.signal.device
        level, below = rms(batch.signal), rms(background.signal)
        reference = torch.where(below > SILENT, below, torch.where(level > SILENT, level, 1.0))
        gains = reference[:, None] * 10 ** (drawn["snr_db"].to(level) / 20)
        signal = torch.addcmul(background.signal, batch.signal, (gains[:, 0] * _unit(level))[:, None])
        parts, heard = [Labels.of(batch)], [torch.ones_like(level, dtype=torch.bool)]
        for k in range(drawn["neighbours"].shape[1]):
            rows = (drawn["count"] > k).nonzero()[:, 0]  # on the CPU, where it was drawn
            there, neighbour = rows.to(device), drawn["neighbours"][:, k].to(device)
            chosen = neighbour[there]
            gain = gains[there, k + 1] * _unit(level[chosen])
            signal.index_add_(0, there, batch.signal.index_select(0, chosen).mul_(gain[:, None]))
            parts.append(Labels.of(batch, neighbour))
            heard.append((drawn["count"] > k).to(device) & (level[neighbour] > SILENT))
        animals = joined(parts, heard=torch.stack(heard))
        return self.labels(animals, Labels.of(background), heard=below > SILENT).given_to(batch, signal)


def _unit(level: Tensor) -> Tensor:
    """The gain that brings waves of these RMS levels to 1; 0 for silent ones."""
    return torch.where(level > SILENT, 1 / level.clamp_min(SILENT), 0.0)
