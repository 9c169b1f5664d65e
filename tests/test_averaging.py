"""Averages of weights: of one run only, batch norms included, and deployed only where they are better."""
import math

import numpy as np
import pytest
import torch
from tiny_run import CLASSES, make_batch, make_trainer, run, tiny_config, weights, write_tones

from birdkit import checkpoint
from birdkit.metrics import Interval
from birdkit.metrics.comparison import Validated
from birdkit.models import build_model
from birdkit.settings import replace
from birdkit.training import fitting
from birdkit.training.averaging import EqualAverage, average_checkpoints, epochs_to_average


@pytest.fixture
def model():
    config = tiny_config()
    return build_model(config.model, config.frontend, 2)


def randomise(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Other weights, statistics and counters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            else:
                value.fill_(seed)
    return weights(model)


def test_every_member_of_the_average_counts_alike(model) -> None:
    """A mean that forgets its first members is an exponential one, and not what was asked for.

    Statistics of batch norms are averaged with the weights: to measure them anew gave others NaN.
    """
    average = EqualAverage(model)
    members = []
    for seed in (1, 2, 3):
        members.append(randomise(model, seed))
        average.add(model)
    counters = 0
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            expected = torch.stack([member[name].double() for member in members]).mean(0)
            assert torch.allclose(value.double(), expected, rtol=1e-6), name
        else:
            counters += 1
            assert int(value) == 3, name
    assert counters and any("running_var" in name for name in members[0])
    assert not average.module.training and int(average.members) == 3


def test_the_average_outlives_a_restart(model) -> None:
    """Its weights and the number of its members belong together."""
    whole, cut = EqualAverage(model), EqualAverage(model)
    for seed in (1, 2):
        randomise(model, seed)
        whole.add(model)
        cut.add(model)
    again = EqualAverage(model)
    again.load_state_dict(cut.state_dict())
    randomise(model, 3)
    whole.add(model)
    again.add(model)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("part", ["weight", "running_var"])
def test_a_member_that_is_not_finite_is_refused(model, part: str) -> None:
    """One NaN would be in the average for ever."""
    average = EqualAverage(model)
    average.add(model)
    before = weights(average)
    name = next(name for name in model.state_dict() if name.endswith(part))
    model.state_dict()[name].view(-1)[0] = math.nan
    with pytest.raises(FloatingPointError, match=f"{name} is not finite"):
        average.add(model)
    assert all(torch.equal(value, before[name]) for name, value in average.state_dict().items())


def save(path, model, config, table_hash: str = "t") -> None:
    checkpoint.save(path, model, config=config, classes=CLASSES, table_hash=table_hash, seen=[])


def test_checkpoints_of_one_run_are_averaged(model, tmp_path) -> None:
    """The mean, by numpy; sessions of another length are still the same run."""
    paths, members = [], []
    for seed in (1, 2, 3):
        members.append(randomise(model, seed))
        paths.append(tmp_path / f"{seed}.safetensors")
        save(paths[-1], model, tiny_config(train__session_s=60.0 * seed))
    averaged = average_checkpoints(paths)
    assert averaged.keys() == members[0].keys()
    for name, value in averaged.items():
        assert value.dtype == members[0][name].dtype
        if value.is_floating_point():
            assert np.allclose(value, np.mean([member[name] for member in members], axis=0), rtol=1e-6), name
    model.load_state_dict(averaged)
    with pytest.raises(ValueError, match="no checkpoints"):
        average_checkpoints([])


@pytest.mark.parametrize(("changes", "reason"), [
    ({"split": 1}, "split 0 and 1"), ({"seed": 7}, "seed 0 and 7"), ({"train__peak_lr": 1.0}, "config"),
    ({"table_hash": "other"}, "training table t and other")])
def test_checkpoints_of_several_runs_are_refused(model, tmp_path, changes: dict, reason: str) -> None:
    """The mean of weights of several splits cost an ensemble of BirdCLEF 2026 0.018."""
    save(tmp_path / "a.safetensors", model, tiny_config())
    other = dict(changes)
    table_hash = other.pop("table_hash", "t")
    save(tmp_path / "b.safetensors", model, tiny_config(**other), table_hash)
    with pytest.raises(ValueError, match=reason) as caught:
        average_checkpoints([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert "b.safetensors" in str(caught.value) and "average their probabilities" in str(caught.value)


def test_the_epochs_that_are_averaged() -> None:
    """By score, the later of equals; without scores the last ones; all where there are few."""
    scores = {1: 0.9, 2: 0.7, 3: 0.8, 4: 0.8}
    assert epochs_to_average(scores, 2, "best") == [1, 4] and epochs_to_average(scores, 2, "last") == [3, 4]
    assert epochs_to_average(scores, 9, "best") == [1, 2, 3, 4] and epochs_to_average(scores, 0, "best") == []
    assert epochs_to_average(dict.fromkeys(scores, math.nan), 2, "best") == [3, 4]
    assert epochs_to_average({1: 0.5, 2: math.nan, 3: 0.6, 4: 0.4}, 2, "best") == [1, 3]


def scored(monkeypatch, *scores: float) -> None:
    """Let validations come out as said."""
    coming = iter(scores)
    monkeypatch.setattr(Validated, "interval", lambda _: Interval(next(coming), 0.0, 1.0))


@pytest.mark.parametrize(("score", "best"), [(0.95, "average"), (0.85, "epoch 2")])
def test_the_average_is_deployed_only_where_it_is_best(tmp_path, monkeypatch, score: float, best: str) -> None:
    """The second seed deployed the oldest of its ten checkpoints; here it is always the one that validated best."""
    table = write_tones(tmp_path)
    scored(monkeypatch, 0.6, 0.9, 0.8, 0.7, score)
    result = run(tiny_config(train__average=2), table, tmp_path, "run")
    assert result.average == tmp_path / "run" / "average.safetensors"
    average, deployed = checkpoint.read_info(result.average), checkpoint.read_info(result.best)
    assert average["averaged"] == [2, 3] and average["score"] == score and average["weights"] == "average"
    assert (deployed["weights"] == "average") is (best == "average")
    assert deployed["score"] == max(score, 0.9) and deployed["step"] == (8 if best == "average" else 4)
    row = result.history.iloc[-1]
    assert row["weights"] == "average" and row["score"] == score and row["epoch"] == 4 and math.isnan(row["loss"])
    assert result.history["weights"].tolist()[:4] == ["ema"] * 4


def test_no_more_epochs_are_kept_than_are_averaged(tmp_path, monkeypatch) -> None:
    """Thirty checkpoints of a large model would fill Kaggle's 20 GB; and after the run none are left."""
    table, seen = write_tones(tmp_path), []
    scored(monkeypatch, 0.6, 0.9, 0.8, 0.7, 0.5)
    real = fitting.Loop._close_epoch

    def looking(self, bar):
        try:
            return real(self, bar)
        finally:
            seen.append(sorted(path.stem for path in (tmp_path / "run" / "epochs").glob("*")))

    monkeypatch.setattr(fitting.Loop, "_close_epoch", looking)
    run(tiny_config(train__average=2), table, tmp_path, "run")
    assert [state for state, last in zip(seen, [None, *seen], strict=False) if state != last] == [
        [], ["epoch0001"], ["epoch0001", "epoch0002"], ["epoch0002", "epoch0003"]]
    assert not (tmp_path / "run" / "epochs").exists()


def test_the_average_is_the_mean_of_the_epochs_it_names(tmp_path, monkeypatch) -> None:
    """From the files of two runs: one that ended after each epoch would have had these weights."""
    table = write_tones(tmp_path)
    states = {}
    real = fitting.RunFiles.keep_epoch

    def keeping(self, epoch):
        real(self, epoch)
        states[epoch] = checkpoint.load(self.folder / "last.safetensors").model.state_dict()

    monkeypatch.setattr(fitting.RunFiles, "keep_epoch", keeping)
    result = run(tiny_config(train__average=2, train__average_of="last", train__epochs=3), table, tmp_path, "run")
    got = checkpoint.load(result.average).model.state_dict()
    for name, value in got.items():
        if value.is_floating_point():
            assert torch.allclose(value, (states[2][name] + states[3][name]) / 2, atol=1e-6), name


def test_without_validation_the_average_is_deployed(tmp_path) -> None:
    """Trained on everything, nothing can tell which weights are best; the average is the better bet."""
    config = tiny_config(split=-1, train__average=2, train__epochs=3)
    result = run(config, write_tones(tmp_path), tmp_path, "run")
    assert checkpoint.read_info(result.best)["averaged"] == [2, 3]
    assert checkpoint.file_hash(result.best) == checkpoint.file_hash(result.average)


def test_stochastic_weight_averaging_begins_where_the_config_says() -> None:
    """After half of four epochs: the ends of the third and the fourth, each alike; the model itself before."""
    trainer = make_trainer(tiny_config(train__ema_decay=0.0, train__swa_start=0.5), total_steps=8, per_epoch=2)
    batch = make_batch(np.random.default_rng(0).standard_normal(64_000).astype(np.float32))
    ends = []
    for step in range(8):
        assert trainer.averaged == ("swa" if step >= 6 else "model")
        trainer.train_step(batch)
        if step in (5, 7):
            ends.append(weights(trainer.model))
    assert trainer.deployed is not trainer.model
    for name, value in trainer.deployed.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, (ends[0][name] + ends[1][name]) / 2, atol=1e-6), name
        else:
            assert torch.equal(value, ends[1][name])


def test_a_run_with_averaged_weights_deploys_them(tmp_path) -> None:
    """What is validated is what is saved, and the history says what it was."""
    config = tiny_config(train__ema_decay=0.0, train__swa_start=0.5, train__epochs=3)
    result = run(config, write_tones(tmp_path), tmp_path, "run")
    assert result.history["weights"].tolist() == ["model", "swa", "swa"]
    assert checkpoint.read_info(result.last)["weights"] == "swa" and result.average is None


def test_a_setting_that_averages_twice_is_refused() -> None:
    """An exponential average of which epochs are averaged alike is neither."""
    with pytest.raises(ValueError, match="two ways to average"):
        replace(tiny_config(), train__swa_start=0.5)
