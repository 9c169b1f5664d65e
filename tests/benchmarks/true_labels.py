"""The truth of a generated competition's unlabelled soundscapes as pseudo-labels: what perfect teachers would say.

    python tests/benchmarks/true_labels.py COMPETITION_DIR OUT.parquet

What a student learns from it is the most that any pseudo-labels of these soundscapes could bring (tables/bound.toml).
"""
from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from birdkit.profiles import recognise
from birdkit.pseudolabel.table import write_table
from birdkit.synthesis import Generated


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("competition_dir", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    competition = recognise(options.competition_dir, say=False)
    truth = pd.read_csv(Generated.beside(options.competition_dir).hidden_path)
    names, ends = zip(*truth["row_id"].str.rsplit("_", n=1), strict=True)
    windows = pd.DataFrame({"file": [f"{competition.unlabelled}/{name}.ogg" for name in names],
                            "start_s": [float(end) - competition.window_s for end in ends],
                            "end_s": [float(end) for end in ends]})
    labels = truth.drop(columns="row_id")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_table(options.out, pd.concat([windows, labels], axis=1), list(labels.columns), {"round": 1, "teachers": []})
    print(f"{options.out}: {len(windows)} windows, {(labels.to_numpy() > 0).mean():.1%} of their labels are 1")


if __name__ == "__main__":
    main()
