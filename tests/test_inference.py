"""Soundscapes to window probabilities, on tones whose place in time is known."""
import logging
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE, noise, tone

from birdkit import blending, checkpoint, postprocess
from birdkit.config import Member, RunConfig
from birdkit.inference import (
    Ensemble,
    PredictionError,
    Predictor,
    load_predictors,
    predict,
    predict_wave,
    predict_waves,
    soundscapes,
)
from birdkit.models import build_model, lengthen
from birdkit.output import SEDOutput, probabilities
from birdkit.settings import replace

CLASSES = ("ant", "bee", "cat", "dog")


def make(run: RunConfig, classes: Sequence[str] = CLASSES, seed: int = 0) -> Predictor:
    """A predictor in memory, its batch norms calibrated, its logits spread."""
    torch.manual_seed(seed)
    model = build_model(run.model, run.frontend, len(classes)).train()
    with torch.no_grad():
        model.head.attention.weight.normal_(0, 0.3)  # type: ignore[union-attr, operator]
        model.head.classifier.weight.mul_(10)  # type: ignore[union-attr, operator]
        model.head.classifier.bias.zero_()  # type: ignore[union-attr, operator]
        for _ in range(3):
            model(torch.randn(4, run.frontend.n_samples) * 0.1)
    return Predictor.of_model(model.eval(), run, classes)[0]


def values(table: pd.DataFrame, classes: Sequence[str] = CLASSES) -> np.ndarray:
    return table[list(classes)].to_numpy()


def write(path: Path, wave: np.ndarray) -> Path:
    """A file that holds exactly the samples of the wave."""
    sf.write(path, wave, RATE, subtype="FLOAT", format="WAV")
    return path


class FixedClock:
    """A clock that always shows the same time left."""

    def __init__(self, remaining_s: float) -> None:
        self.remaining_s = remaining_s

    def remaining(self) -> float:
        return self.remaining_s


def test_a_sound_changes_the_windows_it_is_in_and_no_other(small_run: RunConfig) -> None:
    """The second seed's labeller repeated window 0 for a whole minute, and a round of pseudo-labels was ruined."""
    quiet = noise(60)
    loud = quiet.copy()
    loud[20 * RATE:25 * RATE] += tone(3000, 5)
    one = make(small_run)
    before, after = (predict_wave(wave, [one], window_s=5.0) for wave in (quiet, loud))
    change = np.abs(after - before).max(1)
    assert len(change) == 12
    assert change[4] > 0.01
    assert change[:3].max() < 1e-5 and change[6:].max() < 1e-5
    assert np.ptp(after, axis=0).max() > 0.01  # not one row repeated


def test_a_window_that_is_a_clip_has_exactly_the_clips_probability(small_run: RunConfig) -> None:
    """There is one aggregation: where the grids coincide, a window must not differ from its clip by a bit."""
    run = replace(small_run, frontend__clip_s=5.0)
    one, wave = make(run), noise(30, seed=3)
    clips = probabilities(one(one.images(wave.reshape(6, -1)))).numpy()
    assert np.allclose(predict_wave(wave, [one], window_s=5.0), clips, rtol=0, atol=2e-7)


def test_validation_is_submission(small_run: RunConfig, tmp_path: Path) -> None:
    """Validation predicts waves in memory, a submission predicts files: the numbers are the same."""
    waves = {f"{seconds}.wav": noise(seconds, seed=seconds) + tone(500 * seconds, seconds) for seconds in (3, 7, 61)}
    files = [write(tmp_path / name, wave).name for name, wave in waves.items()]
    one = make(small_run)
    from_files = predict(files, [one], window_s=5.0, root=tmp_path, progress=False)
    from_memory = predict_waves(waves.items(), [one], window_s=5.0)
    assert from_files.table["file"].tolist() == from_memory.table["file"].tolist()
    assert np.allclose(values(from_files.table), values(from_memory.table), rtol=0, atol=1e-6)
    assert not len(from_files.faults)


@pytest.mark.parametrize(("seconds", "count"), [(0.3, 1), (7.0, 2), (61.3, 13), (240.0, 48)])
def test_any_length_has_its_windows_and_the_last_one_hears_the_end(small_run: RunConfig, seconds: float,
                                                                   count: int) -> None:
    """The second seed knew minutes only: its last window swallowed the rest of any other file."""
    wave = noise(seconds)
    ringing = wave.copy()
    ringing[-RATE // 4:] += tone(4000, seconds)[-RATE // 4:]
    one = make(small_run)
    table = predict_waves([("a", wave), ("b", ringing)], [one], window_s=5.0).table
    assert table["file"].tolist() == ["a"] * count + ["b"] * count
    assert table["end_s"].tolist() == [5.0 * (w + 1) for w in range(count)] * 2
    plain, rung = values(table)[:count], values(table)[count:]
    assert np.isfinite(rung).all()
    assert np.abs(plain - rung)[-1].max() > 1e-3
    if count > 2:
        assert np.abs(plain - rung)[:-2].max() < 1e-5


def test_members_are_matched_by_class_name(small_run: RunConfig) -> None:
    """Two ways to order the same classes must not average a frog with a bird."""
    one = make(small_run)
    order = [2, 0, 3, 1]

    def shuffled(images: torch.Tensor) -> SEDOutput:
        output = one.classify(images)
        return SEDOutput(output.clip_logits[:, order], output.segment_logits[..., order], output.attention[..., order])

    two = Predictor(one.frontend, shuffled, config=small_run, classes=[CLASSES[k] for k in order],
                    n_segments=one.n_segments)
    wave = noise(10) + tone(2000, 10)
    assert np.allclose(predict_wave(wave, [one, two], window_s=5.0), predict_wave(wave, [one], window_s=5.0), atol=1e-6)


def test_a_class_that_one_member_knows_is_that_members(small_run: RunConfig) -> None:
    """A missing class counts as unknown and not as absent, which would halve its probability."""
    one, two = make(small_run), make(small_run, ("cat", "eel"), seed=1)
    table = predict_waves([("a", noise(10))], [one, two], window_s=5.0, weights=[1, 3]).table
    first, second = (predict_waves([("a", noise(10))], [p], window_s=5.0).table for p in (one, two))
    assert list(table.columns[3:]) == [*CLASSES, "eel"]
    assert np.allclose(table["eel"], second["eel"])
    assert np.allclose(table["ant"], first["ant"])
    assert np.allclose(table["cat"], (first["cat"] + 3 * second["cat"]) / 4)
    asked = predict_waves([("a", noise(10))], [one, two], window_s=5.0, classes=["eel", "ant"]).table
    assert list(asked.columns[3:]) == ["eel", "ant"]
    with pytest.raises(ValueError, match="1 classes are known to no predictor with a weight: yak"):
        predict_waves([], [one], window_s=5.0, classes=["ant", "yak"])


def test_a_predictor_speaks_for_the_classes_it_is_given(small_run: RunConfig) -> None:
    """A frog specialist that was trained on birds, too, must not be asked about them, nor keep a class for itself."""
    one, two = make(small_run), make(small_run, seed=1)
    first, second = (values(predict_waves([("a", noise(10))], [p], window_s=5.0).table) for p in (one, two))
    two.speaks_for = frozenset({"cat", "dog"})
    both = values(predict_waves([("a", noise(10))], [one, two], window_s=5.0).table)
    assert np.allclose(both[:, :2], first[:, :2]) and np.allclose(both[:, 2:], ((first + second) / 2)[:, 2:])
    assert Ensemble([two, one], window_s=5.0).least == 2
    named = [("a", lambda: soundscapes.SoundscapeWave(noise(10), RATE))]
    heard = next(Ensemble([one, two], window_s=5.0).listen(named, faults={}))
    assert np.isnan(heard.apart[1]).all(0).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="2 classes are known to no predictor with a weight: ant, bee"):
        Ensemble([two], window_s=5.0)


def test_ranks_are_over_all_soundscapes_and_wait_for_the_last(small_run: RunConfig) -> None:
    """A percentile inside each file would say that every file has its loudest bird; post-processing comes after."""
    smooth = Member("smooth", {"kernel": [1.0, 2.0, 1.0]})
    ensemble = Ensemble([make(small_run), make(small_run, seed=1)], window_s=5.0, mean="rank", members=[smooth])
    named = [(name, lambda wave=wave: soundscapes.SoundscapeWave(wave, RATE))  # type: ignore[misc]
             for name, wave in (("a", noise(20)), ("b", tone(2000, 15)))]
    table = ensemble.run(named).table
    faults: dict[str, str] = {}
    apart = [one.apart for one in ensemble.listen(named, faults=faults)]
    ranks = blending.blend(np.concatenate(apart, axis=1), np.ones(2), "rank")
    expected = np.concatenate([postprocess.apply(ranks[:4], [smooth]), postprocess.apply(ranks[4:], [smooth])])
    assert np.allclose(values(table), expected) and not faults
    with pytest.raises(ValueError, match="mean = 'rank' needs the rows of all soundscapes"):
        next(ensemble.stream(named, faults=faults))
    assert not len(ensemble.run([]).table)


@pytest.mark.parametrize("mean", ["probabilities", "minimum", "rank"])
def test_a_predictor_that_was_left_out_of_a_file_has_no_say_there(small_run: RunConfig, mean: str) -> None:
    """When time is short the last model stops: whatever the way of blending, its absence is not a probability of 0."""
    one, two = make(small_run), make(small_run, seed=1)
    named = [(name, lambda seed=seed: soundscapes.SoundscapeWave(noise(10, seed=seed), RATE))  # type: ignore[misc]
             for seed, name in enumerate("abcde")]
    both = Ensemble([one, two], window_s=5.0, mean=mean)
    heard = list(both.listen(named, 5, faults={}, deadline=FixedClock(0.01), workers=1))
    assert [bool(np.isnan(piece.apart[1]).any()) for piece in heard] == [False, False, False, True, True]
    short = values(both.run(named, 5, deadline=FixedClock(0.01), workers=1).table)
    assert np.isfinite(short).all()
    if mean != "rank":  # moved to where both would have been, but in the order of the one that heard it
        alone = values(Ensemble([one], window_s=5.0).run(named).table)
        assert np.array_equal(short[6:].argsort(0), alone[6:].argsort(0)) and not np.allclose(short[6:], alone[6:])


def test_a_file_that_cannot_be_read_costs_nothing_else(small_run: RunConfig, tmp_path: Path) -> None:
    """One broken file among seven hundred must not cost the submission."""
    good = [write(tmp_path / f"{name}.wav", noise(8, seed=k)).name for k, name in enumerate("ab")]
    (tmp_path / "broken.ogg").write_text("not audio")
    silence = write(tmp_path / "silence.wav", np.zeros(8 * RATE, np.float32)).name
    one = make(small_run)
    mixed = predict([good[0], "broken.ogg", "absent.ogg", good[1], silence], [one], window_s=5.0, root=tmp_path,
                    progress=False)
    alone = predict(good, [one], window_s=5.0, root=tmp_path, progress=False)
    assert mixed.faults["file"].tolist() == ["broken.ogg", "absent.ogg"]
    assert mixed.faults["reason"].str.len().min() > 5
    assert np.array_equal(values(mixed.table)[:4], values(alone.table))
    assert mixed.table["file"].tolist() == [good[0]] * 2 + [good[1]] * 2 + [silence] * 2
    assert np.isfinite(values(mixed.table)).all()


def test_overlapping_clips_agree_with_contiguous_ones_on_a_steady_sound(small_run: RunConfig) -> None:
    """A tone that never changes is the same wherever clips begin."""
    wave = tone(2000, 30)
    contiguous = predict_wave(wave, [make(small_run)], window_s=5.0)
    overlapping = predict_wave(wave, [make(replace(small_run, inference__clip_step_s=1.0))], window_s=5.0)
    assert np.allclose(contiguous, overlapping, atol=0.01)
    with pytest.raises(ValueError, match="clip_step_s = 9"):
        make(replace(small_run, inference__clip_step_s=9.0))


def test_predicting_twice_gives_the_same_numbers(small_run: RunConfig, tmp_path: Path) -> None:
    """Threads that read ahead must not leave their order in the result."""
    files = [write(tmp_path / f"{k}.wav", noise(9, seed=k)).as_posix() for k in range(6)]
    one = make(small_run)
    first, second = (predict(files, [one], window_s=5.0, progress=False, workers=n).table for n in (1, 3))
    pd.testing.assert_frame_equal(first, second)


def test_a_long_soundscape_in_pieces_is_the_same(small_run: RunConfig, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of audio does not fit into memory; where it is cut for that must not show."""
    path = write(tmp_path / "long.wav", noise(61.3) + np.concatenate([tone(900, 30.3), tone(5000, 31)]))
    ensemble = [make(small_run), make(replace(small_run, inference__clip_step_s=3.0))]
    whole = predict([path], ensemble, window_s=5.0, progress=False).table
    monkeypatch.setattr(soundscapes, "PIECE_S", 15.0)
    assert len(soundscapes.SoundscapeFile(path).pieces()) == 4
    assert np.allclose(values(predict([path], ensemble, window_s=5.0, progress=False).table), values(whole), atol=1e-6)


def test_a_front_end_is_computed_once_however_many_models_share_it(small_run: RunConfig) -> None:
    """A public solution spent most of its 80 minutes on mel spectrograms."""
    calls = []
    ensemble = [make(small_run, seed=seed) for seed in range(3)]
    for one in ensemble:
        one.frontend.register_forward_hook(lambda module, args, image: calls.append(len(image)))
    predict_wave(noise(8), ensemble, window_s=5.0)
    assert sum(calls) == 2


def test_what_is_not_finite_never_leaves(small_run: RunConfig) -> None:
    """A NaN in a submission is a scoring error without a message."""
    one = make(small_run)

    def broken(images: torch.Tensor) -> SEDOutput:
        output = one.classify(images)
        return SEDOutput(output.clip_logits, output.segment_logits * float("nan"), output.attention)

    two = Predictor(one.frontend, broken, config=small_run, classes=CLASSES, n_segments=one.n_segments, hash="abc123")
    with pytest.raises(PredictionError, match=r"minute\.ogg: .* not finite, from predictors abc123") as raised:
        predict_waves([("minute.ogg", noise(8))], [one, two], window_s=5.0)
    copied = pickle.loads(pickle.dumps(raised.value))  # it comes out of other processes
    assert str(copied) == str(raised.value) and copied.name == "minute.ogg"


def test_who_would_lose_all_for_one_file_can_have_it_spared(small_run: RunConfig, tmp_path: Path) -> None:
    """A submission must not be lost for one soundscape in which a model overflows: it is named, and the rest stays."""
    one = make(small_run)
    classify, calls = one.classify, [0]

    def sometimes(images: torch.Tensor) -> SEDOutput:
        output, calls[0] = classify(images), calls[0] + 1
        return output if calls[0] != 2 else SEDOutput(output.clip_logits, output.segment_logits / 0, output.attention)

    one.classify = sometimes
    files = [str(tmp_path / f"{k}.wav") for k in range(4)]
    for k, file in enumerate(files):
        sf.write(file, noise(8, seed=k), RATE)
    done = predict(files, [one], window_s=5.0, progress=False, deadline=FixedClock(1e6), spare=True)
    assert done.faults["file"].tolist() == [files[1]] and "are not finite" in done.faults["reason"][0]
    assert done.table["file"].unique().tolist() == [files[0], *files[2:]] and np.isfinite(values(done.table)).all()
    calls[0] = 0
    with pytest.raises(PredictionError, match=r"1\.wav"):
        predict(files, [one], window_s=5.0, progress=False, deadline=FixedClock(1e6))


def test_postprocessing_that_is_overruled_is_said(small_run: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Two models of different recipes: the second was validated with something that is not done to it here."""
    one = make(small_run)
    two = make(replace(small_run, inference__postprocess=(Member("smooth", {}),)))
    Ensemble([one, two], window_s=5.0)
    assert "1 of 2 predictors were trained with another post-processing than the first" in caplog.text
    caplog.clear()
    Ensemble([one, one], window_s=5.0)
    Ensemble([one, two], window_s=5.0, members=())
    assert not caplog.text


def test_post_processing_is_the_first_predictors_per_soundscape(small_run: RunConfig) -> None:
    """Validation, pseudo-labels and submission smooth alike, and never from one file into the next."""
    smooth = Member("smooth", {"kernel": [1.0, 2.0, 1.0]})
    waves = [("a", noise(20)), ("b", tone(2000, 20))]
    raw = predict_waves(waves, [make(small_run)], window_s=5.0).table
    smoothed = predict_waves(waves, [make(replace(small_run, inference__postprocess=(smooth,)))], window_s=5.0).table
    for name in ("a", "b"):
        expected = postprocess.apply(values(raw[raw["file"] == name]), [smooth])
        assert np.allclose(values(smoothed[smoothed["file"] == name]), expected, atol=1e-6)


def test_an_ensemble_knows_how_many_members_cover_all_classes(small_run: RunConfig) -> None:
    """Leaving out the only predictor of a class would leave a column of nothing."""
    one, two = make(small_run), make(small_run, ("cat", "eel"), seed=1)
    assert Ensemble([one, two], window_s=5.0).least == 2
    assert Ensemble([one, one], window_s=5.0).least == 1


def test_arguments_that_cannot_be_meant_are_refused(small_run: RunConfig) -> None:
    """Each of these would otherwise be a wrong number somewhere in a table."""
    one = make(small_run)
    with pytest.raises(ValueError, match="no predictors"):
        predict_wave(noise(5), [], window_s=5.0)
    with pytest.raises(ValueError, match="weights"):
        predict_wave(noise(5), [one], window_s=5.0, weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="named twice"):
        predict(["a.ogg", "a.ogg"], [one], window_s=5.0)
    with pytest.raises(ValueError, match=r"\(2, 16000\)"):
        predict_wave(np.zeros((2, 16000), np.float32), [one], window_s=5.0)
    with pytest.raises(ValueError, match="front end"):
        Predictor(one.frontend, one.classify, config=replace(small_run, frontend__fmin_hz=99.0), classes=CLASSES,
                  n_segments=one.n_segments)


def test_a_model_in_training_mode_does_not_validate(small_run: RunConfig) -> None:
    """Dropout and batch statistics in a validation score look like a bad epoch, not like a mistake."""
    model = build_model(small_run.model, small_run.frontend, 2).train()
    with pytest.raises(RuntimeError, match="training mode"):
        predict_wave(noise(5), Predictor.of_model(model, small_run, ["a", "b"]), window_s=5.0)


def test_a_checkpoint_predicts_the_same_through_either_backend(small_run: RunConfig, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch,
                                                               caplog: pytest.LogCaptureFixture) -> None:
    """Validated in torch, submitted through OpenVINO: the same probabilities, or every choice was made on others."""
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    model = build_model(small_run.model, small_run.frontend, len(CLASSES)).train()
    with torch.no_grad():
        model(torch.randn(8, small_run.frontend.n_samples))
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, model.eval(), config=small_run, classes=CLASSES, table_hash="", seen=["x.ogg"])
    wave = noise(22) + np.concatenate([tone(1000, 12), tone(6000, 10)])
    fast, plain = (load_predictors([path], backend=backend)[0] for backend in ("openvino", "torch"))
    assert (fast.classify.backend, plain.classify.backend) == ("openvino", "torch")  # type: ignore[attr-defined]
    assert fast.hash == plain.hash != "" and fast.seen == {"x.ogg"}
    assert np.allclose(*(predict_wave(wave, [one], window_s=5.0) for one in (fast, plain)), rtol=0, atol=1e-5)
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level(logging.WARNING):
        assert load_predictors([path])[0].classify.backend == "torch"  # type: ignore[attr-defined]
    assert "openvino, onnxruntime" in caplog.text and "not installed" in caplog.text
    with pytest.raises(ValueError, match="onnx"):
        load_predictors([path], backend="onnx")
    for precision in ("bf16", "f16", "int8"):
        with pytest.raises(ValueError, match=f"birdkit export --precision {precision} --audio"):
            load_predictors([path], backend="torch", precision=precision)
    with pytest.raises(ValueError, match="proven on real audio"):
        load_predictors([path], changes={"precision": "bf16"})


def test_several_scales_are_the_mean_of_longer_and_longer_clips(small_run, tmp_path) -> None:
    """The 2021 second place: the same weights on clips of 5, 10 and 20 s; here 4, 8 and 16 s of a 40 s soundscape."""
    run = replace(small_run, inference__scales=(1, 2, 4), inference__backend="torch")
    torch.manual_seed(0)
    model = build_model(run.model, run.frontend, len(CLASSES)).train()
    with torch.no_grad():
        model(torch.randn(8, run.frontend.n_samples))
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, model.eval(), config=run, classes=CLASSES, table_hash="", seen=[])
    predictors = load_predictors([path])
    assert [one.config.frontend.clip_s for one in predictors] == [4.0, 8.0, 16.0]
    assert [one.n_segments for one in predictors] == [4, 8, 16]
    wave = noise(40) + np.concatenate([tone(1000, 20), tone(6000, 20)])
    single = [predict_wave(wave, [one], window_s=5.0) for one in predictors]
    assert np.abs(single[0] - single[2]).max() > 1e-6  # an untrained network differs by little, but it does
    assert np.allclose(predict_wave(wave, predictors, window_s=5.0), np.mean(single, 0), atol=1e-6)
    once = Predictor.of_model(model, small_run, CLASSES)[0]
    both = predict_wave(wave, [*predictors, once], window_s=5.0)  # a model at three scales weighs as much as one at one
    assert np.allclose(both, (np.mean(single, 0) + single[0]) / 2, atol=1e-6)


def test_a_network_of_a_fixed_size_has_one_scale(small_run) -> None:
    """Weights that depend on the width of the image cannot be shown another one; said before a soundscape is read."""
    model = build_model(small_run.model, small_run.frontend, 2)
    model.fixed = torch.nn.Parameter(torch.zeros(model.n_segments))
    with pytest.raises(ValueError, match="2 times as long"):
        lengthen(model, 2)


def gated(run: RunConfig, how: str, **changes: object) -> RunConfig:
    return replace(run, inference__gate=how, **changes)


@pytest.mark.parametrize("how", ["multiply", "threshold"])
def test_a_gate_is_the_mean_of_its_detectors_on_every_class(small_run: RunConfig, how: str) -> None:
    """Predicting both apart and combining by hand gives the same, at any clip length, before post-processing."""
    smooth = Member("smooth", {"kernel": [1.0, 2.0, 1.0]})
    waves = [("a", noise(21)), ("b", noise(60) + np.concatenate([tone(3000, 40), noise(20)]))]
    plain = [make(small_run), make(small_run, seed=1)]
    detectors = [make(small_run, ["call"], seed=2), make(replace(small_run, frontend__clip_s=6.0), ["call"], seed=3)]
    apart = predict_waves(waves, plain, window_s=5.0).table
    calls = np.mean([predict_waves(waves, [one], window_s=5.0).table["call"] for one in detectors], axis=0)
    threshold = float(np.sort(calls)[7:9].mean())
    run = gated(small_run, how, inference__postprocess=(smooth,), inference__gate_threshold=threshold)
    together = predict_waves(waves, [make(run), make(run, seed=1)], gates=detectors, window_s=5.0).table
    assert list(together.columns) == list(apart.columns)
    for name in ("a", "b"):
        rows = (apart["file"] == name).to_numpy()
        share = calls if how == "multiply" else np.where(calls > threshold, 1, 1e-3)
        by_hand = postprocess.apply(values(apart)[rows] * share[rows, None], [smooth])
        assert np.allclose(values(together)[rows], by_hand, atol=1e-6)


def test_gates_are_used_only_where_they_are_asked_for(small_run: RunConfig) -> None:
    """A detector in the work folder must not change a submission whose config says nothing of it."""
    wave, birds, detector = [("a", noise(20))], make(small_run), make(small_run, ["call"], seed=2)
    calls = []
    detector.classify = lambda images, inner=detector.classify: calls.append(len(images)) or inner(images)
    plain = predict_waves(wave, [birds], window_s=5.0).table
    pd.testing.assert_frame_equal(predict_waves(wave, [birds], gates=[detector], window_s=5.0).table, plain)
    assert not calls
    asked = predict_waves(wave, [birds], gates=[detector], gate="multiply", window_s=5.0).table
    assert calls and (values(asked) < values(plain)).all()
    wants = make(gated(small_run, "multiply"))
    pd.testing.assert_frame_equal(predict_waves(wave, [wants], window_s=5.0).table, plain)
    pd.testing.assert_frame_equal(predict_waves(wave, [wants], gates=[detector], window_s=5.0).table, asked)
    overruled = predict_waves(wave, [wants], gates=[detector], gate="none", window_s=5.0).table
    pd.testing.assert_frame_equal(overruled, plain)


def test_a_gate_shares_the_images_of_what_it_gates(small_run: RunConfig) -> None:
    """A detector with the same view costs its network and no spectrogram; one with another view costs both."""
    ensemble = [make(small_run), make(small_run, ["call"], seed=2)]
    other = make(replace(small_run, frontend__fmin_hz=90.0), ["call"], seed=3)
    counted: list[int] = []
    for one in (*ensemble, other):
        one.frontend.register_forward_hook(lambda module, args, image: counted.append(len(image)))
    predict_waves([("a", noise(8))], ensemble[:1], gates=ensemble[1:], gate="multiply", window_s=5.0)
    assert sum(counted) == 2
    predict_waves([("a", noise(8))], ensemble[:1], gates=[other], gate="multiply", window_s=5.0)
    assert sum(counted) == 6


def test_gates_stay_when_predictors_are_left_out(small_run: RunConfig, tmp_path: Path) -> None:
    """Files gated and files not gated cannot be ranked together, so time is saved on the ensemble alone."""
    files = [write(tmp_path / f"{k}.wav", noise(8, seed=k)).as_posix() for k in range(5)]
    birds, detector = [make(small_run), make(small_run, seed=1)], make(small_run, ["call"], seed=2)
    short = predict(files, birds, gates=[detector], gate="multiply", window_s=5.0, progress=False,
                    deadline=FixedClock(1e-3), workers=1).table
    alone = predict(files, birds[:1], gates=[detector], gate="multiply", window_s=5.0, progress=False).table
    calls = predict(files, [detector], window_s=5.0, progress=False).table["call"].to_numpy()[-4:, None]
    # What one of them heard is moved by one number a class, in logits, to where both would be; then it is gated.
    ungated = [values(table)[-4:] / calls.astype(float) for table in (short, alone)]
    moved = [np.log(p) - np.log1p(-p) for p in ungated]
    assert np.abs(np.diff(moved[0] - moved[1], axis=0)).max() < 1e-4 < np.abs(moved[0] - moved[1]).max()


def test_a_long_soundscape_is_gated_in_pieces_alike(small_run: RunConfig, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """What the detector hears must be put together as what the others hear."""
    path = write(tmp_path / "long.wav", noise(61.3) + np.concatenate([tone(900, 30.3), tone(5000, 31)]))
    one, detector = make(small_run), make(replace(small_run, frontend__clip_s=6.0), ["call"], seed=2)
    tables = []
    for piece_s in (600.0, 15.0):
        monkeypatch.setattr(soundscapes, "PIECE_S", piece_s)
        tables.append(predict([path], [one], gates=[detector], gate="multiply", window_s=5.0, progress=False).table)
    assert np.allclose(values(tables[0]), values(tables[1]), atol=1e-6)


def test_gates_that_cannot_be_meant_are_refused(small_run: RunConfig) -> None:
    """A model of birds as a gate, or a gate asked for and forgotten, would be a plausible wrong submission."""
    one, detector, wave = make(small_run), make(small_run, ["call"], seed=2), [("a", noise(5))]
    with pytest.raises(ValueError, match="must know the one class 'call', but default knows 4: ant, bee, cat"):
        predict_waves(wave, [one], gates=[detector, one], gate="multiply", window_s=5.0)
    for gates in ((), None):
        with pytest.raises(ValueError, match="gate = 'multiply', but there is no call detector"):
            predict_waves(wave, [one], gates=gates, gate="multiply", window_s=5.0)
    with pytest.raises(ValueError, match="no call detector"):
        predict_waves(wave, [make(gated(small_run, "threshold"))], gates=[], window_s=5.0)
    with pytest.raises(ValueError, match="gate = 'add'; it must be one of none, multiply, threshold"):
        predict_waves(wave, [one], gates=[detector], gate="add", window_s=5.0)
    with pytest.raises(ValueError, match="gate = 'add'"):
        gated(small_run, "add")
    detector.classify = lambda images: SEDOutput(*[torch.full((len(images), *shape), float("nan")) for shape in (
        (1,), (detector.n_segments, 1), (detector.n_segments, 1))])
    with pytest.raises(PredictionError, match=r"a: .* not finite, from predictors default"):
        predict_waves(wave, [one], gates=[detector], gate="multiply", window_s=5.0)
