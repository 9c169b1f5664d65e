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


class Stripes(Masking):
    """Stripes across one axis, alike in all channels.

    max_masks  stripes of an example, `min_masks` to this
    max_share  widest stripe as a share of the axis
    parts      equal pieces of time that an example is made of, as ModelConfig.parts: each gets stripes of its own, and
               its time is the axis of stretches of time
    """

    def __init__(self, p: float = 1.0, max_masks: int = 2, *, max_share: float = 0.1, min_masks: int = 1,
                 parts: int = 1, fill: str = "mean") -> None:
        super().__init__(p, fill)
        check_range("min_masks and max_masks", min_masks, max_masks, least=1)
        check_range("max_share", 0.0, max_share, most=1.0)
        check_range("parts", parts, parts, least=1)
        self.min_masks, self.max_masks, self.max_share, self.parts = min_masks, max_masks, max_share, parts

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """width and place (B, parts, max_masks), as shares of the axis; a mask that is not used has width 0."""
        shape = (len(batch), self.parts, self.max_masks)
        width = self.max_share * torch.rand(shape, generator=generator) * _in_use(shape, generator, self.min_masks)
        return {"width": width, "place": torch.rand(shape, generator=generator)}

    def part_frames(self, signal: Tensor) -> int:
        """Frames of a part. Raises ValueError where the parts are not of equal length."""
        if signal.shape[-1] % self.parts:
            raise ValueError(f"{signal.shape[-1]} frames cannot be cut into {self.parts} equal parts")
        return signal.shape[-1] // self.parts


@AUGMENTATIONS.register("time_mask")
class TimeMask(Stripes):
    """Stretches of time covered, one half of SpecAugment (Park et al. 2019, arXiv:1904.08779)."""

    def covered(self, signal: Tensor, **drawn: Any) -> Tensor:
        """True in the covered frames, (B, 1, 1, T)."""
        spans = _spans(self.part_frames(signal), drawn["width"], drawn["place"].to(signal.device))
        return spans.any(2).flatten(1)[:, None, None, :]


@AUGMENTATIONS.register("frequency_mask")
class FrequencyMask(Stripes):
    """Bands covered, the other half of SpecAugment."""

    def covered(self, signal: Tensor, **drawn: Any) -> Tensor:
        """True in the covered bands, (B, 1, F, 1), or (B, 1, F, T) where there are parts."""
        spans = _spans(signal.shape[-2], drawn["width"], drawn["place"].to(signal.device))
        bands = spans.any(2).transpose(1, 2)[:, None]  # (B, 1, F, parts)
        frames = self.part_frames(signal)
        return bands if self.parts == 1 else bands.repeat_interleave(frames, 3)


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


def _in_use(shape: tuple[int, ...], generator: Generator, least: int = 1) -> Tensor:
    """True for the first `least` to M of M masks, (..., M)."""
    count = torch.randint(least, shape[-1] + 1, (*shape[:-1], 1), generator=generator)
    return torch.arange(shape[-1]) < count


def _spans(length: int, width: Tensor, place: Tensor) -> Tensor:
    """Bool (..., length): spans of an axis, width (...) as shares of it, place from 0 (its start) to 1 (its end)."""
    cells = (width.to(place.device) * length).round()
    start = (place * (length - cells)).round()
    position = torch.arange(length, device=place.device)
    return (position >= start[..., None]) & (position < (start + cells)[..., None])
