"""The front end: one definition, nothing outside the clip, and the sounds where they belong."""
import dataclasses

import librosa
import numpy as np
import pytest
import torch
from conftest import RATE, click, noise, tone

from birdkit.config import FrontEndConfig
from birdkit.folding import fold, unfold
from birdkit.frontend import FrontEnd

VARIANTS = [{}, {"channels": "repeat", "imagenet": True}, {"channels": "delta", "imagenet": True, "scaling": "minmax"},
            {"level": "peak", "scaling": "minmax", "top_db": 80.0, "floor": 1e-10}, {"power": 1.0, "scaling": "db80"},
            {"mel_scale": "htk", "mel_norm": "none", "strips": 4}, {"frames": 120, "edges": "constant"},
            {"window": "hamming", "scaling": "minmax_band", "stretch": 160, "floor": 1e-2}]


def build(**changes: object) -> FrontEnd:
    return FrontEnd(dataclasses.replace(FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=64), **changes))  # type: ignore[arg-type]


def image(frontend: FrontEnd, *waves: np.ndarray) -> torch.Tensor:
    return frontend(torch.from_numpy(np.stack(waves)))


@pytest.mark.parametrize("changes", VARIANTS)
def test_the_image_has_the_size_the_config_promises(changes: dict) -> None:
    """The backbone's segments are computed from it."""
    frontend = build(**changes)
    assert image(frontend, noise(4)).shape == (1, frontend.config.n_channels, *frontend.config.image_size)


@pytest.mark.parametrize("changes", VARIANTS)
def test_an_image_does_not_depend_on_the_batch(changes: dict) -> None:
    """A dB range shared by the batch made one repository's quiet recordings differ by 0.84 of their range."""
    frontend = build(**changes)
    quiet, loud = noise(4, amplitude=1e-3), tone(3000, 4, amplitude=0.9)
    assert torch.equal(image(frontend, quiet, loud)[0], image(frontend, quiet)[0])


@pytest.mark.parametrize("changes", [v for v in VARIANTS if v.get("scaling") != "db80"])
@pytest.mark.parametrize("gain", [1e-3, 40.0])
def test_an_image_does_not_depend_on_gain(changes: dict, gain: float) -> None:
    """Recorders differ in gain by tens of decibels; a peak of 40 in a float file is one of them."""
    frontend, wave = build(**changes), noise(4) + tone(2000, 4)
    assert torch.allclose(image(frontend, wave), image(frontend, gain * wave), atol=2e-3)


def test_a_constant_offset_changes_nothing() -> None:
    """A cheap recorder's 0.6 of direct current must not drown the bird."""
    frontend, wave = build(), noise(4)
    assert torch.allclose(image(frontend, wave), image(frontend, wave + 0.6), atol=2e-2)


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("wave", [np.zeros(4 * RATE, np.float32), np.full(4 * RATE, 1.0, np.float32),
                                  tone(1000, 4, amplitude=1.0), click(2.0, 4),
                                  np.concatenate([tone(5000, 1), np.zeros(3 * RATE, np.float32)])],
                         ids=["silence", "constant", "full scale", "click", "padded"])
def test_every_sound_gives_a_finite_image(changes: dict, wave: np.ndarray) -> None:
    """The first seed's NaN came from zero padding, whose logarithm it took in half precision."""
    assert bool(image(build(**changes), wave).isfinite().all())


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(changes: dict, dtype: torch.dtype) -> None:
    """A full-scale tone has a power of 262,165, half precision ends at 65,504: this is where training exploded."""
    frontend = build(**changes)
    waves = [np.concatenate([tone(3000, 2, amplitude=1.0), np.zeros(2 * RATE, np.float32)])]
    plain = image(frontend, *waves)
    with torch.autocast("cpu", dtype=dtype):
        cast = image(frontend, *waves)
    assert cast.dtype == torch.float32 and torch.equal(plain, cast)


@pytest.mark.parametrize("frequency_hz", [500, 2000, 6000, 12_000])
def test_a_tone_lights_its_band_and_no_other(frequency_hz: float) -> None:
    """Frequency runs along the rows of each strip, low on top."""
    frontend = build()
    bands = unfold(image(frontend, tone(frequency_hz, 4)), 2)[0, 0].mean(1)
    centres = librosa.mel_frequencies(66, fmin=20.0, fmax=15_000.0)[1:-1]
    assert int(bands.argmax()) == int(np.abs(centres - frequency_hz).argmin())
    assert bands.sort().values[-4] < bands.max() - 1.0


@pytest.mark.parametrize("at_s", [0.5, 1.9, 2.1, 3.5])
def test_a_click_lands_in_its_frame_and_strip(at_s: float) -> None:
    """Time runs along the columns, the first half of the clip in the top strip."""
    frontend = build()
    picture = image(frontend, click(at_s, 4))[0, 0]
    assert abs(int(unfold(picture, 2).mean(0).argmax()) - at_s * RATE / 1000) <= 1
    assert (picture[64:].max() > picture[:64].max()) == (at_s >= 2)


@pytest.mark.parametrize(("power", "scale", "norm"), [(2.0, "slaney", "slaney"), (1.0, "htk", "none")])
@pytest.mark.parametrize("edges", ["reflect", "constant"])
def test_the_decibels_agree_with_librosa(power: float, scale: str, norm: str, edges: str) -> None:
    """An independent implementation of the same published definition."""
    frontend = build(power=power, mel_scale=scale, mel_norm=norm, level="none", scaling="none", floor=1e-10, strips=1,
                     edges=edges, top_db=80.0)
    wave = noise(4) + tone(3000, 4)
    reference = librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=2048, hop_length=1000, n_mels=64, fmin=20.0,
                                               fmax=15_000.0, power=power, htk=scale == "htk", pad_mode=edges,
                                               norm="slaney" if norm == "slaney" else None)[:, :128]
    reference = 20 / power * np.log10(np.maximum(reference, 1e-10))
    reference = np.maximum(reference, reference.max() - 80)
    assert np.abs(image(frontend, wave)[0, 0].numpy() - reference).max() < 1e-3


def test_deltas_agree_with_librosa_along_true_time() -> None:
    """The second seed took them along the folded axis, where a seam is a false slope."""
    plain, delta = build(scaling="minmax"), build(scaling="minmax", channels="delta")
    wave = noise(4) + click(2.0, 4)
    expected = unfold(image(plain, wave), 2)[0, 0].numpy()
    for channel in unfold(image(delta, wave), 2)[0].numpy():
        assert np.abs(channel - expected).max() < 1e-5
        expected = librosa.feature.delta(expected, width=5, mode="nearest")


def test_scalings_do_what_their_names_say() -> None:
    """Zero mean and unit deviation; zero to one, of the clip or of each band; (dB + 80) / 80."""
    wave = noise(4) + tone(3000, 4)
    standard, minmax = image(build(), wave), image(build(scaling="minmax"), wave)
    assert abs(float(standard.mean())) < 1e-4 and abs(float(standard.std()) - 1) < 1e-3
    assert float(minmax.min()) == 0.0 and float(minmax.max()) == pytest.approx(1.0)
    bands = unfold(image(build(scaling="minmax_band"), wave), 2)[0, 0]
    assert torch.equal(bands.amin(1), torch.zeros(64)) and torch.allclose(bands.amax(1), torch.ones(64))
    plain = image(build(scaling="none"), wave)
    assert torch.allclose(image(build(scaling="db80"), wave), (plain + 80) / 80)


@pytest.mark.parametrize("channels", ["one", "delta"])
@pytest.mark.parametrize("strips", [1, 2, 3, 4, 8])
def test_any_number_of_strips_is_the_same_spectrogram(strips: int, channels: str) -> None:
    """The second seed's fold into four repeated the second quarter three times."""
    wave = noise(3) + tone(3000, 3) + click(1.3, 3)
    flat = image(build(clip_s=3.0, channels=channels, strips=1), wave)  # 96 frames
    folded = image(build(clip_s=3.0, channels=channels, strips=strips), wave)
    assert folded.shape[2:] == (strips * 64, 96 // strips)
    assert torch.equal(unfold(folded, strips), flat) and torch.equal(fold(flat, strips), folded)


def test_the_window_is_the_one_it_is_called() -> None:
    """Ten bands beside a tone, a Hann window is 110 dB down and a Hamming window 55: a weak call drowns in one."""
    far = []
    for name in ("hann", "hamming"):
        frontend = build(window=name, level="none", scaling="none", floor=1e-12, n_mels=128, strips=1)
        bands = image(frontend, tone(3007, 4))[0, 0, :, 10:-10].mean(1)
        far.append(float(bands.max() - bands[int(bands.argmax()) + 10]))
    assert far[0] > 100 and 50 < far[1] < 60


@pytest.mark.parametrize(("change", "message"), [
    ({"stretch": 700}, r"stretch = 700 is below the 768 frames of 12 s at hop 500"),
    ({"stretch": 769}, r"769 / 2 strips = 384.500"),
    ({"window": "blackman"}, r"window = 'blackman'; it must be one of hann, hamming"),
    ({"scaling": "minmax_clip"}, "one of standardise, minmax, minmax_band, db80, none"),
    ({"clip_s": 0.03125, "hop_samples": 250, "strips": 1, "n_fft": 2048},
     r"2048 / 2 = 1024 samples of mirror image do not fit into 0.03125 s \* 32000 Hz = 1000 samples"),
    ({"hop_samples": 0}, "hop_samples = 0 must be above 0"),
    ({"n_mels": -1}, "n_mels = -1 must be above 0"),
    ({"power": 0.0}, "power = 0 must be above 0"),
    ({"top_db": -80.0}, "top_db = -80 must be above 0"),
])
def test_numbers_that_do_not_fit_are_refused_with_the_arithmetic(change: dict, message: str) -> None:
    """The alternative is an error from deep inside the STFT, or an image that nobody asked for."""
    with pytest.raises(ValueError, match=message):
        FrontEndConfig(**change)


def test_the_golden_rule_no_other_length() -> None:
    """Padding or cropping here would be a second, hidden definition of a clip."""
    with pytest.raises(ValueError, match=r"\(B, 128000\), 4 s at 32000 Hz, not \(1, 96000\)"):
        image(build(), noise(3))


def test_bands_without_an_fft_bin_are_warned_of() -> None:
    """224 mels at n_fft 512 leave rows that are always silent."""
    with pytest.warns(UserWarning, match="Empty filters"):
        FrontEnd(FrontEndConfig(n_mels=224, n_fft=512))


def test_forward_takes_the_wave_and_nothing_else() -> None:
    """A normaliser with a probability skipped half of the images in the second seed's successor."""
    import inspect

    assert list(inspect.signature(FrontEnd.forward).parameters) == ["self", "wave"]
    frontend, wave = build(), noise(4)
    assert torch.equal(image(frontend.train(), wave), image(frontend.eval(), wave))
