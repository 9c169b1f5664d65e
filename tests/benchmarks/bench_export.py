"""The network of a one-minute soundscape by backend and precision, against torch eager and against the usual way.

    python tests/benchmarks/bench_export.py [--files 6] [--rounds 5] [--backbone tf_efficientnet_b0] [--ways WAY ...]

Every way is exported as `birdkit export` does, through its gate, on generated soundscapes; what the gate refuses is
named with its numbers and has no ratio. All are timed in one run, in alternating order; a ratio is the median of the
rounds' ratios. The network is untrained, but its batch norms have heard the soundscapes and its logits are of a trained
one's size: ranks of random logits are a harder gate than those of a trained network's.
"""
from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_submission import CLASSES, RATE_HZ, librosa_and_eager, write_checkpoint, write_soundscapes

from birdkit import checkpoint
from birdkit.audio import load
from birdkit.backends import ExportError
from birdkit.catalogue import settle
from birdkit.export import GateAudio, export_bundle
from birdkit.inference import Predictor, load_predictors, predict
from birdkit.models.base import Model

WAYS = ("openvino_f32", "openvino_bf16", "openvino_f16", "openvino_int8", "onnxruntime_f32")
NETWORK_BARS = {"openvino_f32": 2.0, "openvino_bf16": 2.0, "openvino_f16": 2.0, "openvino_int8": 2.0,
                "onnxruntime_f32": 1.5}
END_TO_END_BARS = {"openvino_bf16": 15.0, "openvino_int8": 15.0}


def settled(path: Path, files: list[Path], backbone: str) -> Model:
    """A checkpoint whose logits differ from clip to clip as a trained network's do."""
    model = write_checkpoint(path, files, backbone)
    config = checkpoint.load(path).config
    n = config.frontend.n_samples
    settle(model, torch.from_numpy(np.concatenate([load(file, RATE_HZ)[:4 * n].reshape(4, n) for file in files[:2]])))
    checkpoint.save(path, model.eval(), config=config, classes=CLASSES, table_hash="", seen=[])
    return model


def exported(path: Path, files: list[Path], ways: list[str]) -> dict[str, Predictor]:
    """The predictor of every way that passes the gate, by its name."""
    found = {}
    for way in ways:
        backend, precision = way.split("_")
        apart = (tuple(files[1:]), tuple(files[:1])) if precision == "int8" else (tuple(files), ())
        try:
            done = export_bundle(path, GateAudio(*apart, f"{len(apart[0])} generated soundscapes"), backend=backend,
                                 precision=precision)
        except ExportError as error:
            print(f"{way} is refused: {error}")
            continue
        spared = f" (left as they are: {done.spared})" if done.spared else ""
        print(f"{way} passes the gate{spared}: {done.report.logits.max_error / done.report.logits.sigma:.2g} sigma, "
              f"rank correlation {done.report.rank_mean:.5f}, in the worst class {done.report.rank_min:.5f}")
        found[way] = load_predictors([done.folder])[0]
    return found


def measure(files: list[Path], model: Model, predictors: dict[str, Predictor], rounds: int) -> dict[str, list[float]]:
    """Seconds per one-minute soundscape of each way, one per round."""
    first = next(iter(predictors.values()))
    n = first.config.frontend.n_samples
    ready = [first.images(load(file, RATE_HZ)[:5 * n].reshape(5, n)) for file in files]

    def eager() -> None:
        with torch.inference_mode():
            for images in ready:
                model.classify(images)

    few = files[:2]
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "librosa and torch eager": (lambda: [librosa_and_eager(model, file) for file in few], len(few)),
        "torch eager": (eager, len(files))}
    for way, one in predictors.items():
        ways[way] = (lambda one=one: [one(images) for images in ready], len(files))  # type: ignore[misc]
        ways[f"end to end, {way}"] = (
            lambda one=one: predict(files, [one], window_s=5.0, progress=False), len(files))  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for work, _ in ways.values():
        work()
    for number in range(rounds):
        for name in list(ways)[::1 if number % 2 else -1]:
            work, count = ways[name]
            begin = time.perf_counter()
            work()
            seconds[name].append((time.perf_counter() - begin) / count)
    return seconds


def report(seconds: dict[str, list[float]], ways: list[str]) -> None:
    """Print the table and the ratios beside their bars."""
    print("                                       median (fastest)")
    for name, each in seconds.items():
        print(f"  {name:34s} {statistics.median(each):8.3f} ({min(each):.3f})")
    pairs = [("torch eager", way, NETWORK_BARS[way]) for way in ways]
    pairs += [("librosa and torch eager", f"end to end, {way}", END_TO_END_BARS.get(way, 4.0)) for way in ways]
    for over, under, bar in pairs:
        ratios = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
        print(f"  {over} / {under}: {statistics.median(ratios):.2f} (of the fastest "
              f"{min(seconds[over]) / min(seconds[under]):.2f}); bar >= {bar}")


def main() -> None:
    """Export, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="tf_efficientnet_b0")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.safetensors"
        files = write_soundscapes(Path(folder), options.files)
        model = settled(path, files, options.backbone)
        predictors = exported(path, files, options.ways)
        if not predictors:
            raise SystemExit("the gate refused every way: there is nothing to time")
        seconds = measure(files, model, predictors, options.rounds)
    print(f"seconds per one-minute soundscape, {options.backbone}, {torch.get_num_threads()} threads, "
          f"{options.rounds} rounds")
    report(seconds, list(predictors))


if __name__ == "__main__":
    main()
