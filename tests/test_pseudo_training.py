"""Training on pseudo-labels, end to end: every way of use runs, and the settings reach it."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, noise, tone
from tiny_run import CLASSES, run, tiny_config, write_tones

from birdkit import checkpoint
from birdkit.config import Member, RunConfig, SourceConfig
from birdkit.tables import DataError


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, pd.DataFrame]:
    """Recordings; one soundscape for each split, a high tone and then a low one, as a teacher heard it."""
    recordings = write_tones(tmp_path)
    for name in ("s0.wav", "s1.wav"):
        wave = np.concatenate([tone(6000, 2), tone(1000, 2)]) + noise(4, amplitude=0.05)
        sf.write(tmp_path / name, wave, RATE, subtype="FLOAT")
    soundscapes = pd.DataFrame({"file": ["s0.wav", "s1.wav"], "duration_s": 4.0, "split": [0, 1]})
    labels = pd.DataFrame({"file": ["s0.wav"] * 2 + ["s1.wav"] * 2, "start_s": [0.0, 2.0] * 2, "end_s": [2.0, 4.0] * 2,
                           "high": [0.9, 0.1] * 2, "low": [0.2, 0.8] * 2})
    return {"table": recordings, "soundscapes": soundscapes, "pseudo_labels": labels}


def config_of(*wave: Member, **changes: Any) -> RunConfig:
    return tiny_config(round=1, train__epochs=1, augment__wave=wave, **changes)


INJECTORS = Member("one_of", {"members": [
    {"name": "soundscape_mix", "options": {}, "share": 0.75},
    {"name": "added_background", "options": {"p": 1.0, "source": "matched"}, "share": 0.1875}]})
WAYS = {
    "half soundscape": (Member("soundscape_mix", {"p": 1.0}),),
    "added": (Member("added_background", {"p": 0.25}),),
    "quiet background": (Member("background", {"p": 0.5, "loss_weight": 0.6}),),
    "rows": (Member("source_only", {"p": 0.5}),),
    "substituted": (Member("substitute", {"p": 0.4}),),
    "injectors": (INJECTORS,),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_use_trains_to_its_end(way: str, tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """A way that no run ever went is a way that breaks in the sixth hour."""
    config = config_of(*WAYS[way], data__sources=(SourceConfig("matched", "pseudo_labels", match=0.5),),
                       pseudo__sampler="sum", pseudo__label_sum=0.75, pseudo__quantile=0.1)
    result = run(config, tables.pop("table"), tmp_path, "out", **tables)
    assert result.finished and np.isfinite(result.history["loss"]).all()
    seen = checkpoint.load(result.best).seen
    assert "s1.wav" in seen and "s0.wav" not in seen  # of the validating split
    assert checkpoint.load(result.best).pseudo == {"s1.wav"}


def test_a_setting_of_pseudo_changes_what_is_learnt(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Settings that no run reads are worse than none."""
    recordings, wave = tables.pop("table"), Member("source_only", {"p": 1.0})
    losses = {name: run(config_of(wave, **changes), recordings, tmp_path, name, **tables).history["loss"].tolist()
              for name, changes in (("plain", {}), ("again", {}), ("hard", {"pseudo__hard": 0.5}),
                                    ("capped", {"pseudo__label_sum": 0.2}))}
    assert losses["plain"] == losses["again"] and losses["hard"] != losses["plain"] != losses["capped"]
    with pytest.raises(DataError, match="least_peak = 1 leaves none of 2 windows"):
        run(config_of(wave, pseudo__least_peak=1.0), recordings, tmp_path, "none", **tables)


def test_another_table_of_labelled_windows_is_another_run(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """A run that goes on with other labels is a mixture that nobody asked for."""
    recordings = tables["table"]
    labelled = pd.DataFrame({"file": ["s1.wav"], "start_s": [0.0], "end_s": [2.0], "labels": ["high"], "split": [1]})
    config = tiny_config(train__epochs=1, augment__wave=())
    first = run(config, recordings, tmp_path, "out", labelled_soundscapes=labelled)
    assert "s1.wav" in checkpoint.load(first.best).seen and set(CLASSES) == {"high", "low"}
    with pytest.raises(ValueError, match="another labelled soundscapes"):
        run(config, recordings, tmp_path, "out", labelled_soundscapes=labelled.assign(labels="low"))
