"""Validation is submission: the same windows, aggregation and metric, on audio whose truth is known."""
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE, noise, tone

from birdkit.config import Member
from birdkit.data import AudioStore
from birdkit.inference import Predictor, predict
from birdkit.metrics import macro_roc_auc
from birdkit.metrics.comparison import Validated
from birdkit.models import build_model
from birdkit.settings import replace
from birdkit.training.validation import Validation

CLASSES = ("high", "low")


@pytest.fixture
def held_out(tmp_path) -> pd.DataFrame:
    """Four recordings of two kinds of tone."""
    rows = []
    for i, label in enumerate(["high", "low", "high", "low"]):
        swell = tone(6000 if label == "high" else 900, 7) * np.hanning(7 * RATE)
        sf.write(tmp_path / f"{i}.wav", swell + noise(7, amplitude=0.01, seed=i), RATE, subtype="FLOAT")
        rows.append({"file": f"{i}.wav", "label": label, "secondary": "", "split": 0})
    return pd.DataFrame(rows)


@pytest.fixture
def soundscapes(tmp_path) -> pd.DataFrame:
    """One background of split 0, one of split 1."""
    for name in ("own.wav", "other.wav"):
        sf.write(tmp_path / name, noise(20, amplitude=0.05), RATE, subtype="FLOAT")
    return pd.DataFrame({"file": ["own.wav", "other.wav"], "duration_s": [20.0, 20.0], "split": [0, 1]})


@pytest.fixture
def run(small_run):
    return replace(small_run, validation__kind="composed", validation__n_soundscapes=3, inference__backend="torch")



def perfect(run, *, confused: bool = False):
    """A real SED model whose logits are replaced by the level of two bands of the image; confused, by each other's."""
    model = build_model(run.model, run.frontend, 2).eval()

    def classify(image):
        from birdkit.folding import unfold
        from birdkit.output import SEDOutput

        bands = unfold(image, run.frontend.strips)[:, 0]  # (B, 64, T)
        low, high = bands[:, 13:19].amax(1), bands[:, 45:53].amax(1)  # (B, T)
        logits = torch.stack([low, high] if confused else [high, low], -1)
        attention = torch.softmax(3 * logits, 1)
        return SEDOutput((attention * logits).sum(1), logits, attention)

    model.classify = classify  # type: ignore[method-assign]
    model.n_segments = run.frontend.n_frames
    return model


def prepare(run, held_out, soundscapes, root, labelled=None) -> Validation:
    store = AudioStore(root, RATE, limit_gib=0.1)
    return Validation.prepare(run, held_out, CLASSES, store=store, soundscapes=soundscapes,
                              labelled_soundscapes=labelled)


@pytest.fixture
def labelled(tmp_path) -> pd.DataFrame:
    """A soundscape of split 0 of four windows and a rest of milliseconds: high, low, high, low, of which the host
    labelled the first, the last two and the rest; and one of split 1."""
    waves = [tone(6000 if index % 2 == 0 else 900, 5) * np.hanning(5 * RATE) for index in range(4)]
    wave = np.concatenate([*waves, np.zeros(RATE // 100)])
    for name in ("l0.wav", "l1.wav"):
        sf.write(tmp_path / name, wave + noise(20.01, amplitude=0.01), RATE, subtype="FLOAT")
    start_s = np.array([0.0, 10.0, 15.0, 20.0])
    rows = pd.DataFrame({"file": "l0.wav", "start_s": start_s, "end_s": np.minimum(start_s + 5, 20.01),
                         "labels": ["high", "high", "low", "low"], "split": 0})
    return pd.concat([rows, rows.assign(file="l1.wav", split=1)], ignore_index=True)


def test_labelled_soundscapes_are_scored_in_the_windows_that_the_host_labelled(run, held_out, soundscapes, labelled,
                                                                              tmp_path) -> None:
    """Of nothing else is a truth known; and a model that takes one window for the next is told from one that hears."""
    config = replace(run, validation__kind="labelled", frontend__clip_s=5.0)
    validation = prepare(config, held_out.iloc[:0], None, tmp_path, labelled)  # needs no recording
    assert len(validation.waves) == 1 and validation.truth[0].tolist() == [[1, 0], [1, 0], [0, 1]]
    assert validation.validate(perfect(config), config, CLASSES).score == 1.0
    assert validation.validate(perfect(config, confused=True), config, CLASSES).score == 0.0
    said = predict([tmp_path / "l0.wav"], Predictor.of_model(perfect(config), config, CLASSES), window_s=5.0,
                   progress=False).table[list(CLASSES)].to_numpy()
    np.testing.assert_allclose(validation.predict(perfect(config), config, CLASSES)[0], said[[0, 2, 3]], atol=1e-3)
    with pytest.raises(ValueError, match=r"'labelled', but the host labelled no soundscape of split 2"):
        prepare(replace(config, split=2), held_out, None, tmp_path, labelled)
    with pytest.raises(ValueError, match=r"l0.wav: .* begin at \[0.0, 10.0, 15.0\] s, not at multiples of 4"):
        prepare(replace(config, task__window_s=4.0), held_out, None, tmp_path, labelled)


def test_both_kinds_of_soundscapes_validate_together(run, held_out, soundscapes, labelled, tmp_path) -> None:
    """A class without recordings has a score from the labelled ones, all others from more files."""
    config = replace(run, validation__kind="composed_and_labelled")
    high = held_out[held_out["label"] == "high"]
    validation = prepare(config, high, soundscapes, tmp_path, labelled)
    assert [len(truth) for truth in validation.truth] == [12, 12, 12, 3]
    assert not np.concatenate(validation.truth[:3])[:, 1].any() and validation.truth[3][:, 1].any()
    scored = validation.validate(perfect(config), config, CLASSES)
    assert scored.groups.tolist() == [0] * 12 + [1] * 12 + [2] * 12 + [3] * 3 and 0.9 < scored.score <= 1


def test_composed_soundscapes_have_a_row_per_window(run, held_out, soundscapes, tmp_path) -> None:
    """Sixty seconds are twelve rows, as in the submission, with known truth."""
    validation = prepare(run, held_out, soundscapes, tmp_path)
    assert len(validation.waves) == 3 and all(len(wave) == 60 * RATE for wave in validation.waves)
    assert all(truth.shape == (12, 2) for truth in validation.truth)
    assert 0 < np.concatenate(validation.truth).mean() < 1


def test_a_model_that_hears_scores_high_and_a_confused_one_does_not(run, held_out, soundscapes, tmp_path) -> None:
    """The score means what its name says."""
    validation = prepare(run, held_out, soundscapes, tmp_path)
    heard = validation.validate(perfect(run), run, CLASSES)
    interval = heard.interval()
    assert heard.score > 0.8 and interval.low <= interval.value == heard.score <= interval.high
    assert heard.classes == CLASSES and heard.groups.tolist() == [*[0] * 12, *[1] * 12, *[2] * 12]
    assert validation.validate(perfect(run, confused=True), run, CLASSES).score < heard.score - 0.2


def test_a_model_that_hears_the_animals_of_the_backgrounds_is_not_marked_down(run, held_out, soundscapes,
                                                                              tmp_path) -> None:
    """Unlabelled backgrounds hold the very classes: as they are, a perfect model is wrong wherever these call."""
    calls = [tone(hz, 5) * np.hanning(5 * RATE) * loud for hz, loud in ((6000, 1), (900, 0), (900, 1), (6000, 0))]
    sf.write(tmp_path / "own.wav", np.concatenate(calls) + noise(20, amplitude=0.05), RATE, subtype="FLOAT")
    scores = {}
    for backgrounds in ("quiet", "as_they_are"):
        config = replace(run, validation__backgrounds=backgrounds)
        scores[backgrounds] = prepare(config, held_out, soundscapes, tmp_path).validate(perfect(run), run,
                                                                                        CLASSES).score
    assert scores["quiet"] > 0.8 and scores["as_they_are"] < scores["quiet"] - 0.1
    with pytest.raises(ValueError, match=r"validation.backgrounds = 'silent'"):
        replace(run, validation__backgrounds="silent")


def test_recordings_are_scored_by_the_maximum_over_their_windows(run, held_out, tmp_path) -> None:
    """One row each: the call may be in any window."""
    config = replace(run, validation__kind="recordings")
    validation = prepare(config, held_out, None, tmp_path)
    rows = validation.predict(perfect(config), config, CLASSES)
    assert [len(row) for row in rows] == [1] * 4
    assert validation.validate(perfect(config), config, CLASSES).score == 1.0


@pytest.mark.parametrize("level", ["none", "peak", "rms"])
@pytest.mark.parametrize("scales", [(1,), (1, 2)])
def test_the_validation_score_is_the_submission_score(run, held_out, soundscapes, tmp_path, scales, level) -> None:
    """The same soundscapes written to files and predicted as a submission give the same numbers, whatever the level."""
    run = replace(run, inference__scales=scales, frontend__level=level, frontend__scaling="db80", frontend__floor=1e-10)
    validation = prepare(run, held_out, soundscapes, tmp_path)
    for index, wave in enumerate(validation.waves):
        sf.write(tmp_path / f"s{index}.wav", wave.wave(), RATE, subtype="FLOAT")
    model = build_model(run.model, run.frontend, 2).eval()
    predictors = Predictor.of_model(model, run, CLASSES)
    table = predict([tmp_path / f"s{index}.wav" for index in range(3)], predictors, window_s=5.0, progress=False).table
    submitted = table[list(CLASSES)].to_numpy()
    np.testing.assert_allclose(np.concatenate(validation.predict(model, run, CLASSES)), submitted, atol=1e-6)
    score = macro_roc_auc(np.concatenate(validation.truth), submitted)
    assert validation.validate(model, run, CLASSES).score == pytest.approx(score, abs=1e-9)


def test_a_wave_keeps_its_level_in_memory(run, held_out, tmp_path) -> None:
    """A front end that keeps loudness sees the recording as its file has it, quiet or loud."""
    quiet = sf.read(tmp_path / "0.wav", dtype="float32")[0] / 50
    sf.write(tmp_path / "0.wav", quiet, RATE, subtype="FLOAT")
    validation = prepare(replace(run, validation__kind="recordings"), held_out, None, tmp_path)
    np.testing.assert_allclose(validation.waves[0].wave(), quiet, atol=np.abs(quiet).max() / 65_000)


def test_backgrounds_of_other_splits_stay_out(run, held_out, soundscapes, tmp_path) -> None:
    """A background that training mixes in would be recognised."""
    with_own = prepare(run, held_out, soundscapes[soundscapes["split"] == 0], tmp_path)
    with_both = prepare(run, held_out, soundscapes, tmp_path)
    assert all(np.array_equal(a.wave(), b.wave()) for a, b in zip(with_own.waves, with_both.waves, strict=True))


def test_the_same_split_is_always_validated_on_the_same_audio(run, held_out, soundscapes, tmp_path) -> None:
    """Scores of two runs are compared; another seed of the run must not change the exam."""
    first = prepare(run, held_out, soundscapes, tmp_path)
    second = prepare(replace(run, seed=7), held_out, soundscapes, tmp_path)
    assert all(np.array_equal(a.wave(), b.wave()) for a, b in zip(first.waves, second.waves, strict=True))


def test_an_empty_split_is_refused(run, held_out, tmp_path) -> None:
    """A score over nothing would be a number all the same."""
    with pytest.raises(ValueError, match="split 0 holds no recording"):
        prepare(run, held_out.iloc[:0], None, tmp_path)


def test_a_span_is_scored_on_its_own_audio_and_nocall_is_no_class(run, held_out, tmp_path) -> None:
    """A call detector's rows are pieces of soundscapes: a whole file would be scored by a piece's label."""
    table = pd.concat([held_out, held_out.iloc[:1].assign(label="nocall")], ignore_index=True)
    table = table.assign(duration_s=7.0, start_s=[np.nan] * 4 + [1.0], end_s=[np.nan] * 4 + [3.5])
    recordings = replace(run, validation__kind="recordings")
    validation = Validation.prepare(recordings, table, CLASSES, store=AudioStore(tmp_path, RATE), soundscapes=None)
    assert [len(wave) for wave in validation.waves] == [7 * RATE] * 4 + [int(2.5 * RATE)]
    assert [row.tolist() for row in validation.truth] == [[[1, 0]], [[0, 1]], [[1, 0]], [[0, 1]], [[0, 0]]]


def test_where_not_all_classes_count_the_others_are_not_validated_on(run, held_out, tmp_path) -> None:
    """2022 scored 21 of 152 birds: an epoch that is better at the others is no better."""
    recordings = replace(run, validation__kind="recordings", task__scored=("low",))
    validated = prepare(recordings, held_out, None, tmp_path).validate(perfect(recordings), recordings, CLASSES)
    assert validated.classes == ("low",) and validated.truth.tolist() == [[0], [1], [0], [1]]
    assert validated.probabilities.shape == (4, 1) and validated.score == 1.0


def test_a_metric_on_decisions_judges_what_the_config_decides(run, held_out, tmp_path) -> None:
    """2021 and 2022: the threshold is part of the entry, so it must be part of the score of an epoch."""
    recordings = replace(run, validation__kind="recordings", year=2022,
                         inference__decision=Member("labels_per_row", {"labels": 1.0}))
    validated = prepare(recordings, held_out, None, tmp_path).validate(perfect(recordings), recordings, CLASSES)
    assert validated.metric == "balanced_accuracy" and validated.decisions is not None
    np.testing.assert_array_equal(validated.decisions, validated.truth)
    assert validated.score == 1.0 and 0 < validated.probabilities.min() < validated.probabilities.max() < 1
    validated.save(tmp_path / "saved.npz")
    read = Validated.read(tmp_path / "saved.npz")
    assert read.score == 1.0 and read.interval().value == 1.0
    none = replace(recordings, inference__decision=Member("labels_per_row", {"labels": 0.0}))
    assert prepare(none, held_out, None, tmp_path).validate(perfect(none), none, CLASSES).score == 0.5


def test_what_is_guessed_of_a_competition_is_what_is_validated_by(run, held_out, soundscapes, tmp_path) -> None:
    """A year that nobody knows yet may have other windows; validated by those of the last, another is chosen."""
    guessed = replace(run, task__window_s=10.0, task__soundscape_s=30.0, task__metric="padded_cmap")
    validation = prepare(guessed, held_out, soundscapes, tmp_path)
    assert [truth.shape for truth in validation.truth] == [(3, 2)] * 3 and validation.metric == "padded_cmap"
