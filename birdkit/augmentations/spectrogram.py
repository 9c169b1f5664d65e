"""Parts of an unfolded spectrogram (B, C, F, T) covered, so that no single detail decides."""
from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.drawing import check_range
from birdkit.batch import Batch


class Masking(Augmentation):
    """An augmentation that covers cells.

    fill  what a covered cell shows: "mean" or "min" of its own example and channel. Both fit every scaling of the
          front end, where a fixed number does not: the second seed's zero lay near the bright end of its decibels
    """

    stages = ("spectrogram",)

    def __init__(self, p: float, fill: str) -> None:
        super().__init__(p)
        if fill not in ("mean", "min"):
            raise ValueError(f"fill = {fill!r}; it must be one of mean, min")
        self.fill = fill

    def covered(self, signal: Tensor, **drawn: Any) -> Tensor:
        """True where cells are covered, to be broadcast to (B, C, F, T)."""
        raise NotImplementedError

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The spectrograms, partly covered."""
        signal = batch.signal
        value = signal.mean((-2, -1), keepdim=True) if self.fill == "mean" else signal.amin((-2, -1), keepdim=True)
        return batch.replace(signal=torch.where(self.covered(signal, **drawn), value, signal))


class _Stripes(Masking):
    """One to `max_masks` stripes across one axis."""

    def __init__(self, p: float, max_masks: int, max_share: float, fill: str) -> None:
        super().__init__(p, fill)
        check_range("max_masks", 1, max_masks)
        check_range("max_share", 0.0, max_share, most=1.0)
        self.max_masks, self.max_share = max_masks, max_share

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """width and place (B, max_masks), as shares of the axis; a mask that is not used has width 0."""
        shape = (len(batch), self.max_masks)
        width = self.max_share * torch.rand(shape, generator=generator) * _in_use(shape, generator)
        return {"width": width, "place": torch.rand(shape, generator=generator)}


@AUGMENTATIONS.register("time_mask")
class TimeMask(_Stripes):
    """Stretches of time covered, one half of SpecAugment (Park et al. 2019, arXiv:1904.08779).

    max_masks  stretches per example, 1 to this
    max_share  longest stretch as a share of the clip
    """

    def __init__(self, p: float = 1.0, max_masks: int = 2, *, max_share: float = 0.1, fill: str = "mean") -> None:
        super().__init__(p, max_masks, max_share, fill)

    def covered(self, signal: Tensor, **drawn: Any) -> Tensor:
        """True in the covered frames, (B, 1, 1, T)."""
        return _spans(signal.shape[-1], drawn["width"], drawn["place"].to(signal.device)).any(1)[:, None, None, :]


@AUGMENTATIONS.register("frequency_mask")
class FrequencyMask(_Stripes):
    """Bands covered, the other half of SpecAugment.

    max_masks  stripes per example, 1 to this
    max_share  widest stripe as a share of the bands
    """

    def __init__(self, p: float = 1.0, max_masks: int = 2, *, max_share: float = 0.1, fill: str = "mean") -> None:
        super().__init__(p, max_masks, max_share, fill)

    def covered(self, signal: Tensor, **drawn: Any) -> Tensor:
        """True in the covered bands, (B, 1, F, 1)."""
        return _spans(signal.shape[-2], drawn["width"], drawn["place"].to(signal.device)).any(1)[:, None, :, None]


@AUGMENTATIONS.register("coarse_dropout")
class CoarseDropout(Masking):
    """Rectangles covered (DeVries and Taylor 2017, arXiv:1708.04552, with several holes); second seed, 2025: 1 to 4.

    max_holes            rectangles per example, 1 to this
    min_share, max_share  range of their sides as shares of both axes
    """

    def __init__(self, p: float = 1.0, max_holes: int = 4, *, min_share: float = 0.05, max_share: float = 0.2,
                 fill: str = "mean") -> None:
        super().__init__(p, fill)
        check_range("max_holes", 1, max_holes)
        check_range("share", min_share, max_share, least=0.0, most=1.0)
        self.max_holes, self.min_share, self.max_share = max_holes, min_share, max_share

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """width and place of both sides (B, max_holes), as shares of the axes; a hole that is not used has width 0."""
        shape = (len(batch), self.max_holes)
        used = _in_use(shape, generator)

        def side() -> Tensor:
            return (self.min_share + (self.max_share - self.min_share) * torch.rand(shape, generator=generator)) * used

        return {"time_width": side(), "time_place": torch.rand(shape, generator=generator),
                "band_width": side(), "band_place": torch.rand(shape, generator=generator)}

    def covered(self, signal: Tensor, **drawn: Any) -> Tensor:
        """True in the holes, (B, 1, F, T)."""
        time = _spans(signal.shape[-1], drawn["time_width"], drawn["time_place"].to(signal.device))
        band = _spans(signal.shape[-2], drawn["band_width"], drawn["band_place"].to(signal.device))
        return (band[:, :, :, None] & time[:, :, None, :]).any(1)[:, None]


def _in_use(shape: tuple[int, int], generator: Generator) -> Tensor:
    """True for the first 1 to M of each example's M masks, (B, M)."""
    count = torch.randint(1, shape[1] + 1, (shape[0], 1), generator=generator)
    return torch.arange(shape[1]) < count


def _spans(length: int, width: Tensor, place: Tensor) -> Tensor:
    """Bool (B, M, length): spans of an axis, width (B, M) as shares of it, place from 0 (its start) to 1 (its end)."""
    cells = (width.to(place.device) * length).round()
    start = (place * (length - cells)).round()
    position = torch.arange(length, device=place.device)
    return (position >= start[..., None]) & (position < (start + cells)[..., None])
