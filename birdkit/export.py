"""The network behind the image on the CPU: `classify` of a model as an OpenVINO graph, with torch where there is none.

Only `classify` is exported. The front end stays the object that the checkpoint holds, so there is no second
spectrogram to keep equal. An export is compared with torch, from the wave on, before anyone may use it.
"""
from __future__ import annotations

import copy
import logging
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from birdkit.models.base import Model
from birdkit.models.weight_standardisation import fold_weight_standardisation
from birdkit.output import SEDOutput

log = logging.getLogger(__name__)

# OpenVINO reports to its maker: an export forked this process twenty times to look for a server, and took 2.9 s where
# 0.6 s do. Where the package for that cannot be imported it goes without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}  # ours: OpenVINO's own name
MAX_ERROR_SIGMA = 1e-4  # f32: measured 3e-6 to 6e-5 on EfficientNet-B0
MIN_ERROR = 2e-5  # logits: an untrained network has next to no sigma, and rounding of a logit of -4 is 5e-7
MIN_RANK_AGREEMENT = 0.98  # bf16: what a ranking metric sees


class ExportError(RuntimeError):
    """An exported network that does not do what the model does; the message holds the numbers."""


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from the model on the same waves.

    max_error        largest difference of a clip or segment logit
    sigma            deviation of the model's segment logits
    attention_error  largest difference of the attention, as a share of uniform attention
    rank_agreement   mean over classes of Spearman's correlation of the segment logits, 1 = same order
    """

    max_error: float
    sigma: float
    attention_error: float
    rank_agreement: float

    def __str__(self) -> str:
        return (f"logits differ by up to {self.max_error:.3g} = {self.max_error / max(self.sigma, 1e-12):.3g} of their "
                f"sigma {self.sigma:.3g}, attention by {self.attention_error:.3g}, "
                f"rank agreement {self.rank_agreement:.5f}")


class TorchClassifier:
    """`classify` of a model as it is, on the device the model is on.

    precision  "f32", or "bf16" for autocast

    Raises RuntimeError when called while the model is in training mode: dropout and batch statistics would decide
    the result.
    """

    backend = "torch"

    def __init__(self, model: Model, *, precision: str = "f32") -> None:
        _check_precision(precision)
        self.model = model
        self.precision = precision

    def __call__(self, image: Tensor) -> SEDOutput:
        """(B, C, H, W) -> SEDOutput, float32 on the CPU."""
        if self.model.training:
            raise RuntimeError("the model is in training mode; call model.eval() before predicting")
        device = next(self.model.parameters()).device
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.model.classify(image.to(device))
        return SEDOutput(output.clip_logits.float().cpu(), output.segment_logits.float().cpu(),
                         output.attention.float().cpu(), output.pooled)


class OpenVINOClassifier:
    """`classify` of a model, compiled by OpenVINO for any batch size.

    The batch is worked off image by image, one stream per core: nothing waits for the slowest core, which matters
    where the cores also decode and transform the next soundscape.

    compiled   an openvino.CompiledModel of (1, C, H, W) -> clip logits, segment logits, attention
    precision  "f32" or "bf16", the one that is in effect
    pooled     the model's, see SEDOutput
    """

    backend = "openvino"

    def __init__(self, compiled: Any, *, precision: str, pooled: str) -> None:
        import openvino

        self.precision = precision
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


class _Outputs(nn.Module):
    """A model's `classify` with a plain tuple as result, which is what a tracer understands."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.model.classify(image)
        return output.clip_logits, output.segment_logits, output.attention


def has_openvino() -> bool:
    """True where openvino can be imported."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def export(model: Model, waves: Tensor, *, precision: str = "f32", threads: int = 0) -> OpenVINOClassifier:
    """The `classify` of a model as an OpenVINO graph that has been compared with torch on `waves`, (B, N).

    precision  "f32", or "bf16" where that is wanted and the CPU has it. Always explicit: OpenVINO alone picks bf16
               on such CPUs, and is then 1 to 7 % of the logits' sigma off
    threads    CPU threads, 0 for all

    Raises ImportError without openvino, ValueError for a model in training mode or not on the CPU, ExportError where
    f32 logits differ by more than 1e-4 of their sigma or bf16 changes the order of the segments.
    """
    import openvino
    import openvino.properties.hint as hints

    _check_precision(precision)
    if model.training or next(model.parameters()).device.type != "cpu":
        raise ValueError("only a model in eval mode on the CPU can be exported")
    # A copy, for the graph keeps using the weights' memory: later changes of the model would reach it.
    own = copy.deepcopy(model)
    fold_weight_standardisation(own)
    config = model.frontend.config
    image = torch.zeros(1, config.n_channels, *config.image_size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every shape that becomes a constant; parity is checked below
        graph = openvino.convert_model(_Outputs(own).eval(), example_input=image, input=list(image.shape))
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": hints.PerformanceMode.THROUGHPUT}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(graph, "CPU", options)
    effective = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if effective not in (precision, PRECISIONS[precision]):
        raise ExportError(f"asked for {precision}, but on this CPU OpenVINO computes in {effective}")
    classifier = OpenVINOClassifier(compiled, precision=precision, pooled=model.pooled)
    agreement = parity(model, classifier, waves)
    log.info("OpenVINO %s at %s: %s", openvino.__version__, precision, agreement)
    require_parity(agreement, precision)
    return classifier


def parity(model: Model, classifier: OpenVINOClassifier | TorchClassifier, waves: Tensor) -> Parity:
    """Compare a classifier with the model itself, from the same waves (B, N) on."""
    with torch.inference_mode():
        wanted, got = model(waves), classifier(model.frontend(waves))
    errors = [float((got.clip_logits - wanted.clip_logits).abs().max()),
              float((got.segment_logits - wanted.segment_logits).abs().max())]
    attention = (got.attention - wanted.attention).abs().max() * wanted.attention.shape[1]
    return Parity(max(errors) if np.isfinite(errors).all() else float("inf"),
                  float(wanted.segment_logits.std(correction=0)), float(attention),
                  _rank_agreement(wanted.segment_logits.flatten(0, 1), got.segment_logits.flatten(0, 1)))


def require_parity(agreement: Parity, precision: str) -> None:
    """Raise ExportError where a classifier at `precision` is too far from the model."""
    if precision == "f32":
        limit = max(MAX_ERROR_SIGMA * agreement.sigma, MIN_ERROR)
        good = agreement.max_error <= limit and agreement.attention_error <= 10 * MAX_ERROR_SIGMA
        allowed = f"f32 may differ by {limit:.3g}"
    else:
        good = agreement.rank_agreement >= MIN_RANK_AGREEMENT
        allowed = f"{precision} needs a rank agreement of {MIN_RANK_AGREEMENT}"
    if not good:
        raise ExportError(f"the exported network is not the model: {agreement}; {allowed}")


def _rank_agreement(wanted: Tensor, got: Tensor) -> float:
    """Mean over columns of Spearman's rank correlation, (R, K) and (R, K); nan counts as no agreement."""
    ranks = [values.argsort(0).argsort(0).double() for values in (wanted, got)]
    centred = [rank - rank.mean(0) for rank in ranks]
    scale = (centred[0].square().sum(0) * centred[1].square().sum(0)).sqrt().clamp_min(1e-12)
    return float(((centred[0] * centred[1]).sum(0) / scale).mean()) if bool(got.isfinite().all()) else 0.0


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}; it must be one of {', '.join(PRECISIONS)}")
