"""Training: steps that do what the config says, on batches that are what they should be; checkpoints one can trust."""
import copy
import logging
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import RATE, noise, tone
from safetensors.torch import load_file
from tiny_run import CLASSES, assert_same_history, make_batch, make_trainer, run, tiny_config, weights, write_tones

from birdkit import checkpoint
from birdkit.augmentations import AUGMENTATIONS, Augmentation
from birdkit.batch import Batch
from birdkit.config import Member, SourceConfig
from birdkit.losses import LOSSES
from birdkit.metrics import Interval
from birdkit.metrics.comparison import Validated
from birdkit.settings import replace
from birdkit.training import trainer
from birdkit.training.trainer import Trainer
from birdkit.training.validation import Validation


def test_it_learns_two_tones(tmp_path) -> None:
    """The whole path: files, crops, mixing, front end, model, loss, validation, checkpoint."""
    table = write_tones(tmp_path)
    config = tiny_config(data__samples_per_epoch=64)
    result = run(config, table, tmp_path, "run")
    assert result.history["epoch"].tolist() == [1, 2, 3, 4] and result.finished
    assert result.history["score"].iloc[-1] > 0.95
    loaded = checkpoint.load(result.best)
    assert loaded.classes == CLASSES and loaded.config == config
    assert loaded.seen == set(table.loc[table["split"] == 1, "file"])
    with torch.inference_mode():
        heard = np.stack([tone(6000, 2), tone(1000, 2)]) + noise(2, amplitude=0.05, seed=99)
        said = loaded.model(torch.from_numpy(heard)).clip_logits
    assert said[0, 0] > said[1, 0] and said[1, 1] > said[0, 1]  # each class ranks its own tone higher


def test_the_checkpoint_named_best_is_the_best(tmp_path, monkeypatch) -> None:
    """The second seed deployed the oldest of its kept checkpoints."""
    scores = iter([0.6, 0.9, 0.7, 0.8])
    monkeypatch.setattr(Validated, "interval", lambda _: Interval(next(scores), 0.0, 1.0))
    result = run(tiny_config(), write_tones(tmp_path), tmp_path, "run")
    assert checkpoint.read_info(result.best)["score"] == 0.9 and checkpoint.read_info(result.best)["step"] == 4
    assert checkpoint.read_info(result.last)["score"] == 0.8 and checkpoint.read_info(result.last)["step"] == 8


def test_split_minus_one_trains_on_everything(tmp_path) -> None:
    """Then nothing validates, and the last weights are the ones to deploy."""
    table = write_tones(tmp_path)
    result = run(tiny_config(split=-1, train__epochs=2), table, tmp_path, "run")
    assert checkpoint.load(result.best).seen == set(table["file"]) and result.history["score"].isna().all()
    assert checkpoint.file_hash(result.best) == checkpoint.file_hash(result.last)


def test_a_checkpoint_remembers_what_its_files_held(tmp_path) -> None:
    """A renamed copy of a recording must not be labelled by the model that was trained on it."""
    table = write_tones(tmp_path)
    table["content"] = [f"content of {file}" for file in table["file"]]
    result = run(tiny_config(train__epochs=1), table, tmp_path, "run")
    assert checkpoint.load(result.best).seen_content == set(table.loc[table["split"] == 1, "content"])


def test_a_run_without_averaged_weights_validates_too(tmp_path) -> None:
    """Then the model in training is the one that is scored, with its dropout off, and goes on training after it."""
    result = run(tiny_config(train__ema_decay=0.0, train__epochs=2), write_tones(tmp_path), tmp_path, "run")
    assert result.history["score"].notna().all() and result.history["weights"].tolist() == ["model", "model"]


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(tmp_path) -> None:
    """Otherwise no difference between two settings means anything; nor would the noise between seeds."""
    table = write_tones(tmp_path)
    a, b = (run(tiny_config(train__epochs=1), table, tmp_path, name) for name in "ab")
    assert_same_history(a.history, b.history)
    other = run(tiny_config(train__epochs=1, seed=1), table, tmp_path, "c")
    assert other.history["loss"].iloc[0] != a.history["loss"].iloc[0]


def test_recordings_rated_lower_than_asked_for_are_not_trained_on(tmp_path) -> None:
    """Nor may the checkpoint claim to have seen them."""
    table = write_tones(tmp_path)
    table["rating"] = [1.0, 1.0] + [5.0] * 10
    result = run(tiny_config(split=-1, train__epochs=1, data__min_rating=3.0), table, tmp_path, "run")
    assert checkpoint.load(result.best).seen == set(table["file"][2:])


def test_recordings_that_belong_together_may_not_be_validated_on_apart(tmp_path) -> None:
    """A table that was changed after the audit: the score would be of what the model has heard."""
    table = write_tones(tmp_path)
    tied = table.assign(group="file:" + table["file"], content=[*["same"] * 3, *table["file"][3:]])
    with pytest.raises(ValueError, match=r"content 'same' is in 2 splits: 0\.wav \(0\), 1\.wav \(0\), 2\.wav \(1\)"):
        run(tiny_config(), tied, tmp_path, "run")


def test_pseudo_labels_and_round_must_agree(tmp_path) -> None:
    """Round 0 with pseudo-labels, or round 1 without, is a mistake in the notebook's settings."""
    table = write_tones(tmp_path)
    labels = pd.DataFrame({"file": ["s"], "start_s": [0.0], "end_s": [2.0], "high": [1.0], "low": [0.0]})
    with pytest.raises(ValueError, match="round 1 needs pseudo-labels, but 0"):
        run(tiny_config(round=1), table, tmp_path, "a")
    with pytest.raises(ValueError, match="round 0 takes no pseudo-labels, but 1"):
        run(tiny_config(), table, tmp_path, "b", pseudo_labels=labels)


def test_a_run_says_what_it_is(tmp_path, caplog) -> None:
    """Device, precision and why, parameters, steps, examples: the first thing that is read when a run is slow."""
    with caplog.at_level(logging.INFO, "birdkit"):
        run(tiny_config(train__epochs=1), write_tones(tmp_path), tmp_path, "run")
    assert "training on cpu in f32 (the config says so), 1 process" in caplog.text
    assert "374,020 parameters, 6 recordings, 1 epochs of 2 steps of 8 examples" in caplog.text


@pytest.fixture
def spy() -> Iterator[list[Batch]]:
    """The batches that an augmentation named "spy" has seen, at either stage."""
    seen: list[Batch] = []

    @AUGMENTATIONS.register("spy")
    class Spy(Augmentation):
        stages = ("wave", "spectrogram")

        def __init__(self, source: str = "", p: float = 1.0) -> None:
            super().__init__(p)
            self.source = source

        @property
        def sources(self) -> frozenset[str]:
            return frozenset({self.source} - {""})

        def sample(self, batch, generator):
            return {}

        def transform(self, batch, **drawn):
            seen.append(batch)
            return batch

    yield seen
    del AUGMENTATIONS._members["spy"]


def test_augmentations_know_how_far_the_run_is(spy) -> None:
    """One that ends late in the run, as some winners' mixing does, asks the batch."""
    trainer = make_trainer(tiny_config(augment__wave=(Member("spy"),)), total_steps=4)
    for _ in range(4):
        trainer.train_step(make_batch(tone(1000, 2)))
    assert [batch.progress for batch in spy] == [0.0, 0.25, 0.5, 0.75]


def test_sources_reach_spectrogram_augmentations_as_spectrograms(spy) -> None:
    """A mixture of a spectrogram with a wave would be refused; one source that nobody mixes there costs nothing."""
    config = tiny_config(augment__wave=(Member("spy", {"source": "noise"}),),
                         augment__spectrogram=(Member("spy", {"source": "soundscapes"}),))
    trainer = make_trainer(config)
    assert trainer.source_shares == {"noise": 1.0, "soundscapes": 1.0}
    sources = {name: make_batch(noise(2, seed=seed)) for seed, name in enumerate(("noise", "soundscapes"))}
    trainer.train_step(make_batch(tone(1000, 2)).replace(sources=sources))
    first, second = spy
    assert set(first.sources) == {"noise", "soundscapes"} and first.sources["noise"].signal.shape == (4, 64_000)
    assert set(second.sources) == {"soundscapes"}
    background = second.sources["soundscapes"]
    assert background.signal.shape == second.signal.shape == (4, 1, 32, 64)
    assert torch.equal(background.signal, trainer.model.spectrogram(sources["soundscapes"].signal))
    assert torch.equal(background.target, sources["soundscapes"].target)


def test_only_sources_that_are_mixed_in_are_decoded(tmp_path, spy) -> None:
    """A folder that is configured but not asked for may not even exist; one that is asked for is heard."""
    table = write_tones(tmp_path)
    (tmp_path / "quiet").mkdir()
    sf.write(tmp_path / "quiet" / "a.wav", np.zeros(3 * RATE), RATE)
    sources = (SourceConfig("quiet", path=str(tmp_path / "quiet")), SourceConfig("absent", path=str(tmp_path / "no")))
    config = tiny_config(data__sources=sources, train__epochs=1, augment__wave=(Member("spy", {"source": "quiet"}),))
    run(config, table, tmp_path, "run")
    assert set(spy[0].sources) == {"quiet"} and not spy[0].sources["quiet"].signal.any()


def test_an_augmentation_at_the_wrong_stage_is_refused() -> None:
    """Before the run, not in its first step."""
    with pytest.raises(ValueError, match="'time_mask' belongs to the stage spectrogram, not wave"):
        make_trainer(tiny_config(augment__wave=(Member("time_mask"),)))


def test_levels_that_the_front_end_keeps_are_not_set_by_augmentations() -> None:
    """Half of the batch at peak 1 would be images that no soundscape gives; at their own levels they are mixed."""
    config = tiny_config(frontend__level="none", frontend__scaling="db80", frontend__floor=1e-10)
    with pytest.raises(ValueError, match=r"frontend.level = 'none'\), but or_mixup in augment.wave"):
        make_trainer(config)
    repeated = Member("repeat", {"member": {"name": "sumix", "options": {"level": "none"}}})
    with pytest.raises(ValueError, match="but repeat in"):
        make_trainer(replace(config, augment__wave=(repeated,)))
    make_trainer(replace(config, augment__wave=(Member("or_mixup", {"level": "none"}),),
                         augment__spectrogram=(Member("mixup"),)))


def test_unknown_labels_are_left_out_of_the_loss() -> None:
    """Cell weights go all the way: whatever the target of an unknown label is, the step is the same."""
    steps = []
    for unknown in (0.0, 1.0):
        batch = make_batch(tone(1000, 2))
        target, cells = batch.target.clone(), torch.ones_like(batch.target)
        target[0, 1], cells[0, 1] = unknown, 0.0
        trainer = make_trainer(tiny_config(augment__wave=()))
        loss = trainer.train_step(batch.replace(target=target, cell_weight=cells))
        steps.append((loss, weights(trainer.model)))
    assert steps[0][0] == steps[1][0]
    assert all(torch.equal(value, steps[1][1][name]) for name, value in steps[0][1].items())


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_padded_full_scale_audio_trains_with_finite_loss(precision: str) -> None:
    """The first seed's mixed precision exploded on exactly this: a full-scale tone, then zero padding."""
    trainer = make_trainer(tiny_config(train__precision=precision, augment__wave=()))
    wave = np.concatenate([tone(3000, 1, amplitude=1.0), np.zeros(RATE, np.float32)])
    losses = [trainer.train_step(make_batch(wave)) for _ in range(5)]
    assert np.isfinite(losses).all() and trainer.skipped == 0
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())


def break_gradients(monkeypatch) -> None:
    """Let the loss be finite, and its gradient not: the square root at zero, of nothing."""
    real = LOSSES.get("bce").forward

    def forward(self, output, *rest):
        return real(self, output, *rest) + (0.0 * output.clip_logits.sum()).sqrt()

    monkeypatch.setattr(LOSSES.get("bce"), "forward", forward)


@pytest.mark.parametrize("what", ["loss", "gradients"])
def test_a_step_that_is_not_finite_changes_nothing(monkeypatch, what: str, caplog) -> None:
    """One bad batch must poison neither weights, nor averages, nor the statistics of batch norms, nor the optimiser."""
    trainer = make_trainer(tiny_config(augment__wave=()))
    good = make_batch(tone(1000, 2))
    trainer.train_step(good)
    before, average = weights(trainer.model), weights(trainer.deployed)
    optimiser = copy.deepcopy(trainer.optimiser.state_dict()["state"])
    with monkeypatch.context() as patch:
        if what == "gradients":
            break_gradients(patch)
        loss = trainer.train_step(good if what == "gradients" else make_batch(np.full(2 * RATE, np.nan, np.float32)))
    assert math.isnan(loss) is (what == "loss")
    assert (trainer.skipped, trainer.skipped_in_a_row, trainer.step) == (1, 1, 2)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(torch.equal(value, average[name]) for name, value in trainer.deployed.state_dict().items())
    for number, state in trainer.optimiser.state_dict()["state"].items():
        assert all(torch.equal(value, optimiser[number][name]) for name, value in state.items())
    assert ("the loss is nan" if what == "loss" else "the gradients are not finite") in caplog.text
    assert np.isfinite(trainer.train_step(good)) and (trainer.skipped, trainer.skipped_in_a_row) == (1, 0)


def spoil(monkeypatch, steps: set[int]) -> None:
    """Let the waves of these steps be NaN."""
    real = Trainer.train_step

    def step(self: Trainer, batch: Batch) -> float:
        return real(self, batch.replace(signal=batch.signal * math.nan) if self.step in steps else batch)

    monkeypatch.setattr(Trainer, "train_step", step)


def test_skipped_steps_are_counted_in_the_history(tmp_path, monkeypatch) -> None:
    """A run that skips every fourth step still scores; only the count tells."""
    spoil(monkeypatch, {1, 2, 5})
    result = run(tiny_config(train__epochs=3), write_tones(tmp_path), tmp_path, "run")
    assert result.history["skipped"].tolist() == [1, 1, 1] and result.history["loss"].notna().all()
    assert pd.read_csv(tmp_path / "run" / "history.csv")["skipped"].tolist() == [1, 1, 1]


def test_a_run_that_skips_every_step_stops_and_keeps_the_batch(tmp_path, monkeypatch) -> None:
    """Twenty in a row are no accident: who looks for the cause finds the batch as it came from the files."""
    monkeypatch.setattr(trainer, "MAX_SKIPPED", 3)
    break_gradients(monkeypatch)
    table = write_tones(tmp_path)
    (tmp_path / "quiet").mkdir()
    sf.write(tmp_path / "quiet" / "a.wav", noise(3), RATE)
    config = tiny_config(data__sources=(SourceConfig("quiet", path=str(tmp_path / "quiet")),),
                         augment__wave=(Member("background", {"source": "quiet"}),))
    with pytest.raises(FloatingPointError, match=r"not finite for 3 steps up to step 2.*bad_batch\.safetensors"):
        run(config, table, tmp_path, "run")
    kept = load_file(tmp_path / "run" / "bad_batch.safetensors")
    fields = ("signal", "target", "weight", "cell_weight")
    of_source = {f"sources.quiet.{name}" for name in (*fields, "p_factor")}
    assert set(kept) == {"step", *fields, *of_source} and int(kept["step"]) == 2
    assert kept["signal"].shape == (8, 64_000) and kept["target"].shape == kept["cell_weight"].shape == (8, 2)
    batch = Batch(*(kept[name] for name in fields), sources={
        "quiet": Batch(*(kept[f"sources.quiet.{name}"] for name in fields), p_factor=kept["sources.quiet.p_factor"])})
    again = make_trainer(config)
    again.step = int(kept["step"])
    again.train_step(batch)
    assert again.skipped == 1


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_looks_for_its_fastest_way_in_steps_alone(monkeypatch, deterministic: bool) -> None:
    """All steps have the same shapes; validation has not, and whoever asks for determinism gets it."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", deterministic)
    trainer = make_trainer(tiny_config())
    seen = []
    trainer.model.backbone.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    trainer.train_step(make_batch(tone(1000, 2)))
    trainer.model(torch.from_numpy(tone(1000, 2))[None])
    assert seen == [not deterministic, False]


SEVEN_PARTS = {"name": "part_mixup", "options": {"parts": 7}}


@pytest.mark.parametrize(("changes", "message"), [
    ({"augment__wave": (Member("background", {"source": "nope"}),)}, "mixes in the source 'nope'"),
    ({"augment__wave": (Member(**SEVEN_PARTS),)}, "64000 samples or frames cannot be cut into 7"),
    ({"augment__wave": (Member("during", {"p": 0.01, "start": 0.9, "member": SEVEN_PARTS}),)}, "cut into 7"),
    ({"augment__wave": (Member("repeat", {"counts": [0], "member": SEVEN_PARTS}),)}, "cut into 7"),
    ({"augment__spectrogram": (Member("part_mixup", {"parts": 3}),)}, "64 samples or frames cannot be cut into 3"),
    ({"loss": Member("focal", {"alpha": [0.1, 0.2, 0.3]})}, "alpha has 3 numbers for 2 classes"),
    ({"loss": Member("two_way", {"base": "focal", "options": {"alpha": {"hihg": 0.2, "default": 0.1}}})},
     "alpha: hihg are no classes")])
def test_what_does_not_fit_is_found_before_anything_is_composed(tmp_path, monkeypatch, changes, message) -> None:
    """It came after the validation had been composed, or in the first step that drew it: hours into a session."""
    for where, name in ((Validation, "prepare"), (Trainer, "train_step")):
        monkeypatch.setattr(where, name, lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        run(tiny_config(**changes), write_tones(tmp_path), tmp_path, "run")


def test_a_rehearsal_changes_nothing_of_a_run() -> None:
    """A run that rehearsed and one that did not are the same run: weights, statistics, random numbers."""
    spectrogram = (Member("time_mask", {"p": 0.5}), Member("mixup", {"p": 0.5}))
    trainers = [make_trainer(tiny_config(augment__spectrogram=spectrogram)) for _ in range(2)]
    state = torch.get_rng_state()
    trainers[0].rehearse()
    assert torch.equal(torch.get_rng_state(), state)
    losses = [trainer.train_step(make_batch(tone(1000, 2))) for trainer in trainers]
    assert losses[0] == losses[1] and trainers[0].step == 1
    first, second = (weights(trainer.model) for trainer in trainers)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_loss_is_told_the_names_of_the_classes() -> None:
    """Columns go by name: a list in the order of another year's classes trains without a word."""
    config = tiny_config(loss=Member("focal", {"alpha": {"low": 0.9, "default": 0.25}}))
    assert make_trainer(config, classes=CLASSES).loss.alpha.numbers.tolist() == pytest.approx([0.25, 0.9])


def test_the_precision_is_chosen_for_the_backbone(monkeypatch) -> None:
    """An NFNet on a T4 is another case than a ResNet."""
    asked = []
    real = trainer.choose_precision
    monkeypatch.setattr(trainer, "choose_precision", lambda *args, **named: asked.append(named) or real(*args, **named))
    make_trainer(tiny_config(model__backbone="test_nfnet"))
    assert asked == [{"backbone": "test_nfnet"}]


def test_averaged_weights_are_the_ones_deployed() -> None:
    """What is validated is what is saved."""
    trainer = make_trainer(tiny_config(train__ema_decay=0.9, augment__wave=()))
    assert trainer.deployed is not trainer.model and trainer.averaged == "ema"
    before = weights(trainer.deployed)
    for _ in range(3):
        trainer.train_step(make_batch(tone(1000, 2)))
    assert any(not torch.equal(value, trainer.deployed.state_dict()[name]) for name, value in before.items())
    alone = make_trainer(tiny_config(train__ema_decay=0.0))
    assert alone.deployed is alone.model and alone.averaged == "model"


def test_gradients_are_clipped_to_the_norm_in_the_config() -> None:
    """A step on a broken-off recording must not undo an epoch; 0 leaves gradients as they are."""
    norms = {}
    for limit in (0.0, 1e-3):
        trainer = make_trainer(tiny_config(train__clip_grad_norm=limit, augment__wave=()))
        trainer.train_step(make_batch(tone(1000, 2)))
        norms[limit] = float(torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()]))
    assert norms[0.0] > 0.01 and norms[1e-3] == pytest.approx(1e-3, rel=1e-2)


def test_draws_of_seeds_steps_and_purposes_differ() -> None:
    """torch's generator reads 32 bits of a seed: a run of another seed drew the very same mixing."""
    seeds = set()
    for seed in (0, 1, 1 << 20):
        trainer = make_trainer(tiny_config(seed=seed))
        for trainer.step in (0, 1):
            seeds |= {trainer._seed(purpose) for purpose in (0, 1)}
    assert len(seeds) == 12 and all(0 <= seed < 1 << 32 for seed in seeds)


def test_the_network_is_compiled_where_the_config_says_so(tmp_path, monkeypatch) -> None:
    """Only the network, not the front end; and a checkpoint of it is that of any other run."""
    compiled = []
    real = torch.compile

    def compile_eagerly(module, **options):
        compiled.append(module)
        return real(module, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    table = write_tones(tmp_path)
    changes = {"train__epochs": 1, "train__ema_decay": 0.0, "augment__wave": (), "model__dropout": 0.0}
    plain = run(tiny_config(**changes), table, tmp_path, "plain")
    assert not compiled
    result = run(tiny_config(train__compile=True, **changes), table, tmp_path, "compiled")
    assert [type(module) for module in compiled] == [trainer.Network]
    same = checkpoint.load(plain.last).model.state_dict()
    for name, value in checkpoint.load(result.last).model.state_dict().items():
        assert torch.allclose(value.float(), same[name].float(), atol=1e-4), name
    assert result.history["loss"].iloc[0] == pytest.approx(plain.history["loss"].iloc[0], rel=1e-4)


def test_the_history_is_what_happened(tmp_path, monkeypatch) -> None:
    """A row for each validation, with the schedule's rate and the mean loss of the steps since the last row."""
    losses = []
    real = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self, batch: losses.append(real(self, batch)) or losses[-1])
    config = replace(tiny_config(), train__epochs=4, train__validate_every=3, train__warmup_epochs=0.0)
    history = run(config, write_tones(tmp_path), tmp_path, "run").history
    assert history["epoch"].tolist() == [3, 4] and history["lr"].iloc[-1] == config.train.final_lr
    assert history["loss"].tolist() == pytest.approx([np.mean(losses[:6]), np.mean(losses[6:])])
    assert (history["low"] <= history["score"]).all() and (history["score"] <= history["high"]).all()
    assert (history["seconds"] > 0).all()
