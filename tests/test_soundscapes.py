"""Soundscapes of any length: the same samples from a file, from memory, whole or in pieces."""
import numpy as np
import pytest
import soundfile as sf
from conftest import RATE, noise

from birdkit.audio import AudioError
from birdkit.inference import SoundscapeFile, SoundscapeWave, soundscapes


@pytest.fixture
def written(tmp_path):
    wave = noise(30)
    sf.write(tmp_path / "s.wav", wave, RATE, subtype="FLOAT")
    return tmp_path / "s.wav", wave


def test_a_file_and_its_wave_give_the_same_clips(written) -> None:
    """What validates from memory is what is submitted from a file."""
    path, wave = written
    starts = np.array([0, 5 * RATE, 26 * RATE])
    from_file = SoundscapeFile(path).clips(RATE, starts, 4 * RATE)
    from_memory = SoundscapeWave(wave, RATE).clips(RATE, starts, 4 * RATE)
    assert from_file.shape == (3, 4 * RATE) and np.array_equal(from_file, from_memory)


def test_a_long_file_is_read_in_pieces_with_the_same_samples(written, monkeypatch) -> None:
    """An hour must not be in memory at once, and nothing may be lost between two pieces."""
    path, wave = written
    monkeypatch.setattr(soundscapes, "PIECE_S", 10.0)
    soundscape = SoundscapeFile(path)
    pieces = soundscape.pieces()
    assert [piece[0] for piece in pieces] == [0.0, 10.0, 20.0] and np.isinf(pieces[-1][1])
    assert np.array_equal(soundscape.read(RATE, 9 * RATE, 13 * RATE), wave[9 * RATE:13 * RATE])


def test_a_soundscape_shorter_than_a_clip_is_repeated(written) -> None:
    """Real sound again, never noise or silence that was not recorded."""
    wave = noise(1)
    clips = SoundscapeWave(wave, RATE).clips(RATE, np.array([0]), 3 * RATE)
    assert np.array_equal(clips[0], np.tile(wave, 3))


def test_another_rate_is_resampled_from_a_file_and_refused_from_memory(written) -> None:
    """Two models of an ensemble may want two rates."""
    path, wave = written
    assert SoundscapeFile(path).n_samples(16_000) == 30 * 16_000
    with pytest.raises(ValueError, match="16000"):
        SoundscapeWave(wave, RATE).n_samples(16_000)


def test_what_is_no_sound_is_refused(tmp_path) -> None:
    """With the file, or the number of bad samples."""
    with pytest.raises(AudioError, match=r"none\.ogg"):
        SoundscapeFile(tmp_path / "none.ogg")
    with pytest.raises(ValueError, match="1 of 3 not finite"):
        SoundscapeWave(np.array([0.0, np.nan, 1.0], np.float32), RATE)
