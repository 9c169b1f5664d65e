"""From tables to batches: crops that move, sources that do not disturb each other, and the same examples always."""
import contextlib
import logging
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE, click, noise, tone

from birdkit.audio import AudioError
from birdkit.batch import Batch
from birdkit.config import PseudoConfig, RunConfig
from birdkit.data import AudioStore, ClipDataset, ClipSource, DataError, steps_per_epoch, training_batches
from birdkit.data.packing import pack
from birdkit.settings import replace

CLASSES = ("ant", "bee", "crow")


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """Three recordings of 10 s, 6 s and 1 s; a click marks second 8 of the first."""
    waves = {"a.wav": click(8.0, 10), "b.wav": tone(1000, 6), "c.wav": noise(1)}
    for name, wave in waves.items():
        sf.write(tmp_path / name, wave, RATE, subtype="FLOAT")
    return pd.DataFrame({"file": list(waves), "label": ["ant", "bee", "crow"], "secondary": ["bee crow", "", ""],
                         "duration_s": [10.0, 6.0, 1.0], "rating": [0.0, 5.0, 2.5], "split": [0, 1, -1]})


@pytest.fixture
def quick(small_run) -> RunConfig:
    """Three epochs of three batches of two."""
    return replace(small_run, train__epochs=3, train__batch_size=2, train__workers=0, data__samples_per_epoch=6)


def make_dataset(table: pd.DataFrame, root, config: RunConfig, **options) -> ClipDataset:
    store = AudioStore(root, RATE, limit_gib=options.pop("limit_gib", 0.0), packed=options.pop("packed", None))
    return ClipDataset(table, CLASSES, config, store=store, **options)


def run(table: pd.DataFrame, root, config: RunConfig, *, first_step: int = 0, rank: int = 0, world_size: int = 1,
        **options) -> list[Batch]:
    dataset = make_dataset(table, root, config, **options)
    return list(training_batches(dataset, table["label"].tolist(), config, first_step=first_step, rank=rank,
                                 world_size=world_size))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.signal, b.signal) and torch.equal(a.target, b.target)
        assert torch.equal(a.weight, b.weight) and torch.equal(a.cell_weight, b.cell_weight)
        assert list(a.sources) == list(b.sources)
        assert_same(list(a.sources.values()), list(b.sources.values()))


def two_sources(root) -> dict[str, ClipSource]:
    """Labelled windows, five of a tone at second 2 to 4 and one of noise; and rain of which nothing is known."""
    sf.write(root / "s.wav", np.concatenate([noise(2), tone(3000, 2), noise(2)]), RATE, subtype="FLOAT")
    sf.write(root / "rain.wav", 0.01 * noise(9, seed=5), RATE, subtype="FLOAT")
    windows = pd.DataFrame({"file": "s.wav", "start_s": [0.0, 2.0, 4.0], "end_s": [2.0, 4.0, 6.0], "ant": [0.0, 0.8, 0],
                            "bee": 0.0, "crow": 0.0})
    return {"soundscapes": ClipSource.pseudo_labelled(windows, CLASSES, PseudoConfig(), 2.0),
            "rain": ClipSource.unlabelled(pd.DataFrame({"file": ["rain.wav"], "duration_s": [9.0]}), 3)}


# Examples -------------------------------------------------------------------------------------------------------------

def test_random_crops_really_move(table, tmp_path, small_run) -> None:
    """A flag of the wrong type kept every crop of the second seed at the first twelve seconds."""
    dataset = make_dataset(table, tmp_path, small_run)
    clicks = {int(dataset[(position, 0)]["wave"].abs().argmax()) for position in range(12)}
    assert len(clicks) > 6
    first = make_dataset(table, tmp_path, replace(small_run, data__crop="first"))
    assert all(torch.equal(first[(position, 0)]["wave"], first[(0, 0)]["wave"]) for position in range(4))


def test_last_and_marked_crops_are_where_they_should_be(table, tmp_path, small_run) -> None:
    """The click at second 8 of 10: 2 s into the last 4 s, and in the middle of a clip that is marked there."""
    last = make_dataset(table, tmp_path, replace(small_run, data__crop="last"))
    assert int(last[(0, 0)]["wave"].abs().argmax()) == 2 * RATE
    marked = make_dataset(table.assign(centre_s=[7.5, np.nan, np.nan]), tmp_path,
                          replace(small_run, data__crop="marked"))
    assert {int(marked[(position, 0)]["wave"].abs().argmax()) for position in range(3)} == {5 * RATE // 2}
    assert len({float(marked[(position, 1)]["wave"][0]) for position in range(8)}) > 4  # not marked: random
    with pytest.raises(DataError, match="'marked' needs a column 'centre_s'"):
        make_dataset(table, tmp_path, replace(small_run, data__crop="marked"))


def test_energy_weighted_crops_find_the_call(table, tmp_path, small_run) -> None:
    """A focal recording is half silence; a crop of silence teaches a wrong label."""
    dataset = make_dataset(table, tmp_path, replace(small_run, data__crop="rms"))
    heard = sum(float(dataset[(position, 0)]["wave"].abs().max()) > 0.5 for position in range(40))
    plain = make_dataset(table, tmp_path, small_run)
    assert heard > sum(float(plain[(position, 0)]["wave"].abs().max()) > 0.5 for position in range(40)) + 5


@pytest.mark.parametrize(("short", "sounding"), [("repeat", 4.0), ("place", 1.0), ("start", 1.0)])
def test_short_recordings_fill_a_clip_as_asked(table, tmp_path, small_run, short: str, sounding: float) -> None:
    """Never with noise, as the second seed, whose birds were buried under it."""
    dataset = make_dataset(table, tmp_path, replace(small_run, data__short=short))
    for position in range(5):
        wave = dataset[(position, 2)]["wave"].numpy()
        assert len(wave) == 4 * RATE and np.abs(wave).max() < 0.6
        assert np.count_nonzero(wave) == pytest.approx(sounding * RATE, abs=5)
    assert (short == "start") == torch.equal(dataset[(0, 2)]["wave"], dataset[(1, 2)]["wave"])


@pytest.mark.parametrize(("parts", "clip_s"), [(1, 5.0), (1, 8.0), (1, 12.0), (4, 5.0), (6, 5.0)])
def test_clips_have_the_length_of_the_config(tmp_path, parts: int, clip_s: float) -> None:
    """5, 8, 12, 20 and 30 s, cut from a recording of 31 s without a gap."""
    wave = np.arange(31 * RATE, dtype=np.float32) / (31 * RATE)
    sf.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    rows = pd.DataFrame({"file": ["a.wav"], "label": "ant", "secondary": "", "duration_s": 31.0, "rating": 0.0,
                         "split": 0})
    config = replace(RunConfig(), frontend__clip_s=clip_s, frontend__hop_samples=500, model__parts=parts)
    clip = make_dataset(rows, tmp_path, config)[(3, 0)]["wave"].numpy()
    assert len(clip) == parts * clip_s * RATE and np.allclose(np.diff(clip), 1 / (31 * RATE), atol=1e-7)


@pytest.mark.parametrize("crop", ["random", "first", "last", "rms"])
@pytest.mark.parametrize("limit_gib", [0.0, 0.1])
def test_a_span_gives_audio_from_inside_itself_alone(tmp_path, small_run, crop: str, limit_gib: float) -> None:
    """Five seconds labelled "nocall" between two calls: one sample of either would be a wrong label."""
    sf.write(tmp_path / "s.wav", np.repeat([0.1, 0.2, 0.3, 0.4], 5 * RATE), RATE, subtype="FLOAT")
    rows = pd.DataFrame({"file": "s.wav", "label": "ant", "secondary": "", "duration_s": 20.0, "rating": 0.0,
                         "split": 0, "start_s": [5.0, 15.0, 10.0, np.nan], "end_s": [10.0, 20.0, 12.5, np.nan]})
    dataset = make_dataset(rows, tmp_path, replace(small_run, data__crop=crop), limit_gib=limit_gib)
    for row, level in enumerate([0.2, 0.4, 0.3]):
        for position in range(8):
            wave = dataset[(position, row)]["wave"].numpy()
            assert len(wave) == 4 * RATE and np.abs(wave - level).max() < 1e-4
    whole = np.concatenate([dataset[(position, 3)]["wave"].numpy() for position in range(20)])
    assert (crop == "last" or whole.min() < 0.11) and (crop == "first" or whole.max() > 0.29)


@pytest.mark.parametrize("limit_gib", [0.0, 0.1])
def test_an_example_depends_on_seed_and_position_alone(table, tmp_path, small_run, limit_gib: float) -> None:
    """So it comes out the same in any worker and after any restart."""
    dataset = make_dataset(table, tmp_path, small_run, limit_gib=limit_gib)
    again = make_dataset(table, tmp_path, small_run, limit_gib=limit_gib)
    other = make_dataset(table, tmp_path, replace(small_run, seed=1), limit_gib=limit_gib)
    again[(3, 1)]
    assert torch.equal(dataset[(7, 0)]["wave"], again[(7, 0)]["wave"])
    assert not torch.equal(dataset[(7, 0)]["wave"], dataset[(8, 0)]["wave"])
    assert not torch.equal(dataset[(7, 0)]["wave"], other[(7, 0)]["wave"])


def test_examples_carry_their_labels_weights_and_masks(table, tmp_path, small_run) -> None:
    """The four things that the loss needs, of the recording that was asked for."""
    config = replace(small_run, data__secondary="mask", data__rating_weights=True, data__unrated_weight=0.3)
    example = make_dataset(table, tmp_path, config)[(0, 0)]
    assert example["target"].tolist() == [1, 0, 0] and example["cell_weight"].tolist() == [1, 0, 0]
    assert float(example["weight"]) == pytest.approx(0.3) and example["sources"] == {}


def test_a_table_that_does_not_fit_is_refused(table, tmp_path, small_run) -> None:
    """Say what is wrong before the first epoch."""
    with pytest.raises(DataError, match="no column duration_s"):
        make_dataset(table.drop(columns="duration_s"), tmp_path, small_run)
    with pytest.raises(DataError, match=r"c\.wav: rated below min_rating = 3"):
        make_dataset(table.assign(label="ant"), tmp_path, replace(small_run, data__min_rating=3.0))


# Sources --------------------------------------------------------------------------------------------------------------

def test_sources_come_with_their_own_labels(table, tmp_path, small_run) -> None:
    """The tone of window 1 has the label of window 1, in every draw."""
    config = replace(small_run, frontend__clip_s=2.0, frontend__hop_samples=500)
    dataset = make_dataset(table, tmp_path, config, sources=two_sources(tmp_path))
    drawn = [dataset[(position, 1)]["sources"]["soundscapes"] for position in range(30)]
    for clip in drawn:
        is_tone = float(clip["wave"].std()) > 0.3
        assert is_tone == (float(clip["target"][0]) > 0.5)
        assert float(clip["weight"]) == 1 and clip["cell_weight"].tolist() == [1, 1, 1]
    assert sum(float(clip["target"][0]) > 0.5 for clip in drawn) == 10  # every third, as there are three windows


def test_a_source_is_the_same_whatever_else_is_mixed_in(table, tmp_path, small_run) -> None:
    """Adding rain to an experiment must not also change its soundscapes, or two things are compared at once."""
    config = replace(small_run, frontend__clip_s=2.0, frontend__hop_samples=500)
    both = two_sources(tmp_path)
    dataset = make_dataset(table, tmp_path, config, sources=both)
    alone = make_dataset(table, tmp_path, config, sources={"soundscapes": both["soundscapes"]})
    plain = make_dataset(table, tmp_path, config)
    renamed = make_dataset(table, tmp_path, config, sources={"hail": both["rain"]})
    starts = set()
    for position in range(12):
        example = dataset[(position, 0)]
        starts.add(float(example["sources"]["rain"]["wave"][0]))
        assert torch.equal(example["wave"], plain[(position, 0)]["wave"])
        assert torch.equal(example["sources"]["soundscapes"]["wave"],
                           alone[(position, 2)]["sources"]["soundscapes"]["wave"])
        assert not torch.equal(example["sources"]["rain"]["wave"],
                               renamed[(position, 0)]["sources"]["hail"]["wave"])
    assert len(starts) == 12


def test_the_log_says_how_much_there_is(table, tmp_path, small_run, caplog) -> None:
    """Thirty recordings where thirty thousand were meant show in the first line."""
    with caplog.at_level(logging.INFO):
        make_dataset(table, tmp_path, small_run, limit_gib=11 * RATE * 2 / 2**30)
    assert "3 recordings of 3 of 3 classes, 0.0 hours" in caplog.text
    assert "2 of 3 files are kept in memory" in caplog.text


# Batches --------------------------------------------------------------------------------------------------------------

def test_an_epoch_is_as_long_as_asked_for(small_run) -> None:
    """Whole batches, at least one."""
    config = replace(small_run, train__batch_size=32)
    assert steps_per_epoch(config, 100) == 3 and steps_per_epoch(config, 5) == 1
    assert steps_per_epoch(replace(config, data__samples_per_epoch=640), 5) == 20


def test_a_batch_is_its_examples(table, tmp_path, quick) -> None:
    """Row i of every tensor is example i: a shuffled row is a wrong label."""
    config = replace(quick, frontend__clip_s=2.0, frontend__hop_samples=500)
    sources = two_sources(tmp_path)
    batch = run(table, tmp_path, config, sources=sources)[1]
    dataset = make_dataset(table, tmp_path, config, sources=sources)
    assert batch.signal.shape == (2, 2 * RATE) and batch.target.shape == batch.cell_weight.shape == (2, 3)
    assert batch.weight.shape == (2,) and batch.signal.dtype == batch.target.dtype == torch.float32
    for i, position in enumerate((2, 3)):
        row = int(np.flatnonzero([torch.equal(dataset[(position, row)]["wave"], batch.signal[i])
                                  for row in range(3)])[0])
        example = dataset[(position, row)]
        assert torch.equal(example["target"], batch.target[i])
        for name, source in batch.sources.items():
            assert torch.equal(example["sources"][name]["wave"], source.signal[i])
            assert torch.equal(example["sources"][name]["target"], source.target[i])


def test_batches_after_a_restart_are_those_of_the_whole_run(table, tmp_path, quick) -> None:
    """A killed run must not see other examples than one that lived, inside an epoch or between two."""
    config = replace(quick, data__most_per_class=1, data__least_per_class=1)
    options = {"sources": two_sources(tmp_path), "limit_gib": 0.1}
    whole = run(table, tmp_path, config, **options)
    assert len(whole) == 9
    for first_step in (3, 4, 8):
        assert_same(whole[first_step:], run(table, tmp_path, config, first_step=first_step, **options))
    assert run(table, tmp_path, config, first_step=9) == []
    rain = [float(wave[0]) for batch in whole for wave in batch.sources["rain"].signal]
    assert len(set(rain)) == 18  # no epoch repeats the clips of the one before


def test_what_no_augmentation_will_use_is_not_decoded(table, tmp_path, quick, monkeypatch) -> None:
    """Four sources at p = .25 cost as much as one; which examples have a clip depends on the position alone."""
    config = replace(quick, data__samples_per_epoch=200, train__epochs=1)
    asked: list[str] = []
    part = AudioStore.part
    monkeypatch.setattr(AudioStore, "part", lambda store, file, *span, **how: asked.append(file) or part(
        store, file, *span, **how))
    options = {"sources": two_sources(tmp_path), "shares": {"rain": 0.25, "soundscapes": 0.0}}
    batches = run(table, tmp_path, config, **options)
    rain = [batch.sources["rain"] for batch in batches]
    there, loud = (torch.cat(one) for one in ([one.p_factor > 0 for one in rain], [one.signal.any(1) for one in rain]))
    assert torch.equal(there, loud) and 30 < int(there.sum()) < 70 and asked.count("rain.wav") == int(there.sum())
    assert {float(value) for one in rain for value in one.p_factor} == {0.0, 4.0}
    assert all(torch.equal(one.weight, (one.p_factor > 0).float()) for one in rain)
    assert "s.wav" not in asked and not any(batch.sources["soundscapes"].p_factor.any() for batch in batches)
    full = run(table, tmp_path, config, sources=options["sources"])  # of those that are there, the very same clips
    for one, batch in zip(rain, full, strict=True):
        assert torch.equal(one.signal, batch.sources["rain"].signal * (one.p_factor > 0)[:, None])
        assert bool((batch.sources["rain"].p_factor == 1).all())
    assert_same(batches[40:], run(table, tmp_path, config, first_step=40, **options))
    assert_same(batches, run(table, tmp_path, replace(config, train__workers=2), **options))


@pytest.mark.parametrize("limit_gib", [0.0, 11 * RATE * 2 / 2**30])
def test_workers_change_nothing(table, tmp_path, quick, limit_gib: float) -> None:
    """The number of processes is a matter of speed, not of the result; nor is what each of them keeps in memory."""
    sources = two_sources(tmp_path)
    alone = run(table, tmp_path, quick, sources=sources, limit_gib=limit_gib)
    for workers in (1, 2):
        shared = run(table, tmp_path, replace(quick, train__workers=workers), sources=sources, limit_gib=limit_gib)
        assert_same(alone, shared)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_together_see_the_examples_of_one(table, tmp_path, quick, world_size: int) -> None:
    """Two cards train the run that one card would have trained."""
    config = replace(quick, train__batch_size=4, data__samples_per_epoch=12)
    sources = two_sources(tmp_path)
    whole = run(table, tmp_path, config, sources=sources)
    ranks = [run(table, tmp_path, config, rank=rank, world_size=world_size, sources=sources)
             for rank in range(world_size)]
    assert all(len(batch) == 4 // world_size for rank in ranks for batch in rank)
    for step, batch in enumerate(whole):
        own = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part.signal for part in own]), batch.signal)
        assert torch.equal(torch.cat([part.sources["rain"].signal for part in own]), batch.sources["rain"].signal)


def test_a_batch_that_cannot_be_shared_out_is_refused(table, tmp_path, quick) -> None:
    """Three cards for batches of two: somebody would wait for ever, or see other examples. Said at once, not later."""
    dataset = make_dataset(table, tmp_path, quick)
    for rank, world_size in ((0, 3), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"batch_size = 2 cannot be shared out evenly to rank {rank} of"):
            training_batches(dataset, table["label"].tolist(), quick, first_step=0, rank=rank, world_size=world_size)
    with pytest.raises(ValueError, match="2 labels for a dataset of 3 recordings"):
        training_batches(dataset, ["ant", "bee"], quick, first_step=0)


def test_classes_are_sampled_as_the_settings_say(tmp_path, small_run) -> None:
    """Nine ants and one bee: as they are, alike, capped, and repeated."""
    sf.write(tmp_path / "a.wav", noise(1), RATE)
    rows = pd.DataFrame({"file": "a.wav", "label": ["ant"] * 9 + ["bee"], "secondary": "", "duration_s": 1.0,
                         "rating": 0.0, "split": 0})
    config = replace(small_run, train__epochs=1, train__batch_size=10, train__workers=0, data__samples_per_epoch=60)
    for changes, ants in (({"data__balance": 0.0}, 54), ({"data__balance": 1.0}, 30),
                          ({"data__balance": 0.0, "data__most_per_class": 2}, 40),
                          ({"data__balance": 0.0, "data__least_per_class": 3}, 45)):
        batches = run(rows, tmp_path, replace(config, **changes))
        counts = Counter(label for batch in batches for label in batch.target.argmax(1).tolist())
        assert counts == {0: ants, 1: 60 - ants}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanished_is_named(table, tmp_path, quick, workers: int) -> None:
    """After hours of training, the one thing worth knowing is which file."""
    dataset = make_dataset(table, tmp_path, replace(quick, train__workers=workers))
    (tmp_path / "b.wav").unlink()
    batches = training_batches(dataset, table["label"].tolist(), replace(quick, train__workers=workers), first_step=0)
    with contextlib.closing(batches), pytest.raises(AudioError, match=r"b\.wav: there is no such file"):
        list(batches)


@pytest.mark.parametrize("format", ["flac", "int16"])
def test_a_packed_table_trains_on_the_same_examples(table, tmp_path, quick, format: str) -> None:
    """To sixteen bits; table, seed and positions do not change, so neither does the experiment."""
    pack(table, tmp_path, tmp_path / "packed", format=format, sample_rate_hz=RATE, progress=False)
    plain = run(table, tmp_path, quick)
    for file in table["file"]:
        (tmp_path / file).unlink()
    for a, b in zip(plain, run(table, tmp_path, quick, packed=tmp_path / "packed"), strict=True):
        assert torch.allclose(a.signal, b.signal, atol=2e-5) and torch.equal(a.target, b.target)


# Examples of a class's own --------------------------------------------------------------------------------------------

def matched_source(root, match: float = 0.5) -> dict[str, ClipSource]:
    """Six windows of 2 s, each of its own amplitude: ants in the second and third, a doubtful bee in the fourth."""
    wave = np.concatenate([(0.1 + 0.1 * second) * np.ones(2 * RATE, np.float32) for second in range(6)])
    sf.write(root / "levels.wav", wave, RATE, subtype="FLOAT")
    windows = pd.DataFrame({"file": "levels.wav", "start_s": 2.0 * np.arange(6), "end_s": 2.0 * np.arange(6) + 2,
                            "ant": [0.0, 0.9, 0.6, 0, 0, 0], "bee": [0.0, 0, 0, 0.4, 0, 0], "crow": 0.0})
    return {"matched": ClipSource.pseudo_labelled(windows, CLASSES, PseudoConfig(), 2.0, match=match)}


def test_a_matched_clip_holds_the_class_of_its_example(table, tmp_path, small_run) -> None:
    """2025 second place replaces an ant by an ant: whatever else would upset the balance of classes, and the label."""
    config = replace(small_run, frontend__clip_s=2.0)
    dataset = make_dataset(table, tmp_path, config, sources=matched_source(tmp_path))
    levels = Counter(round(float(dataset[(position, 0)]["sources"]["matched"]["wave"].mean()), 2)
                     for position in range(40))
    assert set(levels) == {0.2, 0.3} and min(levels.values()) >= 15
    example = dataset[(3, 0)]["sources"]["matched"]
    assert float(example["target"][0]) in (pytest.approx(0.9), pytest.approx(0.6)) and float(example["weight"]) == 1
    for recording in (1, 2):  # the bee is only suspected, and there is no crow
        nothing = dataset[(3, recording)]["sources"]["matched"]
        assert not nothing["wave"].any() and not nothing["target"].any() and float(nothing["weight"]) == 0
    sure = make_dataset(table, tmp_path, config, sources=matched_source(tmp_path, match=0.3))
    assert float(sure[(3, 1)]["sources"]["matched"]["weight"]) == 1


def test_matched_clips_come_again_after_an_interruption_and_in_workers(table, tmp_path, quick) -> None:
    """From (seed, position) alone, as everything else."""
    config = replace(quick, frontend__clip_s=2.0)
    whole = run(table, tmp_path, config, sources=matched_source(tmp_path))
    assert_same(whole[4:], run(table, tmp_path, config, sources=matched_source(tmp_path), first_step=4))
    assert_same(whole, run(table, tmp_path, replace(config, train__workers=1), sources=matched_source(tmp_path)))
    weights = torch.cat([batch.sources["matched"].weight for batch in whole])
    assert 0 < float(weights.mean()) < 1
