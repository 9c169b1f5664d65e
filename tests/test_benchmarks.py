"""The benchmarks still run: at sizes at which their numbers mean nothing, each prints its ratios beside their bars."""
from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from birdkit import recipes
from birdkit.augmentations import build_augmentations
from birdkit.config import LabelConfig
from birdkit.experiments import read_table, trials
from birdkit.pseudolabel import read_for_training
from birdkit.settings import with_settings
from birdkit.synthesis import TINY, generate

BENCHMARKS = Path(__file__).parent / "benchmarks"
# Arguments that make a script take seconds, and the ratios that it prints.
SCRIPTS: dict[str, tuple[str, list[str]]] = {
    "bench_training.py": ("--recipe tiny --recordings 8 --steps 1 --rounds 1 --batch 4 --device cpu",
                          ["ready-made / whole step", "librosa / whole step"]),
    "bench_decoding.py": ("--files 1 --clips 2 --rounds 1 --length 10",
                          2 * ["AudioStore.part / soundfile", "AudioStore.part / whole file"]),
    "bench_submission.py": ("--files 1 --rounds 1 --backbone test_resnet --backend torch",
                            ["end to end / network", "librosa and torch eager / end to end"]),
    "bench_ensemble.py": ("--files 1 --rounds 1 --backbones test_resnet test_efficientnet --backend torch",
                          ["end to end / sum of networks"]),
    "bench_memory.py": ("--few 2 --many 6", ["peak memory, many / few", "seconds a file, many / few"]),
    "bench_export.py": ("--files 2 --rounds 1 --backbone test_resnet --ways openvino_f32",
                        ["torch eager / openvino_f32", "librosa and torch eager / end to end, openvino_f32"]),
}
RATIO = re.compile(r"^  (.+ / .+): ([\d.]+)\b.*; (bar [<>]= [\d.]+|no bar on this device)$", re.MULTILINE)


@pytest.mark.benchmark
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_prints_its_ratios(script: str) -> None:
    """A benchmark that broke with the code it measures is found when a figure is needed, and then it is too late."""
    arguments, names = SCRIPTS[script]
    done = subprocess.run([sys.executable, str(BENCHMARKS / script), *arguments.split()], capture_output=True,
                          text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = RATIO.findall(done.stdout)
    assert [name for name, _, _ in found] == names, done.stdout
    assert all(0 < float(ratio) < math.inf for _, ratio, _ in found)


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "tables").glob("*.toml")), ids=lambda path: path.stem)
def test_every_table_holds_settings_that_there_are(path: Path) -> None:
    """A setting that was renamed would stop a comparison after the first of its hours."""
    for trial in trials(read_table(path), Path("competition"), Path("work")):
        run = trial.run
        config = with_settings(recipes.get(run.recipe).run(run.round, run.split), run.changes)
        needed = {name for one in build_augmentations(config.augment.wave, "wave") for name in one.sources}
        assert needed <= {"soundscapes", *(source.name for source in config.data.sources)}


def test_true_labels_are_pseudo_labels_that_know(tmp_path: Path) -> None:
    """What they say of each window is the hidden truth, and training takes them for a round's labels."""
    made = generate(tmp_path / "made", **TINY, progress=False)
    table = tmp_path / "work" / "true_labels.parquet"
    subprocess.run([sys.executable, str(BENCHMARKS / "true_labels.py"), str(made.competition_dir), str(table)],
                   check=True)
    hidden = pd.read_csv(made.hidden_path)
    classes = [name for name in hidden.columns if name != "row_id"]
    labels = read_for_training(table, classes=classes, expected_round=1, config=LabelConfig(most_share=1.0))
    assert (labels[classes].to_numpy() == hidden[classes].to_numpy()).all() and labels[classes].to_numpy().any()
    ids = [f"{Path(file).stem}_{end_s:.0f}" for file, end_s in zip(labels["file"], labels["end_s"], strict=True)]
    assert ids == hidden["row_id"].tolist() and (labels["end_s"] - labels["start_s"] == 5).all()
    assert all((made.competition_dir / file).is_file() for file in labels["file"])


def test_every_benchmark_is_run_here() -> None:
    """Also the next one that somebody writes."""
    assert {path.name for path in BENCHMARKS.glob("bench_*.py")} == set(SCRIPTS)
