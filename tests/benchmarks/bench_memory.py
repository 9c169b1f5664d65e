"""Memory and time per soundscape of few and of many soundscapes: neither may grow.

    python tests/benchmarks/bench_memory.py [--few 50] [--many 1000] [--backbone test_resnet]

Eight one-minute files, hard-linked under as many names as are asked for; a network of a few thousand weights, so that
reading, front ends and bookkeeping are what is seen. Each number of files is a process of its own; only rows may grow.
"""
from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_submission import write_checkpoint, write_soundscapes

from birdkit.inference import load_predictors, predict

CLASSES = [f"class{k:02d}" for k in range(20)]
BARS = {"peak memory, many / few": 1.05, "seconds a file, many / few": 1.05}


def run(folder: Path, count: int) -> None:
    """Predict so many files and print what it took, as JSON."""
    files = sorted(folder.glob("soundscape_*.ogg"))
    links = folder / f"links{count}"
    links.mkdir()
    names = [links / f"{k:05d}.ogg" for k in range(count)]
    for k, name in enumerate(names):
        os.link(files[k % len(files)], name)
    torch.set_flush_denormal(True)
    predictors = load_predictors([folder / "model.safetensors"], backend="torch")
    predict(names[:len(files)], predictors, window_s=5.0, progress=False)  # everything is loaded and warm
    begin_s, cpu_s = time.perf_counter(), time.process_time()
    table = predict(names, predictors, window_s=5.0, progress=False).table
    assert len(table) == 12 * count
    taken = {"wall": (time.perf_counter() - begin_s) / count, "cpu": (time.process_time() - cpu_s) / count,
             "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    print(json.dumps(taken))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=50)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--run", nargs=2, metavar=("FOLDER", "COUNT"), help="what the script calls itself with")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.run:
        run(Path(options.run[0]), int(options.run[1]))
        return
    torch.manual_seed(0)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_soundscapes(Path(folder), 8)
        write_checkpoint(Path(folder) / "model.safetensors", files, options.backbone, classes=CLASSES)
        for name, count in {"few": options.few, "many": options.many}.items():
            done = subprocess.run([sys.executable, __file__, "--run", folder, str(count)], check=True, text=True,
                                  stdout=subprocess.PIPE)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"{count:5d} soundscapes: {found[name]['peak']:.0f} MB at most, {found[name]['wall']:.4f} s a file "
                  f"({found[name]['cpu']:.4f} s of CPU)")
    few, many = found["few"], found["many"]
    peak, seconds, cpu = (many[name] / few[name] for name in ("peak", "wall", "cpu"))
    print(f"  peak memory, many / few: {peak:.3f}; bar <= {BARS['peak memory, many / few']}")
    print(f"  seconds a file, many / few: {seconds:.3f} (of CPU time {cpu:.3f}); "
          f"bar <= {BARS['seconds a file, many / few']}")


if __name__ == "__main__":
    main()
