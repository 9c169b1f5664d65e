"""One model, ready to predict: the front end it was trained with, its network behind a backend, its classes."""
from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birdkit import checkpoint, postprocess
from birdkit.backends import AUTO, Backend, TorchClassifier, bundles, choose_backend
from birdkit.backends.bundles import Bundle, BundleError
from birdkit.backends.conversion import export
from birdkit.config import Member, RunConfig
from birdkit.frontend import FrontEnd
from birdkit.inference.view import View
from birdkit.inference.windows import window_bounds
from birdkit.models.base import Model, lengthen
from birdkit.output import SEDOutput, probabilities
from birdkit.settings import replace, with_settings

log = logging.getLogger(__name__)

WINDOW_BLOCK = 256  # windows aggregated at a time


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
    place       of its scale among the run config's: 0 begins a model, the others are that model at further scales
    share       weight in an ensemble: one model at several scales counts as one
    speaks_for  classes in which it has a say there: all it knows, unless an ensemble's file says otherwise
    postprocess  members of birdkit.postprocess that are done to its windows before they join those of others

    Raises ValueError where the front end is not the config's, or how it shall predict does not fit the model.
    """

    def __init__(self, frontend: FrontEnd, classify: Callable[[Tensor], SEDOutput], *, config: RunConfig,
                 classes: Sequence[str], n_segments: int, source: str = "", hash: str = "",
                 seen: frozenset[str] = frozenset(), seen_content: frozenset[str] = frozenset(),
                 pseudo: frozenset[str] = frozenset(), place: int = 0) -> None:
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
        self.place = place
        self.share = 1 / len(config.inference.scales)
        self.speaks_for = frozenset(self.classes)
        self.postprocess: tuple[Member, ...] = ()
        self.device = frontend.window.device
        self.view = View.of(config, str(self.device))
        over_time = config.model.head_axis == "time"
        if config.inference.window_shift and not over_time:
            raise ValueError("window_shift moves windows by segments of time, but this head is over frequency")
        if config.inference.doubled_context and over_time and n_segments % 2:
            raise ValueError(f"doubled_context: {n_segments} segments cannot be halved between what a clip shows twice")

    @classmethod
    def of_model(cls, model: Model, config: RunConfig, classes: Sequence[str]) -> list[Predictor]:
        """A model in memory, on the device it is on, in float32, at each scale of the config: what training validates
        with."""
        return [cls(one.frontend, TorchClassifier(one), config=scaled(config, times), classes=classes,
                    n_segments=one.n_segments, place=place)
                for place, times in enumerate(config.inference.scales) for one in [lengthen(model, times)]]

    @property
    def label(self) -> str:
        """What a report calls it: its file, or the run's name, with the length of its clips at a further scale."""
        name = self.source or self.config.name
        return f"{name} at {self.config.frontend.clip_s:g} s" if self.place else name

    @property
    def runtime(self) -> str:
        """Backend and precision of its network, such as "openvino at int8"; "" for one that is neither's."""
        if not isinstance(self.classify, Backend):
            return ""
        return f"{self.classify.backend} at {self.classify.precision}"

    @property
    def precision(self) -> str:
        """What the network computes with, one of birdkit.backends.PRECISIONS."""
        return getattr(self.classify, "precision", self.config.inference.precision)

    def images(self, clips: np.ndarray) -> Tensor:
        """(B, N) -> (B, C, H, W), on the predictor's device; clip by clip on a CPU, whose caches hold one clip."""
        rows = 1 if self.device.type == "cpu" else self.config.inference.batch_size
        with torch.inference_mode():
            return torch.cat([self.frontend(part.to(self.device)) for part in torch.from_numpy(clips).split(rows)])

    def __call__(self, images: Tensor) -> SEDOutput:
        """(B, C, H, W) -> SEDOutput of B clips; torch in batches of the config's size, OpenVINO image by image."""
        one_by_one = getattr(self.classify, "backend", "torch") == "openvino"
        at_once = len(images) if one_by_one else self.config.inference.batch_size
        return join_outputs([self.classify(part) for part in images.split(at_once)])

    def window_probabilities(self, output: SEDOutput, starts: np.ndarray, n_samples: int, n_windows: int,
                             window_s: float, *, stride_s: float | None = None) -> np.ndarray:
        """The SEDOutput of a soundscape's clips -> probabilities of its windows, (W, K) float32.

        stride_s  from the start of one window to the next, None for window_s
        """
        frontend = self.config.frontend
        bounds = window_bounds(n_samples, window_s * frontend.sample_rate_hz, n_windows,
                               stride_samples=None if stride_s is None else stride_s * frontend.sample_rate_hz)
        shift = self.config.inference.window_shift * frontend.n_samples / self.n_segments
        # A window at an edge is moved as far as the soundscape goes: it keeps its length.
        moved = [bounds + np.clip(by, -bounds[:, 0], n_samples - bounds[:, 1])[:, None]
                 for by in ((-shift, 0.0, shift) if shift else (0.0,))]
        values = torch.stack([self._pooled(output, starts, some) for some in moved])
        return (values.mean(0) if shift else values[0]).numpy()

    def finished(self, values: np.ndarray, file: str) -> np.ndarray:
        """What `postprocess` makes of the probabilities of a soundscape's windows, (W, K) -> (W, K)."""
        if not self.postprocess:
            return values
        return postprocess.apply(np.clip(values, 0, 1), self.postprocess, classes=self.classes, file=file)

    def _pooled(self, output: SEDOutput, starts: np.ndarray, bounds: np.ndarray) -> Tensor:
        """Probabilities of windows with these bounds, (W, K)."""
        before, after = self.view.context_samples, self.config.frontend.n_samples
        blocks = []
        for block in np.array_split(bounds, range(WINDOW_BLOCK, len(bounds), WINDOW_BLOCK)):
            heard = (starts - before < block[-1, 1]) & (starts + after > block[0, 0])
            coverage = self.view.coverage(block, starts[heard], self.n_segments, self.config.model.head_axis)
            mask = torch.from_numpy(heard)
            part = SEDOutput(output.clip_logits[mask], output.segment_logits[mask], output.attention[mask],
                             output.pooled)
            blocks.append(probabilities(part, torch.from_numpy(coverage), pool=self.config.inference.pool))
        return torch.cat(blocks)


def models_of(predictors: Sequence[Predictor]) -> list[int]:
    """Of each predictor of a list, the number of the model whose scale it is: those of one model follow each other."""
    return [max(0, number - 1) for number in np.cumsum([one.place == 0 for one in predictors]).tolist()]


def scaled(config: RunConfig, times: int) -> RunConfig:
    """The run config of a model that is shown clips `times` as long, from clip to clip in steps as much longer."""
    step_s = config.inference.clip_step_s
    return replace(config, frontend=config.frontend.lengthened(times),
                   inference__clip_step_s=None if step_s is None else step_s * times)


def load_predictors(paths: Sequence[Path | str], *, backend: str | None = None, precision: str | None = None,
                    threads: int = 0, device: str = "cpu",
                    changes: Mapping[str, Any] | None = None) -> list[Predictor]:
    """The predictors of checkpoints and exported bundles in their order, each at every scale of its run config.

    A checkpoint is proven by its golden sample and, when it is converted, by parity with torch; a bundle by its files'
    hashes and the golden sample, and is not converted again. There is no front-end parameter: the front end is the
    checkpoint's.

    backend    a name in birdkit.backends.BACKENDS, or "auto" for the first of openvino, onnxruntime and torch that is
               installed; None takes the run config's. A bundle has its own, and is refused where another is asked for
    precision  one of birdkit.backends.PRECISIONS; None takes the run config's, or the bundle's. A checkpoint on the CPU
               is converted at f32 alone: what is lower is proven on real audio, when `birdkit export` makes a bundle.
               On a GPU torch also has bf16
    threads    CPU threads of a network that is not torch's, 0 for all
    device     "cpu", or a GPU, on which the backend is torch
    changes    to how every one of them predicts, such as {"clip_step_s": 2.5}: settings of InferenceConfig, as
               birdkit.settings.with_settings takes them. What post-processing among them needs of a competition's files
               is filled in by birdkit.ensembles.binding

    Raises ValueError or TypeError, naming it, for what is no setting or no value of it; FileNotFoundError,
    CheckpointError (see birdkit.checkpoint.load) or BundleError (see birdkit.backends.bundles),
    ExportError where the converted network differs from the model, ImportError where the packages of the backend that
    is asked for are not installed.
    """
    predictors = []
    for path in paths:
        if bundles.is_bundle(path):
            bundle = bundles.read_bundle(path)
            _check_asked(bundle, backend, precision or (changes or {}).get("precision"), device)
            predictors += bundle_predictors(bundle, threads=threads, changes=changes)
            continue
        loaded = checkpoint.load(path, device=device)
        config = _changed(loaded.config, changes)
        at = precision or config.inference.precision
        if at != "f32" and device == "cpu":
            raise ValueError(f"{path}: {at} has to be proven on real audio: load the bundle (BUNDLE in notebook 04) "
                             f"that `birdkit export --precision {at} --audio DIR` makes of it, or ask for f32")
        chosen = choose_backend(backend or config.inference.backend, device=device, of=str(path))
        for place, times in enumerate(config.inference.scales):
            model = lengthen(loaded.model, times)
            predictors.append(Predictor(model.frontend, _network(model, chosen, at, threads),
                                        config=scaled(config, times), classes=loaded.classes,
                                        n_segments=model.n_segments, source=str(path), hash=loaded.hash,
                                        seen=loaded.seen, seen_content=loaded.seen_content, pseudo=loaded.pseudo,
                                        place=place))
        log.info("%s: %s at %s", path, chosen, at)
    return predictors


def bundle_predictors(bundle: Bundle, *, threads: int = 0,
                      changes: Mapping[str, Any] | None = None) -> list[Predictor]:
    """The predictors of a bundle, one for each of its networks, as `load_predictors` makes them."""
    config = _changed(bundle.config, changes)
    opened = {one.times: one for one in bundles.open_networks(bundle, threads=threads)}
    absent = [times for times in config.inference.scales if times not in opened]
    if absent:
        raise ValueError(f"{bundle.folder} was exported with the scales {tuple(opened)}; it has none for {absent}")
    log.info("%s: %s at %s, made from %s%s", bundle.folder, bundle.backend, bundle.precision, bundle.checkpoint,
             f", proven on {bundle.gate['rows']} rows of {bundle.gate['audio']}" if bundle.gate else "")
    return [Predictor(one.frontend, one.classify, config=scaled(config, one.times), classes=bundle.classes,
                      n_segments=one.n_segments, source=str(bundle.folder), hash=bundle.hash, seen=bundle.seen,
                      seen_content=bundle.seen_content, pseudo=bundle.pseudo, place=place)
            for place, one in enumerate(opened[times] for times in config.inference.scales)]


def _changed(config: RunConfig, changes: Mapping[str, Any] | None) -> RunConfig:
    """A run config that predicts with some settings of its InferenceConfig changed."""
    return dataclasses.replace(config, inference=with_settings(config.inference, changes or {}))


def _check_asked(bundle: Bundle, backend: str | None, precision: str | None, device: str) -> None:
    """Raise ValueError where something else is asked for than a bundle is, and BundleError where nobody let it pass."""
    if not bundle.gate:
        raise BundleError(f"{bundle.folder} was never compared with its model; export it with `birdkit export`")
    for name, asked, has in (("backend", backend, bundle.backend), ("precision", precision, bundle.precision),
                             ("device", device, "cpu")):
        if asked not in (None, AUTO, has):
            raise ValueError(f"{name} = {asked!r} is asked for, but {bundle.folder} was exported for {has!r}")


def ensemble_decision(predictors: Sequence[Predictor]) -> Member:
    """What makes decisions of an ensemble's probabilities: the first predictor's. That others differ is logged."""
    first, *others = [one.config.inference.decision for one in predictors]
    differing = [one for one in others if one != first]
    if differing:
        log.warning("%d of %d predictors were trained with another decision than the first, which holds: %s, not %s",
                    len(differing), len(predictors), first, differing[0])
    return first


def _network(model: Model, backend: str, precision: str, threads: int) -> Callable[[Tensor], SEDOutput]:
    """The network behind a backend, compared with torch where it is another one."""
    if backend == "torch":
        return TorchClassifier(model, precision=precision)
    wave = checkpoint.golden_wave(model.frontend.config.n_samples)
    waves = torch.cat([wave, wave.flip(1), wave.roll(997, 1).square()])
    return export(model, waves, backend=backend, threads=threads)


def join_outputs(parts: Sequence[SEDOutput]) -> SEDOutput:
    """The outputs of consecutive batches as one."""
    return SEDOutput(torch.cat([part.clip_logits for part in parts]),
                     torch.cat([part.segment_logits for part in parts]),
                     torch.cat([part.attention for part in parts]), parts[0].pooled)


def split_output(output: SEDOutput, counts: Sequence[int]) -> list[SEDOutput]:
    """The inverse of `join_outputs`: the outputs of as many clips as each count says."""
    clips, segments, attention = (whole.split(list(counts))
                                  for whole in (output.clip_logits, output.segment_logits, output.attention))
    return [SEDOutput(*part, pooled=output.pooled) for part in zip(clips, segments, attention, strict=True)]
