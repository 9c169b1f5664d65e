"""What lies between an animal and the microphone: air that takes the high frequencies, and an echo."""
from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS
from birdkit.augmentations.drawing import check_range, integer, uniform
from birdkit.augmentations.filtering import Filter, frequencies_hz, multiply
from birdkit.augmentations.level import SILENT
from birdkit.batch import Batch

# Different rooms in one batch.
ROOMS = 4


class Echoing(Filter):
    """A filter with an echo: noise that dies away exponentially after the direct sound.

    min_decay_s, max_decay_s  time in which the echo falls by 60 dB, where it ends; uniform
    A batch draws at most 4 rooms; an example gets one of them, at a strength of its own.
    """

    def __init__(self, p: float, min_decay_s: float, max_decay_s: float, sample_rate_hz: int) -> None:
        super().__init__(p, sample_rate_hz)
        check_range("decay_s", min_decay_s, max_decay_s, least=0.01)
        self.min_decay_s, self.max_decay_s = min_decay_s, max_decay_s

    def rooms(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Of the batch: seed and decays_s of its rooms. Of each example: which (B,)."""
        rooms = min(ROOMS, len(batch))
        return {"seed": integer(2**31, generator=generator),
                "decays_s": uniform(rooms, self.min_decay_s, self.max_decay_s, generator=generator).tolist(),
                "which": torch.randint(rooms, (len(batch),), generator=generator)}

    def echo(self, spectrum: Tensor, n_samples: int, strength: Tensor, **drawn: Any) -> None:
        """Multiply the spectrum in place by 1 + strength (B,) * (spectrum of the echo)."""
        rooms = torch.fft.rfft(self.echoes(drawn["seed"], drawn["decays_s"], device=spectrum.device), n=n_samples)
        # Row by row nothing is made that is as large as the batch.
        for row, room, share in zip(spectrum, drawn["which"].tolist(), strength.tolist(), strict=True):
            row.addcmul_(row, rooms[room], value=share)

    def tail(self, **drawn: Any) -> int:
        """The longest decay of the batch's rooms, in samples."""
        return math.ceil(max(drawn["decays_s"]) * self.sample_rate_hz)

    def echoes(self, seed: int, decays_s: list[float], *, device: torch.device) -> Tensor:
        """Echoes of unit energy, (len(decays_s), samples of the longest), without the direct sound at time 0.

        Only the random numbers are the CPU's, so that they are the same on every device.
        """
        n_samples = self.tail(decays_s=decays_s)
        noise = torch.randn(len(decays_s), n_samples, generator=Generator().manual_seed(seed)).to(device)
        time_s = torch.arange(n_samples, device=device) / self.sample_rate_hz
        decay_s = torch.tensor(decays_s, device=device)[:, None]
        # An echo ends where it has fallen by 60 dB: then no more silence is needed behind the clip.
        echo = noise * torch.exp(-math.log(1000) * time_s / decay_s) * ((time_s > 0) & (time_s <= decay_s))
        return echo / torch.linalg.vector_norm(echo, dim=1, keepdim=True).clamp_min(SILENT)


@AUGMENTATIONS.register("reverb")
class Reverb(Echoing):
    """A light echo, as of a forest or a rock face.

    min_decay_s, max_decay_s    time in which the echo falls by 60 dB, uniform
    min_direct_db, max_direct_db  energy of the direct sound over that of the echo, uniform in decibels
    A batch draws at most 4 rooms; an example gets one of them, at a strength of its own.
    """

    neutral: ClassVar[dict[str, float]] = {"direct_db": math.inf}

    def __init__(self, p: float = 1.0, min_decay_s: float = 0.2, *, max_decay_s: float = 1.0,
                 min_direct_db: float = 3.0, max_direct_db: float = 15.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p, min_decay_s, max_decay_s, sample_rate_hz)
        check_range("direct_db", min_direct_db, max_direct_db)
        self.min_direct_db, self.max_direct_db = min_direct_db, max_direct_db

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Of the batch: seed and decays_s of its rooms. Of each example: which (B,) and direct_db (B,)."""
        return self.rooms(batch, generator) | {
            "direct_db": uniform(len(batch), self.min_direct_db, self.max_direct_db, generator=generator)}

    def change(self, spectrum: Tensor, n_samples: int, **drawn: Any) -> None:
        """Multiply by 1 + strength * (spectrum of the echo)."""
        self.echo(spectrum, n_samples, 10 ** (-drawn["direct_db"] / 20), **drawn)


@AUGMENTATIONS.register("distance")
class Distance(Echoing):
    """The animal further off: duller, and more of its echo.

    Air absorbs as ISO 9613-1:1993 says, at 20 C and 70 % humidity by default 0.9 dB at 2 kHz, 2.3 at 4 kHz and 7.8
    at 8 kHz in 100 m. The direct sound falls as 1 / distance and the echo does not, so its share grows. The clip
    as a whole is not made quieter: its level over the background is for the members that mix it in.

    min_m, max_m              further way of the sound in metres, uniform, on top of the recording's own
    equal_m                   distance at which the echo has the energy of the direct sound
    min_decay_s, max_decay_s  time in which the echo falls by 60 dB, uniform
    temperature_c, humidity_percent  of the air
    """

    neutral: ClassVar[dict[str, float]] = {"distance_m": 0.0}

    def __init__(self, p: float = 1.0, min_m: float = 10.0, *, max_m: float = 150.0, equal_m: float = 150.0,
                 min_decay_s: float = 0.2, max_decay_s: float = 1.0, temperature_c: float = 20.0,
                 humidity_percent: float = 70.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p, min_decay_s, max_decay_s, sample_rate_hz)
        check_range("distance_m", min_m, max_m, least=0.0)
        check_range("equal_m", equal_m, equal_m, least=1.0)
        check_range("temperature_c", temperature_c, temperature_c, least=-20.0, most=50.0)
        check_range("humidity_percent", humidity_percent, humidity_percent, least=10.0, most=100.0)
        self.min_m, self.max_m, self.equal_m = min_m, max_m, equal_m
        self.temperature_c, self.humidity_percent = temperature_c, humidity_percent

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Of the batch: seed and decays_s of its rooms. Of each example: which (B,) and distance_m (B,)."""
        return self.rooms(batch, generator) | {
            "distance_m": uniform(len(batch), self.min_m, self.max_m, generator=generator)}

    def change(self, spectrum: Tensor, n_samples: int, **drawn: Any) -> None:
        """Multiply by the echo's response, then by that of the air."""
        distance_m = drawn["distance_m"]
        self.echo(spectrum, n_samples, distance_m / self.equal_m, **drawn)
        frequency = frequencies_hz(n_samples, self.sample_rate_hz, device=spectrum.device)
        lost_db_per_m = air_db_per_m(frequency, self.temperature_c, self.humidity_percent)
        log_gain = lost_db_per_m * (-math.log(10) / 20)
        multiply(spectrum, (distance_m.to(spectrum.device)[:, None] * log_gain).exp_())


def air_db_per_m(frequency_hz: Tensor, temperature_c: float, humidity_percent: float) -> Tensor:
    """Decibels that a pure tone loses per metre of air at sea level (ISO 9613-1:1993, equations 3 to 5).

    >>> round(1000 * float(air_db_per_m(torch.tensor(3981.0), 10.0, 70.0)), 1)  # dB/km in the band of 4 kHz
    32.8
    """
    kelvin = temperature_c + 273.15
    warm = kelvin / 293.15
    # Molar concentration of water vapour in percent, from the saturation pressure over that of the air.
    water = humidity_percent * 10 ** (4.6151 - 6.8346 * (273.16 / kelvin) ** 1.261)
    oxygen_hz = 24 + 4.04e4 * water * (0.02 + water) / (0.391 + water)  # relaxation frequencies
    nitrogen_hz = warm**-0.5 * (9 + 280 * water * math.exp(-4.170 * (warm ** (-1 / 3) - 1)))
    square = frequency_hz.square()
    relaxation = (0.01275 * math.exp(-2239.1 / kelvin) / (oxygen_hz + square / oxygen_hz)
                  + 0.1068 * math.exp(-3352.0 / kelvin) / (nitrogen_hz + square / nitrogen_hz))
    return 8.686 * square * (1.84e-11 * warm**0.5 + warm**-2.5 * relaxation)
