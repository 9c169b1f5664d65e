"""A model that labels the soundscapes it goes on with: off by default, resumable, and through a round's guards."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, noise, tone
from tiny_run import CLASSES, assert_same_weights, killed_at, run, tiny_config, write_tones

from birdkit import checkpoint, pseudolabel
from birdkit.config import Member, RunConfig
from birdkit.settings import replace


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, pd.DataFrame]:
    """Recordings, and two soundscapes of a high and a low tone with labels that are the wrong way round."""
    recordings = write_tones(tmp_path)
    for seed in (0, 1):
        wave = np.concatenate([tone(6000, 5), tone(1000, 5)]) + noise(10, amplitude=0.05, seed=seed)
        sf.write(tmp_path / f"s{seed}.wav", wave, RATE, subtype="FLOAT")
    soundscapes = pd.DataFrame({"file": ["s0.wav", "s1.wav"], "duration_s": 10.0, "split": [0, 1]})
    labels = pd.DataFrame({"file": ["s0.wav"] * 2 + ["s1.wav"] * 2, "start_s": [0.0, 5.0] * 2, "end_s": [5.0, 10.0] * 2,
                           "high": [0.1, 0.9] * 2, "low": [0.9, 0.1] * 2})
    return {"table": recordings, "soundscapes": soundscapes, "pseudo_labels": labels}


def config(**changes: object) -> RunConfig:
    """Four epochs of two steps; labels anew after the second."""
    return tiny_config(**{"round": 1, "pseudo__relabel_every": 2, "pseudo__floor": 0.0,
                          "augment__wave": (Member("source_only", {"p": 0.5}),), **changes})


def test_the_model_goes_on_with_its_own_labels(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Of its own split's soundscapes alone, and what it was told before no longer counts."""
    table = tables.pop("table")
    done = run(config(), table, tmp_path, "anew", **tables)
    assert [path.name for path in (tmp_path / "anew").glob("relabel*")] == ["relabelled_epoch0002.parquet"]
    own = pseudolabel.read(tmp_path / "anew" / "relabelled_epoch0002.parquet", classes=CLASSES)
    assert own["file"].tolist() == ["s1.wav"] * 2 and own["start_s"].tolist() == [0.0, 5.0]
    assert not np.allclose(own[list(CLASSES)], tables["pseudo_labels"].iloc[2:][list(CLASSES)], atol=0.05)
    never = run(config(pseudo__relabel_every=0), table, tmp_path, "never", **tables)
    assert done.history["loss"][:2].tolist() == never.history["loss"][:2].tolist()
    assert done.history["loss"][2:].tolist() != never.history["loss"][2:].tolist()
    assert len(done.history) == 4 and done.finished


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_that_is_killed_goes_on_with_the_labels_it_had(
        tables: dict[str, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Before it labelled and after, it ends as if nothing had happened; with the labels gone it says so."""
    table = tables.pop("table")
    whole = run(config(), table, tmp_path, "whole", **tables)
    with killed_at(monkeypatch, step):
        run(config(train__save_every_s=0.0), table, tmp_path, "cut", **tables)
    if step > 4:
        labels = tmp_path / "cut" / "relabelled_epoch0002.parquet"
        labels.rename(tmp_path / "kept")
        with pytest.raises(FileNotFoundError, match=r"relabelled_epoch0002.parquet, of which this run was learning at"):
            run(config(), table, tmp_path, "cut", **tables)
        (tmp_path / "kept").rename(labels)
    assert_same_weights(run(config(), table, tmp_path, "cut", **tables).last, whole.last)


def test_its_labels_pass_the_guards_of_a_round(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """A model that says the same of every window ends the training, not the labels."""
    deaf = config(train__peak_lr=0.05)
    with pytest.raises(pseudolabel.PseudoLabelError, match=r"s1.wav: all 2 windows have the same probabilities"):
        run(deaf, tables.pop("table"), tmp_path, "deaf", **tables)


def test_round_0_has_no_labels_to_renew(tables: dict[str, pd.DataFrame], tmp_path: Path,
                                        caplog: pytest.LogCaptureFixture) -> None:
    """The same recipe runs in every round."""
    table = tables.pop("table")
    plain = replace(config(round=0), augment__wave=())
    assert run(plain, table, tmp_path, "supervised").finished
    assert "relabel_every = 2 does nothing in round 0" in caplog.text
    assert not list((tmp_path / "supervised").glob("relabel*"))
    assert "s1.wav" not in checkpoint.load(tmp_path / "supervised" / "last.safetensors").seen
