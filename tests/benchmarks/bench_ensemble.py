"""Five models with one front end: seconds per one-minute soundscape end to end, and each network alone.

    python tests/benchmarks/bench_ensemble.py [--files 4] [--rounds 3] [--backbones NAME NAME ...]

Decoding and the front end are paid once however many models share them, and run beside the networks. Also prints how
long each model would take for a competition's files on other cores: the CPU seconds that its network takes for one,
times the files, over the cores. That assumes four cores as fast as these that are busy all of the time.
"""
from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bench_submission import RATE_HZ, write_checkpoint, write_soundscapes

from birdkit.audio import load
from birdkit.inference import Predictor, load_predictors, predict

BACKBONES = ("tf_efficientnet_b0", "tf_efficientnet_b3", "regnety_016", "tf_efficientnetv2_s", "eca_nfnet_l0")
BAR = 1.03


def measure(files: list[Path], predictors: list[Predictor], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds per soundscape, of everything and of each network alone, a pair per round."""
    n = predictors[0].config.frontend.n_samples
    ready = [predictors[0].images(load(file, RATE_HZ)[:5 * n].reshape(5, n)) for file in files]
    seconds: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds + 1):  # the first one warms up
        ways = {one.config.model.backbone: one for one in predictors}
        for name in ["end to end", *ways][::1 if number % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            if name == "end to end":
                predict(files, predictors, window_s=5.0, progress=False)
            else:
                for images in ready:
                    ways[name](images)
            taken = (time.perf_counter() - wall) / len(files), (time.process_time() - cpu) / len(files)
            if number:
                seconds.setdefault(name, []).append(taken)
    return seconds


def report(seconds: dict[str, list[tuple[float, float]]], n_files: int, cores: int) -> None:
    """Print the table, the projection and the ratio beside its bar."""
    total = seconds.pop("end to end")
    print(f"                               wall       CPU    minutes for {n_files} files on {cores} cores")
    for name, pairs in {"end to end": total, **seconds}.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"  {name:26s} {wall:6.3f} {cpu:9.3f} {cpu * n_files / cores / 60:9.1f}")
    ratios = [[whole[kind] / sum(pair[kind] for pair in alone)
               for whole, alone in zip(total, zip(*seconds.values(), strict=True), strict=True)] for kind in (0, 1)]
    print(f"  end to end / sum of networks: {statistics.median(ratios[0]):.3f} (of CPU time "
          f"{statistics.median(ratios[1]):.3f}); bar <= {BAR}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--competition-files", type=int, default=700)
    parser.add_argument("--cores", type=int, default=4)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        files = write_soundscapes(Path(folder), options.files)
        paths = [Path(folder) / f"{name}.safetensors" for name in options.backbones]
        for name, path in zip(options.backbones, paths, strict=True):
            write_checkpoint(path, files, name)
        seconds = measure(files, load_predictors(paths, backend=options.backend, precision="f32"), options.rounds)
    print(f"seconds per one-minute soundscape, {options.backend} f32, {torch.get_num_threads()} threads")
    report(seconds, options.competition_files, options.cores)


if __name__ == "__main__":
    main()
