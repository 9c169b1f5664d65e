"""The network behind the image on the CPU: a model's `classify`, converted for another runtime, compared with torch.

Only `classify` is exported. The front end stays the object that the checkpoint holds, so there is no second
spectrogram to keep equal. For networks that are kept in files see birdkit.bundle_export.
"""
from __future__ import annotations

import logging

from torch import Tensor

from birdkit.backends import ExportedBackend, exported_backend
from birdkit.models.base import Model
from birdkit.parity import parity, require_parity

log = logging.getLogger(__name__)


def export(model: Model, waves: Tensor, *, backend: str = "openvino", precision: str = "f32",
           threads: int = 0) -> ExportedBackend:
    """The `classify` of a model behind a backend, which has been compared with torch on `waves`, (B, N).

    precision  "f32", "bf16" or "f16" where the backend has it; int8 is for bundles, which see real audio
    threads    CPU threads, 0 for all

    Raises ImportError without the backend's packages, ValueError for a model in training mode or not on the CPU and for
    a precision that is not to be had, ExportError where f32 logits differ by more than 1e-4 of their sigma, or a lower
    precision changes the order of the segments.
    """
    kind = exported_backend(backend)
    network = kind.convert(model, precision=precision)
    classifier = kind(network, precision=precision, pooled=model.pooled, threads=threads)
    agreement = parity(model, classifier, waves)
    log.info("%s at %s: %s", backend, classifier.precision, agreement)
    require_parity(agreement, precision)
    return classifier
