"""Labelling: what it computes, that it survives a kill, and the guards that need more than a table."""
import contextlib
import sqlite3
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from conftest import RATE, noise, tone
from tiny_teacher import CLASSES, teacher, tiny_run

from birdkit import audio, frontend
from birdkit.config import LabelConfig, RunConfig
from birdkit.inference import Ensemble, Heard, load_predictors
from birdkit.inference.repetition import Spread
from birdkit.pseudolabel import PseudoLabelError, guards, label, label_files, provenance, read, table
from birdkit.pseudolabel.parts import Parts
from birdkit.settings import replace

Soundscapes = tuple[Path, list[str]]


@pytest.fixture(scope="module")
def soundscapes(tmp_path_factory: pytest.TempPathFactory) -> Soundscapes:
    """Four soundscapes of 7 s, each with a tone that begins in its middle."""
    root = tmp_path_factory.mktemp("soundscapes")
    for index in range(4):
        silent_then_tone = np.concatenate([noise(3, amplitude=0.01), tone(1000 * (index + 1), 4)])
        sf.write(root / f"{index}.wav", noise(7, seed=index) + silent_then_tone, RATE, subtype="FLOAT")
    return root, [f"{index}.wav" for index in range(4)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers with different clips."""
    folder = tmp_path_factory.mktemp("teachers")
    return [teacher(folder / "one.safetensors", tiny_run()),
            teacher(folder / "two.safetensors", tiny_run(clip_s=3.0), seed=1)]


def run(soundscapes: Soundscapes, teachers: list[Path], path: Path, **options: Any) -> pd.DataFrame:
    root, files = soundscapes
    defaults = {"round": 1, "root": root, "window_s": 2.0, "backend": "torch", "device": "cpu", "progress": False}
    return label(files, teachers, path=path, **{**defaults, **options})


def values(rows: pd.DataFrame) -> np.ndarray:
    return rows[list(CLASSES)].to_numpy()


class Killed(BaseException):
    """What nobody catches, as a kill."""


def kill_after(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """The process dies when the next file but n is labelled."""
    kept, real = [0], Parts.add

    def add(self: Parts, *given: Any) -> None:
        if kept[0] == n:
            raise Killed
        kept[0] += 1
        real(self, *given)

    monkeypatch.setattr(Parts, "add", add)


def heard_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all soundscapes that are predicted from here on."""
    names, real = [], Ensemble.stream

    def stream(self: Ensemble, *given: Any, **named: Any) -> Iterator[Heard]:
        for one in real(self, *given, **named):
            names.append(one.name)
            yield one

    monkeypatch.setattr(Ensemble, "stream", stream)
    return names


def test_a_stride_adds_windows_between_those_that_were_there(soundscapes: Soundscapes, two: list[Path],
                                                             tmp_path: Path) -> None:
    """Overlapping windows with other numbers at the old places, or without the end, would be labels of other audio."""
    plain = run(soundscapes, two, tmp_path / "a.parquet")
    dense = run(soundscapes, two, tmp_path / "b.parquet", config=LabelConfig(stride_s=0.5))
    one = dense[dense["file"] == "0.wav"]
    assert one["start_s"].tolist() == [0.5 * n for n in range(11)] and (one["end_s"] - one["start_s"] == 2).all()
    both = plain.merge(dense, on=["file", "start_s", "end_s"], suffixes=("", " dense"))
    assert len(plain) == 16 and len(both) == 12  # from 6 s on, half a window, none of the dense ones begins
    assert np.allclose(values(both), both[[f"{name} dense" for name in CLASSES]], atol=1e-6)
    assert provenance(tmp_path / "b.parquet")["stride_s"] == 0.5


def test_the_config_decides_the_window(soundscapes: Soundscapes, two: list[Path], tmp_path: Path) -> None:
    """The competition's window is only what holds where a recipe says nothing."""
    rows = run(soundscapes, two[:1], tmp_path / "a.parquet", config=LabelConfig(window_s=3.5))
    assert rows[rows["file"] == "1.wav"][["start_s", "end_s"]].to_numpy().tolist() == [[0, 3.5], [3.5, 7]]


def test_the_mean_is_of_what_the_config_says(soundscapes: Soundscapes, two: list[Path], tmp_path: Path) -> None:
    """Both means against plain numpy; they differ, so a setting that is ignored shows."""
    apart = [values(run(soundscapes, [one], tmp_path / "x.parquet")).astype(float) for one in two]
    logits = np.mean([np.log(p / (1 - p)) for p in apart], axis=0)
    expected = {"probabilities": np.mean(apart, axis=0), "logits": 1 / (1 + np.exp(-logits))}
    assert np.abs(expected["probabilities"] - expected["logits"]).max() > 1e-3
    for mean, by_hand in expected.items():
        rows = run(soundscapes, two, tmp_path / "y.parquet", config=LabelConfig(mean=mean))
        assert np.allclose(values(rows), by_hand, atol=1e-5), mean


def test_clips_can_overlap_for_labelling_alone(soundscapes: Soundscapes, two: list[Path], tmp_path: Path) -> None:
    """Overlapping framewise inference is the teachers' own setting, or the labelling's: with the same numbers."""
    own = teacher(tmp_path / "own.safetensors", replace(tiny_run(), inference__clip_step_s=0.5))
    asked = run(soundscapes, two[:1], tmp_path / "a.parquet", config=LabelConfig(clip_step_s=0.5, batch_size=3))
    assert np.allclose(values(asked), values(run(soundscapes, [own], tmp_path / "b.parquet")), atol=1e-6)
    assert np.abs(values(asked) - values(run(soundscapes, two[:1], tmp_path / "c.parquet"))).max() > 1e-3
    inference = provenance(tmp_path / "a.parquet")["teachers"][0]["inference"]
    assert inference["clip_step_s"] == 0.5 and inference["batch_size"] == 3


def test_a_killed_run_goes_on_with_the_next_file(soundscapes: Soundscapes, two: list[Path], tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A session's end after eleven hours must cost a file, and the table must be the one of a run without it."""
    whole = run(soundscapes, two, tmp_path / "whole.parquet")
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(Killed):
            run(soundscapes, two, tmp_path / "killed.parquet")
    assert not (tmp_path / "killed.parquet").exists()
    names = heard_files(monkeypatch)
    pd.testing.assert_frame_equal(run(soundscapes, two, tmp_path / "killed.parquet"), whole, check_exact=True)
    assert names == ["2.wav", "3.wav"]
    assert [path.name for path in tmp_path.iterdir() if "killed" in path.name] == ["killed.parquet"]
    agreed = [provenance(tmp_path / f"{name}.parquet")["agreement"] for name in ("whole", "killed")]
    assert agreed[0] == agreed[1] and agreed[0]["correlation"][0][1] is not None


@pytest.mark.parametrize("other", ["settings", "teachers", "file"])
def test_what_was_labelled_otherwise_never_mixes_in(soundscapes: Soundscapes, two: list[Path], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    """Half a table of yesterday's settings, teachers or audio could not be told from the rest."""
    for file in soundscapes[1]:
        (tmp_path / file).write_bytes((soundscapes[0] / file).read_bytes())
    mine = (tmp_path, soundscapes[1])
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(Killed):
            run(mine, two[:1], tmp_path / "a.parquet")
    if other == "file":
        sf.write(tmp_path / "1.wav", noise(9, seed=9), RATE, subtype="FLOAT")
    teachers = two[1:] if other == "teachers" else two[:1]
    config = LabelConfig(window_s=1.0 if other == "settings" else None)
    names = heard_files(monkeypatch)
    resumed = run(mine, teachers, tmp_path / "a.parquet", config=config)
    assert names == (["1.wav", "3.wav"] if other == "file" else soundscapes[1])
    pd.testing.assert_frame_equal(resumed, run(mine, teachers, tmp_path / "b.parquet", config=config))


def test_memory_holds_one_file_whatever_their_number(soundscapes: Soundscapes, two: list[Path], tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Years of soundscapes do not fit: each is on disk before the next is heard, and the table is written in groups."""
    alive: list[weakref.ref[Heard]] = []
    most, on_disk, real = [0], [], Ensemble.stream

    def stream(self: Ensemble, *given: Any, **named: Any) -> Iterator[Heard]:
        for one in real(self, *given, **named):
            alive.append(weakref.ref(one))
            most[0] = max(most[0], sum(ref() is not None for ref in alive))
            with contextlib.closing(sqlite3.connect(tmp_path / ".a.parquet.parts")) as base:
                on_disk.append(base.execute("SELECT count(*) FROM parts").fetchone()[0])
            yield one

    monkeypatch.setattr(Ensemble, "stream", stream)
    monkeypatch.setattr(table, "GROUP_ROWS", 4)
    rows = run(soundscapes, two[:1], tmp_path / "a.parquet")
    assert on_disk == [0, 1, 2, 3] and most[0] <= 2
    written = pq.ParquetFile(tmp_path / "a.parquet")
    assert [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)] == [4] * 4
    pd.testing.assert_frame_equal(pd.concat(table.stream(tmp_path / "a.parquet"), ignore_index=True), rows)


def test_a_class_that_takes_most_labels_is_an_error_that_costs_nothing(
        soundscapes: Soundscapes, two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frogs took half of the second seed's labels; and after listening one goes on without labelling again."""
    loud = [teacher(tmp_path / "loud.safetensors", tiny_run(), shift=3.0)]
    with pytest.raises(PseudoLabelError, match=r"(ant|bee|cat) takes \d+ of \d+ labels, \d+%, more than .* = 0\.2"):
        run(soundscapes, loud, tmp_path / "a.parquet", config=LabelConfig(most_share=0.2, share_from=2))
    assert not (tmp_path / "a.parquet").exists()
    names = heard_files(monkeypatch)
    assert len(run(soundscapes, loud, tmp_path / "a.parquet", config=LabelConfig(most_share=0.2))) == 16
    assert names == []


@pytest.mark.parametrize(("counts", "speaks"), [([60, 1, 0], True), ([50, 40, 10], False), ([49, 0, 0], False)])
def test_a_dominant_class_is_one_among_enough_labels(counts: list[int], speaks: bool) -> None:
    """Among a handful of labels one class soon has most, and that says nothing of the teachers."""
    said = ""
    try:
        guards.refuse_dominant(np.array(counts), CLASSES, LabelConfig(), of="x.parquet")
    except PseudoLabelError as error:
        said = str(error)
    assert ("x.parquet: ant takes 60 of 61 labels, 98%" in said) == speaks and bool(said) == speaks
    guards.refuse_dominant(np.array([9000, 0]), CLASSES[:2], LabelConfig(), of="x")  # one of two always takes half


def test_a_teacher_of_other_classes_is_refused(soundscapes: Soundscapes, tmp_path: Path) -> None:
    """A checkpoint of last year's competition in the folder would label with half of its mind elsewhere."""
    foreign = teacher(tmp_path / "x.safetensors", tiny_run(), classes=("ant", "bee", "cat", "yak"))
    with pytest.raises(PseudoLabelError, match=r"x\.safetensors knows 1 of 4 classes .* the 3 of the taxonomy: yak"):
        run(soundscapes, [foreign], tmp_path / "a.parquet", classes=CLASSES)


def test_a_renamed_copy_of_what_a_teacher_was_trained_on_is_known(soundscapes: Soundscapes, tmp_path: Path) -> None:
    """The same recording lies in two archives under two names; a teacher would repeat what it was told of it."""
    root, files = soundscapes
    content = audio.check(root / files[2]).content
    one = teacher(tmp_path / "one.safetensors", tiny_run(), seen=["train/other.ogg"], content=[content])
    rows = run(soundscapes, [one], tmp_path / "a.parquet")
    assert set(rows["file"]) == {files[0], files[1], files[3]}
    assert provenance(tmp_path / "a.parquet")["seen_by_all_teachers"] == [files[2]]
    with pytest.raises(PseudoLabelError, match=r"1 of 4 soundscapes were seen in training by every teacher: 2\.wav"):
        run(soundscapes, [one], tmp_path / "b.parquet", leave_out_seen=False)
    told = {file: "f" * 64 if file == files[2] else content for file in files}  # what a table says is not decoded again
    assert set(run(soundscapes, [one], tmp_path / "c.parquet", contents=told)["file"]) == {files[2]}


def test_what_a_teacher_knows_from_pseudo_labels_it_labels_again_where_that_is_asked(soundscapes: Soundscapes,
                                                                                     tmp_path: Path) -> None:
    """As it is unless asked for otherwise; what people said stays out either way."""
    root, files = soundscapes
    copy = audio.check(root / files[1]).content
    one = teacher(tmp_path / "one.safetensors", tiny_run(), seen=[files[0], files[2], "train/x.ogg"],
                  content=[audio.check(root / files[0]).content, copy],
                  pseudo=[files[0], audio.check(root / files[0]).content])
    strict = LabelConfig(out_of_fold="all")
    assert set(run(soundscapes, [one], tmp_path / "a.parquet", config=strict)["file"]) == {files[3]}
    assert set(run(soundscapes, [one], tmp_path / "b.parquet")["file"]) == {files[0], files[3]}
    with pytest.raises(ValueError, match=r"labelling.out_of_fold = 'none'"):
        LabelConfig(out_of_fold="none")


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_tables_for_some_students_come_from_the_same_pass(soundscapes: Soundscapes, tmp_path: Path, mean: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is what its teachers alone would have said, also after a kill, and no soundscape is heard twice for it. One
    teacher has seen a file: the students of its split do without."""
    files, how = soundscapes[1], {"mean": mean, "teachers": "all"}
    teachers = [teacher(tmp_path / f"{index}.safetensors", replace(tiny_run(), split=split), seed=index, seen=seen)
                for index, (split, seen) in enumerate([(0, [files[2]]), (1, []), (1, [])])]
    alone = [run(soundscapes, some, tmp_path / "alone.parquet", config=LabelConfig(**how))
             for some in (teachers[:1], teachers[1:], teachers)]
    names = heard_files(monkeypatch)
    for killed in (True, False):
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            if killed:
                kill_after(patch, 2)
            rows = run(soundscapes, teachers, tmp_path / "r.parquet", config=LabelConfig(mean=mean))
    assert sorted(names) == sorted([*files, names[2]])  # the third was heard when the process died
    for expected, path in zip(alone, ("r_split0.parquet", "r_split1.parquet", "r.parquet"), strict=True):
        pd.testing.assert_frame_equal(read(tmp_path / path), expected, check_exact=True)
    assert rows.equals(alone[2]) and set(alone[0]["file"]) == set(files) - {files[2]}
    assert provenance(tmp_path / "r_split0.parquet")["seen_by_all_teachers"] == [files[2]]
    assert provenance(tmp_path / "r_split1.parquet")["labelled_by"] == [{"teachers": [0, 1], "files": 4}]


def test_a_table_of_another_front_end_version_is_refused(soundscapes: Soundscapes, two: list[Path], tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of images that no model here can see any more belong to another program."""
    run(soundscapes, two[:1], tmp_path / "a.parquet")
    monkeypatch.setattr(frontend, "VERSION", frontend.VERSION + 1)
    with pytest.raises(PseudoLabelError, match="with version 1 of the front end, this is version 2"):
        read(tmp_path / "a.parquet")


def test_a_file_that_is_one_clip_may_sound_the_same_in_all_its_windows(tmp_path: Path) -> None:
    """Pooled by clips, both windows of a recording shorter than a clip rightly hold that clip's probability."""
    run_config: RunConfig = replace(tiny_run(clip_s=4.0), inference__pool="clips")
    one = teacher(tmp_path / "one.safetensors", run_config)
    for name, seconds in (("short", 3.5), ("long", 9.0)):
        sf.write(tmp_path / f"{name}.wav", np.concatenate([noise(2), tone(3000, seconds - 2)]), RATE, subtype="FLOAT")
    rows = run((tmp_path, ["short.wav", "long.wav"]), [one], tmp_path / "a.parquet")
    spread = {str(file): np.ptp(values(part), axis=0).max() for file, part in rows.groupby("file")}
    assert spread["short.wav"] == 0 < spread["long.wav"]
    cut = load_predictors([teacher(tmp_path / "cut.safetensors", tiny_run(clip_s=4.0))], backend="torch")
    repeated = Heard("short.wav", np.ones((2, 3)), np.ones((0, 2, 3)), 3.5, (Spread(float("nan"), 0.0),))
    with pytest.raises(PseudoLabelError, match=r"short\.wav: all 2 windows have the same"):
        guards.refuse_repeated(repeated, cut, tmp_path / "short.wav")  # whose windows are of unlike segments


def test_what_was_labelled_is_counted(soundscapes: Soundscapes, two: list[Path], tmp_path: Path) -> None:
    """A person reads these figures first."""
    root, files = soundscapes
    (tmp_path / "broken.ogg").write_text("not audio")
    for file in files[:2]:
        (tmp_path / file).write_bytes((root / file).read_bytes())
    one = teacher(tmp_path / "one.safetensors", tiny_run(), seen=[files[0]])
    done = label_files([*files[:2], "broken.ogg"], [one], path=tmp_path / "a.parquet", round=1, root=tmp_path,
                       backend="torch", device="cpu", progress=False, window_s=2.0)
    assert (done.windows, done.files, done.left_out, list(done.faults)) == (4, 1, (files[0],), ["broken.ogg"])
    with pytest.raises(ValueError, match="named twice"):
        label_files([files[0], files[0]], [one], path=tmp_path / "a.parquet", round=1, root=tmp_path, device="cpu")
