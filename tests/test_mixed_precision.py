"""Mixed precision: whole networks train on sounds that left the range of the first seed's half-precision image."""
import logging

import numpy as np
import pytest
import torch
from conftest import noise, tone
from tiny_run import make_batch, make_trainer, tiny_config, weights

from birdkit.batch import Batch
from birdkit.config import FrontEndConfig, ModelConfig, RunConfig, TrainConfig
from birdkit.models import MODELS, build_model
from birdkit.settings import replace
from birdkit.training import trainer as trainers
from birdkit.training.trainer import Trainer

# Backward through fp16 takes a CPU minutes.
PRECISIONS = [("cpu", "bf16"), *((("cuda", "bf16"), ("cuda", "fp16")) if torch.cuda.is_available() else ())]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def hard_sounds(frontend: FrontEndConfig) -> torch.Tensor:
    """A tone at full scale, a call and then two seconds of padding, silence, and noise: (4, N).

    In half precision the tone's power is infinite, and the logarithm of the padding's is minus infinity.
    """
    seconds, n_samples = frontend.n_samples / 32_000, frontend.n_samples
    padded = tone(3_000.0, seconds, amplitude=0.1)
    padded[-2 * frontend.sample_rate_hz:] = 0.0
    waves = [tone(1_000.0, seconds, amplitude=1.0), padded, np.zeros(n_samples, np.float32), noise(seconds)]
    return torch.from_numpy(np.stack([wave[:n_samples] for wave in waves]))


def assert_trains(model: ModelConfig, frontend: FrontEndConfig, device: str, precision: str) -> None:
    """Three steps whose losses and gradients are all finite."""
    torch.manual_seed(0)
    config = RunConfig(model=replace(model, parts=1), frontend=frontend,
                       train=TrainConfig(precision=precision, warmup_epochs=0.0, ema_decay=0.0))
    trainer = Trainer(config, build_model(config.model, frontend, 3), total_steps=3, per_epoch=3, device=device)
    if precision == "fp16":  # the scale that it comes down to by itself, at the cost of some steps
        trainer.scaler = torch.amp.GradScaler(device, init_scale=256.0)  # type: ignore[attr-defined]
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for _ in range(3):
        assert np.isfinite(trainer.train_step(Batch(hard_sounds(frontend), target, torch.ones(4))))
        for name, parameter in trainer.model.named_parameters():
            assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
    assert trainer.skipped == 0
    with torch.inference_mode():
        output = trainer.model.eval()(hard_sounds(frontend).to(device))
    assert output.clip_logits.isfinite().all() and output.segment_logits.isfinite().all()


@pytest.mark.parametrize(("device", "precision"), PRECISIONS)
@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_trains_in_half_precision(name: str, device: str, precision: str) -> None:
    """The first seed gave up mixed precision: the loss was not finite from the first step on, at every loss scale."""
    assert_trains(MODELS.get(name).small, MODELS.get(name).small_frontend, device, precision)


@pytest.mark.parametrize(("device", "precision"), PRECISIONS)
@pytest.mark.parametrize("norm", ["none", "band", "channel", "instance"])
def test_raw_decibels_train_in_half_precision(norm: str, device: str, precision: str) -> None:
    """As in the first seed, nothing scales the image: decibels from -100 to 55 reach the first layer."""
    frontend = replace(MODELS.get("sed").small_frontend, level="none", floor=1e-10, scaling="none")
    assert_trains(replace(MODELS.get("sed").small, input_norm=norm), frontend, device, precision)


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp16"), *PRECISIONS])
@pytest.mark.parametrize("name", MODELS.names())
def test_the_image_does_not_know_of_half_precision(name: str, device: str, precision: str) -> None:
    """Bit by bit: rounding of decibels to bf16 would be half a decibel, and the tone would be infinite in fp16."""
    model = build_model(MODELS.get(name).small, MODELS.get(name).small_frontend, 2).to(device)
    waves = hard_sounds(model.frontend.config).to(device)
    image = model.frontend(waves)
    with torch.autocast(device, dtype=TYPES[precision]):
        assert torch.equal(model.frontend(waves), image)
    assert image.dtype == torch.float32 and image.isfinite().all()


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("name", MODELS.names())
def test_half_precision_decides_in_full(name: str, precision: str) -> None:
    """Attention that was normalised in bf16 sums to anything from 0.99 to 1.01, and what is a power of a feature leaves
    the range of fp16; logits may differ by their rounding."""
    torch.manual_seed(0)
    model = build_model(MODELS.get(name).small, MODELS.get(name).small_frontend, 2)
    waves = hard_sounds(model.frontend.config)
    with torch.inference_mode():
        for parameter in model.parameters():
            if not parameter.any():  # attention that starts uniform would be exact
                parameter.normal_(0, 0.1)
        model.train()(waves)
        whole = model.eval()(waves)
        with torch.autocast("cpu", dtype=TYPES[precision]):
            half = model(waves)
    assert half.clip_logits.dtype == half.segment_logits.dtype == half.attention.dtype == torch.float32
    assert torch.allclose(half.attention.sum(1), torch.ones(4, 2), atol=1e-5)
    assert torch.allclose(half.segment_logits, whole.segment_logits, atol=0.05 if precision == "bf16" else 0.006)


def scaled(scale: float) -> Trainer:
    """A trainer whose gradients are scaled as those of half precision are."""
    trainer = make_trainer(tiny_config(augment__wave=()))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # type: ignore[attr-defined]
    return trainer


def test_a_scale_changes_no_step() -> None:
    """Clipping and the optimiser see gradients of their true size; a power of two costs no digit."""
    plain, other = make_trainer(tiny_config(augment__wave=())), scaled(2.0**16)
    for trainer in (plain, other):
        for _ in range(2):
            trainer.train_step(make_batch(tone(1000, 2)))
    assert all(torch.equal(value, plain.model.state_dict()[name]) for name, value in weights(other.model).items())


def test_an_overflow_is_skipped_and_lowers_the_scale(caplog) -> None:
    """Now and then that is normal: no warning, no change of weights or averages, and the next steps go on."""
    trainer = scaled(2.0**127)
    before, average = weights(trainer.model), weights(trainer.deployed)
    with caplog.at_level(logging.INFO, "birdkit"):
        loss = trainer.train_step(make_batch(tone(1000, 2)))
    assert np.isfinite(loss) and trainer.skipped == 1 and trainer.scaler.get_scale() == 2.0**126
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(torch.equal(value, average[name]) for name, value in trainer.deployed.state_dict().items())
    assert "gradients overflow at a scale of 1.7" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    for _ in range(8):
        trainer.train_step(make_batch(tone(1000, 2)))
    assert trainer.skipped_in_a_row == 0 and trainer.skipped < 9
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_half_precision_that_never_fits_stops_the_run(monkeypatch) -> None:
    """The first seed's loss scale was halved down to 3.7e-40, step by step, while nobody learned anything."""
    monkeypatch.setattr(trainers, "MAX_SKIPPED", 4)
    trainer = scaled(2.0**127)
    with pytest.raises(FloatingPointError, match=r'not finite for 4 steps.*train.precision = "f32" has a wider range'):
        for _ in range(5):
            trainer.train_step(make_batch(np.full(64_000, np.nan, np.float32)))
