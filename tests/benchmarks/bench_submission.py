"""Seconds per one-minute soundscape: end to end, network alone, and torch eager with librosa per clip.

    python tests/benchmarks/bench_submission.py [--files 8] [--rounds 5] [--backbone tf_efficientnet_b0]

The network alone gets the images of all files one file after the other, as end to end does. All are timed in one run,
in alternating order; the ratio is the median of the rounds' ratios, since another program on
the machine slows a whole round. CPU seconds are printed beside the clock's: they hardly see other programs. The network
is untrained but its batch norms are calibrated: raw random weights make denormal numbers, which are several times
slower in torch. End to end is with `window_shift = 2`, with which contiguous clips score as the twelve doubled ones do.
"""
from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import librosa
import numpy as np
import soundfile as sf
import torch

from birdkit import checkpoint
from birdkit.audio import load
from birdkit.config import RunConfig
from birdkit.inference import Predictor, load_predictors, predict
from birdkit.models import build_model
from birdkit.models.base import Model
from birdkit.pace import one_thread
from birdkit.settings import replace

RATE_HZ = 32_000
CLASSES = [f"class{k:03d}" for k in range(206)]
BARS = {"end to end / network": ("<=", 1.10), "librosa and torch eager / end to end": (">=", 8.0)}


def write_soundscapes(folder: Path, n: int) -> list[Path]:
    """`n` one-minute Ogg Vorbis files of pink noise with chirps."""
    rng = np.random.default_rng(0)
    files = []
    for index in range(n):
        spectrum = np.fft.rfft(rng.standard_normal(60 * RATE_HZ))
        noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1.0))
        wave = 0.05 * noise / noise.std()
        t = np.arange(RATE_HZ // 2) / RATE_HZ
        for start_s in rng.uniform(0, 59, 20):
            low_hz, sweep_hz = rng.uniform(1_000, 7_000), rng.uniform(500, 5_000)
            first = int(start_s * RATE_HZ)
            wave[first:first + len(t)] += 0.2 * np.hanning(len(t)) * np.sin(2 * np.pi * (low_hz + sweep_hz * t) * t)
        files.append(folder / f"soundscape_{index}.ogg")
        with sf.SoundFile(files[-1], "w", RATE_HZ, 1, format="OGG", subtype="VORBIS") as sound:
            for block in np.array_split(wave.astype(np.float32), 60):  # libsndfile cannot write a minute at once
                sound.write(block)
    return files


def write_checkpoint(path: Path, files: list[Path], backbone: str, *, classes: Sequence[str] = CLASSES) -> Model:
    """An untrained checkpoint with the default geometry that averages windows moved by up to two segments, batch norms
    calibrated on the soundscapes.
    """
    config = replace(RunConfig(name="benchmark", split=-1), model__backbone=backbone, inference__window_shift=2)
    model = build_model(config.model, config.frontend, len(classes)).train()
    n = config.frontend.n_samples
    with torch.no_grad():
        for file in files[:3]:
            clips = load(file, RATE_HZ)[:4 * n].reshape(4, n)
            model(torch.from_numpy(clips))
    checkpoint.save(path, model.eval(), config=config, classes=classes, table_hash="", seen=[])
    return model


def librosa_and_eager(model: Model, file: Path) -> np.ndarray:
    """A minute as the second seed predicts it: twelve doubled clips of 2 x 6 s, each its own mel image, torch eager."""
    config = model.frontend.config
    wave, _ = librosa.load(file, sr=RATE_HZ)
    padded = np.pad(wave, RATE_HZ, mode="edge")
    images = []
    for second in range(0, 60, 5):
        views = [padded[(second + shift) * RATE_HZ:(second + shift + 6) * RATE_HZ] for shift in (0, 1)]
        mel = librosa.feature.melspectrogram(y=np.concatenate(views), sr=RATE_HZ, n_fft=config.n_fft,
                                             hop_length=config.hop_samples, n_mels=config.n_mels,
                                             fmin=config.fmin_hz, fmax=config.fmax_hz)
        decibels = librosa.power_to_db(mel, ref=np.max)[:, :config.n_frames]
        half = config.n_frames // 2
        image = np.concatenate([decibels[:, :half], decibels[:, half:]])
        images.append((image - image.mean()) / image.std())
    with torch.inference_mode():
        return model.classify(torch.from_numpy(np.stack(images))[:, None].float()).clip_logits.sigmoid().numpy()


def one_thread_images(predictor: Predictor, clips: list[np.ndarray]) -> None:
    """Images as the reading threads of `predict` make them."""
    with one_thread():
        for part in clips:
            predictor.images(part)


def measure(files: list[Path], predictor: Predictor, model: Model, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds per one-minute soundscape of each way, a pair per round."""
    n = predictor.config.frontend.n_samples
    clips = [load(file, RATE_HZ)[:5 * n].reshape(5, n) for file in files]
    ready = [predictor.images(part) for part in clips]
    few = files[:2]
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "end to end": (lambda: predict(files, [predictor], window_s=5.0, progress=False), len(files)),
        "network": (lambda: [predictor(images) for images in ready], len(files)),
        "front end, one thread": (lambda: one_thread_images(predictor, clips), len(files)),
        "decoding": (lambda: [load(file, RATE_HZ) for file in files], len(files)),
        "librosa and torch eager": (lambda: [librosa_and_eager(model, file) for file in few], len(few)),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for work, _ in ways.values():
        work()
    for number in range(rounds):
        for name in list(ways)[::1 if number % 2 else -1]:
            work, count = ways[name]
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            seconds[name].append(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
    return seconds


def report(seconds: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table and the ratios beside their bars."""
    print("                               wall, median (fastest)    CPU, median (least)")
    for name, pairs in seconds.items():
        wall, cpu = zip(*pairs, strict=True)
        print(f"  {name:26s} {statistics.median(wall):10.3f} ({min(wall):.3f}) "
              f"{statistics.median(cpu):16.3f} ({min(cpu):.3f})")
    for name, (sign, bar) in BARS.items():
        over, under = (seconds[part] for part in name.split(" / "))
        wall = [a[0] / b[0] for a, b in zip(over, under, strict=True)]
        cpu = min(a[1] for a in over) / min(b[1] for b in under)
        fastest = min(a[0] for a in over) / min(b[0] for b in under)
        print(f"  {name}: {statistics.median(wall):.2f} (of the fastest {fastest:.2f}, of CPU time {cpu:.2f}); "
              f"bar {sign} {bar}")
    least = {name: min(pair[1] for pair in pairs) for name, pairs in seconds.items()}
    beside = least["front end, one thread"] + least["decoding"]
    print(f"  Where all cores are busy all of the time nothing hides: by CPU seconds the ratio cannot be below "
          f"1 + {beside:.3f} / {least['network']:.3f} = {1 + beside / least['network']:.2f}, and 1.10 needs a network "
          f"of {10 * beside:.2f} CPU seconds a minute.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="tf_efficientnet_b0")
    parser.add_argument("--backend", default="openvino")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        files = write_soundscapes(Path(folder), options.files)
        model = write_checkpoint(Path(folder) / "model.safetensors", files, options.backbone)
        begin = time.perf_counter()
        predictor = load_predictors([Path(folder) / "model.safetensors"], backend=options.backend, precision="f32")[0]
        print(f"load, prove and export: {time.perf_counter() - begin:.1f} s")
        seconds = measure(files, predictor, model, options.rounds)
    print(f"seconds per one-minute soundscape, {options.backbone} {predictor.config.frontend.image_size}, "
          f"{options.backend} f32, {torch.get_num_threads()} threads, {options.rounds} rounds")
    report(seconds)


if __name__ == "__main__":
    main()
