"""Averages of weights along one run: stochastic weight averaging, and the mean of checkpoints.

The exponential average is timm's ModelEmaV3. Batch norms' statistics are averaged with the weights they belong to. They
are never measured anew (torch's update_bn), which needs another pass over the data and gave NaN for the networks of the
BirdCLEF 2026 second place.
"""
from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from birdkit import checkpoint
from birdkit.config import LabelConfig, RunConfig
from birdkit.settings import from_dict, replace, to_dict

# Settings of where and how often, which change no weight but for rounding.
INDIFFERENT = {"train__workers": 0, "train__threads": 0, "train__save_every_s": 0.0, "train__session_s": 0.0}


class EqualAverage(nn.Module):
    """The mean of the weights that a model had at several times, each counting alike.

    Stochastic weight averaging, Izmailov et al. 2018, arXiv:1803.05407. Floating buffers are averaged like weights,
    whole numbers are those of the last member.

    module  the average, in eval mode; before the first member, a copy of the model
    """

    members: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).eval()
        self.register_buffer("members", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Take the weights that the model has now into the mean.

        Raises FloatingPointError for weights that are not finite: no later member could make up for them.
        """
        weights = model.state_dict()
        _check_finite(weights, "the model")
        self.members += 1
        for name, mean in self.module.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(weights[name], 1 / int(self.members))
            else:
                mean.copy_(weights[name])


def identity(config: RunConfig) -> str:
    """What makes a run the same run: every setting but those that change no weight, such as `session_s`.

    Not where a teacher lies, which is known by its hash, nor how others labelled, unless the model under training does.

    >>> config = RunConfig()
    >>> identity(config) == identity(replace(config, train__session_s=60.0))
    True
    >>> identity(config) == identity(replace(config, seed=1))
    False
    """
    paths = {f"distil__{name}": f"{name}{PurePath(path).suffix}" for name, path in
             (("teacher", config.distil.teacher), ("labels", config.distil.labels)) if path}
    labelling = config.labelling if config.pseudo.relabel_every else LabelConfig()
    return json.dumps(to_dict(replace(config, labelling=labelling, **paths, **INDIFFERENT)), sort_keys=True)


def epochs_to_average(scores: Mapping[int, float], n: int, of: str) -> list[int]:
    """The `n` epochs whose weights are averaged, in order; all where there are no more.

    scores  of the validated epochs, NaN where nothing validates: then these are the last
    of      "best" for the highest scores, of equal ones the later, or "last"

    >>> epochs_to_average({1: 0.7, 2: 0.9, 3: 0.8}, 2, "best"), epochs_to_average({1: 0.7, 2: 0.9, 3: 0.8}, 2, "last")
    ([2, 3], [2, 3])
    """
    ranked = sorted(scores, key=lambda epoch: (_rank(scores[epoch]) if of == "best" else 0.0, epoch), reverse=True)
    return sorted(ranked[:n])


def _rank(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def average_checkpoints(paths: Sequence[Path | str]) -> dict[str, Tensor]:
    """The mean of the weights of checkpoints of one run, ready for its model's load_state_dict.

    Only points of one descent lie in one valley. The mean of networks that were trained apart, such as on several
    splits, is none of them: it cost 0.018 of ROC-AUC (BirdCLEF 2026, an NFNet's folds). Their probabilities can be
    averaged: see birdkit.inference.

    Raises ValueError without paths, and where two are not of one run, naming what differs; FloatingPointError where a
    weight is not finite, naming the file; CheckpointError for a file that is no checkpoint.
    """
    if not paths:
        raise ValueError("no checkpoints to average")
    _check_one_run(paths)
    total: dict[str, Tensor] = {}
    for path in paths:
        weights = {name.removeprefix("model."): value for name, value in load_file(str(path)).items()
                   if name.startswith("model.")}
        _check_finite(weights, str(path))
        for name, value in weights.items():
            if value.is_floating_point():
                # In float64 the mean of equal weights is exactly these weights.
                total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + value.double() / len(paths)
            else:
                total[name] = value
    return {name: value.float() if value.is_floating_point() else value for name, value in total.items()}


def _check_one_run(paths: Sequence[Path | str]) -> None:
    """ValueError unless configs, classes and training tables are the same."""
    first = _run_of(paths[0])
    for path in paths[1:]:
        other = _run_of(path)
        differing = [f"{name} {first[name]} and {other[name]}" for name in first if first[name] != other[name]]
        if differing:
            raise ValueError(f"{paths[0]} and {path} are not of one run: they differ in {differing[0]}. The mean of "
                             "weights that were trained apart is no model; average their probabilities instead")


def _run_of(path: Path | str) -> dict[str, Any]:
    """What two checkpoints of one run have in common, the most telling first."""
    info = checkpoint.read_info(path)
    config = from_dict(RunConfig, info["config"])
    return {"split": config.split, "seed": config.seed, "round": config.round, "classes": info["classes"],
            "training table": info["table_hash"], "config": identity(config)}


def _check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    broken = [name for name, value in weights.items()
              if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise FloatingPointError(f"{where}: {broken[0]} is not finite ({len(broken)} of {len(weights)} tensors), so it "
                                 "cannot be averaged")
