"""Copies are found whatever became of them, and animals of one kind, hum, clicks and silence are no copies."""
from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import soundfile as sf
import soxr
import torch
from conftest import noise, tone
from scipy.signal import butter, sosfilt

from birdkit.frontend import FrontEnd
from birdkit.preprocess import fingerprint
from birdkit.preprocess.fingerprint import FRAME_S, Fingerprint, Fingerprinter, Overlap, enough_for, find_overlaps

RATE = 16_000  # of the waves that fingerprints are made of


def warbler(seconds: float, seed: int, *, level: float = 0.3) -> np.ndarray:
    """One kind of bird: phrases of the same three falling and rising whistles, at other moments in every recording."""
    random = np.random.default_rng(seed)
    wave = 0.02 * random.standard_normal(round(seconds * RATE))
    at_s = random.uniform(0, 0.5)
    while at_s < seconds - 0.7:
        for pitches in ((5200, 3900), (3000, 4100), (6000, 2500)):
            pitch_hz = np.geomspace(*pitches, round(0.12 * RATE)) * random.uniform(0.97, 1.03)
            note = np.sin(2 * np.pi * np.cumsum(pitch_hz) / RATE) * np.hanning(len(pitch_hz))
            start = round(at_s * RATE)
            wave[start:start + len(note)] += level * random.uniform(0.5, 1) * note
            at_s += random.uniform(0.14, 0.2)
        at_s += random.uniform(0.1, 0.8)
    return wave.astype(np.float32)


def ogg(wave: np.ndarray) -> np.ndarray:
    """Through Ogg Vorbis at its lowest quality."""
    buffer = io.BytesIO()
    sf.write(buffer, wave, RATE, format="OGG", subtype="VORBIS", compression_level=1.0)
    buffer.seek(0)
    return sf.read(buffer, dtype="float32")[0]


def with_noise(wave: np.ndarray) -> np.ndarray:
    """White noise 10 dB below."""
    return wave + noise(len(wave) / 32_000, seed=9, amplitude=float(np.sqrt(np.mean(wave ** 2) / 10)))


def with_hum(wave: np.ndarray) -> np.ndarray:
    """Mains hum with its harmonics, as loud as the recording."""
    time = np.arange(len(wave)) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * number * time + number) / number for number in range(1, 30))
    return (wave + hum * np.sqrt(np.mean(wave ** 2) / np.mean(hum ** 2))).astype(np.float32)


def within_another(wave: np.ndarray) -> np.ndarray:
    """From 2 s on, for 5 s, in the middle of another bird's recording."""
    other = warbler(20, 77)
    other[8 * RATE:13 * RATE] = 0.2 * wave[2 * RATE:7 * RATE]
    return other


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {  # and how much later it begins in the original
    "a tenth of the volume": (lambda wave: wave / 10, 0.0),
    "hardly any volume": (lambda wave: wave / 30_000, 0.0),
    "inverted": (lambda wave: -wave, 0.0),
    "lowest Ogg quality": (ogg, 0.0),
    "half the sample rate": (lambda wave: soxr.resample(soxr.resample(wave, RATE, 8000), 8000, RATE), 0.0),
    "1.37 s later": (lambda wave: wave[round(1.37 * RATE):], 1.37),
    "3 s of it": (lambda wave: wave[5 * RATE:8 * RATE], 5.0),
    "inside of another": (within_another, -6.0),
    "white noise": (with_noise, 0.0),
    "hum": (with_hum, 0.0),
    "without the deep": (lambda wave: sosfilt(butter(4, 1000, "highpass", fs=RATE, output="sos"), wave), 0.0),
    "an offset, and a click": (lambda wave: wave + 0.2 + 3 * (np.arange(len(wave)) == 4 * RATE), 0.0),
}


@pytest.fixture(scope="module")
def maker() -> Fingerprinter:
    return Fingerprinter()


@pytest.fixture(scope="module")
def birds(maker: Fingerprinter) -> dict[str, Fingerprint]:
    """Twelve recordings of birds of one kind."""
    return {f"bird {seed:02d}": maker(warbler(12, seed)) for seed in range(12)}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_whatever_became_of_it(maker: Fingerprinter, birds: dict[str, Fingerprint],
                                               change: str) -> None:
    """A held-out recording whose copy is trained on, as another file, is a score from memory."""
    make, later_s = CHANGES[change]
    found = find_overlaps(birds, {"copy": maker(np.asarray(make(warbler(12, 3)), np.float32))})
    assert [(one.first, one.second) for one in found] == [("copy", "bird 03")]
    assert found[0].second_s - found[0].first_s == pytest.approx(later_s, abs=0.05)
    assert found[0].length_s > (1.5 if change == "3 s of it" else 3)


def test_birds_of_one_kind_are_no_copies(birds: dict[str, Fingerprint]) -> None:
    """Tied together, a whole class would be one group and could not be validated."""
    assert find_overlaps(birds) == []


def test_the_shared_stretch_is_where_it_is(maker: Fingerprinter) -> None:
    """Whoever checks a pair by ear must be led to the right second of both files."""
    one, other = warbler(20, 1), warbler(16, 2)
    other[9 * RATE:14 * RATE] = one[3 * RATE:8 * RATE]
    [found] = find_overlaps({"one": maker(one), "other": maker(other)})
    assert (found.first, found.second) == ("one", "other")
    assert found.second_s - found.first_s == pytest.approx(6, abs=FRAME_S)
    assert 2.5 < found.first_s < 4 and 7 < found.first_s + found.length_s < 8.5


@pytest.mark.parametrize("background", ["silence", "tone", "hum"])
def test_a_common_steady_background_is_no_copy(maker: Fingerprinter, background: str) -> None:
    """One recorder hums in all of its files, and a cut file is half silence."""
    prints = {}
    for seed in range(3):
        wave = {"silence": np.zeros(20 * RATE, np.float32), "tone": tone(1000, 10),
                "hum": with_hum(noise(10, seed=seed))}[background]
        wave[6 * RATE:14 * RATE] += warbler(8, seed)
        prints[str(seed)] = maker(wave)
    assert find_overlaps(prints) == []


def test_silence_and_steady_tones_have_no_peaks(maker: Fingerprinter) -> None:
    """What is the same everywhere must not be what recordings are compared by."""
    for wave in (np.zeros(4 * RATE, np.float32), tone(3000, 2), np.full(RATE, 0.5, np.float32)):
        inner = maker(wave).frames[4:-4]
        assert len(inner) <= 2 and len(maker(wave).frames) < 30  # a tone begins and ends
    assert len(maker(np.zeros(500, np.float32)).frames) == 0


def test_a_door_that_slams_is_no_copy(maker: Fingerprinter) -> None:
    """One short bang has as many peaks as half a second of song, and at the same place of a frame they all coincide."""
    bang = 0.5 * np.random.default_rng(1).standard_normal(RATE // 20)
    prints = {}
    for seed in range(6):
        wave = warbler(6, seed, level=0.0)
        wave[(seed + 8) * 8 * 512:][:len(bang)] += bang.astype(np.float32)
        prints[str(seed)] = maker(wave)
    assert find_overlaps(prints) == []


def test_equal_audio_overlaps_from_end_to_end(maker: Fingerprinter) -> None:
    """The certain case, to the frame."""
    print_ = maker(warbler(10, 4))
    [found] = find_overlaps({"b": print_, "a": print_})
    assert (found.first, found.second) == ("a", "b") and found.first_s == found.second_s < 0.5
    assert found.length_s > 9


def test_blocks_leave_no_trace(maker: Fingerprinter) -> None:
    """A long file is read in blocks: their joints must not be heard."""
    wave = warbler(8.192 * 3, 8)
    front_end = FrontEnd(replace(fingerprint.FRONT_END, clip_s=8.192 * 3))
    whole = front_end(torch.from_numpy(wave / np.abs(wave).max()).unsqueeze(0))[0, 0]
    torch.testing.assert_close(maker._decibels(torch.from_numpy(wave)), whole, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shift", [128, 256, 384])
def test_a_copy_need_not_begin_with_a_frame(maker: Fingerprinter, shift: int) -> None:
    """Cut anywhere, a copy's frames lie between those of the original: that must cost little of the evidence."""
    wave = warbler(12, 3)
    [same] = find_overlaps({"a": maker(wave), "b": maker(wave[512:])})
    [between] = find_overlaps({"a": maker(wave), "b": maker(wave[shift:])})
    assert between.evidence > 0.8 * same.evidence


def test_peaks_are_where_the_sound_is(maker: Fingerprinter) -> None:
    """Three beeps in faint noise are the strongest peaks; a band further up is a higher pitch."""
    wave = 1e-4 * noise(3, seed=2)[:6 * RATE]
    for second, pitch_hz in ((1.0, 2000), (2.5, 4000), (4.0, 1000)):
        beep = tone(2 * pitch_hz, 0.1)[:RATE // 10] * np.hanning(RATE // 10)  # the tone is sampled at twice the rate
        wave[round(second * RATE):round(second * RATE) + len(beep)] += beep.astype(np.float32)
    found = maker(wave)
    middle = [np.median(found.bands[np.abs(found.frames - at_s / FRAME_S) < 2]) for at_s in (1.05, 2.55, 4.05)]
    assert middle[2] < middle[0] < middle[1] and len(found.frames) < 13 * 6 + 13


def test_more_recordings_ask_for_more_evidence(maker: Fingerprinter, birds: dict[str, Fingerprint]) -> None:
    """Among hundreds of millions of pairs the unlikely happens by chance."""
    asked = [enough_for(n_pairs) for n_pairs in (0, 1000, 10 ** 5, 10 ** 7, 6 * 10 ** 8)]
    assert asked[0] == asked[1] and all(more > less for less, more in pairwise(asked[1:]))
    expected = [n_pairs * 1.3 * np.exp(-0.85 * enough_for(n_pairs)) for n_pairs in (10 ** 6, 10 ** 9)]
    assert np.allclose(expected, 0.05)


def test_what_is_left_out_for_want_of_memory_costs_no_plain_copy(
        maker: Fingerprinter, birds: dict[str, Fingerprint], monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole year has more keys than fit: looked up in parts, and a part of them, they still find what there is."""
    copies = {f"copy {seed:02d}": maker(ogg(warbler(12, seed))[2 * RATE:]) for seed in range(12)}
    expected = {(f"copy {seed:02d}", f"bird {seed:02d}") for seed in range(12)}
    whole = find_overlaps(birds, copies)
    monkeypatch.setattr(fingerprint, "BATCH", 5_000)
    assert find_overlaps(birds, copies) == whole
    together = find_overlaps({**birds, **copies})
    assert {(one.second, one.first) for one in together} == expected
    monkeypatch.setattr(fingerprint, "MOST_KEYS", 6_000)
    assert fingerprint._Index(birds).share >= 5
    assert len(fingerprint._Index(birds).entries) < 8_000
    assert {(one.first, one.second) for one in find_overlaps(birds, copies)} == expected == {
        (one.first, one.second) for one in whole}


def test_what_everybody_has_tells_nothing(birds: dict[str, Fingerprint]) -> None:
    """The jingle of a collection is in each of its files: it ties none of them, and takes no time."""
    assert find_overlaps({f"{number:02d}": birds["bird 00"] for number in range(fingerprint.COMMON + 1)}) == []
    assert len(find_overlaps({f"{number:02d}": birds["bird 00"] for number in range(8)})) == 8 * 7 / 2


def test_the_order_of_recordings_changes_nothing(maker: Fingerprinter, birds: dict[str, Fingerprint]) -> None:
    """Splits hang on what is tied: they must not change with the order of a table."""
    prints = {**birds, "copy": maker(warbler(12, 5)[RATE:])}
    backwards = dict(reversed(list(prints.items())))
    assert find_overlaps(prints) == find_overlaps(backwards)
    assert len(find_overlaps(prints)) == 1


def test_nothing_to_compare_is_no_error(maker: Fingerprinter, birds: dict[str, Fingerprint]) -> None:
    """The smallest competitions, and recordings without a peak."""
    silent = maker(np.zeros(RATE, np.float32))
    for prints in ({}, {"a": silent}, {"a": silent, "b": silent, "c": birds["bird 01"], "d": silent}):
        assert find_overlaps(prints) == []
        assert find_overlaps(prints, {}) == []
        assert find_overlaps({}, prints) == []


def test_a_fingerprint_comes_back_from_text(birds: dict[str, Fingerprint]) -> None:
    """What an earlier audit found is used again: a wrong byte would be another recording."""
    for one in (birds["bird 07"], Fingerprint(np.zeros(0, np.int32), np.zeros(0, np.uint8))):
        again = Fingerprint.from_text(one.to_text())
        assert again.frames.dtype == np.int32 and again.bands.dtype == np.uint8
        np.testing.assert_array_equal(again.frames, one.frames)
        np.testing.assert_array_equal(again.bands, one.bands)
    assert len(birds["bird 07"].to_text()) < 200 * 12
    for text in ("not base64!", "AAAA", 7):
        with pytest.raises((ValueError, TypeError)):
            Fingerprint.from_text(text)


def test_evidence_of_identity_exceeds_that_of_kinship(birds: dict[str, Fingerprint]) -> None:
    """An overlap's evidence is what a person sorts the list by."""
    [same] = find_overlaps({"a": birds["bird 00"], "b": birds["bird 00"]})
    assert isinstance(same, Overlap) and same.evidence > 3 * enough_for(1)
