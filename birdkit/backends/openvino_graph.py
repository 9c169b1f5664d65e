"""OpenVINO: the first choice on a CPU."""
from __future__ import annotations

import functools
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birdkit.backends.base import BACKENDS, ExportedBackend, ExportError, Outputs, checked_example
from birdkit.backends.int8 import quantise
from birdkit.models.base import Model
from birdkit.output import SEDOutput

log = logging.getLogger(__name__)

# OpenVINO reports to its maker: an export forked this process twenty times to look for a server, and took 2.9 s where
# 0.6 s do. Where the package for that cannot be imported it goes without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

COMPUTED = {"f32": "f32", "f16": "f32", "int8": "f32", "bf16": "bf16"}  # what is not in int8 is computed in
EFFECTIVE = {"float32": "f32", "bfloat16": "bf16"}  # OpenVINO's own names: ours


@BACKENDS.register("openvino")
class OpenVINOClassifier(ExportedBackend):
    """`classify` of a model, compiled by OpenVINO for any batch size.

    The batch is worked off image by image, one stream per core: nothing waits for the slowest core, which matters
    where the cores also decode and transform the next soundscape.

    The precision is always explicit: OpenVINO alone picks bf16 on CPUs that have it, and is then 1 to 7 % of the
    logits' sigma off. Where bf16 is asked for on a CPU without it, f32 is computed, which is slower and nearer to the
    model, and a warning says so.
    """

    backend = "openvino"
    precisions = ("f32", "bf16", "f16", "int8")
    needs = ("openvino",)

    def __init__(self, network: Any, *, precision: str, pooled: str, threads: int = 0) -> None:
        import openvino
        import openvino.properties.hint as hints

        self.check_precision(precision)
        asked = COMPUTED[precision]
        options = {"INFERENCE_PRECISION_HINT": asked, "PERFORMANCE_HINT": hints.PerformanceMode.THROUGHPUT}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        compiled = openvino_core().compile_model(network, "CPU", options)
        effective = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        effective = EFFECTIVE.get(effective, effective)
        if effective != asked:
            if effective != "f32":
                raise ExportError(f"asked for {asked}, but on this CPU OpenVINO computes in {effective}")
            log.warning("this CPU has no %s: OpenVINO computes in f32, slower and nearer to the model", asked)
        self.precision = precision if effective == asked else effective
        self.pooled = pooled
        self._queue = openvino.AsyncInferQueue(compiled, 0)

    def __call__(self, image: Tensor) -> SEDOutput:
        """(B, C, H, W) float32 -> SEDOutput, float32 on the CPU."""
        rows: list[tuple[np.ndarray, ...]] = [()] * len(image)

        def keep(request: Any, index: int) -> None:
            rows[index] = tuple(request.get_output_tensor(i).data.copy() for i in range(3))

        self._queue.set_callback(keep)
        for index, one in enumerate(image.numpy()):
            self._queue.start_async([one[None]], index)
        self._queue.wait_all()
        clip, segments, attention = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True))
        return SEDOutput(clip, segments, attention, self.pooled)

    @classmethod
    def convert(cls, model: Model, *, precision: str, calibration: Tensor | None = None, spare: bool = False) -> Any:
        """An openvino.Model; raises as ExportedBackend says."""
        import openvino

        cls.check_precision(precision)
        example = checked_example(model)
        traced = Outputs(model, features=precision == "int8")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of every shape that becomes a constant; parity is checked
            graph = openvino.convert_model(traced, example_input=example, input=list(example.shape))
        if precision == "int8":
            return quantise(graph, calibration, spare=spare)
        if precision == "f16":
            with tempfile.TemporaryDirectory() as folder:  # only its way to a file rounds the weights
                openvino.save_model(graph, Path(folder) / "network.xml", compress_to_fp16=True)
                return _read(Path(folder) / "network.xml")
        return graph

    @classmethod
    def write(cls, network: Any, folder: Path, stem: str) -> list[Path]:
        """Write <stem>.xml and <stem>.bin."""
        import openvino

        openvino.save_model(network, folder / f"{stem}.xml", compress_to_fp16=False)
        return [folder / f"{stem}.xml", folder / f"{stem}.bin"]

    @classmethod
    def read(cls, folder: Path, stem: str) -> Any:
        """An openvino.Model that does not need its files any longer."""
        return _read(folder / f"{stem}.xml")


@functools.cache
def openvino_core() -> Any:
    """The one openvino.Core of this process.

    With a Core for each network (2026.4), a process that loaded bundles and later started another one died of a
    segmentation fault.
    """
    import openvino

    return openvino.Core()


def _read(path: Path) -> Any:
    """The graph of an xml file with its weights in memory: a mapped file could change or vanish under it."""
    import openvino

    weights = np.frombuffer(path.with_suffix(".bin").read_bytes(), np.uint8)
    return openvino_core().read_model(path.read_bytes(), openvino.Tensor(weights))
