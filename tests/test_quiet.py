"""A soundscape without what calls in it: the tone goes, the noise and its colour stay."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, noise, tone
from scipy.signal import welch

from birdkit.audio import AudioError
from birdkit.config import SourceConfig
from birdkit.data import AudioStore, ClipSource, choose_sources
from birdkit.data.quiet import BLOCK, quietened
from birdkit.settings import replace


def level(wave: np.ndarray, hz: float) -> float:
    """Power density at a frequency, in dB."""
    at, power = welch(wave, RATE, nperseg=2048)
    return float(10 * np.log10(power[np.abs(at - hz).argmin()]))


@pytest.mark.parametrize("hz", [900, 6000])
@pytest.mark.parametrize("db", [-10.0, 10.0, 40.0])
def test_a_call_goes_down_to_the_noise(hz: float, db: float) -> None:
    """Whether faint or loud, two seconds of a tone in ten are as loud as the noise of its frequency after it."""
    air = noise(10, amplitude=0.01)
    call = tone(hz, 10) * 0.01 * 10 ** (db / 20) * np.repeat([0, np.sqrt(2), 0], [4 * RATE, 2 * RATE, 4 * RATE])
    during, after = slice(4 * RATE + 4096, 6 * RATE - 4096), slice(7 * RATE, 10 * RATE)
    heard = quietened(air + call)
    assert level((air + call)[during], hz) > level(air[during], hz) + 9
    assert level(heard[during], hz) == pytest.approx(level(heard[after], hz), abs=3.5)


def test_noise_stays_as_it_is() -> None:
    """Its colour and its level are those of the place; only its rare peaks are cut."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal(10 * RATE))
    brown = np.fft.irfft(spectrum / (20 + np.arange(len(spectrum)) / 100)).astype(np.float32)
    after = quietened(brown)
    for hz in (300, 1000, 3000, 9000):
        assert level(after, hz) == pytest.approx(level(brown, hz), abs=1.0)
    assert np.corrcoef(brown, after)[0, 1] > 0.94


@pytest.mark.parametrize("n", [0, 1, 100, 1024, RATE + 1])
def test_any_length_and_silence(n: int) -> None:
    """As many samples as there were, and zeros stay zeros."""
    assert len(quietened(noise(2)[:n])) == n
    assert not quietened(np.zeros(n, np.float32)).any()


def test_gain_does_not_matter() -> None:
    """What stands out does so at any level of the recording, and the input is untouched."""
    wave = (noise(3, amplitude=0.01) + tone(2000, 3) * np.hanning(3 * RATE)).astype(np.float32)
    before = wave.copy()
    np.testing.assert_allclose(quietened(wave / 1000) * 1000, quietened(wave), atol=1e-5)
    np.testing.assert_array_equal(wave, before)


@pytest.fixture
def hour(tmp_path: Path) -> Path:
    """A file of two blocks and a rest, the second block louder, with calls everywhere."""
    n = 2 * BLOCK + 3 * RATE
    air = noise(n / RATE, amplitude=0.01) * np.repeat([1, 2, 1], [BLOCK, BLOCK, n - 2 * BLOCK])
    calls = tone(3000, n / RATE) * (np.sin(np.arange(n) / RATE) > 0.5)
    sf.write(tmp_path / "hour.wav", (air + 0.3 * calls).astype(np.float32), RATE, subtype="FLOAT")
    return tmp_path


@pytest.mark.parametrize("start_s", [0.0, 0.01, 31.123, BLOCK / RATE - 2.5, BLOCK / RATE, 2 * BLOCK / RATE + 1])
def test_a_part_is_what_the_whole_file_holds_there(hour: Path, start_s: float) -> None:
    """Whether it is kept in memory or decoded by seeking, across blocks and at both ends."""
    store, kept = AudioStore(hour, RATE), AudioStore(hour, RATE, limit_gib=0.1)
    assert kept.reserve("hour.wav", 130.0, quiet=True)
    first = round(start_s * RATE)
    expected = store.whole("hour.wav", quiet=True)[first:first + 5 * RATE]
    np.testing.assert_allclose(store.part("hour.wav", start_s, 5.0, quiet=True), expected, atol=1e-6)
    np.testing.assert_allclose(kept.part("hour.wav", start_s, 5.0, quiet=True), expected, atol=1e-4)  # 16 bits
    assert np.abs(store.part("hour.wav", start_s, 5.0)).max() > 0.14 > np.abs(expected).max()
    with pytest.raises(AudioError, match=r"hour\.wav"):
        store.part("hour.wav", 1000.0, 5.0, quiet=True)


def test_quiet_is_what_nobody_has_labelled(small_run, hour: Path) -> None:
    """Soundscapes of round 0 are quiet unless the config says otherwise; with pseudo-labels they are what they are."""
    soundscapes = pd.DataFrame({"file": ["hour.wav"], "duration_s": [123.0], "split": [1]})
    recordings = pd.DataFrame({"file": [], "label": [], "secondary": [], "split": []})

    def heard(config, labels: pd.DataFrame | None = None) -> tuple[bool, float]:
        source: ClipSource = choose_sources(config, ["soundscapes"], ["owl"], recordings=recordings,
                                            soundscapes=soundscapes, pseudo_labels=labels)["soundscapes"]
        wave, _, _ = source.clip(0, store=AudioStore(hour, RATE), n_samples=5 * RATE, rng=np.random.default_rng(0))
        return source.quiet, float(np.abs(wave).max())

    quiet_one, peak = heard(small_run)
    assert quiet_one and peak < 0.14
    as_it_is, peak = heard(replace(small_run, data__unlabelled="as_they_are"))
    assert not as_it_is and peak > 0.14
    labels = pd.DataFrame({"file": ["hour.wav"], "start_s": [0.0], "end_s": [5.0], "owl": [1.0]})
    labelled, peak = heard(replace(small_run, round=1), labels)
    assert not labelled and peak > 0.14
    air = replace(small_run, round=1, data__sources=(SourceConfig("air", "unlabelled"),))
    for config, expected in ((air, True), (replace(air, data__unlabelled="as_they_are"), False)):
        both = choose_sources(config, ["air", "soundscapes"], ["owl"], recordings=recordings, soundscapes=soundscapes,
                              pseudo_labels=labels)
        assert both["air"].quiet is expected and not both["air"].target.any() and not both["soundscapes"].quiet
    with pytest.raises(ValueError, match=r"source 'air', but there are no soundscapes to train on"):
        choose_sources(air, ["air"], ["owl"], recordings=recordings, soundscapes=None, pseudo_labels=labels)
    with pytest.raises(ValueError, match="unlabelled = 'loud'"):
        replace(small_run, data__unlabelled="loud")
