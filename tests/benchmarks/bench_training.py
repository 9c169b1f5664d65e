"""A training step with everything that feeds it, beside the same step on ready-made tensors and beside librosa.

    python tests/benchmarks/bench_training.py [--recipe small] [--steps 8] [--rounds 5]
    python tests/benchmarks/bench_training.py --recipe seed2025 --image 384 --backbone tf_efficientnet_b0 --compile

Four ways to make a step, timed in one run, in alternating order, on the same batches with the same random numbers:

    whole step       reads files, as the recipe does, then augments, makes images, trains the network
    ready-made       the same on batches that are in the device's memory: all but reading
    network          trains the network on images that are there: neither augmentation nor front end
    librosa          as the second seed did: reading is left out, but inside the step every clip goes to the host and
                     through librosa, one after the other: mel bands, decibels, wrapping, slopes

The ratio is the median of the rounds' ratios, since another program on the machine slows a whole round. Where the CPU
trains, its own seconds are printed beside the clock's, which hardly see other programs; those of worker processes are
not in them. The network is untrained, the recordings are generated, the files are in the system's cache, and what a run
keeps in memory has been read: the first reading, which a run has once, is timed alone.
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from birdkit import preprocess, recipes, synthesis
from birdkit.batch import Batch
from birdkit.config import FrontEndConfig, RunConfig
from birdkit.data import AudioStore, ClipDataset, choose_sources, training_batches
from birdkit.data.feeding import AHEAD
from birdkit.frontend import IMAGENET_MEAN, IMAGENET_STD
from birdkit.models import build_model
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.settings import replace
from birdkit.synthesis.calls import SPECIES
from birdkit.training.trainer import Trainer

SAMPLES_PER_PIXEL = 192_000  # 12 s at 32 kHz in two strips: the hop is this over the side of the square image
PASSES = 4  # over a round's batches, in which every file is drawn
BARS = {"cpu": {"ready-made / whole step": 0.90},
        "cuda": {"ready-made / whole step": 0.95, "librosa / whole step": 20.0}}


class ReadyMade(nn.Module):
    """A front end that has its images already."""

    def __init__(self, config: FrontEndConfig, image: Tensor) -> None:
        super().__init__()
        self.config, self.image = config, image

    def forward(self, wave: Tensor) -> Tensor:
        """The same images, whatever the waves."""
        return self.image[:len(wave)]


class LibrosaPerClip(nn.Module):
    """The second seed's front end as it trained: on the host, one clip after the other. Close to ours, not equal."""

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, C, strips * n_mels, T / strips) on the wave's device."""
        images = [self._image(clip) for clip in wave.cpu().numpy()]
        return torch.from_numpy(np.stack(images)).to(wave.device)

    def _image(self, clip: np.ndarray) -> np.ndarray:
        config = self.config
        mel = librosa.feature.melspectrogram(y=clip / max(np.abs(clip).max(), 1e-8), sr=config.sample_rate_hz,
                                             n_fft=config.n_fft, hop_length=config.hop_samples, n_mels=config.n_mels,
                                             fmin=config.fmin_hz, fmax=config.fmax_hz)
        first = (mel.shape[1] - config.n_frames) // 2
        decibels = librosa.power_to_db(mel, top_db=80)[:, first:first + config.n_frames]
        wrapped = np.concatenate(np.split(decibels, config.strips, axis=1))
        image = (wrapped - wrapped.min()) / max(float(np.ptp(wrapped)), 1e-3)
        if config.n_channels == 1:
            return image[None].astype(np.float32)
        channels = np.stack([image, librosa.feature.delta(image), librosa.feature.delta(image, order=2)])
        mean, std = (np.reshape(values, (3, 1, 1)) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return ((channels - mean) / std).astype(np.float32)


@dataclass
class Bench:
    """What is timed: a trainer, and the recordings it reads.

    steps    in a timed pass
    lead     steps before a timed pass that reads, by which the workers' lead is used up
    seconds  of a step each way, by the clock and of the CPU, a pair per round
    """

    config: RunConfig
    trainer: Trainer
    dataset: ClipDataset
    labels: Sequence[str]
    steps: int
    lead: int
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @classmethod
    def prepare(cls, config: RunConfig, folder: Path, *, recordings: int, steps: int, device: str) -> Bench:
        """Write recordings and build an untrained model for them."""
        generated = synthesis.generate(folder / "competition", n_classes=min(recordings // 2, len(SPECIES)),
                                       n_recordings=recordings, n_train_soundscapes=max(recordings // 10, 1),
                                       n_test_soundscapes=1, progress=False)
        audit = preprocess.audit(generated.competition_dir, folder)
        table, soundscapes = pd.read_parquet(audit.recordings), pd.read_parquet(audit.soundscapes)
        lead = AHEAD * max(config.train.workers, 1) + 1
        # As many batches as one pass reads, and as many again as workers are ahead: they work to the end of it.
        total = 2 * lead + steps
        config = replace(config, data__samples_per_epoch=total * config.train.batch_size, train__epochs=1)
        model = build_model(config.model, config.frontend, len(audit.classes))
        trainer = Trainer(config, model, total_steps=1_000_000, per_epoch=1_000, device=device, classes=audit.classes)
        store = AudioStore(generated.competition_dir, config.frontend.sample_rate_hz, limit_gib=config.data.cache_gib)
        shares = trainer.source_shares
        sources = choose_sources(config, shares, audit.classes, recordings=table, soundscapes=soundscapes,
                                 pseudo_labels=None)
        dataset = ClipDataset(table, audit.classes, config, store=store, sources=sources, shares=shares)
        return cls(config, trainer, dataset, table["label"].tolist(), steps, lead)

    def first_reading(self) -> float:
        """Read what a run keeps in memory; the seconds that this takes beyond making the same batches once more."""
        config = replace(self.config, train__workers=0)  # workers begin with what this process has

        def make() -> float:
            began_s = time.perf_counter()
            for seed in range(PASSES):
                with contextlib.closing(training_batches(self.dataset, self.labels, replace(config, seed=seed),
                                                         first_step=0)) as batches:
                    collections.deque(batches, maxlen=0)
            return time.perf_counter() - began_s

        return make() - make()

    def read(self, number: int) -> Generator[Batch]:
        """All batches of a round; reading a second time gives the same."""
        config = replace(self.config, seed=number)
        return training_batches(self.dataset, self.labels, config, first_step=0, device=self.trainer.device)

    def round(self, number: int, ways: Sequence[str]) -> None:
        """Time every way once, in the order given, on the batches of this round."""
        device = self.trainer.device
        with contextlib.closing(self.read(number)) as batches:
            memory = [batch.to(device) for batch in itertools.islice(batches, self.lead, self.lead + self.steps)]
        for way in ways:
            with self._as(way, memory[0]), contextlib.closing(self.read(number)) as batches:
                if way == "whole step":
                    for batch in itertools.islice(batches, self.lead):
                        self.trainer.train_step(batch)
                    pair = self._time(batches, self.steps, number)
                else:
                    pair = self._time(memory, max(self.steps // 4, 1) if way == "librosa" else self.steps, number)
            self.seconds.setdefault(way, []).append(pair)

    @contextlib.contextmanager
    def _as(self, way: str, batch: Batch) -> Iterator[None]:
        """The trainer with the front end, and without the augmentations, of a way."""
        trainer, model = self.trainer, self.trainer.model
        frontend, augmentations = model.frontend, (trainer.wave_augmentations, trainer.spectrogram_augmentations)
        if way == "network":
            waves = batch.signal.reshape(-1, frontend.config.n_samples)
            model.frontend = ReadyMade(frontend.config, frontend(waves))  # type: ignore[assignment]
            trainer.wave_augmentations, trainer.spectrogram_augmentations = [], []
        if way == "librosa":
            model.frontend = LibrosaPerClip(frontend.config)  # type: ignore[assignment]
        yield
        model.frontend = frontend
        trainer.wave_augmentations, trainer.spectrogram_augmentations = augmentations

    def _time(self, batches: Iterable[Batch], steps: int, number: int) -> tuple[float, float]:
        """Seconds of a step by the clock and of the CPU, the mean over `steps` batches."""
        self.trainer.step = number * self.steps  # what is drawn depends on it
        _wait(self.trainer.device)
        clock_s, cpu_s = time.perf_counter(), time.process_time()
        for batch in itertools.islice(batches, steps):
            self.trainer.train_step(batch)
        _wait(self.trainer.device)
        return (time.perf_counter() - clock_s) / steps, (time.process_time() - cpu_s) / steps


def _wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def report(seconds: dict[str, list[tuple[float, float]]], device: str) -> None:
    """Print the table, and the ratios beside their bars."""
    def ratio(over: str, under: str, which: int) -> float:
        return statistics.median(a[which] / b[which] for a, b in zip(seconds[over], seconds[under], strict=True))

    for name, pairs in seconds.items():
        clock, cpu = zip(*pairs, strict=True)
        print(f"  {name:12s} {statistics.median(clock):8.4f} s a step (fastest {min(clock):.4f}), "
              f"{statistics.median(cpu):8.4f} s of CPU time (least {min(cpu):.4f})")
    trains = int(device == "cpu")  # then the CPU's own seconds say more than the clock
    share = 1 - ratio("network", "ready-made", trains)
    print(f"  augmenting and front end: {share:.0%} of a step on ready-made tensors")
    for over, under in (("ready-made", "whole step"), ("librosa", "whole step")):
        bar = BARS[device].get(f"{over} / {under}")
        of_cpu = f" (of CPU time {ratio(over, under, 1):.2f})" if trains else ""
        print(f"  {over} / {under}: {ratio(over, under, 0):.2f}{of_cpu}; "
              f"{'no bar on this device' if bar is None else f'bar >= {bar}'}")


def chosen_config(options: argparse.Namespace) -> RunConfig:
    """The recipe's config with what the command line changes."""
    config = replace(recipes.get(options.recipe).run(0, 0), model__weights="none", train__compile=options.compile)
    if options.image:
        if SAMPLES_PER_PIXEL % options.image or options.image % 2:
            raise ValueError(f"--image {options.image} must be even and divide {SAMPLES_PER_PIXEL}")
        config = replace(config, frontend=replace(FRONT_ENDS["seed2025-384"], n_mels=options.image // 2,
                                                  hop_samples=SAMPLES_PER_PIXEL // options.image))
    changes = {"model__backbone": options.backbone, "train__batch_size": options.batch,
               "train__workers": options.workers}
    return replace(config, **{name: value for name, value in changes.items() if value is not None})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", help="a timm model; the recipe's by default")
    parser.add_argument("--image", type=int, default=0, help="pixels of the side: 12 s folded into a square")
    parser.add_argument("--batch", type=int, help="clips in a step")
    parser.add_argument("--workers", type=int, help="processes that read")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recordings", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_flush_denormal(True)
    config = chosen_config(options)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.prepare(config, Path(folder), recordings=options.recordings, steps=options.steps,
                              device=options.device)
        ways = ["whole step", "ready-made", "network", "librosa"]
        first_s = bench.first_reading()
        bench.round(0, ways)  # warms up
        bench.seconds.clear()
        for number in range(1, options.rounds + 1):
            bench.round(number, ways[::1 if number % 2 else -1])
    print(f"recipe {options.recipe}, {config.model.name} {config.model.backbone}, image {config.frontend.image_size}, "
          f"{config.train.batch_size} clips a step, {bench.trainer.dtype or 'float32'} on {options.device}, "
          f"{torch.get_num_threads()} threads, {config.train.workers} workers, {options.rounds} rounds of "
          f"{options.steps} steps{', compiled' if options.compile else ''}")
    print(f"  first reading of {options.recordings} recordings and their backgrounds, once a run: {first_s:.1f} s")
    report(bench.seconds, options.device)


if __name__ == "__main__":
    main()
