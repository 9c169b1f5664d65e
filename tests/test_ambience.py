"""Noise has the colour it is said to have, and a place sounds as it is described."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import welch

from birdkit.synthesis.ambience import Place, coloured_noise, render_place, shaped_noise

RATE = 16_000


def share(wave: np.ndarray, low_hz: float, high_hz: float) -> float:
    """Share of the power between two frequencies."""
    hz, power = welch(wave, RATE, nperseg=4096)
    return float(power[(hz > low_hz) & (hz < high_hz)].sum() / power.sum())


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_as_its_slope_says(slope: float) -> None:
    """Pink loses 3 dB an octave, brown 6."""
    wave = coloured_noise(30 * RATE, np.random.default_rng(0), slope=slope)
    hz, power = welch(wave, RATE, nperseg=4096)
    octave = [power[(hz > low) & (hz < 2 * low)].mean() for low in (500, 1000, 2000)]
    assert octave[0] / octave[1] == pytest.approx(2**slope, rel=0.15)
    assert octave[1] / octave[2] == pytest.approx(2**slope, rel=0.15)
    assert np.std(wave) == pytest.approx(1, abs=0.01)


def test_noise_is_where_its_density_is() -> None:
    """A density of one band gives that band, of any length up to its period, which is refused to be exceeded."""
    density = np.zeros(RATE + 1)
    density[4000:6000] = 1  # two seconds: bins of half a hertz
    wave = shaped_noise(density, 2 * RATE, np.random.default_rng(0))
    assert share(wave, 1990, 3010) > 0.99
    with pytest.raises(ValueError, match="16001 bins make 32000 samples, not 32001"):
        shaped_noise(density, 2 * RATE + 1, np.random.default_rng(0))


def test_noise_of_any_length_has_that_length() -> None:
    """Lengths with large prime factors are made longer inside, for speed, and must come out as asked."""
    for n in (1, 2, 799, 16_001, 99_991):
        assert coloured_noise(n, np.random.default_rng(0)).shape == (n,)


def test_the_same_generator_state_gives_the_same_minute_and_another_does_not() -> None:
    """A generated competition must be the same everywhere, or its figures cannot be compared."""
    place = Place(bed=20.0, wind=1.0, rain=10.0)
    one, same, other = (render_place(place, RATE, RATE, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("place", "low_hz", "high_hz"), [
    (Place(bed_hz=5000.0, bed=50.0), 4300, 5700), (Place(wind=3.0), 20, 500),
    (Place(slope=1.5, rain=60.0), 1000, 8000)])
def test_a_bed_of_insects_wind_and_rain_are_in_their_bands(place: Place, low_hz: float, high_hz: float) -> None:
    """What masks a call is what lies in its band."""
    calm = render_place(Place(slope=place.slope), 10 * RATE, RATE, np.random.default_rng(0))
    lively = render_place(place, 10 * RATE, RATE, np.random.default_rng(0))
    assert np.isfinite(lively).all()
    assert share(lively, low_hz, high_hz) > share(calm, low_hz, high_hz) + 0.05
