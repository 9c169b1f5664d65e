"""Labelled soundscapes in 2026's layout: read once and not twice, pooled, kept apart by split, and learnt from."""
from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE

from birdkit import checkpoint, preprocess, recipes, synthesis
from birdkit.config import LABELLED, RunConfig, SourceConfig
from birdkit.data import AudioStore, ClipDataset, ClipSource, DataError
from birdkit.data.labelled_soundscapes import (
    audit_windows,
    drop_foreign,
    parse_time_s,
    pool_windows,
    rarest_labels,
    read_spans,
)
from birdkit.kaggle import Workspace
from birdkit.runs import training
from birdkit.settings import replace

CLASSES = ("frog", "owl", "son1")
TABLE = "train_soundscapes_labels.csv"


def write(path: Path, *lines: str) -> Path:
    path.write_text("filename,start,end,primary_label\n" + "".join(f"{line}\n" for line in lines))
    return path


# Reading --------------------------------------------------------------------------------------------------------------

def test_every_row_twice_is_every_window_once(tmp_path: Path) -> None:
    """The host's table had all 739 rows twice: each would count double, and nobody would see it."""
    path = write(tmp_path / TABLE, *2 * ["a.ogg,00:00:05,00:00:10,owl;frog", "a.ogg,00:00:00,00:00:05,owl"])
    spans, repeated = read_spans(path, folder="train_soundscapes")
    assert spans["file"].tolist() == ["train_soundscapes/a.ogg"] * 2 and len(repeated) == 2
    assert spans["labels"].tolist() == ["frog owl", "owl"] and spans["start_s"].tolist() == [5.0, 0.0]


def test_a_span_in_which_nothing_calls_is_a_window_without_labels(tmp_path: Path) -> None:
    """Somebody listened: that is worth more than a window of which nothing is known."""
    spans, _ = read_spans(write(tmp_path / TABLE, "a.ogg,0,5,", "a.ogg,5,10,nocall", "a.ogg,10,15, owl ; "), folder="x")
    assert spans["labels"].tolist() == ["", "", "owl"]
    assert len(pool_windows(spans, 5.0, {"x/a.ogg": 60.0})) == 3


@pytest.mark.parametrize(("lines", "message"), [
    (["a.ogg,0,5,owl", "a.ogg,soon,5,owl"], "line 3, a.ogg: 'soon' is no time"),
    (["a.ogg,5,5,owl"], "line 2, a.ogg: '5' to '5' is no span"), (["a.ogg,00:61:00,5,owl"], "'00:61:00' is no time"),
    (["a.ogg,-5,5,owl"], "'-5' is no time"), (["a.ogg,0,inf,owl"], "'inf' is no time"),
    (["a.ogg,0,nan,owl"], "'nan' is no time")])
def test_what_is_no_span_is_named_with_its_line(lines: list[str], message: str, tmp_path: Path) -> None:
    """1,478 lines: which one?"""
    with pytest.raises(ValueError, match=message):
        read_spans(write(tmp_path / TABLE, *lines), folder="x")


def test_a_table_that_is_another_one_is_refused(tmp_path: Path) -> None:
    """A table of other columns is none of either form."""
    path = tmp_path / TABLE
    path.write_text("row_id,site,seconds,birds\n")
    with pytest.raises(ValueError, match="has no column filename, start, end, primary_label; it has: row_id"):
        read_spans(path, folder="x")
    path.write_text("")
    with pytest.raises(ValueError, match="cannot be read"):
        read_spans(path, folder="x")


def test_times_are_read_in_both_spellings() -> None:
    """Hours, minutes and seconds, or seconds alone."""
    assert [parse_time_s(text) for text in ("01:02:03", "2:03.5", "7")] == [3723.0, 123.5, 7.0]


def test_spans_are_pooled_to_the_windows_they_touch() -> None:
    """A call from second 4 to 7 is in two windows of the submission; one that ends at 5 is in one."""
    spans = pd.DataFrame({"file": "s", "start_s": [4.0, 0.0, 10.0, 58.0], "end_s": [7.0, 5.0, 15.0, 70.0],
                          "labels": ["owl", "frog", "", "son1"]})
    windows = pool_windows(spans, 5.0, {"s": 59.0})
    assert windows[["start_s", "end_s"]].to_numpy().tolist() == [[0, 5], [5, 10], [10, 15], [55, 59]]
    assert windows["labels"].tolist() == ["frog owl", "owl", "", "son1"]


def test_a_label_that_is_no_class_is_dropped_and_listed() -> None:
    """One foreign name must not cost the table, nor go unsaid."""
    kept, foreign = drop_foreign(pd.DataFrame({"labels": ["owl dove", "dove", ""]}), CLASSES)
    assert kept["labels"].tolist() == ["owl", "", ""] and foreign == ["dove", "dove"]


def test_a_window_counts_for_the_rarest_of_its_classes() -> None:
    """The insect that is heard only here would drown among the birds that sing beside it."""
    table = pd.DataFrame({"labels": ["owl son1", "owl frog", "", "owl"]})
    assert rarest_labels(table, ["owl"] * 9 + ["frog"] * 3) == ["son1", "frog", "nocall", "owl"]


def test_odd_files_and_classes_of_their_own_are_listed(tmp_path: Path) -> None:
    """A labelled file that is not there, and what can be learnt from these windows alone."""
    path = write(tmp_path / TABLE, "a.ogg,0,5,owl;son1", "gone.ogg,0,5,frog", "a.ogg,0,5,dove")
    soundscapes = pd.DataFrame({"file": ["t/a.ogg"], "duration_s": [60.0], "split": [1]})
    windows, lists = audit_windows(path, soundscapes, CLASSES, recorded=["owl", "frog"], folder="t", window_s=5.0)
    assert windows.to_dict("records") == [{"file": "t/a.ogg", "start_s": 0.0, "end_s": 5.0, "labels": "owl son1",
                                           "split": 1}]
    assert lists == {"labelled_rows_repeated": [], "labelled_labels_dropped": ["dove"],
                     "labelled_files_missing": ["t/gone.ogg"], "classes_only_in_labelled_soundscapes": ["son1"]}


# As clips -------------------------------------------------------------------------------------------------------------

def windows() -> pd.DataFrame:
    """Three windows in a row, a gap, and a last one; another file."""
    return pd.DataFrame({"file": ["s"] * 4 + ["t"], "start_s": [0.0, 5, 10, 20, 0], "end_s": [5.0, 10, 15, 25, 5],
                         "labels": ["owl", "frog son1", "", "owl", "frog"], "split": 0})


def test_a_clip_ends_where_the_labels_do() -> None:
    """A clip that ran on into seconds that nobody listened to would call their birds silent."""
    source = ClipSource.labelled(windows().sample(frac=1, random_state=0), CLASSES, 12.0)
    assert source.start_s.tolist() == [0, 5, 10, 20, 0] and source.length_s.tolist() == [12, 10, 5, 5, 5]
    np.testing.assert_array_equal(source.target, [[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert (source.cell_weight == 1).all() and (source.weight == 1).all()
    with pytest.raises(DataError, match="s: label 'dove' is not one of the 3 classes"):
        ClipSource.labelled(windows().assign(labels="dove"), CLASSES, 5.0)


def test_the_sum_of_their_labels_can_be_capped_and_classes_matched() -> None:
    """2026 first place: .5 at most, shared out alike; a match asks what is heard, not what is left of it."""
    source = ClipSource.labelled(windows(), CLASSES, 10.0, label_sum=0.5, match=0.9)
    np.testing.assert_allclose(source.target[0], [1 / 6, 1 / 6, 1 / 6])
    np.testing.assert_allclose(source.target[3], [0, 0.5, 0])
    np.testing.assert_array_equal(source.matches, ClipSource.labelled(windows(), CLASSES, 10.0).target > 0)


def test_windows_are_examples_after_the_recordings(small_run: RunConfig, tmp_path: Path,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    """The very audio and labels of a window, and its rarest class in the balance."""
    rng = np.random.default_rng(0)
    for name in ("a", "s", "t"):
        sf.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(30 * RATE), RATE, subtype="FLOAT")
    table = pd.DataFrame({"file": ["a.wav"] * 2, "label": ["owl", "owl"], "secondary": "", "duration_s": 30.0,
                          "rating": 0.0, "split": 1})
    labelled = windows().assign(file=windows()["file"] + ".wav").iloc[::-1]
    config = replace(small_run, data__label_smoothing=0.01, data__labelled_weight=2.0)
    with caplog.at_level(logging.INFO):
        dataset = ClipDataset(table, CLASSES, config, store=AudioStore(tmp_path, RATE), labelled=labelled)
    assert "5 labelled windows of 2 soundscapes" in caplog.text
    assert len(dataset) == 7 and dataset.labels == ["owl", "owl", "owl", "son1", "nocall", "owl", "frog"]
    example = dataset[(0, 3)]
    whole = AudioStore(tmp_path, RATE).whole("s.wav")
    assert torch.equal(example["wave"], torch.from_numpy(whole[5 * RATE:9 * RATE]))
    np.testing.assert_allclose(example["target"], [1, 0.01, 1])
    assert example["weight"] == 2 and dataset[(0, 0)]["weight"] == 1


@pytest.mark.parametrize(("settings", "message"), [
    ({"kind": "recordings", "match": 0.5}, r"match = 0\.5 is for sources of kind labelled_soundscapes or pseudo_label"),
    ({"kind": "pseudo_labels", "label_sum": 0.5}, r"label_sum = 0\.5 is for sources of kind labelled_soundscapes, not"),
    ({"kind": LABELLED, "most_per_class": 3}, "most_per_class = 3 is for sources of kind recordings"),
    ({"kind": LABELLED, "path": "/x"}, "has the path '/x'"), ({"kind": LABELLED, "match": 2.0}, r"match = 2\.0"),
    ({"kind": LABELLED, "weight": 0.0}, r"source 'x': weight = 0\.0 must be a number above 0"),
    ({"kind": LABELLED, "label_sum": -1.0}, r"label_sum = -1\.0 must be >= 0")])
def test_a_setting_of_another_kind_of_source_is_refused(settings: dict[str, Any], message: str) -> None:
    """A cap that nothing applies looks, in a config, like one that works."""
    with pytest.raises(ValueError, match=message):
        SourceConfig("x", **settings)


# The whole way --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A generated competition in 2026's layout: half of its soundscapes labelled, each row twice, and one class that
    is heard only there."""
    folder = tmp_path_factory.mktemp("layout")
    generated = synthesis.generate(folder / "competition", **{**synthesis.TINY, "n_train_soundscapes": 4},
                                   progress=False)
    train = pd.read_csv(generated.competition_dir / "train.csv", dtype=str, keep_default_na=False)
    truth = pd.read_csv(generated.hidden_path).set_index("row_id")
    files = sorted({row.rsplit("_", 1)[0] for row in truth.index})[::2]
    heard = truth[[row.rsplit("_", 1)[0] in files for row in truth.index]]
    alone = heard.sum().idxmax()
    shutil.rmtree(generated.competition_dir / "train_audio" / alone)
    train[train["primary_label"] != alone].to_csv(generated.competition_dir / "train.csv", index=False)
    lines = []
    for row, values in heard.iterrows():
        name, end_s = str(row).rsplit("_", 1)
        labels = ";".join(values.index[values > 0])
        lines += [f"{name}.ogg,00:00:{int(end_s) - 5:02d},00:00:{int(end_s):02d},{labels}"]
    write(generated.competition_dir / TABLE, *[line for line in lines for _ in range(2)])
    return generated.competition_dir, alone


@pytest.fixture(scope="module")
def audited(competition: tuple[Path, str]) -> preprocess.Audit:
    """The audit of it."""
    return preprocess.audit(competition[0], competition[0].parent / "work", n_splits=2, near_duplicates=False)


def test_the_audit_keeps_labelled_and_unlabelled_apart(audited: preprocess.Audit,
                                                       competition: tuple[Path, str]) -> None:
    """A teacher's guess must not stand beside the host's label of the same second."""
    assert audited.labelled is not None
    assert audited.labelled == Workspace(audited.labelled.parent).labelled_soundscapes()
    labelled, unlabelled = pd.read_parquet(audited.labelled), pd.read_parquet(audited.soundscapes)
    assert len(labelled) == 8 and labelled["file"].nunique() == 2 and len(unlabelled) == 2
    assert not set(labelled["file"]) & set(unlabelled["file"])
    assert labelled.groupby("file")["split"].nunique().max() == 1 and labelled["file"].str.startswith("train_").all()
    report = json.loads(audited.report.read_text())
    assert report["classes_only_in_labelled_soundscapes"] == [competition[1]]
    assert audited.counts["labelled_windows"] == 8 and audited.counts["labelled_rows_repeated"] == 8


def test_a_competition_without_them_has_no_such_table(tmp_path: Path) -> None:
    """Nothing changes for 2024 and 2025."""
    generated = synthesis.generate(tmp_path / "competition", **synthesis.TINY, progress=False)
    audit = preprocess.audit(generated.competition_dir, tmp_path / "work", n_splits=2, near_duplicates=False)
    assert audit.labelled is None and Workspace(tmp_path / "work").labelled_soundscapes() is None
    assert "labelled_windows" not in audit.counts


def train(audited: preprocess.Audit, competition: Path, out_dir: Path, split: int, *,
          changes: dict[str, Any]) -> checkpoint.Checkpoint:
    """The checkpoint of a run of seconds from the files on disk."""
    run = training.Run(competition, audited.recordings.parent, "tiny", split=split, out_dir=out_dir, changes={
        "train__epochs": 1, "data__samples_per_epoch": 16, "train__precision": "f32", "train__threads": 1,
        "inference__backend": "torch", **changes})
    return checkpoint.load(training.train(run, progress=False).best)


def seen_labelled(loaded: checkpoint.Checkpoint, files: Sequence[str]) -> set[str]:
    """Which of the labelled files a model was trained on."""
    return set(loaded.seen) & set(files)


def test_a_run_learns_from_them_as_it_was_asked_and_never_from_the_validating_split(
        audited: preprocess.Audit, competition: tuple[Path, str], tmp_path: Path) -> None:
    """As examples, as a source, or not at all; what a checkpoint has seen says so."""
    assert audited.labelled is not None
    labelled = pd.read_parquet(audited.labelled)
    files = sorted(set(labelled["file"]))
    allowed = set(labelled.loc[labelled["split"] != 0, "file"])
    as_examples = train(audited, competition[0], tmp_path / "examples", 0, changes={})
    assert seen_labelled(as_examples, files) == allowed
    source = {"name": "labelled", "kind": LABELLED, "path": "", "classes": [], "most_per_class": 0, "match": 0.0,
              "label_sum": 0.5, "weight": 1.0}
    as_source = train(audited, competition[0], tmp_path / "source", -1, changes={
        "data__labelled_soundscapes": False, "data__sources": [source],
        "augment__wave": [{"name": "soundscape_mix", "options": {"source": "labelled"}}]})
    assert seen_labelled(as_source, files) == set(files)
    without = train(audited, competition[0], tmp_path / "without", -1, changes={"data__labelled_soundscapes": False})
    assert seen_labelled(without, files) == set()


def test_a_recipe_that_mixes_them_in_runs_without_them_elsewhere(competition: tuple[Path, str], tmp_path: Path,
                                                                caplog: pytest.LogCaptureFixture) -> None:
    """The 2026 winner's recipe in a competition of 2025 keeps its pseudo-labels and says what it left out."""
    recipe = recipes.get("babych2026")
    here = recipes.for_competition(recipe.run(1, 0), competition[0])
    assert [source.name for source in here.data.sources] == ["labelled", "labelled_clean"]
    assert here.augment == recipe.run(1, 0).augment
    elsewhere = shutil.copytree(competition[0], tmp_path / "elsewhere", ignore=lambda *_: [TABLE])
    there = recipes.for_competition(recipe.run(1, 0), elsewhere)
    assert there.data.sources == () and [one.name for one in there.augment.wave] == ["or_mixup", "one_of"]
    assert [entry["share"] for entry in there.augment.wave[1].options["members"]] == [0.75]
    assert "the competition of 2025 has no labelled soundscapes" in caplog.text


def test_rows_of_2021_are_windows_of_their_files(tmp_path: Path) -> None:
    """Its table names files without their date, says where a window ends, and "nocall" where nobody calls."""
    path = tmp_path / "train_soundscape_labels.csv"
    path.write_text("row_id,site,audio_id,seconds,birds\n7_SSW_5,SSW,7,5,nocall\n7_SSW_10,SSW,7,10,owl frog bat\n"
                    "9_COR_5,COR,9,5,owl\n")
    soundscapes = pd.DataFrame({"file": ["heard/7_SSW_20170423.ogg"], "duration_s": [10.0], "split": [2]})
    windows, lists = audit_windows(path, soundscapes, ("owl", "frog"), recorded=["owl"], folder="heard", window_s=5.0)
    assert windows.drop(columns="split").to_dict("list") == {
        "file": ["heard/7_SSW_20170423.ogg"] * 2, "start_s": [0.0, 5.0], "end_s": [5.0, 10.0],
        "labels": ["", "frog owl"]}
    assert lists["labelled_labels_dropped"] == ["bat"] and lists["labelled_files_missing"] == ["heard/9_COR"]
    assert lists["classes_only_in_labelled_soundscapes"] == ["frog"]
