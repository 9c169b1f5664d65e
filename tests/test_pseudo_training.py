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
from tiny_teacher import teacher, tiny_run

from birdkit import checkpoint, pseudolabel
from birdkit.config import LabelConfig, Member, RunConfig, SourceConfig
from birdkit.data import DataError, choose_sources
from birdkit.metrics.comparison import Validated
from birdkit.settings import replace
from birdkit.training.material import Material


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


def test_a_run_is_validated_on_labelled_soundscapes_of_its_split(tables: dict[str, pd.DataFrame],
                                                                 tmp_path: Path) -> None:
    """The very windows that it does not learn from, and no recording."""
    labelled = pd.DataFrame({"file": ["s0.wav"] * 2 + ["s1.wav"], "start_s": [0.0, 2.0, 0.0], "end_s": [2.0, 4.0, 2.0],
                             "labels": ["high", "low", "high"], "split": [0, 0, 1]})
    config = tiny_config(train__epochs=1, augment__wave=(), validation__kind="labelled", task__window_s=2.0)
    result = run(config, tables["table"], tmp_path, "out", labelled_soundscapes=labelled)
    assert Validated.read(tmp_path / "out" / "predictions.npz").truth.tolist() == [[1, 0], [0, 1]]
    assert "s0.wav" not in checkpoint.load(result.best).seen


def three_rounds(folder: Path, splits: tuple[int, ...], how: LabelConfig) -> list[list[int]]:
    """For each round of teachers that remember what they learnt from, how many soundscapes each student learns from.

    Of five splits with two soundscapes and a recording each; nothing is trained.
    """
    files = [f"s{index}.wav" for index in range(10)]
    for index, name in enumerate(files):
        sf.write(folder / name, tone(1000 * (index % 3 + 1), 2) + noise(2, seed=index), RATE, subtype="FLOAT")
    split = [index % 5 for index in range(10)]
    soundscapes = pd.DataFrame({"file": files, "split": split, "duration_s": 2.0, "content": files})
    recordings = pd.DataFrame({"file": [f"r{index}.ogg" for index in range(5)], "split": range(5), "label": "ant",
                               "secondary": "", "duration_s": 9.0, "rating": 5.0, "content": list("abcde")})
    learnt: list[list[int]] = []
    teachers: list[Path] = []
    for number in range(4):
        if number:
            path = folder / f"pseudo_labels_r{number}.parquet"
            pseudolabel.label_files(files, teachers, path=path, round=number, root=folder, config=how, window_s=1.0,
                                    contents=dict(zip(files, files, strict=True)), backend="torch", device="cpu",
                                    progress=False)
        before, teachers, counts = path if number else None, [], []
        for one in splits:
            config = replace(tiny_run(), round=number, split=one, labelling=how)
            labels = before and pseudolabel.read(pseudolabel.table_for(before, config), expected_round=number)
            material = Material.choose(config, recordings, ("ant", "bee", "cat"), soundscapes=soundscapes, labels={
                "pseudo_labels": labels, "labelled_soundscapes": None, "recording_labels": None})
            counts.append(0 if material.pseudo_labels is None else material.pseudo_labels["file"].nunique())
            teachers.append(teacher(folder / f"r{number}s{one}.safetensors", config, seed=one,
                                    seen=sorted(material.seen), content=sorted(material.seen_content),
                                    pseudo=sorted(material.pseudo)))
        learnt.append(counts)
    return learnt[1:]


def test_later_rounds_learn_from_as_many_soundscapes_as_the_first(tmp_path: Path) -> None:
    """Students of two splits of five know four fifths of the soundscapes from pseudo-labels; were these not labelled
    again, every other round would learn from next to nothing."""
    assert three_rounds(tmp_path, (0, 1), LabelConfig()) == [[8, 8]] * 3


def test_out_of_fold_in_every_round_needs_all_splits(tmp_path: Path) -> None:
    """With all of them it loses nothing; with two of five the second round learns from a quarter of the soundscapes."""
    (tmp_path / "some").mkdir(), (tmp_path / "all").mkdir()
    strict = LabelConfig(out_of_fold="all", teachers="all")
    assert three_rounds(tmp_path / "some", (0, 1), strict)[1] == [2, 2]
    assert three_rounds(tmp_path / "all", (0, 1, 2, 3, 4), strict) == [[8] * 5] * 3
    LabelConfig().check_splits(2, [0], 5), strict.check_splits(2, range(5), 5)
    with pytest.raises(ValueError, match=r"all 5 splits in round 3, but there are those of 2 \(0, 1\).*\(2, 3, 4\)"):
        strict.check_splits(3, [0, 1], 5)


def test_a_round_without_a_label_says_why() -> None:
    """Hours after the labelling, a person wants to know what to change."""
    config = replace(tiny_run(), round=2, split=0)
    with pytest.raises(ValueError, match=r"round 2 needs .* 0 windows .* outside of split 0: .*out_of_fold = 'all'"):
        choose_sources(config, (), CLASSES, recordings=pd.DataFrame({"file": []}), soundscapes=None, pseudo_labels=None)
