"""What recorders and file formats do to a wave: clipping, and the losses of MP3 and Ogg."""
from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.drawing import check_range, uniform
from birdkit.augmentations.level import SILENT, peak
from birdkit.batch import Batch

# A block of the codec, and how much of it overlaps with the next: 32 and 8 ms at 32 kHz.
BLOCK, OVERLAP = 1024, 256
# Examples that the codec takes at once on a CPU, so that their blocks stay in its cache: three times as fast as all.
EXAMPLES_AT_ONCE = 4
# What a sound hides above and below itself, per critical band: energies fall by 10 and 25 dB.
UPWARDS, DOWNWARDS = 10**-1.0, 10**-2.5


@AUGMENTATIONS.register("clipping")
class Clipping(Augmentation):
    """A recording whose gain was too high: what is above a limit is cut off.

    min_db, max_db  how far the limit lies below the clip's largest magnitude, uniform in decibels
    soft_share      probability that an example is clipped softly, as x -> limit * tanh(x / limit), by an amplifier,
                    instead of hard by a converter
    The wave keeps its gain, so its peak falls to the limit.
    """

    def __init__(self, p: float = 0.1, min_db: float = 1.0, *, max_db: float = 15.0, soft_share: float = 0.5) -> None:
        super().__init__(p)
        check_range("below_peak_db", min_db, max_db, least=0.0)
        check_range("soft_share", soft_share, soft_share, least=0.0, most=1.0)
        self.min_db, self.max_db, self.soft_share = min_db, max_db, soft_share

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """below_peak_db (B,), soft (B,)."""
        return {"below_peak_db": uniform(len(batch), self.min_db, self.max_db, generator=generator),
                "soft": torch.rand(len(batch), generator=generator) < self.soft_share}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves, clipped."""
        limit = (peak(batch.signal) * 10 ** (-drawn["below_peak_db"].to(batch.signal) / 20)).clamp_min(SILENT)[:, None]
        signal = torch.minimum(batch.signal, limit).clamp_min_(-limit)
        rows = drawn["soft"].nonzero()[:, 0].to(signal.device)
        soft = batch.signal.index_select(0, rows).div_(limit[rows]).tanh_().mul_(limit[rows])
        return batch.replace(signal=signal.index_copy_(0, rows, soft))


@AUGMENTATIONS.register("codec")
class Codec(Augmentation):
    """What a low bit rate leaves of a recording, as in much of Xeno-canto and of phone recordings.

    An encoder keeps nothing above a limit, and of each block of some milliseconds only the critical bands that the ear
    would not miss beside louder neighbours. This is the model: blocks of 1024 samples, in each the bands whose energy
    lies below a masking threshold are dropped. Thresholds follow the energies of the neighbouring bands (Traunmüller's
    Bark scale, 1990) and fall by 10 dB per band upwards and 25 dB downwards (Schroeder et al. 1979). No quantisation,
    no file: it costs two Fourier transforms.

    min_limit_hz, max_limit_hz  range of the limit, uniform: MP3 keeps 16 kHz at 128 kbit/s and about 7 kHz at 32
    min_mask_db, max_mask_db    how far the threshold lies below what masks, uniform in decibels; the lower, the more is
                                dropped
    """

    def __init__(self, p: float = 0.2, min_limit_hz: float = 7_000.0, *, max_limit_hz: float = 16_000.0,
                 min_mask_db: float = 6.0, max_mask_db: float = 24.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p)
        check_range("limit_hz", min_limit_hz, max_limit_hz, least=1.0)
        check_range("mask_db", min_mask_db, max_mask_db, least=0.0)
        self.min_limit_hz, self.max_limit_hz = min_limit_hz, max_limit_hz
        self.min_mask_db, self.max_mask_db, self.sample_rate_hz = min_mask_db, max_mask_db, sample_rate_hz
        self.edges = critical_bands(BLOCK, sample_rate_hz)

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """limit_hz (B,), mask_db (B,)."""
        n = len(batch)
        return {"limit_hz": uniform(n, self.min_limit_hz, self.max_limit_hz, generator=generator),
                "mask_db": uniform(n, self.min_mask_db, self.max_mask_db, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves, encoded and decoded."""
        signal = batch.signal
        at_once = EXAMPLES_AT_ONCE if signal.device.type == "cpu" else len(signal)
        threshold, limit_hz = 10 ** (-drawn["mask_db"].to(signal) / 10), drawn["limit_hz"].to(signal)
        pieces = zip(signal.split(at_once), threshold.split(at_once), limit_hz.split(at_once), strict=True)
        return batch.replace(signal=torch.cat([self._coded(*piece) for piece in pieces]))

    def _coded(self, signal: Tensor, threshold: Tensor, limit_hz: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(blocks(signal))  # (B, blocks, 513)
        energy = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        ends = list(itertools.pairwise(self.edges))
        bands = [energy[..., low:high].sum(-1) for low, high in ends]
        numbers = torch.view_as_real(spectrum).flatten(-2)  # a column is two of them
        for (low, high), band, masker in zip(ends, bands, _maskers(bands), strict=True):
            numbers[..., 2 * low:2 * high] *= (band >= threshold[:, None] * masker)[..., None]
        below = torch.fft.rfftfreq(BLOCK, 1 / self.sample_rate_hz, device=signal.device) <= limit_hz[:, None]
        numbers *= below.repeat_interleave(2, -1)[:, None]
        left = torch.view_as_complex(numbers.unflatten(-1, (-1, 2)))
        return joined_blocks(torch.fft.irfft(left, n=BLOCK), signal.shape[1])


def critical_bands(block: int, sample_rate_hz: int) -> list[int]:
    """Edges of the critical bands in a block's spectrum, as columns, first 0 and last block // 2 + 1.

    One Bark wide each, which is 100 Hz at the bottom and a quarter of the frequency at the top.

    >>> critical_bands(1024, 32_000)[:6], len(critical_bands(1024, 32_000))
    ([0, 4, 7, 10, 13, 16], 25)
    """
    hertz = [1960 * (bark + 0.53) / (26.28 - bark) for bark in range(1, 26)]
    inner = [round(edge * block / sample_rate_hz) for edge in hertz if edge < sample_rate_hz / 2]
    return [0, *sorted(set(inner)), block // 2 + 1]


def blocks(signal: Tensor) -> Tensor:
    """Overlapping blocks (B, M, BLOCK) of waves (B, N), faded in and out; `joined_blocks` undoes it.

    The fades are sines, once here and once there, so that what two blocks share adds up to one.
    """
    step = BLOCK - OVERLAP
    count = -(-(signal.shape[1] + OVERLAP) // step)
    padded = torch.nn.functional.pad(signal, (OVERLAP, count * step - signal.shape[1]))
    return _fade(padded.unfold(1, BLOCK, step).clone(memory_format=torch.contiguous_format))


def joined_blocks(cut: Tensor, n_samples: int) -> Tensor:
    """Waves (B, N) from their blocks (B, M, BLOCK), faded once more and added where they overlap."""
    step = BLOCK - OVERLAP
    cut = _fade(cut)
    wave = cut[..., :step].clone()
    wave[:, 1:, :OVERLAP] += cut[:, :-1, step:]
    return wave.flatten(1)[:, OVERLAP:OVERLAP + n_samples]


def _fade(cut: Tensor) -> Tensor:
    """Blocks faded in place over the stretch they share with the next."""
    rise = torch.sin((torch.arange(OVERLAP, device=cut.device) + 0.5) * (torch.pi / 2 / OVERLAP))
    cut[..., :OVERLAP] *= rise
    cut[..., -OVERLAP:] *= rise.flip(0)
    return cut


def _maskers(bands: list[Tensor]) -> list[Tensor]:
    """The loudest that is felt in each band: its own energy, or what is left of a neighbour's."""
    felt = list(bands)
    for k in range(1, len(felt)):
        felt[k] = torch.maximum(felt[k], UPWARDS * felt[k - 1])
    for k in range(len(felt) - 2, -1, -1):
        felt[k] = torch.maximum(felt[k], DOWNWARDS * felt[k + 1])
    return felt
