"""Invented animals: what their calls are made of, as data; how an individual sings, as draws; and the sound of it.

For the generated mini-competition only. No animal here exists, and the names say so. Some pairs are meant to be
confused: the same syllable in another rhythm, the same carrier pulsed at another rate, two syllables in another order.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Note:
    """One syllable.

    pitch_hz     contour: pitches at evenly spaced times, joined geometrically
    harmonics    amplitudes of the pitch and its multiples
    pulse_hz     rate at which the amplitude is pulsed down to zero, 0 for not at all
    vibrato_hz   rate of the vibrato, and vibrato its depth as a share of the pitch
    breath       0 for a tone; otherwise noise around the pitch, this share of the pitch wide
    level        amplitude
    """

    duration_s: float
    pitch_hz: tuple[float, ...]
    harmonics: tuple[float, ...] = (1.0,)
    pulse_hz: float = 0.0
    vibrato_hz: float = 0.0
    vibrato: float = 0.0
    breath: float = 0.0
    level: float = 1.0


@dataclass(frozen=True)
class Species:
    """An invented species, or one individual of it (`draw_individual`).

    notes    the syllables it has
    phrase   (which note, gap after it in seconds), sung in this order
    repeats  least and most times that the phrase is sung in one song
    pause_s  shortest and longest silence between songs
    """

    label: str
    scientific_name: str
    common_name: str
    class_name: str
    notes: tuple[Note, ...]
    phrase: tuple[tuple[int, float], ...]
    repeats: tuple[int, int]
    pause_s: tuple[float, float]


@dataclass(frozen=True)
class Sung:
    """A note that is sung once, with the seed of its breath."""

    note: Note
    start_s: float
    seed: int


def draw_individual(species: Species, rng: np.random.Generator, *, spread: float = 1.0) -> Species:
    """One animal of a species: its own pitch, tempo, timbre and number of repeats.

    spread 1 shifts pitch by about 5 % and tempo by about 10 % (standard deviations); 0 gives the species itself.
    """
    pitch, tempo, pulse = np.exp(spread * rng.normal(0, (0.05, 0.10, 0.07)))
    notes = []
    for note in species.notes:
        bend = np.exp(spread * rng.normal(0, 0.03, len(note.pitch_hz)))
        timbre = np.exp(spread * rng.normal(0, 0.4, len(note.harmonics)))
        timbre[0] = 1.0
        notes.append(replace(
            note, duration_s=note.duration_s / tempo, pulse_hz=note.pulse_hz * pulse,
            vibrato_hz=note.vibrato_hz * tempo,
            pitch_hz=tuple(float(hz) for hz in np.multiply(note.pitch_hz, pitch * bend)),
            harmonics=tuple(float(a) for a in np.multiply(note.harmonics, timbre)),
            level=note.level * float(np.exp(spread * rng.normal(0, 0.2)))))
    change = np.exp(spread * rng.normal(0, 0.15))
    fewest, most = (max(1, round(n * change)) for n in species.repeats)
    return replace(species, notes=tuple(notes), repeats=(fewest, most),
                   phrase=tuple((which, gap_s / tempo) for which, gap_s in species.phrase))


def draw_stranger(rng: np.random.Generator) -> Species:
    """An animal of a species that is in no list: whatever it sings, it is not one of the classes."""
    base_hz = float(np.exp(rng.uniform(np.log(500), np.log(8000))))
    notes = tuple(
        Note(float(rng.uniform(0.05, 0.5)),
             tuple(np.clip(base_hz * np.exp(rng.normal(0, 0.25, rng.integers(1, 4))), 300, 1e4)),
             harmonics=tuple(0.5 ** np.arange(rng.integers(1, 4))), breath=float(rng.choice([0.0, 0.0, 0.08])),
             pulse_hz=float(rng.choice([0.0, 0.0, rng.uniform(15, 90)])))
        for _ in range(int(rng.integers(1, 4))))
    phrase = tuple((int(rng.integers(len(notes))), float(rng.uniform(0.03, 0.4))) for _ in range(rng.integers(1, 4)))
    return Species("stranger", "Peregrinus ignotus", "Stranger", "Aves", notes, phrase, (1, 5), (0.5, 4.0))


def draw_bout(individual: Species, rng: np.random.Generator, duration_s: float) -> tuple[Sung, ...]:
    """What an individual sings in duration_s: songs with pauses between them, every note a little different."""
    sung: list[Sung] = []
    now_s = 0.0
    while True:
        for _ in range(int(rng.integers(individual.repeats[0], individual.repeats[1] + 1))):
            for which, gap_s in individual.phrase:
                note, bend = individual.notes[which], np.exp(rng.normal(0, 0.01))
                # A long note is a steady one, and lasts as long as it lasts.
                length_s = note.duration_s * float(np.exp(rng.normal(0, 0.3 if note.duration_s > 1 else 0.05)))
                if now_s + length_s > duration_s:
                    if sung and duration_s - now_s < 0.5 * length_s:
                        return tuple(sung)
                    length_s = duration_s - now_s
                sung.append(Sung(replace(note, duration_s=length_s, pitch_hz=tuple(hz * bend for hz in note.pitch_hz),
                                         level=note.level * float(np.exp(rng.normal(0, 0.1)))),
                                 now_s, int(rng.integers(2**31))))
                now_s += length_s + gap_s * float(np.exp(rng.normal(0, 0.08)))
                if now_s >= duration_s:
                    return tuple(sung)
        now_s += float(rng.uniform(*individual.pause_s))
        if now_s >= duration_s:
            return tuple(sung)


def render_bout(sung: Sequence[Sung], duration_s: float, sample_rate_hz: int) -> np.ndarray:
    """The sound of a bout, (N,) float32; the same notes always sound the same."""
    wave = np.zeros(round(duration_s * sample_rate_hz), dtype=np.float32)
    for one in sung:
        start = round(one.start_s * sample_rate_hz)
        sound = render_note(one.note, sample_rate_hz, seed=one.seed)[: len(wave) - start]
        wave[start:start + len(sound)] += sound
    return wave


def render_note(note: Note, sample_rate_hz: int, *, seed: int = 0) -> np.ndarray:
    """The sound of one note, (N,) float32, amplitude about note.level.

    Harmonics above 0.45 of the rate are left out, so nothing is aliased, and a pitch above it is silence. `seed` draws
    the breath.

    >>> hz = np.abs(np.fft.rfft(render_note(Note(1.0, (1500.0,)), 16000))).argmax()
    >>> int(hz)
    1500
    """
    n = max(2, round(note.duration_s * sample_rate_hz))
    time_s = np.arange(n, dtype=np.float32) / sample_rate_hz
    knots = np.linspace(0, time_s[-1], len(note.pitch_hz))
    pitch = np.exp(np.interp(time_s, knots, np.log(note.pitch_hz)))
    pitch *= 1 + note.vibrato * np.sin(2 * np.pi * note.vibrato_hz * time_s)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate_hz
    wave = np.zeros(n, dtype=np.float32)
    for number, amplitude in enumerate(note.harmonics, start=1):
        if number * pitch.max() < 0.45 * sample_rate_hz:
            wave += np.float32(amplitude) * np.sin((number * phase).astype(np.float32))
    if note.breath:
        # A carrier times slow noise is noise around the carrier.
        points = 2 + round(note.duration_s * note.breath * float(np.mean(note.pitch_hz)))
        rough = np.random.default_rng(seed).standard_normal(points)
        wave *= np.interp(time_s, np.linspace(0, time_s[-1], points), rough)
    if note.pulse_hz:
        wave *= (0.5 - 0.5 * np.cos(2 * np.pi * note.pulse_hz * time_s)) ** 2
    edge = max(1, min(n // 3, round(0.02 * sample_rate_hz)))
    rise = 0.5 - 0.5 * np.cos(np.pi * np.arange(edge) / edge)
    wave[:edge] *= rise
    wave[n - edge:] *= rise[::-1]
    return (note.level * wave).astype(np.float32)


_WARBLE = Note(0.045, (5200.0, 4200.0))
_FALL = Note(0.22, (5600.0, 3000.0))
_WHISTLE = Note(0.35, (3300.0, 3200.0))

# In the order in which they are taken: the first four are two birds that differ in rhythm alone, a frog and an insect.
SPECIES: tuple[Species, ...] = (
    Species("fabwar1", "Ficta rapida", "Fable Warbler", "Aves", (_WARBLE,), ((0, 0.03),), (10, 22), (1.5, 4.0)),
    Species("9900101", "Nullirana quadraginta", "Decoy Frog", "Amphibia",
            (Note(0.40, (900.0, 950.0), (1.0, 0.4, 0.15), pulse_hz=38.0),), ((0, 0.5),), (2, 6), (0.8, 3.0)),
    Species("9900201", "Ficticryllus terni", "Clockwork Cricket", "Insecta",
            (Note(0.025, (4700.0,)),), ((0, 0.025), (0, 0.025), (0, 0.35)), (8, 30), (0.5, 1.5)),
    Species("invwar1", "Ficta gemina", "Invented Warbler", "Aves",
            (_WARBLE,), ((0, 0.05), (0, 0.22)), (4, 9), (1.5, 4.0)),
    Species("mytfin1", "Mythospiza cadens", "Myth Finch", "Aves",
            (_FALL, _WHISTLE), ((0, 0.08), (1, 0.35)), (1, 3), (1.5, 5.0)),
    Species("legfin1", "Mythospiza ascendens", "Legend Finch", "Aves",
            (_FALL, _WHISTLE), ((1, 0.08), (0, 0.35)), (1, 3), (1.5, 5.0)),
    Species("9900102", "Nullirana septuaginta", "Dummy Frog", "Amphibia",
            (Note(0.40, (920.0, 930.0), (1.0, 0.4, 0.15), pulse_hz=72.0),), ((0, 0.5),), (2, 6), (0.8, 3.0)),
    Species("9900202", "Ficticryllus perpetuus", "Cardboard Cricket", "Insecta",
            (Note(4.0, (4900.0,), pulse_hz=32.0),), ((0, 0.6),), (1, 2), (0.5, 2.0)),
    Species("imathr1", "Imaginator musicus", "Imaginary Thrush", "Aves",
            (Note(0.28, (2100.0, 2500.0), (1.0, 0.2), vibrato_hz=22.0, vibrato=0.03), Note(0.20, (3100.0, 2400.0)),
             Note(0.40, (1800.0,), (1.0, 0.3), vibrato_hz=14.0, vibrato=0.02)),
            ((0, 0.06), (1, 0.05), (2, 0.12), (1, 0.3)), (1, 2), (1.5, 4.0)),
    Species("phatin1", "Phantomus solus", "Phantom Tinamou", "Aves",
            (Note(0.9, (1150.0, 1000.0)), Note(0.6, (950.0, 900.0))), ((0, 0.2), (1, 0.5)), (1, 1), (3.0, 7.0)),
    Species("drepar1", "Somnium clamans", "Dream Parrot", "Aves",
            (Note(0.22, (1300.0, 1500.0, 1200.0), (1.0, 0.9, 0.8, 0.6, 0.4, 0.3), breath=0.06),), ((0, 0.2),), (2, 5),
            (1.0, 4.0)),
    Species("9900203", "Simulacris stridens", "Pretend Cicada", "Insecta",
            (Note(3.5, (7500.0, 7900.0), breath=0.12, pulse_hz=90.0),), ((0, 1.0),), (1, 2), (0.5, 2.0)),
    Species("9900103", "Chartabufo longus", "Paper Toad", "Amphibia",
            (Note(2.2, (1600.0, 1680.0), (1.0, 0.2), pulse_hz=24.0),), ((0, 1.0),), (1, 2), (1.5, 4.0)),
    Species("chiwre1", "Chimaera velox", "Chimera Wren", "Aves",
            (Note(0.09, (3000.0, 6500.0, 4000.0)), Note(0.06, (6800.0, 5200.0))), ((0, 0.04), (0, 0.04), (1, 0.06)),
            (2, 6), (1.0, 4.0)),
    Species("ficowl1", "Fabulastrix umbra", "Fiction Owl", "Aves",
            (Note(0.30, (400.0, 430.0, 390.0), (1.0, 0.35, 0.1)),), ((0, 0.35),), (3, 6), (2.0, 6.0)),
    Species("9900104", "Stannohyla ping", "Tin Treefrog", "Amphibia",
            (Note(0.09, (2500.0, 2800.0), (1.0, 0.15)),), ((0, 0.9),), (2, 8), (0.5, 2.0)),
)
