"""Filters of the whole clip's spectrum. A chain of them costs one Fourier transform there and back.

Filters without delay are circular: what rings beyond one end of a clip rings on at the other, a few samples long. Where
one has an echo, which is long and comes after its sound alone, there is silence behind the clip for it to end in.
"""
from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from scipy.fft import next_fast_len
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation, build_member
from birdkit.augmentations.drawing import check_range, uniform
from birdkit.batch import Batch


class Filter(Augmentation):
    """An augmentation that multiplies the spectrum of the whole clip.

    neutral  drawn values with which the filter does nothing
    """

    neutral: ClassVar[dict[str, float]]

    def __init__(self, p: float = 1.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p)
        self.sample_rate_hz = sample_rate_hz

    def change(self, spectrum: Tensor, n_samples: int, **drawn: Any) -> None:
        """Multiply the spectrum (B, N // 2 + 1) in place by the response of the filter."""
        raise NotImplementedError

    def tail(self, **drawn: Any) -> int:
        """Samples for which a sound rings on after its end, 0 for none: so much silence is put behind the clip."""
        return 0

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves, filtered."""
        n_samples, tail = batch.signal.shape[1], self.tail(**drawn)
        padded = next_fast_len(n_samples + tail, real=True) if tail else n_samples
        spectrum = torch.fft.rfft(batch.signal, n=padded)
        self.change(spectrum, padded, **drawn)
        return batch.replace(signal=torch.fft.irfft(spectrum, n=padded)[:, :n_samples].contiguous())


@AUGMENTATIONS.register("low_pass")
class LowPass(Filter):
    """The high frequencies taken away, as air and leaves do: a quick stand-in for "distance".

    The magnitude of a Butterworth filter, without its delay: -3 dB at the cut-off, then 6 dB * order an octave.

    min_cutoff_hz, max_cutoff_hz  range of the cut-off, uniform
    """

    neutral: ClassVar[dict[str, float]] = {"cutoff_hz": math.inf}

    def __init__(self, p: float = 1.0, min_cutoff_hz: float = 4_000.0, *, max_cutoff_hz: float = 12_000.0,
                 order: int = 2, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p, sample_rate_hz)
        check_range("cutoff_hz", min_cutoff_hz, max_cutoff_hz, least=1.0)
        check_range("order", 1, order, most=8)
        self.min_cutoff_hz, self.max_cutoff_hz, self.order = min_cutoff_hz, max_cutoff_hz, order

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """cutoff_hz (B,)."""
        return {"cutoff_hz": uniform(len(batch), self.min_cutoff_hz, self.max_cutoff_hz, generator=generator)}

    def change(self, spectrum: Tensor, n_samples: int, **drawn: Any) -> None:
        """Multiply by 1 / sqrt(1 + (f / cutoff) ** (2 order)), in kHz so that no power overflows."""
        frequency_khz = frequencies_hz(n_samples, self.sample_rate_hz, device=spectrum.device) / 1000
        cutoff = (drawn["cutoff_hz"].to(spectrum.device) / 1000) ** (-2 * self.order)
        multiply(spectrum, (cutoff[:, None] * frequency_khz ** (2 * self.order)).add_(1).rsqrt_())


@AUGMENTATIONS.register("filter_chain")
class FilterChain(Filter):
    """Several filters for the price of one Fourier transform there and back.

    members  [{"name": "low_pass", "options": {"p": 0.5}}, ...], in any order; each has its own probability
    """

    neutral: ClassVar[dict[str, float]] = {}

    def __init__(self, p: float = 1.0, members: list[dict[str, Any]] | None = None) -> None:
        super().__init__(p)
        built = [build_member(member) for member in members or []]
        strange = [type(member).__name__ for member in built if not isinstance(member, Filter)]
        if strange or not built:
            raise ValueError(f"filter_chain needs members that are filters, not {', '.join(strange) or 'none'}")
        self.members = torch.nn.ModuleList(built)

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """filters: what each member draws, with neutral values where it is not applied."""
        filters = []
        for member in self._filters():
            drawn = member.draw(batch, generator)
            applied = drawn.pop("applied")
            for key, value in member.neutral.items():
                drawn[key][~applied] = value
            filters.append(drawn)
        return {"filters": filters}

    def change(self, spectrum: Tensor, n_samples: int, **drawn: Any) -> None:
        """Every filter's change, one after the other."""
        for member, its_own in zip(self._filters(), drawn["filters"], strict=True):
            member.change(spectrum, n_samples, **its_own)

    def tail(self, **drawn: Any) -> int:
        """The sum of all filters' tails: an echo may echo."""
        return sum(member.tail(**its_own) for member, its_own in zip(self._filters(), drawn["filters"], strict=True))

    def _filters(self) -> list[Filter]:
        return [member for member in self.members if isinstance(member, Filter)]


def frequencies_hz(n_samples: int, sample_rate_hz: int, *, device: torch.device) -> Tensor:
    """The frequency of each column of a spectrum (B, N // 2 + 1)."""
    return torch.fft.rfftfreq(n_samples, 1 / sample_rate_hz, device=device)


def octave_place(n_samples: int, lowest_hz: float, sample_rate_hz: int, *, device: torch.device) -> Tensor:
    """Where each column of a spectrum lies in octaves: 0 at `lowest_hz` and below, 1 at half the sample rate."""
    octaves = (frequencies_hz(n_samples, sample_rate_hz, device=device).clamp_min(lowest_hz) / lowest_hz).log2()
    return octaves / math.log2(sample_rate_hz / 2 / lowest_hz)


def multiply(spectrum: Tensor, gain: Tensor) -> None:
    """Multiply a complex tensor in place by real gains: by its halves it is three times as fast on a CPU."""
    spectrum.real.mul_(gain)
    spectrum.imag.mul_(gain)
