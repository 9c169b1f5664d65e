"""Noise of known colour, and the air of invented places: hum, wind, an insect bed, rain. No animal that is a class."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len
from scipy.signal import butter, sosfilt


def shaped_noise(density: np.ndarray, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise (n_samples,) float32 of unit RMS with the given power density.

    density  (bins,) >= 0, relative power at evenly spaced frequencies from 0 to half the rate; the noise repeats after
             2 (bins - 1) samples, which must be at least n_samples
    """
    if 2 * (len(density) - 1) < n_samples:
        raise ValueError(f"{len(density)} bins make {2 * (len(density) - 1)} samples, not {n_samples}")
    spectrum = np.empty(len(density), dtype=np.complex64)
    spectrum.real, spectrum.imag = rng.standard_normal((2, len(density)), dtype=np.float32)
    spectrum *= np.sqrt(density).astype(np.float32)
    spectrum[0] = 0
    wave = irfft(spectrum, 2 * (len(density) - 1))[:n_samples]
    return wave / np.sqrt(np.mean(wave**2))


def coloured_noise(n_samples: int, rng: np.random.Generator, *, slope: float = 1.0) -> np.ndarray:
    """Noise (n_samples,) float32 with power proportional to frequency ** -slope and unit RMS.

    slope  0 white, 1 pink, 2 brown; level below 1/800 of the rate, so that brown noise is not one slow wave
    """
    return shaped_noise(_fall(n_samples, slope), n_samples, rng)


@dataclass(frozen=True)
class Place:
    """How the air sounds where a recorder hangs.

    slope     colour of the noise, see `coloured_noise`
    bed_hz    middle of a bed of far insects, and bed the height of its power over the noise there, 0 for none
    wind      RMS of gusts below 400 Hz relative to the noise
    rain      drops per second
    """

    slope: float = 1.0
    bed_hz: float = 6000.0
    bed: float = 0.0
    wind: float = 0.0
    rain: float = 0.0


def render_place(place: Place, n_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """What a recorder hears with no animal near, (n_samples,) float32, RMS about 1 without wind and rain.

    >>> render_place(Place(rain=5.0), 32000, 32000, np.random.default_rng(0)).shape
    (32000,)
    """
    density = _fall(n_samples, place.slope)
    if place.bed:
        hz = np.linspace(0, sample_rate_hz / 2, len(density), dtype=np.float32)
        at_bed = density[min(len(density) - 1, round(2 * place.bed_hz / sample_rate_hz * len(density)))]
        density = density + place.bed * at_bed * np.exp(-0.5 * ((hz - place.bed_hz) / (0.06 * place.bed_hz)) ** 2)
    wave = shaped_noise(density, n_samples, rng)
    if place.wind:
        wave += place.wind * _gusts(n_samples, sample_rate_hz, rng)
    if place.rain:
        wave += _drops(place.rain, n_samples, sample_rate_hz, rng)
    return wave


def _fall(n_samples: int, slope: float) -> np.ndarray:
    """The density of coloured noise, on as many bins as are quick to transform."""
    half = next_fast_len(n_samples // 2 + 1, real=True)
    return np.maximum(np.arange(half + 1, dtype=np.float32), np.float32(max(1.0, half / 400))) ** np.float32(-slope)


def _gusts(n_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Pink noise below 400 Hz that swells and falls over seconds, RMS about 1."""
    slow = max(2, round(n_samples / sample_rate_hz))
    swell = np.interp(np.linspace(0, slow, n_samples), np.arange(slow + 1), rng.gamma(1.0, size=slow + 1))
    low = sosfilt(butter(2, 400, fs=sample_rate_hz, output="sos"), coloured_noise(n_samples, rng, slope=1.0))
    return (swell * low / np.std(low)).astype(np.float32)


def _drops(per_second: float, n_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Clicks of many sizes at random times, each ringing for milliseconds between 1 and 8 kHz."""
    clicks = np.zeros(n_samples, dtype=np.float32)
    n = rng.poisson(per_second * n_samples / sample_rate_hz)
    clicks[rng.integers(n_samples, size=n)] = rng.lognormal(2.0, 1.0, size=n) * rng.choice([-1, 1], size=n)
    top_hz = min(8000.0, 0.45 * sample_rate_hz)
    return sosfilt(butter(1, (1000.0, top_hz), "bandpass", fs=sample_rate_hz, output="sos"), clicks).astype(np.float32)
