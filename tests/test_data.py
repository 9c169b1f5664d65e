"""From tables to batches: labels by name, crops that move, and the same examples after a restart."""
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE, click, noise, tone

from birdkit.config import DataConfig, RunConfig
from birdkit.data import (
    AudioStore,
    Backgrounds,
    ClipDataset,
    DataError,
    energy_weights,
    make_targets,
    make_weights,
    spans,
    steps_per_epoch,
    table_hash,
    training_batches,
)
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


def make_dataset(table: pd.DataFrame, root, config: RunConfig, **options) -> ClipDataset:
    store = AudioStore(root, RATE, limit_gib=options.pop("limit_gib", 0.0))
    return ClipDataset(table, CLASSES, config, store=store, **options)


def test_secondary_labels_stay_soft(table) -> None:
    """The second seed cast its 0.3 to an integer: no secondary label was ever trained on."""
    targets = make_targets(table, CLASSES, DataConfig(secondary_target=0.3))
    assert np.allclose(targets, [[1, 0.3, 0.3], [0, 1, 0], [0, 0, 1]])


def test_targets_follow_class_names_not_positions(table) -> None:
    """Several of the second seed's experiments trained on labels shifted by one class."""
    plain = make_targets(table, CLASSES, DataConfig())
    turned = make_targets(table, CLASSES[::-1], DataConfig())
    assert np.array_equal(plain, turned[:, ::-1])


def test_label_smoothing_keeps_positives_at_one(table) -> None:
    """Added and clipped, as the 2021 second place did."""
    targets = make_targets(table, CLASSES, DataConfig(label_smoothing=0.01))
    assert targets[1].tolist() == pytest.approx([0.01, 1.0, 0.01])


def test_a_label_outside_the_classes_is_named_with_its_file(table) -> None:
    """A label that is dropped in silence is a class that is never learnt."""
    with pytest.raises(DataError, match=r"a\.wav: label 'bee' is not one of the 2 classes"):
        make_targets(table, ("ant", "crow"), DataConfig())


def test_nocall_is_the_absence_of_all_classes(table) -> None:
    """Noise is what a detector of calls learns silence from; where "nocall" is a class (2021), it stays one."""
    noise_too = table.assign(label=["ant", "nocall", "crow"], secondary=["nocall", "", ""])
    assert make_targets(noise_too, CLASSES, DataConfig()).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    named = make_targets(noise_too, ("nocall", "ant", "crow"), DataConfig(secondary_target=0.5))
    assert named.tolist() == [[0.5, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_unrated_recordings_have_a_weight_of_their_own(table) -> None:
    """Rating 0 means unrated; the first seed weighed those 0.1 without knowing."""
    assert make_weights(table, DataConfig()).tolist() == [1, 1, 1]
    config = DataConfig(rating_weights=True, unrated_weight=0.7)
    assert make_weights(table, config).tolist() == pytest.approx([0.7, 1, 0.5])


def test_random_crops_really_move(table, tmp_path, small_run) -> None:
    """A flag of the wrong type kept every crop of the second seed at the first twelve seconds."""
    dataset = make_dataset(table, tmp_path, small_run)
    clicks = {int(dataset[(position, 0)]["wave"].abs().argmax()) for position in range(12)}
    assert len(clicks) > 6
    first = make_dataset(table, tmp_path, replace(small_run, data__crop="first"))
    assert all(torch.equal(first[(position, 0)]["wave"], first[(0, 0)]["wave"]) for position in range(4))


def test_energy_weighted_crops_find_the_call(table, tmp_path, small_run) -> None:
    """A focal recording is half silence; a crop of silence teaches a wrong label."""
    config = replace(small_run, data__crop="rms")
    dataset = make_dataset(table, tmp_path, config)
    heard = sum(float(dataset[(position, 0)]["wave"].abs().max()) > 0.5 for position in range(40))
    plain = make_dataset(table, tmp_path, small_run)
    assert heard > sum(float(plain[(position, 0)]["wave"].abs().max()) > 0.5 for position in range(40)) + 5


def test_energy_weights_follow_the_rms() -> None:
    """Two seconds of a loud tone, two of one ten times quieter."""
    wave = np.concatenate([tone(1000, 2), 0.1 * tone(1000, 2)])
    weights = energy_weights(wave, RATE, 2 * RATE)
    assert weights.sum() == pytest.approx(1.0) and weights[0] / weights[1] == pytest.approx(10, rel=1e-3)
    assert energy_weights(np.zeros(100, np.float32), 50, 25).tolist() == pytest.approx([1 / 3] * 3)


def test_a_short_recording_is_repeated_never_filled_with_noise(table, tmp_path, small_run) -> None:
    """The second seed put full-scale noise between repeats: the bird was buried under it."""
    wave = make_dataset(table, tmp_path, small_run)[(0, 2)]["wave"].numpy()
    assert len(wave) == 4 * RATE
    assert np.array_equal(wave[:RATE], wave[RATE:2 * RATE]) and np.abs(wave).max() < 0.6


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


def test_the_store_keeps_within_its_limit_and_changes_nothing(table, tmp_path) -> None:
    """Sixteen bits of a file's own full scale are inaudible; a limit is a limit."""
    kept, plain = AudioStore(tmp_path, RATE, limit_gib=11 * RATE * 2 / 2**30), AudioStore(tmp_path, RATE)
    for file in table["file"]:
        for _ in range(2):
            assert np.abs(kept.whole(file) - plain.whole(file)).max() < 2e-5
            assert np.abs(kept.part(file, 0.25, 0.5) - plain.part(file, 0.25, 0.5)).max() < 2e-5
    assert set(kept._kept) == {"a.wav", "c.wav"} and kept.free_bytes == 0


def soundscape_labels() -> pd.DataFrame:
    """Two files of three windows; columns in another order than the classes."""
    return pd.DataFrame({"file": ["s.wav"] * 3 + ["t.wav"] * 3, "start_s": [0.0, 2, 4] * 2, "end_s": [2.0, 4, 6] * 2,
                         "crow": [0.9, 0.0, 0.05, 0, 0, 0.5], "bee": [0.0] * 6, "ant": [0.0, 0.8, 0.0, 0, 0, 0]})


def test_pseudo_labels_are_matched_by_name_and_cover_the_clip() -> None:
    """A clip of 4 s holds two windows of 2 s; what is in either is in the clip."""
    backgrounds = Backgrounds.pseudo_labelled(soundscape_labels(), CLASSES, DataConfig(), clip_s=4.0)
    expected = [[0.8, 0, 0.9], [0.8, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0.5], [0, 0, 0.5]]
    assert np.allclose(backgrounds.target, expected)


def test_power_and_floor_shape_pseudo_labels() -> None:
    """A power above 1 lowers the unsure ones; low probabilities become zero."""
    config = DataConfig(pseudo_power=2.0, pseudo_floor=0.3)
    backgrounds = Backgrounds.pseudo_labelled(soundscape_labels(), CLASSES, config, clip_s=2.0)
    assert np.allclose(backgrounds.target[:, 2], [0.81, 0, 0, 0, 0, 0])


def test_a_pseudo_label_table_without_a_class_is_refused() -> None:
    """Missing means unknown, not absent."""
    with pytest.raises(DataError, match="no column for ant"):
        Backgrounds.pseudo_labelled(soundscape_labels().drop(columns="ant"), CLASSES, DataConfig(), clip_s=2.0)


def test_backgrounds_come_with_their_own_labels(table, tmp_path, small_run) -> None:
    """The tone of window 1 has the label of window 1, in every draw."""
    sf.write(tmp_path / "s.wav", np.concatenate([noise(2), tone(3000, 2), noise(2)]), RATE, subtype="FLOAT")
    sf.write(tmp_path / "t.wav", noise(6), RATE, subtype="FLOAT")
    config = replace(small_run, frontend__clip_s=2.0, frontend__hop_samples=500)
    backgrounds = Backgrounds.pseudo_labelled(soundscape_labels(), CLASSES, config.data, clip_s=2.0)
    dataset = make_dataset(table, tmp_path, config, backgrounds=backgrounds)
    drawn = [dataset[(position, 1)] for position in range(30)]
    for example in drawn:
        is_tone = float(example["background_wave"].abs().max()) > 0.49 and float(example["background_wave"].std()) > 0.3
        assert is_tone == (float(example["background_target"][0]) > 0.5)
    assert 0 < sum(float(example["background_target"][0]) > 0.5 for example in drawn) < 30


def test_batches_after_a_restart_are_those_of_the_whole_run(table, tmp_path, small_run) -> None:
    """A killed run must not see other examples than one that lived."""
    config = replace(small_run, train__epochs=3, train__batch_size=2, train__workers=0, data__samples_per_epoch=6)
    dataset = make_dataset(table, tmp_path, config)
    labels = table["label"].tolist()
    whole = list(training_batches(dataset, labels, config, first_step=0))
    rest = list(training_batches(dataset, labels, config, first_step=4))
    assert len(whole) == 9 and len(rest) == 5
    for a, b in zip(whole[4:], rest, strict=True):
        assert torch.equal(a.signal, b.signal) and torch.equal(a.target, b.target)


def test_workers_change_nothing(table, tmp_path, small_run) -> None:
    """The number of processes is a matter of speed, not of the result."""
    config = replace(small_run, train__epochs=1, train__batch_size=2, train__workers=0, data__samples_per_epoch=6)
    labels = table["label"].tolist()
    alone = list(training_batches(make_dataset(table, tmp_path, config), labels, config, first_step=0))
    config = replace(config, train__workers=2)
    shared = list(training_batches(make_dataset(table, tmp_path, config), labels, config, first_step=0))
    assert all(torch.equal(a.signal, b.signal) for a, b in zip(alone, shared, strict=True))


def test_the_table_hash_knows_labels_but_not_order(table) -> None:
    """Two runs on the same recordings have one hash; one changed label makes another."""
    changed = table.assign(label=["ant", "bee", "bee"])
    assert table_hash(table) == table_hash(table.iloc[::-1]) != table_hash(changed)


def test_an_epoch_is_as_long_as_asked_for(small_run) -> None:
    """Whole batches, at least one."""
    config = replace(small_run, train__batch_size=32)
    assert steps_per_epoch(config, 100) == 3 and steps_per_epoch(config, 5) == 1
    assert steps_per_epoch(replace(config, data__samples_per_epoch=640), 5) == 20


def test_a_table_of_another_kind_is_refused(tmp_path, small_run) -> None:
    """Say what is missing before the first epoch."""
    with pytest.raises(DataError, match="no column duration_s"):
        make_dataset(pd.DataFrame(columns=["file", "label", "secondary", "rating", "split"]), tmp_path, small_run)


@pytest.mark.parametrize("crop", ["random", "first", "rms"])
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
    assert whole.min() < 0.11 and (crop == "first" or whole.max() > 0.29)


def test_a_span_that_cannot_be_is_refused(table) -> None:
    """It would be cut from somewhere else, or be nothing."""
    assert np.isnan(spans(table)).all()
    for start_s, end_s in ((3.0, 2.0), (-1.0, 2.0), (2.0, 7.0), (np.nan, 2.0)):
        rows = table.assign(start_s=[0.0, start_s, np.nan], end_s=[10.0, end_s, np.nan])
        with pytest.raises(DataError, match=r"b\.wav: .* is no span of a file of 6 s"):
            spans(rows)
    with pytest.raises(DataError, match="has a column start_s, but a span needs start_s and end_s"):
        spans(table.assign(start_s=0.0))


def test_the_table_hash_knows_spans(table) -> None:
    """Other windows of the same files are another training table."""
    one, other = (table.assign(start_s=start_s, end_s=start_s + 1) for start_s in (0.0, 2.0))
    assert len({table_hash(one), table_hash(other), table_hash(table)}) == 3
    assert table_hash(one) == table_hash(one.iloc[::-1])
