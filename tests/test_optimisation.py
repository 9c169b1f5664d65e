"""Optimiser, learning rate and precision: what the config says is what happens."""
import itertools
import math

import pytest
import timm
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts

from birdkit import recipes
from birdkit.config import TrainConfig
from birdkit.training import optimisation
from birdkit.training.optimisation import build_optimiser, choose_precision, learning_rate


def rates(config: TrainConfig, total_steps: int, per_epoch: int) -> list[float]:
    return [learning_rate(step, total_steps, per_epoch, config) for step in range(total_steps)]


def torch_rates(scheduler: type, n: int, **options) -> list[float]:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1e-3)
    schedule, found = scheduler(optimiser, eta_min=1e-5, **options), []
    for _ in range(n):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_the_schedule_is_the_one_in_the_config() -> None:
    """Warm-up to the peak, half a cosine to the end."""
    got = rates(TrainConfig(peak_lr=1e-3, final_lr=1e-5, warmup_epochs=1.0), 100, 10)
    assert got[0] == pytest.approx(1e-4) and got[9] == got[10] == pytest.approx(1e-3)
    assert got[99] == pytest.approx(1e-5) and got[54] == pytest.approx((1e-3 + 1e-5) / 2, rel=0.02)
    assert all(a >= b for a, b in itertools.pairwise(got[10:]))


def test_the_cosine_is_that_of_torch() -> None:
    """A competitor who moves a config over from torch's scheduler gets the same run."""
    got = rates(TrainConfig(peak_lr=1e-3, final_lr=1e-5, warmup_epochs=0.0), 41, 5)
    assert got == pytest.approx(torch_rates(CosineAnnealingLR, 41, T_max=40))


def test_restarts_are_those_of_torch() -> None:
    """The same for warm restarts, which begin anew in the step in which they would have ended."""
    config = TrainConfig(peak_lr=1e-3, final_lr=1e-5, warmup_epochs=0.0, schedule="restarts", restart_epochs=2.0,
                         restart_decay=1.0)
    assert rates(config, 41, 5) == pytest.approx(torch_rates(CosineAnnealingWarmRestarts, 41, T_0=10))


def test_the_second_seeds_rates_come_out() -> None:
    """As the recipe has them: a rise from a tenth of the peak, then eight epochs of cosine at 1, 1/2, 1/4 of it.

    Ours change with every step, its with every epoch: they agree where an epoch begins.
    """
    config = recipes.get("seed2025").config.train
    per_epoch = 10_000
    got = [learning_rate(epoch * per_epoch, 24 * per_epoch, per_epoch, config) for epoch in range(24)]
    down = [1e-5 + 0.99e-3 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]
    listed = [1e-4, 5.5e-4, *down, *(0.5 * rate for rate in down), *(0.25 * rate for rate in down[:6])]
    assert got == pytest.approx(listed, rel=1e-3)
    assert [got[2], got[10], got[18]] == pytest.approx([1e-3, 5e-4, 2.5e-4]) and got[9] == pytest.approx(5e-5, rel=0.1)


@pytest.mark.parametrize("schedule", ["cosine", "restarts"])
def test_a_run_shorter_than_its_warm_up_has_rates(schedule: str) -> None:
    """A rehearsal of one epoch with the settings of a long run must not divide by zero."""
    got = rates(TrainConfig(schedule=schedule, warmup_epochs=2.0, restart_epochs=0.01), 5, 3)
    assert all(0 < rate <= 1e-3 for rate in got) and got == sorted(got)


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(),
                               torch.nn.Linear(8, 2))


def test_weight_decay_reaches_kernels_and_spares_norms_and_biases() -> None:
    """The second seed configured a decay that was never passed on."""
    model = network()
    decayed, plain = build_optimiser(model, TrainConfig(weight_decay=0.3)).param_groups
    assert decayed["weight_decay"] == 0.3 and plain["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_weight_decay_spares_gains_and_what_a_network_names() -> None:
    """An NFNet's gains have the shape of a kernel, one number per channel; a decayed gain turns its layer down.

    Swin's tables of relative positions are biases in the shape of a matrix; timm names them.
    """
    nfnet = timm.create_model("test_nfnet", num_classes=2)
    groups = build_optimiser(nfnet, TrainConfig()).param_groups
    gains = {id(p) for name, p in nfnet.named_parameters() if name.endswith("gain")}
    assert gains and gains <= {id(p) for p in groups[1]["params"]}
    one = torch.nn.Linear(8, 1)  # the classifier of one class is a matrix, too
    assert [p.shape for p in build_optimiser(one, TrainConfig()).param_groups[0]["params"]] == [(1, 8)]

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.kernel = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))

        def no_weight_decay(self) -> set[str]:
            return {"table"}

    inside = torch.nn.ModuleDict({"network": Named()})
    assert [id(p) for p in build_optimiser(inside, TrainConfig()).param_groups[0]["params"]] == [
        id(inside["network"].kernel)]


@pytest.mark.parametrize("name", ["adamw", "adam", "radam"])
def test_every_optimiser_decays_kernels_and_no_norms(name: str) -> None:
    """The decay is passed to the optimiser, not only written down: without a gradient, kernels still shrink."""
    model = network()
    before = model[0].weight.norm().item(), model[1].weight.norm().item()
    optimiser = build_optimiser(model, TrainConfig(optimiser=name, weight_decay=0.5, peak_lr=1e-2))
    for _ in range(8):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
    shrunk = model[0].weight.norm().item() / before[0]
    assert shrunk < 0.999 and (name == "adam" or shrunk == pytest.approx((1 - 0.5 * 1e-2) ** 8, rel=1e-5))
    assert model[1].weight.norm().item() == before[1]


def test_precision_is_chosen_by_the_device_and_by_the_config(monkeypatch, tmp_path) -> None:
    """A T4 has no bf16 units; neither has an older CPU, on which it would only be slow."""
    for flags, expected in (("flags\t: avx2 avx512_bf16", True), ("flags\t: avx2 avx512f", False)):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
        assert optimisation.has_bf16_units(tmp_path / "cpuinfo") is expected
    assert not optimisation.has_bf16_units(tmp_path / "absent")
    monkeypatch.setattr(optimisation, "has_bf16_units", lambda: True)
    assert choose_precision(TrainConfig(), "cpu").name == "bf16"
    monkeypatch.setattr(optimisation, "has_bf16_units", lambda: False)
    assert choose_precision(TrainConfig(), "cpu").name == "f32"
    assert choose_precision(TrainConfig(precision="bf16"), "cpu").dtype == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    t4 = choose_precision(TrainConfig(), "cuda")
    assert t4.dtype == torch.float16 and t4.reason == "Tesla T4 has no bf16 units"
    nfnet = choose_precision(TrainConfig(), "cuda", backbone="eca_nfnet_l0.ra2_in1k")
    assert nfnet.name == "f32" and nfnet.reason.endswith("and in fp16 eca_nfnet_l0.ra2_in1k gives NaN")
    assert choose_precision(TrainConfig(), "cuda", backbone="tf_efficientnet_b0").name == "fp16"
    assert choose_precision(TrainConfig(precision="fp16"), "cuda", backbone="eca_nfnet_l0").name == "fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert choose_precision(TrainConfig(), "cuda").name == "bf16"
    assert choose_precision(TrainConfig(), "cuda", backbone="eca_nfnet_l0").name == "bf16"
