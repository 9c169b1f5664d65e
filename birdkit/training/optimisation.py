"""How weights are changed: the optimiser, the learning rate of every step, and the precision of the arithmetic."""
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from birdkit.config import TrainConfig

OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": torch.optim.AdamW, "adam": torch.optim.Adam,
    "radam": functools.partial(torch.optim.RAdam, decoupled_weight_decay=True)}
DTYPES = {"f32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_BF16_CAPABILITY = 8  # of a CUDA device: the A100's generation, after the T4's
# In names of backbones: without norms their activations leave the range of fp16 (NaN; BirdCLEF 2026 second place).
NOT_IN_FP16 = ("nfnet",)


def learning_rate(step: int, total_steps: int, per_epoch: int, config: TrainConfig) -> float:
    """The rate of a step, counted from 0, in a run of `total_steps` with `per_epoch` in each epoch.

    A linear rise from `warmup_start` times the peak, which it reaches at the last step of `warmup_epochs`. Then
    "cosine" is half a cosine down to `final_lr` at the last step of the run (torch's CosineAnnealingLR). "restarts" is
    one in every `restart_epochs`, which begins anew where it would reach its end (torch's CosineAnnealingWarmRestarts),
    all of it `restart_decay` times the one before: peak and end alike, as the second seed did.

    >>> config = TrainConfig(peak_lr=1.0, final_lr=0.0, warmup_epochs=2.0)
    >>> [round(learning_rate(step, 10, 1, config), 2) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.0]
    """
    warmup = round(config.warmup_epochs * per_epoch)
    if step < warmup:
        return config.peak_lr * (config.warmup_start + (1 - config.warmup_start) * (step + 1) / warmup)
    if config.schedule == "restarts":
        length = max(round(config.restart_epochs * per_epoch), 1)
        number, place = divmod(step - warmup, length)
        return config.restart_decay ** number * _cosine(place / length, config)
    return _cosine(min((step - warmup) / max(total_steps - warmup - 1, 1), 1.0), config)


def _cosine(share: float, config: TrainConfig) -> float:
    """From the peak at 0 to the final rate at 1."""
    return config.final_lr + (config.peak_lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share))


def build_optimiser(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimiser, with weight decay on matrices and kernels alone.

    Norms, biases, gains and whatever else has one number per channel are spared, and so is what a timm network names in
    its `no_weight_decay`, such as embeddings of positions.
    """
    spared = {id(parameter) for parameter in _named_as_spared(model)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and p.numel() > len(p) and id(p) not in spared]
    kept = {id(parameter) for parameter in decayed}
    groups = [{"params": decayed, "weight_decay": config.weight_decay},
              {"params": [p for p in trained if id(p) not in kept], "weight_decay": 0.0}]
    return OPTIMISERS[config.optimiser](groups, lr=config.peak_lr)


def _named_as_spared(model: nn.Module) -> list[nn.Parameter]:
    """What the networks inside a model say themselves."""
    found = []
    for network in model.modules():
        names: Callable[[], Collection[str]] = getattr(network, "no_weight_decay", tuple)
        own = dict(network.named_parameters()) if names() else {}
        found += [own[name] for name in names() if name in own]
    return found


@dataclass(frozen=True)
class Precision:
    """The precision of the network in training, and why it is that one.

    name    "f32", "bf16" or "fp16"
    reason  in words, for the log
    """

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype | None:
        """What autocast casts to; None where it is off."""
        return DTYPES[self.name]


def choose_precision(config: TrainConfig, device: str, *, backbone: str = "") -> Precision:
    """What was asked for, or under "auto" what the device, "cpu" or "cuda", does in hardware.

    Cards of the T4's class have no bf16 units: they get fp16 with a gradient scaler, but f32 for the backbones of
    NOT_IN_FP16. A CPU gets bf16 only where it multiplies it in hardware, and is then up to twice as fast.

    backbone  the name of the network, see birdkit.config.ModelConfig
    """
    if config.precision != "auto":
        return Precision(config.precision, "the config says so")
    if device == "cpu":
        if has_bf16_units():
            return Precision("bf16", "this CPU has bf16 units")
        return Precision("f32", "this CPU has no bf16 units")
    if torch.cuda.get_device_capability()[0] >= LEAST_BF16_CAPABILITY:
        return Precision("bf16", f"{torch.cuda.get_device_name()} has bf16 units")
    reason = f"{torch.cuda.get_device_name()} has no bf16 units"
    if any(name in backbone for name in NOT_IN_FP16):
        return Precision("f32", f"{reason}, and in fp16 {backbone} gives NaN")
    return Precision("fp16", reason)


def has_bf16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU says that it multiplies bf16 in hardware; False where it cannot be asked."""
    if not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
