"""A network that a student learns from, such as Perch v2, from an ONNX file: it hears what the student hears.

onnxruntime computes it where that is installed, on a GPU where it can; else OpenVINO, on the CPU.
"""
from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import soxr
import torch
from torch import Tensor

from birdkit.backends import has_openvino
from birdkit.backends.openvino_graph import openvino_core
from birdkit.config import DistilConfig
from birdkit.data import DataError
from birdkit.data.teacher_table import match_classes

log = logging.getLogger(__name__)

QUIET = 1e-8  # peak of a wave that is silent, and is left as it is

Shape = tuple[int | None, ...]  # None where any size will do


class Runtime(Protocol):
    """What computes an ONNX network: the shapes of its inputs and outputs by name, and a call that gives one output."""

    name: str
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]

    def __call__(self, wave: np.ndarray, output: str) -> np.ndarray:
        """(B, N) float32 -> the output of that name."""
        ...


class OnnxRuntime:
    """onnxruntime: on torch's GPU where it was built for one, else with as many threads as torch."""

    name = "onnxruntime"

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers: list[Any] = ["CPUExecutionProvider"]
        if torch.cuda.is_available() and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": torch.cuda.current_device()}))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.inputs, self.outputs = (
            {one.name: tuple(size if isinstance(size, int) else None for size in one.shape) for one in ends}
            for ends in (self._session.get_inputs(), self._session.get_outputs()))

    def __call__(self, wave: np.ndarray, output: str) -> np.ndarray:
        """(B, N) float32 -> the output of that name."""
        return self._session.run([output], {next(iter(self.inputs)): wave})[0]


class OpenVINO:
    """OpenVINO on the CPU, in float32, with as many threads as torch."""

    name = "openvino"

    def __init__(self, path: Path) -> None:
        try:
            network = openvino_core().read_model(path)
        except RuntimeError as error:
            raise DataError(f"{path} cannot be read as an ONNX network: {error}") from error
        self._compiled = openvino_core().compile_model(network, "CPU", {
            "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()})
        self.inputs, self.outputs = ({one.any_name: _sizes(one) for one in ends}
                                     for ends in (network.inputs, network.outputs))

    def __call__(self, wave: np.ndarray, output: str) -> np.ndarray:
        """(B, N) float32 -> the output of that name."""
        return self._compiled({next(iter(self.inputs)): wave})[output]


RUNTIMES: dict[str, type[OnnxRuntime] | type[OpenVINO]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVINO}


class TeacherModel:
    """What a network says of waves, without a gradient.

    Its input is (batch, N) waves at `config.sample_rate_hz`, where batch is any number or 1, and N any or a number of
    samples: then a clip must be a whole number of such windows long, and gets the mean of their embeddings, or the
    largest of their logits.

    classes         names of the student's K classes
    clip_samples    samples of a training example
    sample_rate_hz  of those
    runtime         one of RUNTIMES, empty for the first that is installed

    known  (W,) columns of the classes that it knows among the student's, None for an embedding
    width  W, numbers for each clip

    Raises FileNotFoundError; ImportError where nothing is installed that reads ONNX; DataError where input, output or
    class names do not fit, with their shapes or the arithmetic.
    """

    def __init__(self, config: DistilConfig, classes: Sequence[str], *, clip_samples: int, sample_rate_hz: int,
                 runtime: str = "") -> None:
        path = Path(config.teacher)
        if not path.is_file():
            raise FileNotFoundError(f"distil.teacher: there is no network {path}")
        self.config, self.rates = config, (sample_rate_hz, config.sample_rate_hz)
        self._runtime: Runtime = RUNTIMES[runtime or choose_runtime()](path)
        self.batched, window = _input(path, self._runtime.inputs)
        heard = clip_samples * config.sample_rate_hz / sample_rate_hz
        self.window = window or round(heard)
        if heard < self.window or heard % self.window:
            raise DataError(f"{path} hears windows of {self.window / config.sample_rate_hz:g} s = {self.window} "
                            f"samples; a clip of {clip_samples / sample_rate_hz:g} s * {config.sample_rate_hz} Hz = "
                            f"{heard:g} samples = {heard / self.window:.3f} windows, not a whole number from 1 on")
        self.known: np.ndarray | None = None
        self._columns: np.ndarray | None = None
        width = config.width
        if config.kind == "logits":
            names = _names_of_logits(Path(config.labels))
            self.known, self._columns = match_classes(names, classes, config)
            width = len(names)
        self.output = _output(path, self._runtime.outputs, config.output, width)
        self.width = width if self.known is None else len(self.known)
        log.info("%s: %s of %d numbers, computed by %s", path, self.output, width, self._runtime.name)

    def __call__(self, wave: Tensor) -> Tensor:
        """(B, clip_samples) -> (B, W) float32 on the same device."""
        heard = wave.detach().float().cpu().numpy()
        if self.rates[0] != self.rates[1]:
            heard = soxr.resample(heard.T, *self.rates, quality="HQ").T
        windows = np.ascontiguousarray(heard).reshape(-1, self.window)
        if self.config.peak:
            peak = np.abs(windows).max(1, keepdims=True)
            windows = np.where(peak > QUIET, windows * (self.config.peak / np.maximum(peak, QUIET)), windows)
        windows = windows.astype(np.float32)
        parts = [windows] if self.batched else np.split(windows, len(windows))
        said = np.concatenate([self._runtime(part, self.output) for part in parts])
        if self._columns is not None:
            said = said[:, self._columns]
        of_clips = said.reshape(len(heard), -1, said.shape[1])
        return torch.from_numpy(of_clips.mean(1) if self.known is None else of_clips.max(1)).float().to(wave.device)


def choose_runtime() -> str:
    """The first of RUNTIMES that is installed; ImportError says what to install."""
    if importlib.util.find_spec("onnxruntime") is not None:
        return "onnxruntime"
    if has_openvino():
        return "openvino"
    raise ImportError("nothing is installed that reads an ONNX teacher: pip install birdkit[distil]")


def _sizes(port: Any) -> Shape:
    """The shape of an input or output of OpenVINO's."""
    return tuple(size.get_length() if size.is_static else None for size in port.partial_shape)


def _input(path: Path, inputs: dict[str, Shape]) -> tuple[bool, int | None]:
    """Whether it takes several waves at once, and how many samples of each, None for any number."""
    shape = next(iter(inputs.values()))
    if len(inputs) != 1 or len(shape) != 2 or shape[0] not in (None, 1):
        raise DataError(f"{path} takes {inputs}; a teacher takes one input of shape (batch, samples), its batch being "
                        "any number or 1")
    return shape[0] is None, shape[1]


def _output(path: Path, outputs: dict[str, Shape], name: str, width: int) -> str:
    """The output of that name, or the only one of shape (batch, width)."""
    fitting = [one for one, shape in outputs.items() if len(shape) == 2 and shape[1] in (width, None)]
    if (name and name not in fitting) or (not name and len(fitting) != 1):
        raise DataError(f"{path} has the outputs {outputs}; {name or 'exactly one'} of them must be of shape (batch, "
                        f"{width}): distil.output names it, and distil.width is that of an embedding")
    return name or fitting[0]


def _names_of_logits(path: Path) -> list[str]:
    """The first column of a CSV file."""
    if not path.is_file():
        raise FileNotFoundError(f"distil.labels: there is no file {path}")
    return pd.read_csv(path, dtype=str, keep_default_na=False).iloc[:, 0].str.strip().tolist()
