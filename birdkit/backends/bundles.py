"""An exported checkpoint on disk: its network files, and a report of what they are that is checked whenever they are
loaded.

A bundle is a folder. It needs neither its checkpoint nor anything that converts: Kaggle's timed run reads it and goes.
Written by birdkit.export, which lets no bundle through that is not the model.
"""
from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from birdkit import frontend
from birdkit.backends.base import BACKENDS, ExportedBackend
from birdkit.backends.choice import exported_backend
from birdkit.checkpoint import SEEN, TOLERANCES, Checkpoint, file_hash, golden_sample, golden_wave, versions
from birdkit.config import RunConfig
from birdkit.frontend import FrontEnd
from birdkit.models.base import Model
from birdkit.output import SEDOutput, probabilities
from birdkit.settings import from_dict, to_dict

FORMAT = 2  # 1 was let through on generated soundscapes at every precision
REPORT = "bundle.json"
GOLDEN = "golden.safetensors"
SLACK = 2.0  # another CPU rounds a low precision otherwise: how often its error at export the golden sample may be off


class BundleError(ValueError):
    """A bundle that cannot be trusted; the message names the folder and what is wrong."""


@dataclass(frozen=True)
class BundledNetwork:
    """One network of a bundle: the checkpoint's at one scale of its run config.

    times         clips of the front end that it sees at once
    stem          of its files' names
    golden_error  how far each value of the golden sample was from the model's when it was exported
    """

    times: int
    stem: str
    n_segments: int
    pooled: str
    golden_error: dict[str, float]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose report and files agree.

    checkpoint  name of the file that it was made from
    hash        of that file
    config, classes, seen, seen_content, pseudo  that file's, see birdkit.checkpoint.Checkpoint
    gate        what it was proven on and how far it is from the model, see birdkit.export.GateReport; empty before it
                was measured
    """

    folder: Path
    backend: str
    precision: str
    checkpoint: str
    hash: str
    config: RunConfig
    classes: tuple[str, ...]
    seen: frozenset[str]
    seen_content: frozenset[str]
    pseudo: frozenset[str]
    networks: tuple[BundledNetwork, ...]
    gate: dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """One network of a bundle that computes, and has proven itself."""

    times: int
    frontend: FrontEnd
    classify: ExportedBackend
    n_segments: int


def is_bundle(path: Path | str) -> bool:
    """True for a folder that holds a bundle's report."""
    return (Path(path) / REPORT).is_file()


def write_bundle(folder: Path, source: Path | str, loaded: Checkpoint, networks: Sequence[tuple[int, Model, Any]], *,
          backend: str, precision: str) -> None:
    """Write a bundle without its gate, which needs the written bundle; `seal` adds it.

    source    path of the checkpoint
    networks  scale, the model at that scale, and what the backend converted it to
    """
    kind = exported_backend(backend)
    golden: dict[str, Tensor] = {}
    written, files = [], []
    for times, model, network in networks:
        stem = f"network_{times}"
        files += kind.write(network, folder, stem)
        classify = kind(kind.read(folder, stem), precision=precision, pooled=model.pooled)
        sample = golden_sample(model)
        golden |= {f"{stem}.{name}": value for name, value in sample.items()}
        written.append(BundledNetwork(times, stem, model.n_segments, model.pooled,
                               _differences(_recomputed(model.frontend, classify), sample)))
    safetensors.torch.save_file(golden, folder / GOLDEN)
    needed = {name: importlib.metadata.version(name) for name in kind.needs}
    _write_report(folder, {
        "format": FORMAT, "backend": backend, "precision": precision,
        "checkpoint": {"file": Path(source).name, "hash": loaded.hash}, "config": to_dict(loaded.config),
        "classes": list(loaded.classes), **{name: sorted(getattr(loaded, name)) for name in SEEN},
        "versions": versions() | needed, "networks": [asdict(one) for one in written],
        "files": {path.name: file_hash(path) for path in [*files, folder / GOLDEN]}, "gate": {}})


def seal(folder: Path, gate: dict[str, Any]) -> None:
    """Enter what the gate measured into the report."""
    content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    _write_report(folder, content | {"gate": gate})


def read_bundle(folder: Path | str) -> Bundle:
    """The bundle in a folder, its files compared with what its report says of them.

    Raises FileNotFoundError where there is none, and BundleError where the report or a file was changed, the front end
    computes other images than then, or the checkpoint that lies where it was made (above the folder) is another one.
    """
    folder = Path(folder)
    if not is_bundle(folder):
        raise FileNotFoundError(f"{folder} holds no {REPORT}: it is no bundle")
    content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise BundleError(f"{folder} has bundle format {content.get('format')}; this birdkit reads format {FORMAT}. "
                          "Export it again")
    faults = _faults(folder, content)
    if faults:
        raise BundleError(f"{folder} is not what was exported: {'; '.join(faults)}. Export it again")
    made_from = content["checkpoint"]
    seen, seen_content, pseudo = (frozenset(content[name]) for name in SEEN)
    return Bundle(folder, content["backend"], content["precision"], made_from["file"], made_from["hash"],
                  from_dict(RunConfig, content["config"]), tuple(content["classes"]), seen, seen_content, pseudo,
                  tuple(BundledNetwork(**one) for one in content["networks"]), content["gate"])


def open_networks(bundle: Bundle, *, threads: int = 0) -> list[Opened]:
    """The networks of a bundle, each proven by its golden sample, from the wave on.

    threads  CPU threads, 0 for all

    Raises BundleError where the sample comes out otherwise than when it was exported, ImportError where the package
    that runs the networks is not installed.
    """
    kind = exported_backend(bundle.backend)
    missing = kind.missing()
    if missing:
        raise ImportError(f"{bundle.folder} needs {', '.join(missing)}, which is not installed")
    golden = safetensors.torch.load_file(bundle.folder / GOLDEN)
    opened = []
    for one in bundle.networks:
        front = FrontEnd(bundle.config.frontend.lengthened(one.times))
        classify = kind(kind.read(bundle.folder, one.stem), precision=bundle.precision, pooled=one.pooled,
                        threads=threads)
        sample = {f"golden.{name}": golden[f"{one.stem}.golden.{name}"] for name in TOLERANCES}
        off = _differences(_recomputed(front, classify), sample)
        faults = [f"{name} differs by {value:.3g}, at export by {one.golden_error[name]:.3g}"
                  for name, value in off.items() if not value <= max(TOLERANCES[name], SLACK * one.golden_error[name])]
        if faults:
            raise BundleError(f"{bundle.folder}: the golden sample does not come out as it was exported: "
                              f"{'; '.join(faults)}")
        opened.append(Opened(one.times, front, classify, one.n_segments))
    return opened


def _recomputed(front: FrontEnd, classify: ExportedBackend) -> tuple[Tensor, SEDOutput]:
    """Image and output of the golden wave."""
    with torch.inference_mode():
        image = front(golden_wave(front.config.n_samples))
        return image, classify(image)


def _differences(got: tuple[Tensor, SEDOutput], sample: dict[str, Tensor]) -> dict[str, float]:
    """How far each value of a golden sample is off; infinite where its shape is another one, or it is not finite."""
    image, output = got
    values = {"image": image, "clip_logits": output.clip_logits, "segment_logits": output.segment_logits,
              "attention": output.attention, "probabilities": probabilities(output)}
    found = {}
    for name, value in values.items():
        wanted = sample[f"golden.{name}"]
        same = wanted.shape == value.shape and bool(value.isfinite().all())
        found[name] = float((value - wanted).abs().max()) if same else float("inf")
    return found


def _faults(folder: Path, content: dict[str, Any]) -> list[str]:
    """What does not agree with a report, in words."""
    faults = [] if content.get("hash") == _content_hash(content) else [f"{REPORT} was changed"]
    for name, wanted in content["files"].items():
        if not (folder / name).is_file():
            faults.append(f"{name} is missing")
        elif file_hash(folder / name) != wanted:
            faults.append(f"{name} was changed")
    written_with = content["versions"]["frontend"]
    if written_with != str(frontend.VERSION):
        faults.append(f"its front end is version {written_with}, this birdkit's is {frontend.VERSION}")
    made_from = folder.absolute().parent / content["checkpoint"]["file"]
    if made_from.is_file() and file_hash(made_from) != content["checkpoint"]["hash"]:
        faults.append(f"{made_from} is another checkpoint than it was made from")
    if content["backend"] not in BACKENDS:
        faults.append(f"no backend is named {content['backend']!r}")
    return faults


def _content_hash(content: dict[str, Any]) -> str:
    """sha256 of everything in a report but this hash."""
    rest = {key: value for key, value in content.items() if key != "hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _write_report(folder: Path, content: dict[str, Any]) -> None:
    partial = folder / f".{REPORT}.partial"
    partial.write_text(json.dumps(content | {"hash": _content_hash(content)}, indent=1), encoding="utf-8")
    os.replace(partial, folder / REPORT)
