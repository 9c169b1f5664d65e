"""Sources: the right clips with the right labels, drawn as asked, and a clear word where there are none."""
import logging

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE, noise, tone

from birdkit.augmentations import AUGMENTATIONS
from birdkit.batch import Batch
from birdkit.config import DataConfig, PseudoConfig, RunConfig, SourceConfig
from birdkit.data import AudioStore, ClipSource, DataError, choose_sources
from birdkit.data.packing import pack
from birdkit.data.tables import keep_rated, make_cell_weights, make_targets, make_weights
from birdkit.data.window_choice import window_odds
from birdkit.settings import replace

CLASSES = ("ant", "bee", "crow")


@pytest.fixture
def table() -> pd.DataFrame:
    """Five recordings; the crow is the primary label of one and the secondary of two."""
    return pd.DataFrame({"file": list("abcde"), "label": ["ant", "bee", "crow", "ant", "ant"],
                         "secondary": ["bee crow", "crow", "", "", "bee"], "duration_s": [10.0, 6.0, 1.0, 8.0, 9.0],
                         "rating": [0.0, 5.0, 2.5, 1.0, 4.0], "split": [0, 1, -1, 1, 2]})


def windows() -> pd.DataFrame:
    """Two files of three windows of 2 s; columns in another order than the classes."""
    return pd.DataFrame({"file": ["s.wav"] * 3 + ["t.wav"] * 3, "start_s": [0.0, 2, 4] * 2, "end_s": [2.0, 4, 6] * 2,
                         "crow": [0.9, 0.0, 0.05, 0, 0, 0.5], "bee": [0.0] * 6, "ant": [0.0, 0.8, 0.0, 0, 0, 0]})


# Pseudo-labelled windows ----------------------------------------------------------------------------------------------

def test_pseudo_labels_are_matched_by_name_and_cover_the_clip() -> None:
    """A clip of 4 s holds two windows of 2 s; what is in either is in the clip."""
    shuffled = windows().sample(frac=1, random_state=1)
    for given in (windows(), shuffled):
        source = ClipSource.pseudo_labelled(given, CLASSES, PseudoConfig(), 4.0)
        assert source.file.tolist() == ["s.wav"] * 3 + ["t.wav"] * 3
        assert np.allclose(source.target, [[0.8, 0, 0.9], [0.8, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0.5], [0, 0, 0.5]])
        assert source.length_s.tolist() == [4, 4, 2] * 2  # the last clip of a file ends with it
        assert source.crop == "first" and (source.cell_weight == 1).all() and (source.weight == 1).all()


def test_power_floor_and_target_shape_pseudo_labels() -> None:
    """A power above 1 lowers the unsure ones; low probabilities become zero; all of them may count less."""
    config = PseudoConfig(power=2.0, floor=0.3, target=0.5)
    source = ClipSource.pseudo_labelled(windows(), CLASSES, config, 2.0)
    assert np.allclose(source.target[:, 2], [0.405, 0, 0, 0, 0, 0]) and np.allclose(source.target[1, 0], 0.32)


def test_hard_pseudo_labels_are_the_teachers_decision() -> None:
    """The second seed's threshold of 0.5, of the probability itself whatever power and floor are set to."""
    config = PseudoConfig(hard=0.5, power=4.0, floor=0.9)
    source = ClipSource.pseudo_labelled(windows(), CLASSES, config, 2.0)
    assert source.target.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_rich_soundscapes_are_drawn_more_often() -> None:
    """By file, in proportion to the sum over classes of the largest label: 0.8 + 0.9 against 0.5."""
    uneven = windows().iloc[[0, 1, 2, 4, 5]]
    config = PseudoConfig(sampler="sum", target=0.1)
    odds = ClipSource.pseudo_labelled(uneven, CLASSES, config, 4.0).odds
    assert odds[:3].sum() / odds[3:].sum() == pytest.approx(1.7 / 0.5)
    assert odds[:3] == pytest.approx([odds[0]] * 3) and odds[3] == pytest.approx(odds[4])
    assert set(ClipSource.pseudo_labelled(uneven, CLASSES, PseudoConfig(), 4.0).odds) == {1.0}
    with pytest.raises(DataError, match="nothing to draw: no label of 5 windows is above 0"):
        window_odds(uneven, np.zeros((5, 3)), np.arange(5), config)


def test_a_pseudo_label_table_without_a_class_is_refused() -> None:
    """Missing means unknown, not absent."""
    with pytest.raises(DataError, match="no column for ant"):
        ClipSource.pseudo_labelled(windows().drop(columns="ant"), CLASSES, PseudoConfig(), 2.0)


def test_the_clip_of_a_window_is_that_window(tmp_path) -> None:
    """The tone of window 1 has the label of window 1; a clip at the end of the file repeats what is left."""
    sf.write(tmp_path / "s.wav", np.concatenate([noise(2), tone(3000, 2), noise(2)]), RATE, subtype="FLOAT")
    source = ClipSource.pseudo_labelled(windows(), CLASSES, PseudoConfig(), 4.0)
    store, rng = AudioStore(tmp_path, RATE), np.random.default_rng(0)
    clips = [source.clip(row, store=store, n_samples=4 * RATE, rng=rng)[0] for row in range(3)]
    whole = store.whole("s.wav")
    np.testing.assert_array_equal(clips[0], whole[:4 * RATE])
    np.testing.assert_array_equal(clips[1], whole[2 * RATE:])
    np.testing.assert_array_equal(clips[2][:2 * RATE], clips[2][2 * RATE:])
    assert sorted(clips[2][:2 * RATE]) == sorted(whole[4 * RATE:])


# Folders --------------------------------------------------------------------------------------------------------------

def test_a_folder_of_noise_is_read_from_its_headers(tmp_path, caplog) -> None:
    """Any folder of audio, at any depth; what cannot be read is named and left out, and nothing calls in the rest."""
    (tmp_path / "deep").mkdir()
    sf.write(tmp_path / "b.wav", noise(2), RATE)
    sf.write(tmp_path / "deep" / "a.FLAC", noise(3), RATE, format="FLAC")
    (tmp_path / "broken.ogg").write_bytes(b"")
    (tmp_path / "readme.txt").write_text("noise")
    source = ClipSource.folder(tmp_path, 3)
    assert dict(zip(source.file, source.length_s, strict=True)) == {
        str(tmp_path / "b.wav"): 2.0, str(tmp_path / "deep" / "a.FLAC"): 3.0}
    assert source.target.shape == (2, 3) and not source.target.any() and (source.cell_weight == 1).all()
    assert "1 of 3 files below" in caplog.text and "broken.ogg: the file is empty" in caplog.text
    clip, _, _ = source.clip(0, store=AudioStore("/nowhere", RATE), n_samples=RATE, rng=np.random.default_rng(0))
    assert len(clip) == RATE and clip.std() > 0.05


def test_a_folder_with_nothing_to_hear_is_refused(tmp_path) -> None:
    """A mistyped path would train without noise and look like a run with it."""
    with pytest.raises(DataError, match="absent: there is no such folder"):
        ClipSource.folder(tmp_path / "absent", 3)
    with pytest.raises(DataError, match="no audio below it"):
        ClipSource.folder(tmp_path, 3)
    (tmp_path / "broken.ogg").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 files can be read; the first: .*broken\.ogg: the file is empty"):
        ClipSource.folder(tmp_path, 3)


# Recordings -----------------------------------------------------------------------------------------------------------

def test_recordings_have_the_labels_and_weights_of_training_examples(table) -> None:
    """A second loader with labels of its own making is how the two seeds' label bugs began."""
    config = DataConfig(secondary="mask", rating_weights=True, label_smoothing=0.02, crop="last", short="place")
    source = ClipSource.recordings(table, CLASSES, config)
    np.testing.assert_array_equal(source.target, make_targets(table, CLASSES, config))
    np.testing.assert_array_equal(source.weight, make_weights(table, config))
    np.testing.assert_array_equal(source.cell_weight, make_cell_weights(table, CLASSES, config))
    assert (source.crop, source.short) == ("last", "place")
    with pytest.raises(DataError, match=r"d: rated below min_rating = 2"):
        ClipSource.recordings(table, CLASSES, DataConfig(min_rating=2.0))
    assert len(ClipSource.recordings(keep_rated(table, DataConfig(min_rating=2.0)), CLASSES,
                                     DataConfig(min_rating=2.0))) == 4


# The choice -----------------------------------------------------------------------------------------------------------

def choose(config: RunConfig, needed: set[str], table, soundscapes=None, pseudo_labels=None) -> dict[str, ClipSource]:
    return choose_sources(config, needed, CLASSES, recordings=table, soundscapes=soundscapes,
                          pseudo_labels=pseudo_labels)


def soundscapes() -> pd.DataFrame:
    return pd.DataFrame({"file": ["s.wav", "t.wav"], "duration_s": [60.0, 58.0]})


def test_round_and_pseudo_labels_must_agree(small_run, table) -> None:
    """Round 0 with pseudo-labels, or round 1 without, is a mistake in the notebook's settings."""
    with pytest.raises(ValueError, match="round 1 needs pseudo-labels, but 0 windows were given"):
        choose(replace(small_run, round=1), set(), table)
    with pytest.raises(ValueError, match="round 0 takes no pseudo-labels, but 6 windows were given"):
        choose(small_run, {"soundscapes"}, table, soundscapes(), windows())
    assert choose(replace(small_run, round=1, distil__self_share=0.7), set(), table) == {}  # of recordings alone


def test_soundscapes_are_whole_files_and_then_labelled_windows(small_run, table, caplog) -> None:
    """Nothing is known of them in round 0; from round 1 on their windows come with what the teachers said."""
    first = choose(small_run, {"soundscapes"}, table, soundscapes())["soundscapes"]
    assert first.length_s.tolist() == [60.0, 58.0] and not first.target.any() and (first.cell_weight == 1).all()
    later = replace(small_run, round=1)
    second = choose(later, {"soundscapes"}, table, soundscapes(), windows())["soundscapes"]
    assert len(second) == 6 and second.target.max() == pytest.approx(0.9)
    assert "not used" not in caplog.text
    assert choose(later, set(), table, soundscapes(), windows()) == {}
    assert "no augmentation mixes in the source 'soundscapes': 6 pseudo-labels are not used" in caplog.text


def test_pseudo_labels_can_be_a_source_of_their_own(small_run, table, caplog) -> None:
    """Substitution draws by class what soundscape_mix draws at random; the settings of pseudo shape both."""
    config = replace(small_run, round=1, pseudo__floor=0.0, pseudo__power=2.0,
                     data__sources=(SourceConfig("matched", "pseudo_labels", match=0.5),))
    chosen = choose(config, {"matched", "soundscapes"}, table, soundscapes(), windows())
    np.testing.assert_array_equal(chosen["matched"].target, chosen["soundscapes"].target)
    assert chosen["soundscapes"].matches is None
    np.testing.assert_array_equal(chosen["matched"].matches, chosen["matched"].target >= 0.5)
    assert set(choose(config, {"matched"}, table, soundscapes(), windows())) == {"matched"}
    assert "not used" not in caplog.text
    choose(config, set(), table, soundscapes(), windows())
    assert "mixes in the source 'matched' or 'soundscapes': 6 pseudo-labels are not used" in caplog.text


def test_each_source_has_a_weight_of_its_own(small_run, table, tmp_path) -> None:
    """A teacher's guess beside a person's label, noise beside both: through every member that brings them in."""
    sf.write(tmp_path / "rain.wav", noise(2), RATE)
    config = replace(small_run, round=1, pseudo__weight=0.5, data__rating_weights=True, data__sources=(
        SourceConfig("rain", path=str(tmp_path), weight=0.2), SourceConfig("heard", "labelled_soundscapes", weight=3.0),
        SourceConfig("crows", "recordings", classes=("crow",), weight=2.0),
        SourceConfig("matched", "pseudo_labels", match=0.5, weight=0.5)))
    heard = pd.DataFrame({"file": "h.wav", "start_s": [0.0], "end_s": [5.0], "labels": "ant", "split": 1})
    names = {"rain", "heard", "crows", "matched", "soundscapes"}
    chosen = choose_sources(config, names, CLASSES, recordings=table[table["split"] != 0], soundscapes=soundscapes(),
                            pseudo_labels=windows(), labelled_soundscapes=heard)
    weights = {name: sorted({round(float(one), 3) for one in source.weight}) for name, source in chosen.items()}
    # Of the recordings with a crow, b is rated 5 of 5 and c 2.5.
    assert weights == {"rain": [0.2], "heard": [3.0], "crows": [1.0, 2.0], "matched": [0.25], "soundscapes": [0.5]}
    batch = Batch(torch.ones(2, 8), torch.eye(2), torch.ones(2), sources={name: Batch(
        torch.ones(2, 8), torch.zeros(2, 2), torch.full((2,), weights[name][0])) for name in names})
    expected = {"rain": 0.2, "heard": 3.0, "matched": 0.25, "soundscapes": 0.5}
    for source, weight in expected.items():
        for member, options in (("source_only", {}), ("substitute", {}), ("background", {"weight_share": 1.0})):
            mixed = AUGMENTATIONS.build(member, p=1.0, source=source, **options)(batch, torch.Generator())
            assert mixed.weight.tolist() == pytest.approx([weight] * 2)


def test_windows_that_are_not_there_are_named_with_what_to_do(small_run, table) -> None:
    """Round 0 has no pseudo-labels, and most competitions no labelled soundscapes."""
    for kind, advice in (("pseudo_labels", "from round 1 on"), ("labelled_soundscapes", "run notebook 01 again")):
        config = replace(small_run, data__sources=(SourceConfig("more", kind),))
        with pytest.raises(ValueError, match=f"'more' of kind '{kind}', but there are none .* round 0: .*{advice}"):
            choose(config, {"more"}, table, soundscapes())


def test_a_source_that_is_not_there_is_named_with_what_to_set(small_run, table) -> None:
    """Found in the first step of the run, it would cost the time to get there."""
    with pytest.raises(ValueError, match="mixes in the source 'soundscapes', but there are no soundscapes"):
        choose(small_run, {"soundscapes"}, table)
    noise_too = replace(small_run, data__sources=(SourceConfig("rain", path="/rain"),))
    with pytest.raises(ValueError, match=r"source 'scored', but data\.sources has rain: add a SourceConfig"):
        choose(noise_too, {"scored"}, table)
    assert choose(noise_too, set(), table) == {}  # nobody asks for the rain: its folder is not even looked at


def test_all_kinds_are_chosen_by_name(small_run, table, tmp_path, caplog) -> None:
    """Noise and a second loader beside the soundscapes; the validating split is in none of them."""
    sf.write(tmp_path / "rain.wav", noise(2), RATE)
    config = replace(small_run, split=1, data__sources=(SourceConfig("rain", path=str(tmp_path)),
                                                        SourceConfig("crows", "recordings", classes=("crow",))))
    with caplog.at_level(logging.INFO):
        chosen = choose(config, {"crows", "rain", "soundscapes"}, table, soundscapes())
    assert list(chosen) == ["crows", "rain", "soundscapes"]
    assert chosen["crows"].file.tolist() == ["a", "c"]  # b is of split 1
    assert "source crows: 2 rows in 2 files, 2 of them with labels" in caplog.text
    assert "source rain: 1 rows in 1 files, 0 of them with labels" in caplog.text


# Packings -------------------------------------------------------------------------------------------------------------

def test_clips_come_from_what_was_packed(tmp_path, caplog) -> None:
    """Cut to its first 4 s, a recording of 10 s has no clip beyond them; a mark beyond them is not looked for."""
    sf.write(tmp_path / "a.wav", np.repeat([0.1, 0.2], 5 * RATE), RATE, subtype="FLOAT")
    rows = pd.DataFrame({"file": ["a.wav"], "label": "ant", "secondary": "", "duration_s": 10.0, "rating": 0.0,
                         "split": 0, "centre_s": 8.0})
    pack(rows, tmp_path, tmp_path / "packed", sample_rate_hz=RATE, seconds=4.0, progress=False)
    store = AudioStore(tmp_path, RATE, packed=tmp_path / "packed")
    for crop in ("random", "last", "rms", "marked"):
        source = ClipSource.recordings(rows, CLASSES, DataConfig(crop=crop)).within(store, 3.0)
        assert source.length_s.tolist() == [4.0]
        for seed in range(5):
            clip, _, _ = source.clip(0, store=store, n_samples=3 * RATE, rng=np.random.default_rng(seed))
            assert len(clip) == 3 * RATE and np.abs(clip - 0.1).max() < 1e-4
    assert np.isnan(source.centre_s).all() and "1 marked centres lie outside of what is packed" in caplog.text
    plain = AudioStore(tmp_path, RATE)
    assert source.within(plain, 3.0) is source


def test_less_than_a_clip_is_refused(tmp_path) -> None:
    """A window of second 5 cannot be heard in a soundscape of which 4 s were packed, nor 5 s clips be cut from it."""
    sf.write(tmp_path / "s.wav", noise(10), RATE)
    pack(pd.DataFrame({"file": ["s.wav"], "duration_s": [10.0]}), tmp_path, tmp_path / "packed", sample_rate_hz=RATE,
         seconds=4.0, progress=False)
    store = AudioStore(tmp_path, RATE, packed=tmp_path / "packed")
    source = ClipSource.pseudo_labelled(windows().iloc[:3], CLASSES, PseudoConfig(), 2.0)
    with pytest.raises(DataError, match=r"s\.wav: of 4 to 6 s only what lies in 0 to 4 s is packed .* 1 of 3 rows"):
        source.within(store, 2.0)
    whole = ClipSource.unlabelled(pd.DataFrame({"file": ["s.wav"], "duration_s": [10.0]}), 3)
    with pytest.raises(DataError, match="too little for a clip of 5 s"):
        whole.within(store, 5.0)
    assert whole.within(store, 3.0).length_s.tolist() == [4.0]


def test_what_the_teachers_are_unsure_of_is_left_out_of_the_loss() -> None:
    """Between yes and no a teacher's guess teaches its own mistakes."""
    table = pd.DataFrame({"file": "s.wav", "start_s": [0.0, 5.0], "end_s": [5.0, 10.0], "owl": [0.7, 0.05],
                          "frog": [0.3, 0.1]})
    config = PseudoConfig(hard=0.6, unsure_from=0.1, unsure_to=0.6)
    source = ClipSource.pseudo_labelled(table, ["owl", "frog"], config, 5.0)
    assert source.target.tolist() == [[1, 0], [0, 0]] and source.cell_weight.tolist() == [[1, 0], [1, 1]]
    longer = ClipSource.pseudo_labelled(table, ["owl", "frog"], config, 10.0)
    assert longer.target[0].tolist() == [1, 0] and longer.cell_weight[0].tolist() == [1, 0]
    assert ClipSource.pseudo_labelled(table, ["owl", "frog"], PseudoConfig(), 5.0).cell_weight.all()
    with pytest.raises(ValueError, match=r"unsure_from = 0.7 is above unsure_to = 0.6"):
        PseudoConfig(unsure_from=0.7, unsure_to=0.6)
