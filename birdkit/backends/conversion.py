"""The network behind the image on the CPU: a model's `classify`, converted for another runtime, compared with torch.

Only `classify` is exported, at f32. The front end stays the object that the checkpoint holds, so there is no second
spectrogram to keep equal. For networks that are kept in files, and lower precisions, which have to be proven on real
audio, see birdkit.export.
"""
from __future__ import annotations

import logging

from torch import Tensor

from birdkit.backends.base import ExportedBackend
from birdkit.backends.choice import exported_backend
from birdkit.backends.parity import parity, require_parity
from birdkit.models.base import Model

log = logging.getLogger(__name__)


def export(model: Model, waves: Tensor, *, backend: str = "openvino", threads: int = 0) -> ExportedBackend:
    """The `classify` of a model behind a backend at f32, which has been compared with torch on `waves`, (B, N).

    threads  CPU threads, 0 for all

    Raises ImportError without the backend's packages, ValueError for a model in training mode or not on the CPU,
    ExportError where logits differ by more than 1e-4 of their sigma.
    """
    kind = exported_backend(backend)
    network = kind.convert(model, precision="f32")
    classifier = kind(network, precision="f32", pooled=model.pooled, threads=threads)
    agreement = parity(model, classifier, waves)
    log.info("%s at %s: %s", backend, classifier.precision, agreement)
    require_parity(agreement)
    return classifier
