"""The store: the same samples whatever was read before, inside its memory limit, and packed files under their names."""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, click, noise, tone

from birdkit import audio
from birdkit.data import AudioStore, audio_store
from birdkit.data.packed import PackingError
from birdkit.data.packing import pack

WAVES = {"a.wav": click(8.0, 10), "b.wav": 3 * tone(1000, 6), "c.wav": 0.001 * noise(1)}
MIB = 1 / 1024


@pytest.fixture
def root(tmp_path) -> Path:
    """Three recordings of 10 s, 6 s and 1 s: one with a click, one above full scale, one very quiet."""
    for name, wave in WAVES.items():
        sf.write(tmp_path / name, wave, RATE, subtype="FLOAT")
    return tmp_path


def test_only_the_asked_part_is_decoded(root, monkeypatch) -> None:
    """An hour-long recording must not be decoded for five seconds of it."""
    asked = []
    real = audio.load
    monkeypatch.setattr(audio, "load", lambda path, rate, **span: asked.append(span) or real(path, rate, **span))
    store = AudioStore(root, RATE)
    np.testing.assert_array_equal(store.part("a.wav", 1.5, 2.0), WAVES["a.wav"][RATE * 3 // 2:RATE * 7 // 2])
    np.testing.assert_array_equal(store.span("a.wav", 7.0, 9.0), WAVES["a.wav"][7 * RATE:9 * RATE])
    assert asked == [{"start_s": 1.5, "duration_s": 2.0}, {"start_s": 7.0, "duration_s": 2.0}]
    np.testing.assert_array_equal(store.whole("b.wav"), WAVES["b.wav"])
    np.testing.assert_array_equal(store.span("b.wav", np.nan, np.nan), WAVES["b.wav"])


def test_reserved_files_stay_in_memory_within_the_limit(root) -> None:
    """A limit is a limit: 11 s at 16 bits hold the first and the last file, and the second is decoded each time."""
    store = AudioStore(root, RATE, limit_gib=11 * RATE * 2 / 2**30)
    assert [store.reserve(file, len(wave) / RATE) for file, wave in WAVES.items()] == [True, False, True]
    assert store.free_bytes == 0 and store.reserve("a.wav", 10.0)  # again costs nothing
    for file, wave in WAVES.items():
        for _ in range(2):
            peak = np.abs(wave).max()
            assert np.abs(store.whole(file) - wave).max() < 2e-5 * peak  # sixteen bits of its own full scale
            assert np.abs(store.part(file, 0.25, 0.5) - wave[RATE // 4:RATE * 3 // 4]).max() < 2e-5 * peak
    for file in WAVES:
        (root / file).unlink()
    assert len(store.whole("a.wav")) == 10 * RATE and len(store.part("c.wav", 0.5, 2.0)) == RATE // 2
    with pytest.raises(audio.AudioError, match=r"b\.wav"):
        store.whole("b.wav")
    assert not AudioStore(root, RATE).reserve("a.wav", 10.0)


def test_what_is_read_does_not_depend_on_what_was_read_before(root) -> None:
    """A run that goes on starts with an empty memory: its clips must be the very ones of the uninterrupted run."""
    fresh, used = (AudioStore(root, RATE, limit_gib=10 * MIB) for _ in range(2))
    for store in (fresh, used):
        store.reserve("a.wav", 10.0)
    first = used.whole("a.wav")
    np.testing.assert_array_equal(first, used.whole("a.wav"))
    np.testing.assert_array_equal(fresh.part("a.wav", 2.0, 3.0), used.part("a.wav", 2.0, 3.0))
    np.testing.assert_array_equal(first[2 * RATE:5 * RATE], used.part("a.wav", 2.0, 3.0))


def test_threads_that_ask_at_once_get_the_same(root, monkeypatch) -> None:
    """Validation reads while the next batch is decoded beside it; each file is decoded once all the same."""
    asked = []
    real = audio.load
    monkeypatch.setattr(audio, "load", lambda path, *args, **span: asked.append(path) or real(path, *args, **span))
    store = AudioStore(root, RATE, limit_gib=10 * MIB)
    store.reserve("a.wav", 10.0)
    with ThreadPoolExecutor(8) as pool:
        waves = list(pool.map(store.whole, ["a.wav"] * 24))
    assert all(np.array_equal(wave, waves[0]) for wave in waves) and len(asked) == 1


@pytest.mark.parametrize("reserved", [False, True])
def test_a_range_outside_the_file_is_refused_by_name(root, reserved: bool) -> None:
    """An empty clip would be repeated into nothing."""
    store = AudioStore(root, RATE, limit_gib=10 * MIB)
    if reserved:
        store.reserve("b.wav", 6.0)
    assert len(store.part("b.wav", 5.0, 3.0)) == RATE
    with pytest.raises(audio.AudioError, match=r"b\.wav: nothing can be decoded from 6\.5 s on"):
        store.part("b.wav", 6.5, 1.0)


def test_energy_is_measured_once_and_piece_by_piece(root, monkeypatch) -> None:
    """Energy-weighted crops decode a long recording whole a single time, and never have all of it in memory."""
    monkeypatch.setattr(audio_store, "PIECE_S", 2.5)
    asked = []
    real = audio.load
    monkeypatch.setattr(audio, "load", lambda path, rate, **span: asked.append(span["duration_s"])
                        or real(path, rate, **span))
    store = AudioStore(root, RATE)
    energy = store.energy("a.wav", 1.0, 9.25)
    assert asked == pytest.approx([2.5, 2.5, 2.5, 0.75])
    assert store.energy("a.wav", 1.0, 9.25) is energy and len(asked) == 4
    assert energy.edges_s[0] == 1.0 and energy.edges_s[-1] == 9.25
    assert energy.edges_s[int(np.diff(energy.total).argmax())] == 8.0  # the click


@pytest.mark.parametrize("format", ["flac", "int16"])
def test_a_packed_recording_is_read_under_its_own_name(root, tmp_path, format: str) -> None:
    """Tables, provenance and splits name the originals; they need not even be there any more."""
    table = pd.DataFrame({"file": ["a.wav", "c.wav"], "duration_s": [10.0, 1.0]})
    pack(table, root, tmp_path / "packed", format=format, sample_rate_hz=RATE, progress=False)
    store, plain = AudioStore(root, RATE, packed=tmp_path / "packed"), AudioStore(root, RATE)
    for file, wave in WAVES.items():
        assert np.abs(store.whole(file) - wave).max() < 2e-5 * np.abs(wave).max()
        np.testing.assert_allclose(store.part(file, 0.3, 0.5), plain.part(file, 0.3, 0.5),
                                   atol=2e-5 * np.abs(wave).max())
    for file in table["file"]:
        (root / file).unlink()
    assert len(store.whole("a.wav")) == 10 * RATE and store.extent("a.wav") == (0.0, 10.0)
    assert store.extent("b.wav") == (0.0, np.inf)
    assert len(store.part("a.wav", 9.0, 5.0)) == RATE
    assert store.energy("a.wav", 0.0, 10.0).rms(np.array([7.75]), 0.5)[0] > 0.005


def test_packed_and_reserved_is_packed_to_the_bit(root, tmp_path) -> None:
    """Memory is a matter of speed; int16 files are read by memory map and need none of it."""
    table = pd.DataFrame({"file": list(WAVES), "duration_s": [10.0, 6.0, 1.0]})
    read = []
    for format, kept in (("flac", True), ("int16", False)):
        pack(table, root, tmp_path / format, format=format, sample_rate_hz=RATE, seconds=5.0, part="loudest",
             progress=False)
        store = AudioStore(root, RATE, packed=tmp_path / format)
        ready = AudioStore(root, RATE, packed=tmp_path / format, limit_gib=10 * MIB)
        assert [ready.reserve(file, 10.0) for file in WAVES] == [kept] * 3
        for file in WAVES:
            start_s = store.extent(file)[0]
            assert (start_s > 2) == (file == "a.wav")
            np.testing.assert_array_equal(store.whole(file), ready.whole(file))
            np.testing.assert_array_equal(store.part(file, start_s + 0.4, 2.0), ready.part(file, start_s + 0.4, 2.0))
            read.append(store.whole(file))
    for flac, int16 in zip(read[:3], read[3:], strict=True):
        np.testing.assert_array_equal(flac, int16)


def test_a_packing_at_another_rate_is_refused(root, tmp_path) -> None:
    """Read at the wrong rate, every call has the pitch of another species."""
    pack(pd.DataFrame({"file": ["c.wav"], "duration_s": [1.0]}), root, tmp_path / "packed", sample_rate_hz=16_000,
         progress=False)
    with pytest.raises(PackingError, match="is packed at 16000 Hz, not at 32000 Hz"):
        AudioStore(root, RATE, packed=tmp_path / "packed")
    with pytest.raises(PackingError, match="holds no packing"):
        AudioStore(root, RATE, packed=tmp_path)
