"""Files to waves: what is read is right, and what cannot be is refused by name."""
from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr

from birdkit import audio

RATE = 32_000


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))).astype(np.float32)


def tone(seconds: float, rate: int, hz: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = RATE, **options: str) -> Path:
    sf.write(path, wave, rate, **options)
    return path


def refusal(path: Path) -> str:
    """The reason; load and check must agree that the file is unusable, and both must name it."""
    with pytest.raises(audio.AudioError) as loading:
        audio.load(path, RATE)
    with pytest.raises(audio.AudioError, match=path.name.replace(".", r"\.")):
        audio.check(path)
    assert str(path) in str(loading.value)
    return loading.value.reason


def test_samples_at_the_native_rate_are_those_of_the_file(tmp_path: Path) -> None:
    """Nothing is done to audio that is already mono and at the right rate."""
    wave = noise(1)
    loaded = audio.load(write(tmp_path / "a.wav", wave, subtype="FLOAT"), RATE)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, wave)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_range_is_exactly_that_part_of_the_whole_file(tmp_path: Path, suffix: str) -> None:
    """Training cuts clips from files, inference reads them whole: a seek that is off would be another clip."""
    path = write(tmp_path / f"a.{suffix}", noise(4))
    whole = audio.load(path, RATE)
    for start_s, duration_s in ((0.0, 1.0), (0.30003, 0.5), (1.7, 2.0)):
        first = round(start_s * RATE)
        part = audio.load(path, RATE, start_s=start_s, duration_s=duration_s)
        assert len(part) == round(duration_s * RATE)
        np.testing.assert_allclose(part, whole[first:first + len(part)], atol=1e-6)


def test_a_range_of_a_strongly_compressed_mp3_needs_the_frames_before_it(tmp_path: Path) -> None:
    """An MP3 frame borrows bits from earlier ones: libsndfile seeks without them and decodes something else."""
    sf.write(tmp_path / "a.mp3", noise(4), RATE, compression_level=0.99, bitrate_mode="CONSTANT")
    whole = audio.load(tmp_path / "a.mp3", RATE)
    for first in range(40_000, 100_000, 7_777):
        part = audio.load(tmp_path / "a.mp3", RATE, start_s=first / RATE, duration_s=0.5)
        np.testing.assert_allclose(part, whole[first:first + len(part)], atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 44_101, 48_000, 500_000])
def test_a_resampled_range_equals_the_same_seconds_of_the_whole_file(tmp_path: Path, rate: int) -> None:
    """The resampler sees beyond the range, so a clip has neither an edge nor a shift of its own."""
    path = write(tmp_path / "a.wav", noise(2.5, rate), rate, subtype="FLOAT")
    whole = audio.load(path, RATE)
    np.testing.assert_allclose(whole, soxr.resample(noise(2.5, rate), rate, RATE, quality="HQ"), atol=1e-7)
    for start_s, duration_s in ((0.0, 0.5), (1.1234, 0.75), (1.5, 1.0)):
        first = round(start_s * RATE)
        part = audio.load(path, RATE, start_s=start_s, duration_s=duration_s)
        assert len(part) == round(duration_s * RATE)
        np.testing.assert_allclose(part, whole[first:first + len(part)], atol=1e-5)


def test_a_tone_keeps_its_pitch_and_level_through_resampling(tmp_path: Path) -> None:
    """A wrong rate shifts every call: a model trained at 32 kHz would hear another species."""
    loaded = audio.load(write(tmp_path / "a.wav", tone(1, 44_100, 3000), 44_100), RATE)
    spectrum = np.abs(np.fft.rfft(loaded * np.hanning(len(loaded))))
    assert np.argmax(spectrum) * RATE / len(loaded) == pytest.approx(3000, abs=1)
    assert np.abs(loaded[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_an_ultrasonic_call_does_not_fold_down_into_the_audible(tmp_path: Path) -> None:
    """A bat at 60 kHz decimated without a filter would call at 4 kHz."""
    loaded = audio.load(write(tmp_path / "a.wav", tone(0.5, 500_000, 60_000), 500_000), RATE)
    assert np.abs(loaded[500:-500]).max() < 1e-3


def test_a_range_past_the_end_returns_what_is_there(tmp_path: Path) -> None:
    """The last window of a soundscape may be short."""
    path = write(tmp_path / "a.ogg", noise(2))
    assert len(audio.load(path, RATE, start_s=1.5, duration_s=5)) == RATE // 2


@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3"])
def test_a_range_outside_the_file_is_refused(tmp_path: Path, suffix: str) -> None:
    """An empty wave would become silence, and silence a prediction."""
    with pytest.raises(audio.AudioError, match="nothing can be decoded from 5 s on"):
        audio.load(write(tmp_path / f"a.{suffix}", noise(2)), RATE, start_s=5, duration_s=1)


@pytest.mark.parametrize(("start_s", "duration_s"), [(-1, 1), (0, 0), (0, -2), (float("nan"), 1), (0, float("inf"))])
def test_an_impossible_range_is_an_error_of_the_caller(tmp_path: Path, start_s: float, duration_s: float) -> None:
    """A negative start is a bug, not a bad file, and must not be counted as one."""
    with pytest.raises(ValueError, match="not a range") as error:
        audio.load(write(tmp_path / "a.wav", noise(1)), RATE, start_s=start_s, duration_s=duration_s)
    assert not isinstance(error.value, audio.AudioError)


def test_channels_are_averaged_unless_they_cancel(tmp_path: Path) -> None:
    """The mean of antiphase stereo is silence: a whole recording would be lost unnoticed."""
    left = noise(1)
    for right in (0.5 * left, noise(1, seed=1), np.zeros_like(left)):
        path = write(tmp_path / "a.wav", np.stack([left, right], 1), subtype="FLOAT")
        np.testing.assert_allclose(audio.load(path, RATE), (left + right) / 2, atol=1e-7)
    antiphase = write(tmp_path / "b.wav", np.stack([0.9 * left + 0.2, 0.2 - left], 1), subtype="FLOAT")
    np.testing.assert_allclose(audio.load(antiphase, RATE), 0.2 - left, atol=1e-6)


def test_peaks_above_one_and_constant_offsets_are_kept(tmp_path: Path) -> None:
    """Level belongs to the front end; clipping here would distort what it could have undone."""
    wave = 30 * noise(1) + 5
    np.testing.assert_array_equal(audio.load(write(tmp_path / "a.wav", wave, subtype="FLOAT"), RATE), wave)


@pytest.mark.parametrize("options", [{"subtype": "PCM_U8"}, {"subtype": "PCM_24"}, {"subtype": "ULAW"},
                                     {"subtype": "DOUBLE"}, {"endian": "BIG"}])
def test_every_sample_format_decodes(tmp_path: Path, options: dict[str, str]) -> None:
    """Recorders write 8-bit, 24-bit, mu-law, double and big-endian files."""
    np.testing.assert_allclose(audio.load(write(tmp_path / "a.wav", noise(1), **options), RATE), noise(1), atol=0.02)


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    """Files named .ogg or .mp3 that are WAV inside are seen in the wild."""
    path = write(tmp_path / "a.wav", noise(1)).rename(tmp_path / "a b ü#1.mp3")
    assert len(audio.load(path, RATE)) == RATE


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """One NaN makes every weight of the network NaN."""
    for value in (np.nan, np.inf, -np.inf):
        wave = noise(1)
        wave[20_000] = value
        path = write(tmp_path / "a.wav", wave, subtype="FLOAT")
        assert "1 of 32000 samples" in refusal(path)
        assert len(audio.load(path, RATE, duration_s=0.5)) == RATE // 2  # the rest of the file is sound
    wave[20_000] = 1e30
    assert "not audio" in refusal(write(tmp_path / "a.wav", wave, subtype="FLOAT"))


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "empty"),
    (b"not audio\n" * 9, "text"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "git-lfs pointer"),
    (b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(200), "AAC"),
    (bytes(range(256)) * 4, "not an audio format"),
])
def test_what_is_not_audio_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    """libsndfile's own message for all of these is the same, or empty."""
    path = tmp_path / "a.ogg"
    path.write_bytes(content)
    assert reason in refusal(path)
    raw = path.rename(tmp_path / "a.raw")
    assert reason in refusal(raw)


def test_absent_files_and_folders_are_refused(tmp_path: Path) -> None:
    """A listed file that is not there is a line in a report, not a stack trace."""
    assert "no such file" in refusal(tmp_path / "a.ogg")
    assert "not a file" in refusal(tmp_path)


@pytest.mark.parametrize("samples", [0, 1, 100, 3199])
def test_files_too_short_for_a_call_are_refused(tmp_path: Path, samples: int) -> None:
    """Repeated to ten seconds, a millisecond is a tone that no animal made."""
    assert "0.1 s" in refusal(write(tmp_path / "a.wav", noise(1)[:samples])) or samples == 0
    assert audio.check(write(tmp_path / "b.wav", noise(0.1))).duration_s == pytest.approx(0.1)


def test_a_file_cut_short_gives_what_is_left_or_is_refused(tmp_path: Path) -> None:
    """Downloads break off; a broken one must neither crash nor be padded with invented audio."""
    for suffix in ("wav", "ogg", "mp3", "flac"):
        content = write(tmp_path / f"whole.{suffix}", noise(4)).read_bytes()
        whole = audio.load(tmp_path / f"whole.{suffix}", RATE)
        (tmp_path / f"cut.{suffix}").write_bytes(content[:len(content) // 2])
        try:
            left = audio.load(tmp_path / f"cut.{suffix}", RATE)
        except audio.AudioError:
            continue
        assert RATE < len(left) < 3 * RATE
        np.testing.assert_allclose(left[:RATE], whole[:RATE], atol=1e-5)
    (tmp_path / "head.ogg").write_bytes((tmp_path / "whole.ogg").read_bytes()[:4200])
    refusal(tmp_path / "head.ogg")


def test_a_header_that_lies_about_its_length_gives_what_is_there(tmp_path: Path) -> None:
    """A data chunk that claims 2 GiB must allocate nothing of the kind."""
    path = write(tmp_path / "a.wav", noise(1))
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at:at + 4] = struct.pack("<I", 2**31 - 1)
    path.write_bytes(content)
    assert len(audio.load(path, RATE)) == RATE
    assert audio.check(path).duration_s == 1


def test_a_header_with_an_impossible_rate_is_refused(tmp_path: Path) -> None:
    """One second at 1 Hz would resample to 32,000 times its size."""
    assert "outside" in refusal(write(tmp_path / "a.wav", noise(1), 10))


def test_info_reads_the_header_and_check_the_samples(tmp_path: Path) -> None:
    """An audit needs the true length, peak and identity of a file, a progress bar only its header."""
    stereo = np.stack([noise(1), -noise(1)], 1)
    path = write(tmp_path / "a.wav", stereo, subtype="FLOAT")
    quick, thorough = audio.info(path), audio.check(path)
    assert (quick.duration_s, quick.sample_rate_hz, quick.channels) == (1.0, RATE, 2)
    assert (thorough.duration_s, thorough.sample_rate_hz, thorough.channels) == (1.0, RATE, 2)
    assert thorough.peak == pytest.approx(np.abs(stereo).max())
    assert quick.content == ""


def test_content_tells_equal_audio_whatever_the_container(tmp_path: Path) -> None:
    """The same recording under two names is in training and validation at once."""
    wave = np.round(noise(1) * 1000) / 32768
    first = audio.check(write(tmp_path / "a.wav", wave)).content
    assert audio.check(write(tmp_path / "b.flac", wave)).content == first
    assert audio.check(write(tmp_path / "c.wav", wave, 48_000)).content != first
    assert audio.check(write(tmp_path / "d.wav", -wave)).content != first


def test_a_long_file_is_decoded_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks must join without a gap, whatever their size."""
    path = write(tmp_path / "a.wav", noise(3, 44_100), 44_100, subtype="FLOAT")
    whole, known = audio.load(path, RATE), audio.check(path)
    monkeypatch.setattr(audio, "BLOCK", 1000)
    np.testing.assert_array_equal(audio.load(path, RATE), whole)
    assert audio.check(path) == known


def test_padding_repeats_a_short_wave_and_cuts_a_long_one() -> None:
    """Repeating keeps the call's rhythm; zeros would teach that short recordings end in silence."""
    wave = np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(audio.pad_cyclic(wave, 7), [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(audio.pad_cyclic(wave, 2), [1, 2])
    assert audio.pad_cyclic(wave, 7).dtype == np.float32
    with pytest.raises(ValueError, match="empty"):
        audio.pad_cyclic(wave[:0], 5)


def test_an_audio_error_survives_the_way_back_from_a_worker(tmp_path: Path) -> None:
    """A loader's process sends its errors pickled; one that cannot be unpickled hangs the run."""
    error = pickle.loads(pickle.dumps(audio.AudioError(tmp_path / "a.ogg", "empty")))
    assert error.reason == "empty" and str(error).endswith("a.ogg: empty")


@pytest.mark.parametrize(("name", "rate", "options"), [
    ("a.ogg", 44_100, {}), ("a.ogg", 48_000, {"format": "OGG", "subtype": "OPUS"}), ("a.flac", 48_000, {}),
    ("a.mp3", 44_100, {"bitrate_mode": "VARIABLE", "compression_level": 0.5}), ("a.wav", 96_000, {"subtype": "PCM_24"}),
])
@pytest.mark.parametrize("channels", [1, 2])
def test_seeking_is_exact_in_every_format_and_at_every_place(tmp_path: Path, name: str, rate: int, channels: int,
                                                             options: dict[str, str]) -> None:
    """A clip of training and the same seconds of a whole soundscape are the same samples, resampled edges included."""
    wave = np.stack([noise(12, rate, seed) for seed in range(channels)], 1) * np.linspace(0.1, 1, 12 * rate)[:, None]
    path = write(tmp_path / name, wave, rate, **options)
    for asked in (rate, RATE):
        whole = audio.load(path, asked)
        for start_s in np.random.default_rng(rate).uniform(0, 10, 6):
            part, first = audio.load(path, asked, start_s=start_s, duration_s=1.5), round(start_s * asked)
            assert np.abs(part - whole[first:first + len(part)]).max() < 1e-6


def test_a_long_mp3_has_no_seams_where_blocks_of_it_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """soundfile seeks after each read, and an MP3 decoder then forgets what a frame borrowed: 60 ms of noise."""
    path = tmp_path / "a.mp3"
    sf.write(path, noise(6, 44_100), 44_100, compression_level=0.99, bitrate_mode="CONSTANT")
    whole, known = audio.load(path, 44_100), audio.check(path)
    monkeypatch.setattr(audio, "BLOCK", 50_000)
    np.testing.assert_allclose(audio.load(path, 44_100), whole, atol=1e-6)
    assert audio.check(path).duration_s == known.duration_s
