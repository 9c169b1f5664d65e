"""A training step with everything that feeds it, beside the same step on ready-made images.

    python tests/benchmarks/bench_training.py [--steps 20] [--recipe small]

Both are timed in one run, in turns, so that another program on the machine slows both. The first step reads recordings
from Ogg files kept decoded in memory, as the recipe does, draws clips, mixes them, makes images, and trains; the second
trains on images that are already there.
"""
from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from birdkit import preprocess, recipes, synthesis
from birdkit.data import AudioStore, Backgrounds, ClipDataset, training_batches
from birdkit.losses import LOSSES
from birdkit.models import build_model
from birdkit.settings import replace
from birdkit.training import Trainer


def timed(work: Callable[[], object]) -> float:
    """Seconds of the clock."""
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--recipe", default="small")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        generated = synthesis.generate(Path(folder) / "competition", n_train_soundscapes=6, n_test_soundscapes=1)
        audit = preprocess.audit(generated.competition_dir, folder)
        table, soundscapes = pd.read_parquet(audit.recordings), pd.read_parquet(audit.soundscapes)
        config = replace(recipes.get(options.recipe).run(0, 0), model__weights="none")
        store = AudioStore(generated.competition_dir, config.frontend.sample_rate_hz, limit_gib=config.data.cache_gib)
        backgrounds = Backgrounds.unlabelled(soundscapes, len(audit.classes))
        dataset = ClipDataset(table, audit.classes, config, store=store, backgrounds=backgrounds)
        model = build_model(config.model, config.frontend, len(audit.classes))
        trainer = Trainer(config, model, total_steps=10_000, per_epoch=100, device="cpu")
        batches = iter(training_batches(dataset, table["label"].tolist(), config, first_step=0))
        for _ in range(5):  # fills the store and warms up
            trainer.train_step(next(batches))
        batch = next(batches)
        image = model.frontend(batch.signal).contiguous(memory_format=torch.channels_last)
        loss = LOSSES.build(config.loss.name, **config.loss.options)

        def ready_step() -> None:
            with torch.autocast("cpu", dtype=trainer.dtype or torch.bfloat16, enabled=trainer.dtype is not None):
                output = trainer.model.classify(image)
            value = loss(output, batch.target, batch.weight)
            trainer.optimiser.zero_grad(set_to_none=True)
            value.backward()
            trainer.optimiser.step()
            if trainer.ema is not None:
                trainer.ema.update(trainer.model, trainer.step)

        ready_step()
        data_s, whole_s, ready_s = [], [], []
        for _ in range(options.steps):
            holder: list = []
            data_s.append(timed(lambda holder=holder: holder.append(next(batches))))  # type: ignore[misc]
            whole_s.append(data_s[-1] + timed(lambda holder=holder: trainer.train_step(holder[0])))  # type: ignore[misc]
            ready_s.append(timed(ready_step))
    data, whole, ready = (statistics.median(values) for values in (data_s, whole_s, ready_s))
    print(f"recipe {options.recipe}, {trainer.dtype or 'float32'}, batches of {config.train.batch_size}, "
          f"{torch.get_num_threads()} threads, median of {options.steps} steps")
    print(f"  a training step                {whole:.3f} s, of which clips {data:.3f} s")
    print(f"  the same on ready-made images  {ready:.3f} s")
    ratio = statistics.median(a / b for a, b in zip(whole_s, ready_s, strict=True))
    print(f"  ratio                          {ratio:.2f}")


if __name__ == "__main__":
    main()
