"""A mini-competition in the layout of a year of BirdCLEF, made from nothing: for the demo and the tests.

No animal in it exists. Names, authors, coordinates and GENERATED.txt say so, that no report takes it for real data. It
is like the real thing where that matters: focal clips are loud and soundscapes are not, other individuals sing in
them, from further off, in another air and beside animals that are in no list; labels are incomplete and classes
long-tailed.

The sounds of all years are alike; what differs are files, tables and the form of the submission:
birdkit.synthesis.layouts.

Every file has its own generator, seeded by (seed, kind, number); what it holds is drawn first, then rendered.
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from tqdm import tqdm

from birdkit.profiles import Competition, profile
from birdkit.synthesis import layouts
from birdkit.synthesis.ambience import Place, coloured_noise, render_place
from birdkit.synthesis.calls import SPECIES, Species, draw_bout, draw_individual, draw_stranger, render_bout
from birdkit.synthesis.composition import ComposedSoundscape, Event, compose, deal, low_pass, reverberate

SAMPLE_RATE_HZ = 32_000
WINDOW_S = 5.0
MARKER = "GENERATED.txt"
MONTH = 28 * 24 * 6  # soundscapes of a February
YEAR = 2025  # unless another is asked for

# The size for tests: seconds to make, a second to train on.
TINY: dict[str, Any] = {"n_classes": 4, "n_recordings": 20, "n_train_soundscapes": 2, "n_test_soundscapes": 2,
                        "soundscape_s": 20.0, "longest_s": 6.0}

# The colour of each recorder's air, one for the whole competition: invented, and unlike that of the focal clips.
SITES: dict[str, Place] = {
    "H02": Place(slope=1.2, bed_hz=6200.0, bed=6.0),
    "H11": Place(slope=1.6, bed_hz=4300.0, bed=3.0, wind=0.8),
    "H27": Place(slope=0.9, bed_hz=8200.0, bed=10.0, wind=0.3),
}


@dataclass(frozen=True)
class Generated:
    """Where a generated competition lies, and its truth, which is kept aside.

    truth_path   test_truth.csv, in the form of the year's submission: row_id and one column of 0 and 1 a class; or the
                 names that are heard (2021); or True or False for each scored class (2022)
    events_path  test_events.csv: what sings when in the test soundscapes
    hidden_path  train_soundscapes_truth.csv: 0 and 1 of each window and class for the soundscapes to train on, to judge
                 pseudo-labels by; nothing may be trained on it. Without rows where the year has no such soundscapes
    """

    competition_dir: Path
    truth_path: Path
    events_path: Path
    hidden_path: Path

    @classmethod
    def beside(cls, competition_dir: Path) -> Generated:
        """The paths for a competition folder: the truth lies in a folder beside it, named with `_truth`."""
        truth = competition_dir.parent / f"{competition_dir.name}_truth"
        return cls(competition_dir, truth / "test_truth.csv", truth / "test_events.csv",
                   truth / "train_soundscapes_truth.csv")


@dataclass(frozen=True)
class FocalClip:
    """What one recording of the training set holds, before it is sound.

    singers  (label, individual, level over the noise in dB, where in the clip), the primary first; a label of ""
             is an animal that is in no list
    slope    colour of the recorder's noise
    peak     of the file, in (0, 1)
    seed     of everything that is drawn while it is rendered
    """

    row: dict[str, Any]
    duration_s: float
    singers: tuple[tuple[str, Species, float, tuple[float, float]], ...]
    slope: float
    peak: float
    seed: int


def generate(folder: str | Path, *, year: int = YEAR, seed: int = 0, n_classes: int = 14, n_recordings: int = 150,
             n_train_soundscapes: int = 20, n_test_soundscapes: int = 20, soundscape_s: float = 60.0,
             longest_s: float = 30.0, progress: bool = True) -> Generated:
    """Write a competition to `folder` and its truth beside it; the same seed gives the same tables and the same waves.

    year       2021 to 2026, whose files, names and tables
    n_train_soundscapes  none in 2022 and 2023, which had none; in 2021 all of them have labels, in 2026 half
    soundscape_s  a minute, also where the year's were longer
    longest_s  length that no recording exceeds

    A folder that was generated completely with the same settings is left as it is; one that was begun is finished.
    Raises FileExistsError where the folder holds anything else, ValueError for sizes that do not fit.
    """
    generated = Generated.beside(Path(folder))
    competition = profile(year)
    if not competition.unlabelled and not competition.labelled:
        n_train_soundscapes = 0
    settings = {**({} if year == YEAR else {"year": year}), "seed": seed, "n_classes": n_classes,
                "n_recordings": n_recordings, "longest_s": longest_s,
                "n_train_soundscapes": n_train_soundscapes, "n_test_soundscapes": n_test_soundscapes,
                "soundscape_s": soundscape_s}
    if not 2 <= n_classes <= len(SPECIES) or n_recordings < 2 * n_classes or n_test_soundscapes < 1:
        raise ValueError(f"2 <= n_classes = {n_classes} <= {len(SPECIES)}, n_recordings = {n_recordings} >= twice that "
                         f"and n_test_soundscapes = {n_test_soundscapes} >= 1 do not all hold")
    if not 0 <= n_train_soundscapes <= MONTH:
        raise ValueError(f"n_train_soundscapes = {n_train_soundscapes} must be from 0 to {MONTH}, one in ten "
                         "minutes of a month")
    if soundscape_s < WINDOW_S or soundscape_s % WINDOW_S or longest_s < 3:
        raise ValueError(f"soundscape_s = {soundscape_s} must be a multiple of {WINDOW_S:g} s, and "
                         f"longest_s = {longest_s} at least 3 s")
    if _is_complete(generated, settings):
        return generated
    species = SPECIES[:n_classes]
    layouts.write_classes(generated.competition_dir, species, competition)
    with tqdm(total=n_recordings + n_train_soundscapes + n_test_soundscapes, unit="file", disable=not progress,
              desc="generating a competition") as bar:
        recordings = draw_recordings(species, n_recordings, seed, longest_s)
        _write_recordings(generated.competition_dir, recordings, competition, bar)
        for kind, number in (("train", n_train_soundscapes), ("test", n_test_soundscapes)):
            _write_soundscapes(generated, competition, kind, species, number, soundscape_s, seed, bar)
    return generated


def draw_recordings(species: Sequence[Species], n_recordings: int, seed: int, longest_s: float) -> Iterator[FocalClip]:
    """What each recording holds. Classes are long-tailed: the n-th most common has a share of about n ** -0.9.

    A quarter of the clips hold a second, fainter class, which is noted two times in three. Recordings of one author
    share the colour of the recorder's noise. Ratings follow the level over the noise; a quarter is unrated (0), as
    is everything that does not come from Xeno-canto.
    """
    rng = np.random.default_rng([seed, 0])
    shares = np.arange(1, len(species) + 1) ** -0.9
    counts = 2 + np.floor((n_recordings - 2 * len(species)) * shares / shares.sum()).astype(int)
    counts[: n_recordings - counts.sum()] += 1
    order = rng.permutation(len(species))
    authors = [(f"Generated Recordist {number:02d}", rng.uniform(0.3, 1.5)) for number in range(n_recordings // 5 + 3)]
    popularity = np.arange(1, len(authors) + 1) ** -0.7
    number = 0
    for rank, which in enumerate(order):
        for _ in range(counts[rank]):
            child = np.random.default_rng([seed, 1, number])
            author, slope = authors[int(child.choice(len(authors), p=popularity / popularity.sum()))]
            yield _draw_focal(species, species[which], child, number, author, slope, longest_s)
            number += 1


def _draw_focal(species: Sequence[Species], own: Species, rng: np.random.Generator, number: int, author: str,
                slope: float, longest_s: float) -> FocalClip:
    """One recording: who sings in it and what its row in train.csv says."""
    duration_s = float(np.clip(rng.lognormal(np.log(8), 0.6), 3.0, longest_s))
    level_db = rng.uniform(6, 30)
    lead_s, tail_s = duration_s * rng.uniform(0, 0.3, 2) * (rng.random(2) < 0.6)
    singers = [(own.label, draw_individual(own, rng), level_db, (lead_s, duration_s - tail_s))]
    noted: list[str] = []
    if rng.random() < 0.25:
        other = [one for one in species if one is not own][int(rng.integers(len(species) - 1))]
        singers.append((other.label, draw_individual(other, rng), level_db - rng.uniform(6, 14), (0.0, duration_s)))
        noted = [other.label] if rng.random() < 0.67 else []
    if rng.random() < 0.15:
        singers.append(("", draw_stranger(rng), level_db - rng.uniform(6, 14), (0.0, duration_s)))
    collection = str(rng.choice(["XC", "iNat", "CSA"], p=[0.65, 0.25, 0.1]))
    rated = collection == "XC" and rng.random() < 0.65
    rating = float(np.clip(round(2 * (1 + level_db / 8 + rng.normal(0, 0.5))) / 2, 0.5, 5.0)) if rated else 0.0
    name, located = f"{collection}{990001 + number}", rng.random() < 0.95
    row = {
        "primary_label": own.label, "secondary_labels": str(noted or [""]),
        "type": str([str(rng.choice(["song", "call"])) if collection == "XC" else ""]),
        "filename": f"{own.label}/{name}.ogg", "collection": collection, "rating": rating,
        "url": f"https://example.org/generated/{name}",
        "latitude": round(rng.uniform(-0.5, 0.5), 4) if located else None,
        "longitude": round(rng.uniform(-0.5, 0.5), 4) if located else None,
        "scientific_name": own.scientific_name, "common_name": own.common_name, "author": author,
        "license": "generated, CC0",
    }
    peak = float(np.exp(rng.uniform(np.log(0.1), np.log(0.95))))
    return FocalClip(row, duration_s, tuple(singers), float(slope), peak, int(rng.integers(2**31)))


def render_focal(focal: FocalClip) -> np.ndarray:
    """The sound of a recording, (N,) float32, with the peak that was drawn."""
    rng = np.random.default_rng(focal.seed)
    noise = 0.01 * coloured_noise(round(focal.duration_s * SAMPLE_RATE_HZ), rng, slope=focal.slope)
    events = []
    for label, individual, level_db, (start_s, end_s) in focal.singers:
        wave = render_bout(draw_bout(individual, rng, end_s - start_s), end_s - start_s, SAMPLE_RATE_HZ)
        events.append(Event(wave, label, start_s, level_db))
    wave = compose(noise, events, SAMPLE_RATE_HZ).wave
    return wave * np.float32(focal.peak / np.abs(wave).max())


def render_soundscape(labels: Sequence[str], species: Sequence[Species], place: Place, soundscape_s: float,
                      rng: np.random.Generator) -> ComposedSoundscape:
    """A minute at a place: new individuals of `labels`, some distance off, and animals that are in no list.

    Every class sings 1 to 3 bouts of 2 to 20 s, at -10 to +10 dB over the air of the place, dulled by distance and
    blurred by echoes. In one file of four it rains.
    """
    rain = float(rng.uniform(5, 60)) if rng.random() < 0.25 else 0.0
    changed = Place(place.slope + rng.normal(0, 0.1), place.bed_hz * np.exp(rng.normal(0, 0.03)),
                    place.bed * rng.uniform(0, 1.5), place.wind * rng.uniform(0, 2), rain)
    air = 0.02 * render_place(changed, round(soundscape_s * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, rng)
    singers = [(label, draw_individual(one, rng)) for label in labels for one in species if one.label == label]
    singers += [("", draw_stranger(rng)) for _ in range(int(rng.integers(0, 4)))]
    events = []
    for label, individual in singers:
        far_hz, decay_s, wet = rng.uniform(4500, 12000), rng.uniform(0.3, 1.2), rng.uniform(0.2, 0.8)
        for _ in range(int(rng.integers(1, 4))):
            length_s = min(float(np.exp(rng.uniform(np.log(2), np.log(20)))), soundscape_s)
            wave = render_bout(draw_bout(individual, rng, length_s), length_s, SAMPLE_RATE_HZ)
            wave = reverberate(low_pass(wave, SAMPLE_RATE_HZ, far_hz), rng, SAMPLE_RATE_HZ, decay_s=decay_s, wet=wet)
            events.append(Event(wave, label, float(rng.uniform(0, soundscape_s - length_s)),
                                float(rng.uniform(-10, 10))))
    made = compose(air, events, SAMPLE_RATE_HZ)
    return ComposedSoundscape(made.wave, tuple(bout for bout in made.bouts if bout.label), SAMPLE_RATE_HZ)


def _write_recordings(folder: Path, recordings: Iterator[FocalClip], competition: Competition, bar: tqdm) -> None:
    """The recordings and their table."""
    rows = []
    for focal in recordings:
        _write_ogg(folder / competition.audio / focal.row["filename"], render_focal(focal))
        rows.append(focal.row)
        bar.update()
    layouts.write_recordings(folder, rows, competition)


def _write_soundscapes(generated: Generated, competition: Competition, kind: str, species: Sequence[Species],
                       number: int, soundscape_s: float, seed: int, bar: tqdm) -> None:
    """The soundscapes of one kind, "train" or "test", and the truth about them; for the test the sample submission.

    Classes are dealt like cards, so that each is heard in some file, however rare its recordings are.
    """
    key = {"train": 2, "test": 3}[kind]
    rng = np.random.default_rng([seed, key])
    folder = {"train": competition.unlabelled or competition.labelled_in, "test": "test_soundscapes"}[kind]
    classes = sorted(one.label for one in species)
    fewest, most = max(2, round(3 * soundscape_s / 60)), max(3, round(7 * soundscape_s / 60))
    deck: list[str] = []
    truths, events, names = [], [], []
    for position, (serial, place, when) in enumerate(_places(kind, number, rng)):
        child = np.random.default_rng([seed, key, position])
        site = place or str(child.choice(sorted(SITES)))
        name = layouts.soundscape_name(competition, kind, serial, site, when)
        labels = deal(deck, classes, int(child.integers(fewest, most + 1)), child)
        made = render_soundscape(labels, species, SITES[site], soundscape_s, child)
        _write_ogg(generated.competition_dir / folder / f"{name}.ogg", made.wave)
        truth = pd.DataFrame(made.truth(classes, window_s=WINDOW_S), columns=classes)
        truth.insert(0, "row_id", [f"{name}_{round((row + 1) * WINDOW_S)}" for row in range(len(truth))])
        truths.append(truth)
        names.append(name)
        events += [{"soundscape": name, "site": site, "label": bout.label, "start": round(bout.start_s, 3),
                    "end": round(bout.end_s, 3), "active_s": round(bout.audible_s, 2),
                    "snr_db": round(bout.snr_db, 2)} for bout in made.bouts]
        bar.update()
    generated.truth_path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.concat(truths) if truths else pd.DataFrame(columns=["row_id", *classes])
    if kind == "train":
        table.to_csv(generated.hidden_path, index=False)
        layouts.write_labelled(generated.competition_dir, table, names, competition, WINDOW_S)
        return
    hosts = layouts.truth_of(table, species, competition)
    layouts.write_sample(generated.competition_dir, hosts, competition)
    pd.DataFrame(events).to_csv(generated.events_path, index=False)
    # Last of all: its presence says that everything else is there.
    hosts.to_csv(generated.truth_path)


def _places(kind: str, number: int, rng: np.random.Generator) -> list[tuple[int, str, str]]:
    """A number, the site and [date]_[time] of each soundscape; the site of a test file is drawn with what it holds."""
    if kind == "test":
        serials = sorted(int(one) for one in 1_000_000 + rng.choice(9_000_000, number, replace=False))
        return [(serial, "", f"202302{1 + serial % 28:02d}_{serial % 24:02d}{serial % 6}000") for serial in serials]
    sites = rng.choice(sorted(SITES), number)
    minutes = sorted(rng.choice(MONTH, number, replace=False) * 10)
    places = sorted((str(site), f"202302{1 + minute // 1440:02d}_{minute // 60 % 24:02d}{minute % 60:02d}00")
                    for site, minute in zip(sites, minutes, strict=True))
    return [(1_000_001 + position, *place) for position, place in enumerate(places)]


def _is_complete(generated: Generated, settings: dict[str, Any]) -> bool:
    """True where the folder holds just what is asked for; otherwise it is marked as generated and made ready."""
    folder, marker = generated.competition_dir, generated.competition_dir / MARKER
    wanted = json.dumps(settings)
    if marker.exists():
        found = marker.read_text(encoding="utf-8").strip().splitlines()[-1]
        if found != wanted:
            raise FileExistsError(f"{folder} holds a competition generated with {found}, not {wanted}: "
                                  "delete it or choose another folder")
        return generated.truth_path.exists()
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no {MARKER}: nothing is written into it")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("This is not real data. Every sound, name and place in this folder is generated by "
                      f"birdkit.synthesis with:\n{wanted}\n", encoding="utf-8")
    return False


def _write_ogg(path: Path, wave: np.ndarray) -> None:
    """Ogg Vorbis, mono, in blocks of a second: libsndfile's encoder overflows its stack on a whole minute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1, format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(wave), SAMPLE_RATE_HZ):
            file.write(wave[start:start + SAMPLE_RATE_HZ])
