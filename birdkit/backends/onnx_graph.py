"""ONNX Runtime: where there is no OpenVINO. Running a finished network needs onnxruntime alone."""
from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birdkit.backends.base import BACKENDS, ExportedBackend, Outputs, checked_example
from birdkit.models.base import Model
from birdkit.output import SEDOutput

NAMES = ("clip_logits", "segment_logits", "attention")


@BACKENDS.register("onnxruntime")
class OnnxClassifier(ExportedBackend):
    """`classify` of a model as an ONNX graph, computed by ONNX Runtime for any batch size.

    Image by image, as many at once as there are threads and each on one of them: small images gain little from
    several threads each.

    network  the bytes of an ONNX file
    """

    backend = "onnxruntime"
    precisions = ("f32",)
    needs = ("onnxruntime",)
    converter_needs = ("onnx", "onnxscript")

    def __init__(self, network: bytes, *, precision: str, pooled: str, threads: int = 0) -> None:
        import onnxruntime

        self.check_precision(precision)
        self.precision = precision
        self.pooled = pooled
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors: it warns of constants that nothing uses
        options.add_session_config_entry("session.set_denormal_as_zero", "1")  # as torch does here; they are slow
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, "birdkit-onnx")

    def __call__(self, image: Tensor) -> SEDOutput:
        """(B, C, H, W) float32 -> SEDOutput, float32 on the CPU."""
        rows = self._pool.map(lambda one: self._session.run(NAMES, {self._input: one[None]}), image.numpy())
        clip, segments, attention = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True))
        return SEDOutput(clip, segments, attention, self.pooled)

    @classmethod
    def convert(cls, model: Model, *, precision: str, calibration: Tensor | None = None, spare: bool = False) -> bytes:
        """The bytes of an ONNX file; raises as ExportedBackend says."""
        cls.check_precision(precision)
        example = checked_example(model)
        with _quietly(), torch.no_grad():
            program = torch.onnx.export(Outputs(model), (example,), dynamo=True, verbose=False, input_names=["image"],
                                        output_names=list(NAMES))
        assert program is not None  # with a path it would have written a file instead
        return program.model_proto.SerializeToString()

    @classmethod
    def write(cls, network: bytes, folder: Path, stem: str) -> list[Path]:
        """Write <stem>.onnx."""
        path = folder / f"{stem}.onnx"
        path.write_bytes(network)
        return [path]

    @classmethod
    def read(cls, folder: Path, stem: str) -> Any:
        """The bytes of the file."""
        return (folder / f"{stem}.onnx").read_bytes()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's warnings of operators that no model here has, and its notes on stdout."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
