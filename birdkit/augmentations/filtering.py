"""Changes of a wave's spectrum: distance, microphone, room. Each costs one Fourier transform there and back.

All filters are circular: the end of a clip rings on at its start, as a sound before the clip would.
"""
from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.drawing import check_range, integer, uniform
from birdkit.augmentations.level import SILENT, rms
from birdkit.batch import Batch

# Different rooms in one batch.
ROOMS = 4


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

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves, filtered."""
        n_samples = batch.signal.shape[1]
        spectrum = torch.fft.rfft(batch.signal)
        self.change(spectrum, n_samples, **drawn)
        return batch.replace(signal=torch.fft.irfft(spectrum, n=n_samples))

    def frequencies(self, spectrum: Tensor, n_samples: int) -> Tensor:
        """The frequency of each column of the spectrum, in Hz."""
        return torch.fft.rfftfreq(n_samples, 1 / self.sample_rate_hz, device=spectrum.device)


@AUGMENTATIONS.register("low_pass")
class LowPass(Filter):
    """Distance: air and leaves take the high frequencies first.

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
        frequency = (self.frequencies(spectrum, n_samples) / 1000) ** (2 * self.order)
        cutoff = (drawn["cutoff_hz"].to(spectrum.device) / 1000) ** (-2 * self.order)
        _scale(spectrum, (cutoff[:, None] * frequency).add_(1).rsqrt_())


@AUGMENTATIONS.register("random_eq")
class RandomEQ(Filter):
    """Another microphone, another place: a random gain for each band, as FilterAugment does (Nam et al. 2022, ICASSP).

    The gains are drawn at `bands` frequencies, evenly spaced in octaves from `lowest_hz` to half the sample rate,
    and joined by straight lines in decibels.

    min_db, max_db  range of the gains, uniform in decibels
    """

    neutral: ClassVar[dict[str, float]] = {"gains_db": 0.0}

    def __init__(self, p: float = 1.0, min_db: float = -6.0, *, max_db: float = 6.0, bands: int = 8,
                 lowest_hz: float = 200.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p, sample_rate_hz)
        check_range("gains_db", min_db, max_db)
        check_range("bands", 2, bands)
        check_range("lowest_hz", lowest_hz, sample_rate_hz / 2, least=1.0)
        self.min_db, self.max_db, self.bands, self.lowest_hz = min_db, max_db, bands, lowest_hz

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """gains_db (B, bands)."""
        flat = uniform(len(batch) * self.bands, self.min_db, self.max_db, generator=generator)
        return {"gains_db": flat.view(len(batch), self.bands)}

    def change(self, spectrum: Tensor, n_samples: int, **drawn: Any) -> None:
        """Multiply by the gains between the bands."""
        octaves = (self.frequencies(spectrum, n_samples).clamp_min(self.lowest_hz) / self.lowest_hz).log2()
        place = octaves / math.log2(self.sample_rate_hz / 2 / self.lowest_hz) * (self.bands - 1)
        below = place.long().clamp_max(self.bands - 2)
        log_gains = drawn["gains_db"].to(spectrum.device) * (math.log(10) / 20)
        # Not a product of matrices, which autocast would round to half precision.
        between = log_gains.index_select(1, below).lerp_(log_gains.index_select(1, below + 1), place - below)
        _scale(spectrum, between.exp_())


@AUGMENTATIONS.register("reverb")
class Reverb(Filter):
    """A light echo, as of a forest or a rock face: the direct sound, then noise that dies away exponentially.

    min_decay_s, max_decay_s    time in which the echo falls by 60 dB, uniform
    min_direct_db, max_direct_db  energy of the direct sound over that of the echo, uniform in decibels
    A batch draws at most 4 rooms; an example gets one of them, at a strength of its own.
    """

    neutral: ClassVar[dict[str, float]] = {"direct_db": math.inf}

    def __init__(self, p: float = 1.0, min_decay_s: float = 0.2, *, max_decay_s: float = 1.0,
                 min_direct_db: float = 3.0, max_direct_db: float = 15.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p, sample_rate_hz)
        check_range("decay_s", min_decay_s, max_decay_s, least=0.01)
        check_range("direct_db", min_direct_db, max_direct_db)
        self.min_decay_s, self.max_decay_s = min_decay_s, max_decay_s
        self.min_direct_db, self.max_direct_db = min_direct_db, max_direct_db

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Of the batch: seed and decays_s of its rooms. Of each example: which (B,) and direct_db (B,)."""
        n = len(batch)
        rooms = min(ROOMS, n)
        return {
            "seed": integer(2**31, generator=generator),
            "decays_s": uniform(rooms, self.min_decay_s, self.max_decay_s, generator=generator).tolist(),
            "which": torch.randint(rooms, (n,), generator=generator),
            "direct_db": uniform(n, self.min_direct_db, self.max_direct_db, generator=generator),
        }

    def change(self, spectrum: Tensor, n_samples: int, **drawn: Any) -> None:
        """Multiply by 1 + strength * (spectrum of the echo)."""
        rooms = torch.fft.rfft(self.echoes(drawn["seed"], drawn["decays_s"], n_samples=n_samples)).to(spectrum.device)
        strength = 10 ** (-drawn["direct_db"].to(spectrum.device) / 20)
        response = rooms.index_select(0, drawn["which"].to(spectrum.device))
        _scale(response, strength[:, None])
        torch.view_as_real(response)[..., 0].add_(1)
        spectrum.mul_(response)

    def echoes(self, seed: int, decays_s: list[float], *, n_samples: int) -> Tensor:
        """Echoes of unit energy on the CPU, (len(decays_s), n_samples), without the direct sound at time 0."""
        noise = torch.randn(len(decays_s), n_samples, generator=Generator().manual_seed(seed))
        time_s = torch.arange(n_samples) / self.sample_rate_hz
        noise *= torch.exp(-math.log(1000) * time_s / torch.tensor(decays_s)[:, None])
        noise[:, 0] = 0
        return noise / (rms(noise) * n_samples**0.5).clamp_min(SILENT)[:, None]


@AUGMENTATIONS.register("filter_chain")
class FilterChain(Filter):
    """Several filters for the price of one Fourier transform there and back.

    members  [{"name": "low_pass", "options": {"p": 0.5}}, ...], in any order; each has its own probability
    """

    neutral: ClassVar[dict[str, float]] = {}

    def __init__(self, p: float = 1.0, members: list[dict[str, Any]] | None = None) -> None:
        super().__init__(p)
        built = [AUGMENTATIONS.build(member["name"], **member["options"]) for member in members or []]
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

    def _filters(self) -> list[Filter]:
        return [member for member in self.members if isinstance(member, Filter)]


def _scale(spectrum: Tensor, gain: Tensor) -> None:
    """Multiply a complex tensor in place by real gains: as reals it is three times as fast."""
    torch.view_as_real(spectrum).mul_(gain[..., None])
