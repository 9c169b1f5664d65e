"""Clips decoded per second of one core, from long Ogg Vorbis and FLAC files, beside plain libsndfile.

    python tests/benchmarks/bench_decoding.py [--files 8] [--clips 64] [--rounds 5] [--clip 5] [--length 60]

Three ways decode the same spans, in alternating order: as training does (AudioStore.part: seek, check, mix to mono),
soundfile alone (open, seek, read), and decoding the whole file to take the span out of it. Seconds are of CPU time, on
one thread: what else runs on the machine hardly counts. The files are in the system's cache. The ratio is the median of
the rounds' ratios.
"""
from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf

from birdkit.data import AudioStore
from birdkit.synthesis.ambience import coloured_noise

RATE_HZ = 32_000
FORMATS = {"ogg": "VORBIS", "flac": "PCM_16"}
BARS = {"AudioStore.part / soundfile": 0.9, "AudioStore.part / whole file": 4.0}


def write_files(folder: Path, kind: str, n: int, length_s: float) -> list[Path]:
    """`n` files of pink noise, which swells and falls, so that no two seconds cost the same."""
    files = [folder / f"recording_{number}.{kind}" for number in range(n)]
    for number, file in enumerate(files):
        rng = np.random.default_rng(number)
        wave = 0.05 * coloured_noise(round(length_s * RATE_HZ), rng)
        wave *= np.interp(np.linspace(0, 1, len(wave)), np.linspace(0, 1, 20), rng.uniform(0.1, 2, 20))
        with sf.SoundFile(file, "w", RATE_HZ, 1, format=kind.upper(), subtype=FORMATS[kind]) as sound:
            for block in np.array_split(wave.astype(np.float32), 60):  # libsndfile cannot write a minute of Ogg at once
                sound.write(block)
    return files


def with_soundfile(file: Path, start_s: float, clip_s: float) -> np.ndarray:
    """The span, by soundfile alone."""
    with sf.SoundFile(file) as sound:
        sound.seek(round(start_s * RATE_HZ))
        return sound.read(round(clip_s * RATE_HZ), dtype="float32")


def from_whole(store: AudioStore, file: Path, start_s: float, clip_s: float) -> np.ndarray:
    """The span, out of the decoded file."""
    first = round(start_s * RATE_HZ)
    return store.whole(file.name)[first:first + round(clip_s * RATE_HZ)]


def measure(files: list[Path], spans: list[tuple[Path, float]], clip_s: float, rounds: int) -> dict[str, list[float]]:
    """Clips per second of CPU time of each way, one number per round."""
    store = AudioStore(files[0].parent, RATE_HZ)  # keeps nothing
    few = spans[:max(len(spans) // 8, 1)]  # decoding whole files takes long
    ways: dict[str, tuple[Callable[[Path, float], np.ndarray], list[tuple[Path, float]]]] = {
        "AudioStore.part": (lambda file, start_s: store.part(file.name, start_s, clip_s), spans),
        "soundfile": (lambda file, start_s: with_soundfile(file, start_s, clip_s), spans),
        "whole file": (lambda file, start_s: from_whole(store, file, start_s, clip_s), few),
    }
    for file, start_s in few:
        first, *others = (work(file, start_s) for work, _ in ways.values())
        if not all(np.array_equal(first, other) for other in others):
            raise ValueError(f"{file}: the ways differ at {start_s} s")
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[::1 if number % 2 else -1]:
            work, asked = ways[name]
            begin_s = time.process_time()
            for file, start_s in asked:
                work(file, start_s)
            speeds[name].append(len(asked) / (time.process_time() - begin_s))
    return speeds


def report(title: str, speeds: dict[str, list[float]]) -> None:
    """Print the speeds, and the ratios beside their bars."""
    print(title)
    for name, values in speeds.items():
        print(f"  {name:16s} {statistics.median(values):8.0f} clips per second of one core")
    for name, bar in BARS.items():
        over, under = (speeds[part] for part in name.split(" / "))
        ratio = statistics.median(a / b for a, b in zip(over, under, strict=True))
        print(f"  {name}: {ratio:.2f}; bar >= {bar}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clip", type=float, default=5.0, help="seconds of a clip")
    parser.add_argument("--length", type=float, default=60.0, help="seconds of a file")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for kind in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(Path(folder), kind, options.files, options.length)
            starts_s = rng.uniform(0, options.length - options.clip, options.clips)
            spans = [(files[number % len(files)], float(start_s)) for number, start_s in enumerate(starts_s)]
            speeds = measure(files, spans, options.clip, options.rounds)
        report(f"{kind}: {options.clip:g} s from files of {options.length:g} s, {options.rounds} rounds", speeds)


if __name__ == "__main__":
    main()
