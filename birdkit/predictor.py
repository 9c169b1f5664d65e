"""One model, ready to predict: the front end it was trained with, its network behind a backend, its classes."""
from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birdkit import checkpoint
from birdkit.config import FrontEndConfig, Member, RunConfig
from birdkit.export import TorchClassifier, export, has_openvino
from birdkit.frontend import FrontEnd
from birdkit.models.base import Model, lengthen
from birdkit.output import SEDOutput, probabilities
from birdkit.settings import replace
from birdkit.windows import clip_starts, window_bounds, window_coverage

log = logging.getLogger(__name__)

LEAST_WINDOW_S = 0.1  # a rest of the file up to this is no window of its own, and below half of it no clip
WINDOW_BLOCK = 256  # windows aggregated at a time


@dataclass(frozen=True)
class View:
    """What predictors must have in common to share their images: front end, step from clip to clip, device."""

    frontend: FrontEndConfig
    step_s: float
    device: str

    def starts(self, n_samples: int) -> np.ndarray:
        """First sample of each clip of a soundscape of this length."""
        rate_hz = self.frontend.sample_rate_hz
        return clip_starts(n_samples, self.frontend.n_samples, round(self.step_s * rate_hz),
                           least_samples=LEAST_WINDOW_S / 2 * rate_hz)


class Predictor:
    """One model, ready to predict: its front end, its network behind a backend, its classes and its run config.

    frontend    the model's own FrontEnd
    classify    image (B, C, H, W) -> SEDOutput, float32 on the CPU
    classes     names of the K classes, in the order of the logits
    n_segments  S
    source      path of the checkpoint, "" for a model in memory
    hash        of the checkpoint, "" for a model in memory
    seen        files whose labels the model was trained on
    seen_content  their contents, as birdkit.audio.check has them, as far as the training tables said
    pseudo      names and contents of those of them whose labels were pseudo-labels alone
    share       weight in an ensemble: one model at several scales counts as one

    Raises ValueError where the front end is not the config's, or clip_step_s would leave audio that no clip hears.
    """

    def __init__(self, frontend: FrontEnd, classify: Callable[[Tensor], SEDOutput], *, config: RunConfig,
                 classes: Sequence[str], n_segments: int, source: str = "", hash: str = "",
                 seen: frozenset[str] = frozenset(), seen_content: frozenset[str] = frozenset(),
                 pseudo: frozenset[str] = frozenset()) -> None:
        if frontend.config != config.frontend:
            raise ValueError(f"the front end {frontend.config} is not the run config's {config.frontend}")
        self.frontend = frontend
        self.classify = classify
        self.config = config
        self.classes = tuple(classes)
        self.n_segments = n_segments
        self.source = source
        self.hash = hash
        self.seen = seen
        self.seen_content = seen_content
        self.pseudo = pseudo
        self.share = 1 / len(config.inference.scales)
        self.device = frontend.window.device
        clip_s, step_s = config.frontend.clip_s, config.inference.clip_step_s
        if step_s is not None and not 0 < step_s <= clip_s:
            raise ValueError(f"clip_step_s = {step_s} must be above 0 and at most clip_s = {clip_s}")
        self.view = View(config.frontend, clip_s if step_s is None else step_s, str(self.device))

    @classmethod
    def of_model(cls, model: Model, config: RunConfig, classes: Sequence[str]) -> list[Predictor]:
        """A model in memory, on the device it is on, in float32, at each scale of the config: what training validates
        with."""
        return [cls(one.frontend, TorchClassifier(one), config=scaled(config, times), classes=classes,
                    n_segments=one.n_segments)
                for times in config.inference.scales for one in [lengthen(model, times)]]

    def images(self, clips: np.ndarray) -> Tensor:
        """(B, N) -> (B, C, H, W), on the predictor's device; clip by clip on a CPU, whose caches hold one clip."""
        rows = 1 if self.device.type == "cpu" else self.config.inference.batch_size
        with torch.inference_mode():
            return torch.cat([self.frontend(part.to(self.device)) for part in torch.from_numpy(clips).split(rows)])

    def __call__(self, images: Tensor) -> SEDOutput:
        """(B, C, H, W) -> SEDOutput of B clips, in batches of the config's size."""
        return join_outputs([self.classify(part) for part in images.split(self.config.inference.batch_size)])

    def window_probabilities(self, output: SEDOutput, starts: np.ndarray, n_samples: int, n_windows: int,
                             window_s: float, *, stride_s: float | None = None) -> np.ndarray:
        """The SEDOutput of a soundscape's clips -> probabilities of its windows, (W, K) float32.

        stride_s  from the start of one window to the next, None for window_s
        """
        frontend = self.config.frontend
        bounds = window_bounds(n_samples, window_s * frontend.sample_rate_hz, n_windows,
                               stride_samples=None if stride_s is None else stride_s * frontend.sample_rate_hz)
        blocks = []
        for block in np.array_split(bounds, range(WINDOW_BLOCK, n_windows, WINDOW_BLOCK)):
            heard = (starts < block[-1, 1]) & (starts + frontend.n_samples > block[0, 0])
            coverage = window_coverage(block, starts[heard], frontend.n_samples, self.n_segments,
                                       axis=self.config.model.head_axis)
            mask = torch.from_numpy(heard)
            part = SEDOutput(output.clip_logits[mask], output.segment_logits[mask], output.attention[mask],
                             output.pooled)
            blocks.append(probabilities(part, torch.from_numpy(coverage), pool=self.config.inference.pool))
        return torch.cat(blocks).numpy()


def scaled(config: RunConfig, times: int) -> RunConfig:
    """The run config of a model that is shown clips `times` as long, from clip to clip in steps as much longer."""
    step_s = config.inference.clip_step_s
    return replace(config, frontend=config.frontend.lengthened(times),
                   inference__clip_step_s=None if step_s is None else step_s * times)


def load_predictors(paths: Sequence[Path | str], *, backend: str | None = None, precision: str | None = None,
                    threads: int = 0, device: str = "cpu",
                    changes: Mapping[str, Any] | None = None) -> list[Predictor]:
    """The predictors of checkpoints in their order, each at every scale of its run config; proven by its golden sample
    and, when exported, by parity with torch.

    There is no front-end parameter: the front end is the checkpoint's.

    backend    "openvino", "torch", or "auto" for OpenVINO where it is installed; None takes the run config's
    precision  "f32" or "bf16"; None takes the run config's
    threads    CPU threads of an OpenVINO network, 0 for all
    device     "cpu", or a GPU, on which the backend is torch
    changes    to how every one of them predicts, such as {"clip_step_s": 2.5}: settings of InferenceConfig

    Raises FileNotFoundError or CheckpointError (see birdkit.checkpoint.load), ExportError where the exported network
    differs from the model, ImportError where "openvino" is asked for and not installed.
    """
    predictors = []
    for path in paths:
        loaded = checkpoint.load(path, device=device)
        config = dataclasses.replace(loaded.config, inference=replace(loaded.config.inference, **(changes or {})))
        chosen = _choose_backend(backend or config.inference.backend, device, path)
        for times in config.inference.scales:
            model = lengthen(loaded.model, times)
            classify = _network(model, chosen, precision or config.inference.precision, threads)
            predictors.append(Predictor(model.frontend, classify, config=scaled(config, times),
                                        classes=loaded.classes, n_segments=model.n_segments, source=str(path),
                                        hash=loaded.hash, seen=loaded.seen,
                                        seen_content=loaded.seen_content, pseudo=loaded.pseudo))
    return predictors


def ensemble_decision(predictors: Sequence[Predictor]) -> Member:
    """What makes decisions of an ensemble's probabilities: the first predictor's. That others differ is logged."""
    first, *others = [one.config.inference.decision for one in predictors]
    differing = [one for one in others if one != first]
    if differing:
        log.warning("%d of %d predictors were trained with another decision than the first, which holds: %s, not %s",
                    len(differing), len(predictors), first, differing[0])
    return first


def _choose_backend(asked: str, device: str, path: Path | str) -> str:
    """ "openvino" or "torch"; "auto" takes what there is."""
    if asked in ("openvino", "torch"):
        return asked
    if asked != "auto":
        raise ValueError(f"backend = {asked!r}; it must be one of auto, openvino, torch")
    if device == "cpu" and not has_openvino():
        log.warning("openvino is not installed: %s runs on torch, several times slower", path)
        return "torch"
    return "openvino" if device == "cpu" else "torch"


def _network(model: Model, backend: str, precision: str, threads: int) -> Callable[[Tensor], SEDOutput]:
    """The network behind a backend, compared with torch where it is another one."""
    if backend == "torch":
        return TorchClassifier(model, precision=precision)
    wave = checkpoint.golden_wave(model.frontend.config.n_samples)
    waves = torch.cat([wave, wave.flip(1), wave.roll(997, 1).square()])
    return export(model, waves, precision=precision, threads=threads)


def join_outputs(parts: Sequence[SEDOutput]) -> SEDOutput:
    """The outputs of consecutive batches as one."""
    return SEDOutput(torch.cat([part.clip_logits for part in parts]),
                     torch.cat([part.segment_logits for part in parts]),
                     torch.cat([part.attention for part in parts]), parts[0].pooled)
