"""A trained model as one file that proves itself: weights, config, classes, provenance and a golden sample."""
from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

import birdkit
from birdkit import frontend
from birdkit.config import RunConfig
from birdkit.models import build_model
from birdkit.models.base import Model
from birdkit.output import probabilities
from birdkit.settings import from_dict, to_dict

FORMAT = 1
# Float32 against float64 differs by up to 7e-4 in the image; another machine's kernels by less than that.
TOLERANCES = {"image": 2e-3, "clip_logits": 1e-2, "segment_logits": 1e-2, "attention": 1e-3, "probabilities": 2e-3}
SEEN = ("seen", "seen_content", "pseudo")  # what a checkpoint tells of the labels behind it, see Checkpoint
PACKAGES = ("torch", "timm", "numpy", "librosa", "safetensors")


class CheckpointError(ValueError):
    """A checkpoint that cannot be trusted; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint whose golden sample has been recomputed and agreed.

    model    in eval mode
    config   the whole run config
    classes  names of the K classes, in the order of the logits
    hash     sha256 of the file: what a pseudo-label table remembers of its teacher
    seen     names of the files whose labels the model was trained on, as in the training table's `file` column
    seen_content  what these files hold, as birdkit.audio.check says it (sha256 of the decoded samples), by which a
             renamed copy is known again; empty where the tables did not say, or the checkpoint is older than that
    pseudo   names and contents of those of them whose labels were pseudo-labels alone
    info     table hash, score, versions, time of writing, whatever else was saved
    """

    model: Model
    config: RunConfig
    classes: tuple[str, ...]
    hash: str
    seen: frozenset[str]
    seen_content: frozenset[str]
    pseudo: frozenset[str]
    info: dict[str, Any]


def golden_wave(n_samples: int) -> Tensor:
    """The clip every checkpoint is tested with, (1, N): a rising chirp in a floor of noise, then one click.

    Made from closed formulas in float64, so that no random generator of any version has a say in it.
    """
    t = np.arange(n_samples, dtype=np.float64)
    share = t / max(n_samples, 1)
    chirp = 0.3 * np.sin(2 * np.pi * n_samples * (0.01 * share + 0.1 * share**2))
    noise = 0.05 * (np.modf(np.abs(np.sin(t * 12.9898) * 43758.5453))[0] - 0.5)
    wave = chirp + noise
    wave[int(0.75 * n_samples)] += 1.0
    return torch.from_numpy(wave.astype(np.float32)).unsqueeze(0)


def golden_sample(model: Model) -> dict[str, Tensor]:
    """Image, logits and probabilities of the golden wave, for a model on the CPU in eval mode."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        image = model.frontend(golden_wave(model.frontend.config.n_samples))
        output = model.classify(image)
        values = {"image": image, "clip_logits": output.clip_logits, "segment_logits": output.segment_logits,
                  "attention": output.attention, "probabilities": probabilities(output)}
        return {f"golden.{name}": value.float().clone().contiguous() for name, value in values.items()}


def versions() -> dict[str, str]:
    """Versions of Python, of the packages and of the front end's arithmetic, which all have a say in a prediction."""
    return {"birdkit": birdkit.__version__, "frontend": str(frontend.VERSION), "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES}}


def file_hash(path: Path | str) -> str:
    """sha256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(path: Path | str, model: Model, *, config: RunConfig, classes: Sequence[str], table_hash: str,
         seen: Iterable[str], seen_content: Iterable[str] = (), pseudo: Iterable[str] = (),
         score: float | None = None, info: dict[str, Any] | None = None) -> None:
    """Write one safetensors file, never pickle, by way of a temporary file: it is there whole or not at all.

    table_hash    hash of the training table
    seen          files whose labels the model was trained on
    seen_content  contents of these files, see `Checkpoint`
    pseudo        names and contents of those whose labels were pseudo-labels alone
    score         the validation score, None where nothing was validated

    Raises CheckpointError where the number of classes is not the model's, or the golden sample is not finite.
    """
    if len(classes) != model.n_classes or len(set(classes)) != len(classes):
        raise CheckpointError(f"{path}: {len(classes)} class names ({len(set(classes))} distinct) "
                              f"for a model of {model.n_classes} classes")
    # On the CPU in float32: a GPU's tf32 convolutions would put its own rounding into the sample.
    golden = golden_sample(copy.deepcopy(model).cpu().float().eval())
    broken = [name for name, value in golden.items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(f"{path}: {', '.join(broken)} of the golden sample is not finite; the weights are broken")
    weights = {f"model.{name}": value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    meta = {"format": FORMAT, "config": to_dict(config), "classes": list(classes), "versions": versions(),
            "table_hash": table_hash, "seen": sorted(set(seen)), "seen_content": sorted(set(seen_content)),
            "pseudo": sorted(set(pseudo)), "score": score, **(info or {})}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    safetensors.torch.save_file({**weights, **golden}, partial, metadata={"birdkit": json.dumps(meta)})
    os.replace(partial, path)


def read_info(path: Path | str) -> dict[str, Any]:
    """The metadata of a checkpoint without its weights; CheckpointError where the file is not a birdkit checkpoint."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    if "birdkit" not in metadata:
        raise CheckpointError(f"{path} holds no birdkit metadata; it is not a birdkit checkpoint")
    meta = json.loads(metadata["birdkit"])
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {meta.get('format')}; this birdkit reads format {FORMAT}")
    return meta


def load(path: Path | str, *, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint and prove it: the golden sample is recomputed and compared before anything is returned.

    There is no front-end parameter, because there is none to get wrong. Raises FileNotFoundError, or CheckpointError
    where the file is no checkpoint, the weights do not fit the config, or the golden sample differs; the message then
    names the difference and the package versions of both sides.
    """
    meta = read_info(path)
    config = from_dict(RunConfig, meta["config"])
    # The weights are in the file, so nothing is fetched to be overwritten.
    blank = dataclasses.replace(config.model, weights="none")
    model = build_model(blank, config.frontend, len(meta["classes"]))
    tensors = safetensors.torch.load_file(str(path))
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the config: {error}") from error
    _prove(path, model.eval(), tensors, meta["versions"])
    model.to(device)
    kept = {key: value for key, value in meta.items() if key not in ("config", "classes", *SEEN)}
    seen, seen_content, pseudo = (frozenset(meta.get(name, ())) for name in SEEN)
    return Checkpoint(model, config, tuple(meta["classes"]), file_hash(path), seen, seen_content, pseudo, kept)


def _prove(path: Path | str, model: Model, stored: dict[str, Tensor], written_with: dict[str, str]) -> None:
    """Raise CheckpointError unless the golden sample comes out as it did when the checkpoint was written."""
    faults = []
    for name, value in golden_sample(model).items():
        if name not in stored:
            faults.append(f"{name} is missing")
        elif stored[name].shape != value.shape:
            faults.append(f"{name} has shape {tuple(value.shape)}, written as {tuple(stored[name].shape)}")
        else:
            difference = float((stored[name] - value).abs().max())
            tolerance = TOLERANCES[name.removeprefix("golden.")]
            if not difference <= tolerance:
                faults.append(f"{name} differs by {difference:.3g}, more than {tolerance:g}")
    if faults:
        here = versions()
        changed = [f"{name} {written_with.get(name)} -> {version}" for name, version in here.items()
                   if written_with.get(name) != version]
        raise CheckpointError(f"{path}: the golden sample does not come out as it was written: {'; '.join(faults)}. "
                              f"Versions, written -> here: {', '.join(changed) or 'all equal'}")
