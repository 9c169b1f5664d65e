"""Training: the schedule that was asked for, runs that go on where they were, and checkpoints one can trust."""
import copy
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE, noise, tone

from birdkit import checkpoint, training
from birdkit.batch import Batch
from birdkit.config import Member, RunConfig, TrainConfig
from birdkit.models import build_model
from birdkit.settings import replace
from birdkit.training import Trainer, build_optimiser, choose_backgrounds, choose_precision, fit, learning_rate

CLASSES = ("high", "low")


@pytest.fixture
def tones(tmp_path) -> pd.DataFrame:
    """Twelve recordings: tones around 6 kHz and around 1 kHz in noise, two splits."""
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        label = CLASSES[i % 2]
        wave = tone((6000 if label == "high" else 1000) * rng.uniform(0.9, 1.1), 3) + noise(3, amplitude=0.05, seed=i)
        sf.write(tmp_path / f"{i}.wav", wave, RATE, subtype="FLOAT")
        rows.append({"file": f"{i}.wav", "label": label, "secondary": "", "duration_s": 3.0, "rating": 0.0,
                     "split": (i // 2) % 2})
    return pd.DataFrame(rows)


@pytest.fixture
def quick(small_frontend) -> RunConfig:
    return replace(RunConfig(), n_splits=2, frontend__clip_s=2.0, frontend__hop_samples=1000, frontend__n_mels=32,
                   frontend__strips=1, model__backbone="test_resnet", model__hidden=16, data__samples_per_epoch=16,
                   train__epochs=4, train__batch_size=8, train__workers=0, train__peak_lr=3e-3, train__ema_decay=0.5,
                   augment__wave=(Member("or_mixup", {"p": 0.3}),), inference__backend="torch")


def state(model: torch.nn.Module) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_learns_two_tones(tones, quick, tmp_path) -> None:
    """The whole path: files, crops, mixing, front end, model, loss, validation, checkpoint."""
    quick = replace(quick, data__samples_per_epoch=64)
    result = fit(quick, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "run", progress=False)
    assert result.history["epoch"].tolist() == [1, 2, 3, 4]
    assert result.history["score"].iloc[-1] > 0.95
    loaded = checkpoint.load(result.best)
    assert loaded.classes == CLASSES and loaded.config == quick
    assert loaded.seen == set(tones.loc[tones["split"] == 1, "file"])
    with torch.inference_mode():
        heard = np.stack([tone(6000, 2), tone(1000, 2)]) + noise(2, amplitude=0.05, seed=99)
        said = loaded.model(torch.from_numpy(heard)).clip_logits
    assert said[0, 0] > said[1, 0] and said[1, 1] > said[0, 1]  # each class ranks its own tone higher


def test_the_checkpoint_named_best_is_the_best(tones, quick, tmp_path, monkeypatch) -> None:
    """The second seed deployed the oldest of its kept checkpoints."""
    scores = iter([0.6, 0.9, 0.7, 0.8])
    real = training.Validation.score

    def fake(self, model, config, classes):
        return type(real(self, model, config, classes))(next(scores), 0.0, 1.0)

    monkeypatch.setattr(training.Validation, "score", fake)
    result = fit(quick, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "run", progress=False)
    assert checkpoint.read_info(result.best)["score"] == 0.9 and checkpoint.read_info(result.best)["step"] == 4
    assert checkpoint.read_info(result.last)["score"] == 0.8 and checkpoint.read_info(result.last)["step"] == 8


def test_a_killed_run_goes_on_to_the_same_weights(tones, quick, tmp_path, monkeypatch) -> None:
    """Stopped after two epochs and started again, the run ends with the very weights of an uninterrupted one."""
    whole = fit(quick, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "whole", progress=False)
    real = Trainer.train_step

    def killed(self, batch):
        if self.step == 5:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(Trainer, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(quick, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "cut", progress=False)
    monkeypatch.setattr(Trainer, "train_step", real)
    torch.manual_seed(99)
    rest = fit(quick, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "cut", progress=False)
    first, second = checkpoint.load(whole.last).model, checkpoint.load(rest.last).model
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    pd.testing.assert_frame_equal(whole.history.drop(columns="seconds"), rest.history.drop(columns="seconds"))


def test_a_finished_run_is_not_trained_again(tones, quick, tmp_path, monkeypatch) -> None:
    """The pipeline calls it again after a stop elsewhere."""
    fit(quick, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "run", progress=False)
    monkeypatch.setattr(Trainer, "train_step", lambda self, batch: pytest.fail("trained again"))
    assert len(fit(quick, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "run", progress=False).history) == 4


def test_a_folder_of_another_run_is_refused(tones, quick, tmp_path) -> None:
    """Going on with other settings would be neither of the two experiments."""
    fit(quick, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="another config or another training table"):
        other = replace(quick, train__peak_lr=1e-2)
        fit(other, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "run", progress=False)


def test_split_minus_one_trains_on_everything(tones, quick, tmp_path) -> None:
    """Then nothing validates, and the last weights are the ones to deploy."""
    config = replace(quick, split=-1, train__epochs=1)
    result = fit(config, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "run", progress=False)
    assert checkpoint.load(result.best).seen == set(tones["file"]) and math.isnan(result.history["score"].iloc[0])


def test_pseudo_labels_and_round_must_agree(quick) -> None:
    """Round 0 with pseudo-labels, or round 1 without, is a mistake in the notebook's settings."""
    table = pd.DataFrame({"file": ["s"], "start_s": [0.0], "end_s": [2.0], "high": [1.0], "low": [0.0]})
    with pytest.raises(ValueError, match="round 1 needs pseudo-labels, but 0"):
        choose_backgrounds(replace(quick, round=1), CLASSES, None, None)
    with pytest.raises(ValueError, match="round 0 takes no pseudo-labels, but 1"):
        choose_backgrounds(quick, CLASSES, None, table)
    assert choose_backgrounds(quick, CLASSES, None, None) is None
    chosen = choose_backgrounds(replace(quick, round=1), CLASSES, None, table)
    assert chosen is not None and chosen.target.tolist() == [[1.0, 0.0]]


def test_the_schedule_is_the_one_in_the_config() -> None:
    """Warm-up to the peak, half a cosine to the end."""
    config = TrainConfig(peak_lr=1e-3, final_lr=1e-5)
    rates = [learning_rate(step, 100, 10, config) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4) and rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[99] == pytest.approx(1e-5) and rates[54] == pytest.approx((1e-3 + 1e-5) / 2, rel=0.02)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_weight_decay_reaches_kernels_and_spares_norms_and_biases(quick) -> None:
    """The second seed configured a decay that was never passed on."""
    model = build_model(quick.model, quick.frontend, 2)
    decayed, plain = build_optimiser(model, replace(quick, train__weight_decay=0.3).train).param_groups
    assert decayed["weight_decay"] == 0.3 and plain["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim <= 1 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="it must be one of adamw, adam, radam"):
        build_optimiser(model, replace(quick, train__optimiser="sgd").train)


def make_trainer(config: RunConfig, **options) -> Trainer:
    torch.manual_seed(0)
    model = build_model(config.model, config.frontend, 2)
    return Trainer(config, model, total_steps=100, per_epoch=10, device="cpu", **options)


def make_batch(config: RunConfig, wave: np.ndarray) -> Batch:
    return Batch(torch.from_numpy(wave).repeat(4, 1), torch.eye(2).repeat(2, 1), torch.ones(4))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_padded_full_scale_audio_trains_with_finite_loss(quick, precision: str) -> None:
    """The first seed's mixed precision exploded on exactly this: a full-scale tone, then zero padding."""
    trainer = make_trainer(replace(quick, train__precision=precision, augment__wave=()))
    wave = np.concatenate([tone(3000, 1, amplitude=1.0), np.zeros(RATE, np.float32)])
    losses = [trainer.train_step(make_batch(quick, wave)) for _ in range(5)]
    assert np.isfinite(losses).all() and trainer.skipped == 0
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())


def test_a_loss_that_is_not_finite_is_skipped_and_at_last_stops(quick, monkeypatch) -> None:
    """One bad batch must not poison the weights, and twenty must not go unnoticed."""
    trainer = make_trainer(replace(quick, augment__wave=()))
    before = state(trainer.model)
    bad = make_batch(quick, np.full(2 * RATE, np.nan, np.float32))
    assert math.isnan(trainer.train_step(bad)) and trainer.skipped == 1 and trainer.step == 1
    assert all(torch.equal(a, dict(trainer.model.named_parameters())[n]) for n, a in before.items()
               if n in dict(trainer.model.named_parameters()))
    monkeypatch.setattr(training, "MAX_SKIPPED", 2)
    with pytest.raises(FloatingPointError, match="not finite for 2 steps"):
        trainer.train_step(bad)


def test_averaged_weights_are_the_ones_deployed(quick) -> None:
    """What is validated is what is saved."""
    trainer = make_trainer(replace(quick, train__ema_decay=0.9, augment__wave=()))
    assert trainer.deployed is not trainer.model
    before = copy.deepcopy(trainer.deployed.state_dict())
    for _ in range(3):
        trainer.train_step(make_batch(quick, tone(1000, 2)))
    after = trainer.deployed.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert make_trainer(replace(quick, train__ema_decay=0.0)).deployed is not None


def test_a_run_without_averaged_weights_validates_too(tones, quick, tmp_path) -> None:
    """Then the model in training is the one that is scored, with its dropout off, and goes on training after it."""
    config = replace(quick, train__ema_decay=0.0, train__epochs=2)
    result = fit(config, tones, CLASSES, root=tmp_path, out_dir=tmp_path / "run", progress=False)
    assert result.history["score"].notna().all()


def test_two_runs_of_one_seed_are_equal(tones, quick, tmp_path) -> None:
    """Otherwise no difference between two settings means anything."""
    config = replace(quick, train__epochs=1)
    a, b = (fit(config, tones, CLASSES, root=tmp_path, out_dir=tmp_path / name, progress=False) for name in "ab")
    pd.testing.assert_frame_equal(a.history.drop(columns="seconds"), b.history.drop(columns="seconds"))


def test_precision_is_chosen_by_the_device_and_by_the_config(monkeypatch, tmp_path) -> None:
    """A T4 has no bf16 units; neither has an older CPU, on which it would only be slow."""
    for flags, expected in (("flags\t: avx2 avx512_bf16", True), ("flags\t: avx2 avx512f", False)):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
        assert training.has_bf16_units(tmp_path / "cpuinfo") is expected
    assert not training.has_bf16_units(tmp_path / "absent")
    monkeypatch.setattr(training, "has_bf16_units", lambda: True)
    assert choose_precision(TrainConfig(), "cpu") == "bf16"
    monkeypatch.setattr(training, "has_bf16_units", lambda: False)
    assert choose_precision(TrainConfig(), "cpu") == "f32"
    assert choose_precision(TrainConfig(precision="bf16"), "cpu") == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert choose_precision(TrainConfig(), "cuda") == "fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert choose_precision(TrainConfig(), "cuda") == "bf16"
