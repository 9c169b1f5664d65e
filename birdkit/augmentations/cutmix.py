"""A piece of one example replaced by the same piece of another: a stretch of time, or a rectangle of an image."""
from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS
from birdkit.augmentations.drawing import beta, check_range, per_example
from birdkit.augmentations.labels import Labels, convex, joined
from birdkit.augmentations.level import unit_gain
from birdkit.augmentations.mixing import Mixing
from birdkit.batch import Batch


class Cutting(Mixing):
    """An augmentation that cuts a piece out of each example and puts the partner's in its place.

    alpha   the share that stays is drawn from Beta(alpha, alpha), for each example
    labels  "convex": target and weights by the share that stays. "max": what is in either is in the mix, weight the
            mean
    """

    def __init__(self, p: float, alpha: float, labels: str, level: str) -> None:
        super().__init__(p, level)
        check_range("alpha", alpha, alpha, least=1e-3)
        if labels not in ("convex", "max"):
            raise ValueError(f"labels = {labels!r}; it must be one of convex, max")
        self.alpha, self.labels = alpha, labels

    def pieces(self, shape: torch.Size, **drawn: Any) -> list[tuple[Any, ...]]:
        """For each example the index of what is replaced: slices of its last axes."""
        raise NotImplementedError

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The example, but the partner within the cut."""
        own = batch.signal * per_example(unit_gain(batch.signal, self.level), batch.signal)
        signal, stays = own.clone(), torch.ones(len(batch))
        # Only what changes is copied: many times as fast as a mask of every sample.
        for row, piece in enumerate(self.pieces(own.shape, **drawn)):
            cut = own[drawn["partner"][row]][piece]
            signal[row][piece] = cut
            stays[row] -= cut.numel() / own[row].numel()
        first, second = Labels.of(batch), Labels.of(batch, drawn["partner"].to(own.device))
        if self.labels == "max":
            return joined([first, second]).given_to(batch, signal)
        return convex(first, second, stays.to(own.device)).given_to(batch, signal)


@AUGMENTATIONS.register("horizontal_cutmix")
class HorizontalCutMix(Cutting):
    """A stretch of time is cut out and replaced by the same stretch of the partner.

    BirdCLEF 2024 first place, .602 to .615 on its private board; after Yun et al. 2019, arXiv:1905.04899.
    """

    def __init__(self, p: float = 1.0, alpha: float = 1.0, *, labels: str = "convex", level: str = "rms") -> None:
        super().__init__(p, alpha, labels, level)

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """share (B,) that stays, place (B,) of the cut from 0 (at the start) to 1 (at the end), partner (B,)."""
        return {"share": beta(len(batch), self.alpha, generator=generator),
                "place": torch.rand(len(batch), generator=generator),
                "partner": torch.randperm(len(batch), generator=generator)}

    def pieces(self, shape: torch.Size, **drawn: Any) -> list[tuple[Any, ...]]:
        """Stretches of time."""
        length = ((1 - drawn["share"].double()) * shape[-1]).round()
        start = (drawn["place"] * (shape[-1] - length)).round()
        return [(..., along) for along in _slices(start, start + length)]


@AUGMENTATIONS.register("cutmix")
class CutMix(Cutting):
    """CutMix as published: a rectangle of the spectrogram is the partner's (Yun et al. 2019, arXiv:1905.04899).

    Its sides are sqrt(1 - share) of the axes, its centre is anywhere, and what lies outside the image is cut off; the
    share that stays is that of the area. Here for comparison: a call is known by its whole shape, of which a
    rectangle takes a part; a stretch of time ("horizontal_cutmix") leaves it whole.
    """

    stages = ("spectrogram",)

    def __init__(self, p: float = 1.0, alpha: float = 1.0, *, labels: str = "convex") -> None:
        super().__init__(p, alpha, labels, "none")

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """share (B,) that stays if the rectangle is inside, time and band (B,) of its centre, 0 to 1; partner (B,)."""
        n = len(batch)
        return {"share": beta(n, self.alpha, generator=generator), "time": torch.rand(n, generator=generator),
                "band": torch.rand(n, generator=generator), "partner": torch.randperm(n, generator=generator)}

    def pieces(self, shape: torch.Size, **drawn: Any) -> list[tuple[Any, ...]]:
        """Rectangles of bands and time."""
        half = (1 - drawn["share"].double()).sqrt() / 2

        def side(cells: int, centre: Tensor) -> list[slice]:
            return _slices(*(((centre + way * half).clamp(0, 1) * cells).round() for way in (-1, 1)))

        bands, times = side(shape[-2], drawn["band"]), side(shape[-1], drawn["time"])
        return [(..., *piece) for piece in zip(bands, times, strict=True)]


def _slices(start: Tensor, stop: Tensor) -> list[slice]:
    """A slice for each example, of an axis; on the CPU, where places are drawn."""
    return [slice(first, last) for first, last in zip(start.long().tolist(), stop.long().tolist(), strict=True)]
