"""Two examples at full strength: SUMIX, which adds them, and its relative that picks one of them band by band."""
from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS
from birdkit.augmentations.drawing import check_range, per_example, uniform
from birdkit.augmentations.filtering import octave_place
from birdkit.augmentations.labels import Labels, joined
from birdkit.augmentations.level import SILENT, peak, unit_gain
from birdkit.augmentations.mixing import Mixing
from birdkit.batch import Batch


@AUGMENTATIONS.register("sumix")
class Sumix(Mixing):
    """SUMIX: both sounds with gains of their own, c1 * example + c2 * partner.

    Published twice. BirdCLEF 2023 seventh place: labels "slope", renormalise "none", on every example. Second seed,
    2025: labels "max", renormalise "peak", applied 0, 1, 1 or 2 times (see "repeat"); its author found it far better
    than CutMix. The seventh place's companion SUMUP, the plain sum of sounds and labels, is min_gain 1, labels "slope",
    level and renormalise "none".

    min_gain     c1 and c2 are drawn from min_gain to 1, uniform, for each example
    labels       "max": what is in either is in the mix. "slope": the sum of both targets, each times its label
                 coefficient (1 where c >= 0.5, else 2 c), at most 1
    renormalise  "peak" divides the mix by its largest magnitude, "none" does not. Spectrograms are left as they are
    """

    def __init__(self, p: float = 1.0, min_gain: float = 0.3, *, labels: str = "max", level: str = "peak",
                 renormalise: str = "peak") -> None:
        super().__init__(p, level)
        check_range("min_gain", min_gain, 1.0, least=0.0)
        if labels not in ("max", "slope"):
            raise ValueError(f"labels = {labels!r}; it must be one of max, slope")
        if renormalise not in ("peak", "none"):
            raise ValueError(f"renormalise = {renormalise!r}; it must be one of peak, none")
        self.min_gain, self.labels, self.renormalise = min_gain, labels, renormalise

    @property
    def sets_level(self) -> bool:
        """True unless `level` and `renormalise` are "none"."""
        return super().sets_level or self.renormalise != "none"

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """own (B,) and other (B,), the two gains; partner (B,)."""
        n = len(batch)
        return {"own": uniform(n, self.min_gain, 1.0, generator=generator),
                "other": uniform(n, self.min_gain, 1.0, generator=generator),
                "partner": torch.randperm(n, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """own * example + other * partner."""
        own, other, partner = (drawn[key].to(batch.signal.device) for key in ("own", "other", "partner"))
        signal = self.mix(batch, partner, own, other=other)
        if self.renormalise == "peak" and signal.ndim == 2:
            signal.div_(peak(signal).clamp_min(SILENT)[:, None])
        first, second = Labels.of(batch), Labels.of(batch, partner)
        if self.labels == "slope":
            first, second = first.scaled(_slope_labels(own)), second.scaled(_slope_labels(other))
        return joined([first, second], summed=self.labels == "slope").given_to(batch, signal)


@AUGMENTATIONS.register("sumix_freq")
class SumixFreq(Mixing):
    """Each band of frequencies is heard from one of two examples, and what is in either is in the mix.

    "SumixFreq" of BirdCLEF 2025 and 2026 solutions: animals keep to bands of their own, so each band stays as it was
    recorded. There every row of the mel spectrogram is chosen with probability 1/2, alike for the whole batch; here for
    each example. Of waves, bands of equal width in octaves take the place of rows.

    bands      choices that are drawn; a spectrogram's rows share them in order where it has more rows
    own_share  probability that a band is the example's own
    lowest_hz  all below it is one band of a wave
    """

    def __init__(self, p: float = 1.0, bands: int = 128, *, own_share: float = 0.5, level: str = "rms",
                 lowest_hz: float = 200.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p, level)
        check_range("bands", 2, bands)
        check_range("own_share", own_share, own_share, least=0.0, most=1.0)
        check_range("lowest_hz", lowest_hz, sample_rate_hz / 2, least=1.0)
        self.bands, self.own_share = bands, own_share
        self.lowest_hz, self.sample_rate_hz = lowest_hz, sample_rate_hz

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """own (B, bands), which bands are the example's own; partner (B,)."""
        n = len(batch)
        return {"own": torch.rand(n, self.bands, generator=generator) < self.own_share,
                "partner": torch.randperm(n, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The example in its own bands, the partner in the others."""
        signal, partner, own = batch.signal, drawn["partner"].to(batch.signal.device), drawn["own"]
        if signal.ndim == 2:
            source = torch.where(own, torch.arange(len(own))[:, None], drawn["partner"][:, None])
            mixed = self._waves(signal, source.to(signal.device))
        else:
            rows = torch.arange(signal.shape[2]) * self.bands // signal.shape[2]
            mask = own.index_select(1, rows).to(signal.device)[:, None, :, None]
            mixed = torch.where(mask, signal, signal.index_select(0, partner))
        return joined([Labels.of(batch), Labels.of(batch, partner)]).given_to(batch, mixed)

    def _waves(self, signal: Tensor, source: Tensor) -> Tensor:
        """Bands put together from the examples `source` (B, bands)."""
        n_samples = signal.shape[1]
        spectrum = torch.fft.rfft(signal * per_example(unit_gain(signal, self.level), signal))
        # Column by column a band is one piece of memory per example: faster than a mask of every column.
        columns = [spectrum[:, low:high].index_select(0, source[:, band])
                   for band, (low, high) in enumerate(itertools.pairwise(self._edges(n_samples))) if low < high]
        return torch.fft.irfft(torch.cat(columns, 1), n=n_samples)

    def _edges(self, n_samples: int) -> list[int]:
        """Columns of a spectrum where the bands begin, and the end."""
        place = octave_place(n_samples, self.lowest_hz, self.sample_rate_hz, device=torch.device("cpu"))
        inner = torch.searchsorted(place, torch.arange(1, self.bands) / self.bands)
        return [0, *inner.tolist(), len(place)]


def _slope_labels(gain: Tensor) -> Tensor:
    """The label coefficient of a gain, (B,) -> (B, 1): a sound quieter than half counts in proportion."""
    return (2 * gain).clamp_max(1)[:, None]
