"""Changes of one wave that need no other: gain, polarity, shift in time, speed, noise."""
from __future__ import annotations

from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.drawing import check_range, integer, per_example, uniform
from birdkit.augmentations.level import SILENT, rms, snr_gain
from birdkit.batch import Batch

# Different noises in one batch; examples that share one get it from different places of its circle.
NOISES = 8
# Different speeds in one batch.
SPEEDS = 4


@AUGMENTATIONS.register("gain")
class Gain(Augmentation):
    """A random gain. A front end that removes the level undoes it, unless members that keep levels stand between.

    min_db, max_db  range of the gain, uniform in decibels
    """

    def __init__(self, p: float = 1.0, min_db: float = -12.0, *, max_db: float = 12.0) -> None:
        super().__init__(p)
        check_range("gain_db", min_db, max_db)
        self.min_db, self.max_db = min_db, max_db

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """gain_db (B,)."""
        return {"gain_db": uniform(len(batch), self.min_db, self.max_db, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves, louder or quieter."""
        return batch.replace(signal=batch.signal * per_example(10 ** (drawn["gain_db"] / 20), batch.signal))


@AUGMENTATIONS.register("polarity")
class Polarity(Augmentation):
    """The wave upside down: no change of its power, but another one of what it is mixed with later."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Nothing."""
        return {}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves, negated."""
        return batch.replace(signal=-batch.signal)


@AUGMENTATIONS.register("time_shift")
class TimeShift(Augmentation):
    """A circular shift: what leaves the clip at one end enters at the other, so no call is lost and none invented.

    max_share  longest shift as a share of the clip, to either side, in [0, 0.5]; 0.5 reaches every position
    """

    def __init__(self, p: float = 1.0, max_share: float = 0.5) -> None:
        super().__init__(p)
        check_range("max_share", 0.0, max_share, least=0.0, most=0.5)
        self.max_share = max_share

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """shift (B,) as a share of the clip."""
        return {"shift": uniform(len(batch), -self.max_share, self.max_share, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves, rolled."""
        return batch.replace(signal=_rolled(batch.signal, drawn["shift"]))


@AUGMENTATIONS.register("speed")
class Speed(Augmentation):
    """Faster and higher, or slower and lower, as a smaller or larger animal: the wave resampled.

    Resampled through its spectrum, which is exact. Straight lines between samples would take 3 dB at 10 kHz of
    32 kHz and put a mirror image of every call above it. A batch draws at most 4 speeds, so that each costs one
    Fourier transform of all the examples that have it; lengths are rounded up by less than 1 % to ones that transform
    fast. A clip that became shorter goes on from its start; of one that became longer a random stretch stays.

    min_speed, max_speed  range of the speed, uniform; pitch and tempo are multiplied by it
    """

    def __init__(self, p: float = 0.3, min_speed: float = 0.85, *, max_speed: float = 1.18) -> None:
        super().__init__(p)
        check_range("speed", min_speed, max_speed, least=0.25, most=4.0)
        self.min_speed, self.max_speed = min_speed, max_speed

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Of the batch: its speeds. Of each example: which (B,), and place (B,) of the stretch that stays, 0 to 1."""
        n = len(batch)
        speeds = uniform(min(SPEEDS, n), self.min_speed, self.max_speed, generator=generator).tolist()
        return {"speeds": speeds, "which": torch.randint(len(speeds), (n,), generator=generator),
                "place": torch.rand(n, generator=generator)}

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves at their speeds."""
        signal = torch.empty_like(batch.signal)
        for number in drawn["which"].unique().tolist():  # not of nobody: some versions of MKL refuse an empty batch
            here = (drawn["which"] == number).nonzero()[:, 0]  # on the CPU, where it was drawn
            changed = _resampled(batch.signal.index_select(0, here.to(signal.device)), drawn["speeds"][number])
            starts = (drawn["place"][here].double() * max(changed.shape[1] - signal.shape[1], 0)).round().long()
            for row, wave, start in zip(here.tolist(), changed, starts.tolist(), strict=True):
                _fill(signal[row], wave[start:])
        return batch.replace(signal=signal)


@AUGMENTATIONS.register("noise")
class Noise(Augmentation):
    """Steady coloured noise, from the hiss of a microphone (white) to wind and surf (brown).

    min_snr_db, max_snr_db      power of the clip over that of the noise, uniform in decibels
    min_exponent, max_exponent  the noise's power falls as frequency ** -exponent: 0 white, 1 pink, 2 brown
    corner_hz                   below it the spectrum is flat: brown noise would else be all rumble that no image shows

    A batch draws at most 8 noises, each a circle as long as the clip; an example gets one of them from a random place.
    A silent clip stays silent.
    """

    def __init__(self, p: float = 1.0, min_snr_db: float = 3.0, *, max_snr_db: float = 30.0, min_exponent: float = 0.0,
                 max_exponent: float = 2.0, corner_hz: float = 100.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p)
        check_range("snr_db", min_snr_db, max_snr_db)
        check_range("exponent", min_exponent, max_exponent)
        check_range("corner_hz", corner_hz, sample_rate_hz / 2, least=0.0)
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db
        self.min_exponent, self.max_exponent = min_exponent, max_exponent
        self.corner_hz, self.sample_rate_hz = corner_hz, sample_rate_hz

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Of the batch: seed and exponents of its noises. Of each example: which (B,), shift (B,), snr_db (B,)."""
        n = len(batch)
        noises = min(NOISES, n)
        return {
            "seed": integer(2**31, generator=generator),
            "exponents": uniform(noises, self.min_exponent, self.max_exponent, generator=generator).tolist(),
            "which": torch.randint(noises, (n,), generator=generator),
            "shift": torch.rand(n, generator=generator),
            "snr_db": uniform(n, self.min_snr_db, self.max_snr_db, generator=generator),
        }

    def transform(self, batch: Batch, **drawn: Any) -> Batch:
        """The waves with noise added at the drawn ratios."""
        signal = batch.signal
        noises = self.noises(drawn["seed"], drawn["exponents"], n_samples=signal.shape[1], device=signal.device)
        noise = _rolled(noises, drawn["shift"], drawn["which"])
        gain = snr_gain(signal, noise, drawn["snr_db"])
        return batch.replace(signal=noise.mul_(gain[:, None]).add_(signal))

    def noises(self, seed: int, exponents: list[float], *, n_samples: int, device: torch.device) -> Tensor:
        """Noises of unit RMS, (len(exponents), n_samples), with a seamless end.

        Only the random numbers are the CPU's, so that they are the same on every device.
        """
        white = torch.randn(len(exponents), n_samples, generator=Generator().manual_seed(seed)).to(device)
        frequency = torch.fft.rfftfreq(n_samples, 1 / self.sample_rate_hz, device=device)
        exponent = torch.tensor(exponents, device=device)[:, None]
        colour = (frequency.clamp_min(self.corner_hz) / self.corner_hz) ** (-exponent / 2)
        colour[:, 0] = 0  # no constant offset
        noise = torch.fft.irfft(torch.fft.rfft(white) * colour, n=n_samples)
        return noise / rms(noise).clamp_min(SILENT)[:, None]


def _rolled(waves: Tensor, shift: Tensor, which: Tensor | None = None) -> Tensor:
    """Wave `which` (every wave in turn, if None) rolled by a share of its length, for each shift: (B, N)."""
    rows = range(len(shift)) if which is None else which.tolist()
    samples = (shift.double() * waves.shape[1]).round().long().tolist()
    # Row by row two blocks are copied: three times as fast as an index of every sample.
    return torch.stack([waves[row].roll(n) for row, n in zip(rows, samples, strict=True)])


def _resampled(waves: Tensor, speed: float) -> Tensor:
    """Waves (B, N) in about N / speed samples."""
    length = next_fast_len(round(waves.shape[1] / speed))
    # "forward" scales by 1 / N on the way there and not on the way back, so that amplitudes stay.
    return torch.fft.irfft(torch.fft.rfft(waves, norm="forward"), n=length, norm="forward")


def _fill(wave: Tensor, content: Tensor) -> None:
    """Write content (M,) over a wave (N,), again and again where it is shorter."""
    for start in range(0, len(wave), len(content)):
        wave[start:start + len(content)] = content[:len(wave) - start]
