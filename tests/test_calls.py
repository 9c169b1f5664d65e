"""Invented calls sound as their data says, and individuals differ without becoming another species."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from birdkit.synthesis.calls import (
    SPECIES,
    Note,
    Species,
    draw_bout,
    draw_individual,
    draw_stranger,
    render_bout,
    render_note,
)

RATE = 32_000


def loudest_hz(wave: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * RATE / len(wave))


@pytest.mark.parametrize("hz", [400.0, 3000.0, 9000.0])
def test_a_note_is_at_its_pitch(hz: float) -> None:
    """What is drawn as 3 kHz must be found at 3 kHz, or the classes are not what the table says."""
    assert loudest_hz(render_note(Note(0.5, (hz,)), RATE)) == pytest.approx(hz, abs=5)


def test_a_sweep_goes_from_its_first_pitch_to_its_last() -> None:
    """Finches of this table differ only in which way and when they sweep."""
    wave = render_note(Note(0.4, (5600.0, 3000.0)), RATE)
    first, last = (loudest_hz(part) for part in (wave[:2000], wave[-2000:]))
    assert first == pytest.approx(5400, rel=0.05) and last == pytest.approx(3100, rel=0.05)


def test_harmonics_are_multiples_and_none_is_aliased() -> None:
    """A harmonic above half the rate would come back as a tone that no contour describes."""
    spectrum = np.abs(np.fft.rfft(render_note(Note(1.0, (4500.0,), (1.0, 0.5, 0.25, 0.9)), RATE)))
    peaks = [float(spectrum[round(hz)] / spectrum[4500]) for hz in (4500, 9000, 13500)]
    np.testing.assert_allclose(peaks, [1, 0.5, 0.25], rtol=0.02)
    assert spectrum[13700:].max() < 0.01 * spectrum[4500]  # the fourth, 18 kHz, would come back at 14 kHz


def test_pulses_come_at_their_rate() -> None:
    """Two frogs of this table differ only in their pulse rate."""
    envelope = render_note(Note(1.0, (2000.0,), pulse_hz=38.0), RATE) ** 2
    rates = np.abs(np.fft.rfft(envelope - envelope.mean()))[:200]
    assert rates.argmax() == 38


def test_breath_is_noise_around_the_pitch_and_the_same_for_the_same_seed() -> None:
    """A cicada is no tone; its noise must come again with its seed."""
    note = Note(1.0, (7500.0,), breath=0.1)
    power = np.abs(np.fft.rfft(render_note(note, RATE, seed=1))) ** 2
    inside = power[7000:8000].sum() / power.sum()
    assert inside > 0.9 and power.max() / power.sum() < 0.1
    np.testing.assert_array_equal(render_note(note, RATE, seed=1), render_note(note, RATE, seed=1))
    assert not np.array_equal(render_note(note, RATE, seed=1), render_note(note, RATE, seed=2))


def test_a_note_begins_and_ends_softly() -> None:
    """A click at the edge of every syllable would be learnt instead of the syllable."""
    wave = render_note(Note(0.05, (5000.0,)), RATE)
    assert abs(wave[0]) < 1e-6 and np.abs(wave[-10:]).max() < 0.02 and np.abs(wave).max() > 0.9


@pytest.mark.parametrize("species", SPECIES, ids=lambda one: one.label)
@pytest.mark.parametrize("duration_s", [0.3, 6.0])
def test_every_species_fills_a_bout_of_any_length_and_keeps_inside_it(species: Species, duration_s: float) -> None:
    """A bout without a sound cannot be placed, one that runs over is cut in the middle of a note."""
    sung = draw_bout(draw_individual(species, np.random.default_rng(0)), np.random.default_rng(1), duration_s)
    wave = render_bout(sung, duration_s, RATE)
    assert len(wave) == round(duration_s * RATE) and np.isfinite(wave).all() and np.abs(wave).max() > 0.1
    assert all(one.start_s + one.note.duration_s <= duration_s + 1e-6 for one in sung)


def test_individuals_differ_and_keep_the_song_of_their_species() -> None:
    """If all sang the same a model would learn the recording; if anything went there would be nothing to learn."""
    species = SPECIES[0]
    pitches, counts = [], set()
    for seed in range(200):
        one = draw_individual(species, np.random.default_rng(seed))
        assert [which for which, _ in one.phrase] == [which for which, _ in species.phrase]
        pitches.append(np.mean(one.notes[0].pitch_hz) / np.mean(species.notes[0].pitch_hz))
        counts.add(one.repeats)
    assert 0.03 < np.std(np.log(pitches)) < 0.10 and len(counts) > 5
    same = draw_individual(species, np.random.default_rng(0), spread=0.0)
    assert same == replace(species, notes=same.notes) and same.notes[0].pitch_hz == species.notes[0].pitch_hz


def test_drawing_is_apart_from_rendering() -> None:
    """The same draw always sounds the same, at any rate."""
    sung = draw_bout(SPECIES[8], np.random.default_rng(3), 4.0)
    np.testing.assert_array_equal(render_bout(sung, 4.0, RATE), render_bout(sung, 4.0, RATE))
    assert sung == draw_bout(SPECIES[8], np.random.default_rng(3), 4.0)
    assert len(render_bout(sung, 4.0, 16_000)) == 64_000


def test_species_have_names_of_their_own_and_their_bands() -> None:
    """Birds, frogs and insects, as the competition's class names have them; frogs low, insects high."""
    assert len({one.label for one in SPECIES}) == len({one.scientific_name for one in SPECIES}) == len(SPECIES)
    assert {one.class_name for one in SPECIES[:4]} == {"Aves", "Amphibia", "Insecta"}
    for one in SPECIES:
        low, high = {"Aves": (350, 7000), "Amphibia": (300, 3000), "Insecta": (4000, 12000)}[one.class_name]
        assert all(low <= hz <= high for note in one.notes for hz in note.pitch_hz), one.label
        assert one.label.isdigit() == (one.class_name != "Aves")


def test_strangers_are_all_different_and_in_no_list() -> None:
    """They stand for the animals that a competition does not ask about."""
    strangers = [draw_stranger(np.random.default_rng(seed)) for seed in range(300)]
    assert len({one.notes for one in strangers}) == 300
    assert all(300 <= hz <= 10_000 for one in strangers for note in one.notes for hz in note.pitch_hz)
    assert not {one.label for one in strangers} & {one.label for one in SPECIES}
