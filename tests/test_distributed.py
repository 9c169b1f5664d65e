"""Two processes that train one model do what one would do. This file is also the program that torchrun starts."""
from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from conftest import noise
from tiny_run import CLASSES, assert_same_history, assert_same_weights, make_trainer, run, tiny_config, write_tones

from birdkit import checkpoint
from birdkit.batch import Batch
from birdkit.config import Member, RunConfig
from birdkit.data.teacher_table import TeacherTable
from birdkit.data.window_index import WindowIndex
from birdkit.models import MODELS, build_model
from birdkit.settings import replace
from birdkit.training import distributed
from birdkit.training.distributed import World
from birdkit.training.trainer import Trainer

LOSSES = (Member("bce"), Member("two_way", {"base": "focal", "pooling": "max"}), Member("soft_auc"))
STEPS = {"data__samples_per_epoch": 32, "train__epochs": 2, "train__average": 2}


def plain_config(loss: Member) -> RunConfig:
    """No batch norm, no dropout, no augmentation: nothing that a process does by itself."""
    return tiny_config(model__backbone="test_nfnet", model__dropout=0.0, augment__wave=(), train__clip_grad_norm=0.0,
                       train__ema_decay=0.0, loss=loss)


def joined_batch() -> Batch:
    """Eight unlike examples of unlike weight; the second half weighs ten times less, and some labels are unknown."""
    rng = np.random.default_rng(0)
    signal = torch.from_numpy(rng.standard_normal((8, 64_000)).astype(np.float32))
    target = torch.tensor([[1, 0], [0, 1], [0.8, 0], [0, 0], [0, 1], [1, 1], [0, 0], [1, 0]], dtype=torch.float32)
    weight = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.1, 0.0, 0.2, 0.1])
    cells = torch.ones(8, 2)
    cells[[1, 6], [0, 1]] = 0.0
    return Batch(signal, target, weight, cells)


def rows(batch: Batch, part: slice) -> Batch:
    return Batch(batch.signal[part], batch.target[part], batch.weight[part], batch.cell_weight[part],
                 teacher=None if batch.teacher is None else batch.teacher[part])


def taught_trainer(world: World | None = None) -> tuple[Trainer, Batch]:
    """A trainer with a teacher of three features, and the joined batch with what that says: nothing of example 5."""
    teacher = TeacherTable(WindowIndex(np.array(["a"]), np.zeros(1), np.ones(1)), np.zeros((1, 3), np.float32), None)
    said = torch.from_numpy(np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32))
    said[5] = float("nan")
    config = replace(plain_config(Member("bce")), distil__teacher="t.npz", distil__width=3, distil__until=0.5)
    return make_trainer(config, world=world, teacher=teacher), joined_batch().replace(teacher=said)


def one_step(trainer: Trainer, batch: Batch) -> dict[str, torch.Tensor | float]:
    """The loss and every gradient of a step."""
    loss = trainer.train_step(batch)
    learning = itertools.chain(trainer.model.named_parameters(),
                               trainer.projection.named_parameters() if trainer.projection else ())
    gradients = {name: p.grad.clone() for name, p in learning if p.grad is not None}
    return {"loss": loss, **gradients}


def work(folder: Path) -> None:
    """What each of two processes does: results go to a file of its own."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    found: dict[str, Any] = {}
    with distributed.join_world() as world:
        half = slice(4 * world.rank, 4 * world.rank + 4)
        for loss in LOSSES:
            found[loss.name] = one_step(make_trainer(plain_config(loss), world=world), rows(joined_batch(), half))
        trainer, batch = taught_trainer(world)
        found["taught"] = one_step(trainer, rows(batch, half))
        trainer.step = 60  # the teacher is not asked any more
        found["rested"] = [one_step(trainer, rows(batch, half))["loss"] for _ in range(2)]
        trainer = make_trainer(tiny_config(), world=world)
        found["seed"] = trainer._seed(0)
        for _ in range(3):
            trainer.train_step(rows(joined_batch(), half))
        bad = rows(joined_batch(), half)
        if world.rank == 1:
            bad = bad.replace(signal=bad.signal * float("nan"))
        before = [p.clone() for p in trainer.model.parameters()]
        found["bad"] = trainer.train_step(bad)
        found["kept"] = all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
        trainer.train_step(rows(joined_batch(), half))
        found["skipped"] = trainer.skipped
        found["weights"] = {name: p.detach() for name, p in trainer.model.named_parameters()}
        found["agreed"] = world.agree(world.rank == 1), world.agree(False)
    table = pd.read_pickle(folder / "table.pkl")
    run(replace(plain_config(Member("bce")), train__epochs=2), table, folder, "plain")
    found["whole"] = run(tiny_config(**STEPS), table, folder, "whole")
    real, clock = time.monotonic, itertools.count(step=10)
    if not world.rank:  # the clock of the first process alone
        time.monotonic = lambda: float(next(clock))  # type: ignore[assignment]
    found["cut"] = run(tiny_config(train__session_s=250.0, **STEPS), table, folder, "cut")
    time.monotonic = real
    found["steps"] = torch.load(folder / "cut" / "state.pt", weights_only=True)["trainer"]["step"]
    found["rest"] = run(tiny_config(**STEPS), table, folder, "cut")
    torch.save(found, folder / f"rank{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where two processes that torchrun has started have done their work."""
    folder = tmp_path_factory.mktemp("world")
    write_tones(folder).to_pickle(folder / "table.pkl")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__,
               str(folder)]
    with open(folder / "log", "wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True,
                                   env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
        try:
            status = started.wait(300)
        finally:
            if started.poll() is None:  # processes that wait for each other wait for ever
                os.killpg(started.pid, signal.SIGTERM)
    assert status == 0, (folder / "log").read_text()[-3000:]
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(ranks, loss: Member) -> None:
    """Also where one part of the batch weighs more than the other, labels are unknown, and a loss compares examples of
    both: the mean of two means is none of it."""
    alone = one_step(make_trainer(plain_config(loss)), joined_batch())
    assert len(alone) > 10
    for found in ranks:
        assert found[loss.name].keys() == alone.keys()
        for name, value in alone.items():
            largest = float(torch.as_tensor(value).abs().max())
            assert torch.allclose(torch.as_tensor(found[loss.name][name]), torch.as_tensor(value),
                                  atol=1e-5 * largest + 1e-9), name


def test_two_processes_learn_from_a_teacher_as_one_does(ranks) -> None:
    """The distance of the whole batch, where one part of it was heard less; and nobody waits for the gradients of a
    projection that is not used any more."""
    trainer, batch = taught_trainer()
    alone = one_step(trainer, batch)
    assert {"layers.0.weight", "layers.0.bias"} < alone.keys()
    for found in ranks:
        assert found["taught"].keys() == alone.keys() and np.isfinite(found["rested"]).all()
        for name, value in alone.items():
            largest = float(torch.as_tensor(value).abs().max())
            assert torch.allclose(torch.as_tensor(found["taught"][name]), torch.as_tensor(value),
                                  atol=1e-5 * largest + 1e-9), name


def test_weights_stay_equal_while_draws_differ(ranks) -> None:
    """Two processes that mixed the same examples alike would see half as much; two whose weights drift apart are two
    models."""
    assert ranks[0]["seed"] != ranks[1]["seed"] and ranks[0]["seed"] == make_trainer(tiny_config())._seed(0)
    assert all(torch.equal(value, ranks[1]["weights"][name]) for name, value in ranks[0]["weights"].items())


def test_what_is_not_finite_in_one_process_is_skipped_in_both(ranks) -> None:
    """Else the other one would wait for ever for gradients that never come."""
    for found in ranks:
        assert not np.isfinite(found["bad"]) and found["kept"] and found["skipped"] == 1
        assert found["agreed"] == (True, False)


def test_a_whole_run_is_that_of_one_process(folder) -> None:
    """Batches, schedule, weights and scores: without batch norms only rounding differs."""
    config = replace(plain_config(Member("bce")), train__epochs=2)
    alone = run(config, pd.read_pickle(folder / "table.pkl"), folder, "alone")
    together = pd.read_csv(folder / "plain" / "history.csv")
    assert np.allclose(together["loss"], alone.history["loss"], rtol=1e-3)
    assert together["step"].tolist() == alone.history["step"].tolist()
    mine = checkpoint.load(alone.last).model.state_dict()
    for name, value in checkpoint.load(folder / "plain" / "last.safetensors").model.state_dict().items():
        assert torch.allclose(value, mine[name], atol=2e-3), name


def test_both_stop_when_the_first_one_says_so_and_go_on_together(folder, ranks) -> None:
    """The session's limit is the first process's; the resumed run ends as the uninterrupted one, bit by bit."""
    for found in ranks:
        assert not found["cut"].finished and 0 < found["steps"] < 8
        assert found["rest"].finished and found["rest"].best == folder / "cut" / "best.safetensors"
        assert_same_history(found["rest"].history, found["whole"].history)
    for name in ("last", "best", "average"):
        assert_same_weights(getattr(ranks[0]["rest"], name), getattr(ranks[0]["whole"], name))


def test_only_the_first_process_speaks(folder) -> None:
    """A log in which every line comes twice, or a bar drawn over another, cannot be read."""
    log = (folder / "log").read_text()
    assert log.count("validating on 6 recordings") == 4  # plain, whole, cut, rest
    assert log.count("epochs of") == log.count("6 recordings of 2 of 2 classes") == 4
    assert "strides" not in log  # what torch says of gradients that it has to copy
    assert log.count("step skipped") == 1 and log.count("start the notebook again") == 1


def test_alone_nothing_is_joined(monkeypatch) -> None:
    """A notebook is no torchrun, and its rows are not copied."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.join_world() as world:
        assert world == World() and world.first and not dist.is_initialized()
        assert world.gather(signal := torch.ones(2)) is signal and world.share("x") == "x" and world.agree(True)


def test_more_processes_than_gpus_are_refused(monkeypatch) -> None:
    """Two processes on one GPU deadlock in NCCL, or share its memory; torch's own message says nothing of that."""
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU of its own: there are 1"), \
            distributed.join_world():
        pass


def test_a_model_with_shared_batch_norms_is_saved_as_any_other(tmp_path) -> None:
    """Their class is torch's own, their names and numbers are the model's; on a CPU norms stay as they are."""
    config = tiny_config()
    model = build_model(config.model, config.frontend, len(CLASSES))
    names, wave = list(model.state_dict()), torch.from_numpy(noise(2))[None]
    before = model.eval()(wave).clip_logits
    assert not World(0, 2).share_batch_norms(model, "cpu") and not World().share_batch_norms(model, "cuda")
    assert not any(isinstance(part, torch.nn.SyncBatchNorm) for part in model.modules())
    assert World(0, 2).share_batch_norms(model, "cuda")
    assert any(isinstance(part, torch.nn.SyncBatchNorm) for part in model.modules())
    assert list(model.state_dict()) == names and torch.equal(model(wave).clip_logits, before)
    checkpoint.save(tmp_path / "a.safetensors", model, config=config, classes=CLASSES, table_hash="", seen=[])
    assert torch.equal(checkpoint.load(tmp_path / "a.safetensors").model(wave).clip_logits, before)


@pytest.mark.parametrize("name", MODELS.names())
def test_every_weight_of_every_model_takes_part(name: str) -> None:
    """Processes wait for the gradient of each weight: one that is never used would stop them in their second step."""
    kind = MODELS.get(name)
    model = build_model(kind.small, kind.small_frontend, len(CLASSES))
    trainer = Trainer(tiny_config(model=kind.small, frontend=kind.small_frontend), model, total_steps=1, per_epoch=1,
                      device="cpu")
    wave = torch.randn(2, kind.small.parts * kind.small_frontend.n_samples, generator=torch.Generator().manual_seed(0))
    trainer.train_step(Batch(wave, torch.eye(2), torch.ones(2)))
    assert [name for name, p in trainer.model.named_parameters() if p.grad is None] == []


if __name__ == "__main__":
    work(Path(sys.argv[1]))
