"""The model as it is, in torch: what everything else is compared with, and what works everywhere."""
from __future__ import annotations

import torch
from torch import Tensor

from birdkit.backends.base import BACKENDS, Backend
from birdkit.models.base import Model
from birdkit.output import SEDOutput


@BACKENDS.register("torch")
class TorchClassifier(Backend):
    """`classify` of a model as it is, on the device the model is on.

    precision  "f32", or "bf16" for autocast

    Raises RuntimeError when called while the model is in training mode: dropout and batch statistics would decide
    the result.
    """

    backend = "torch"
    precisions = ("f32", "bf16")

    def __init__(self, model: Model, *, precision: str = "f32") -> None:
        self.check_precision(precision)
        self.model = model
        self.precision = precision
        self.pooled = model.pooled

    def __call__(self, image: Tensor) -> SEDOutput:
        """(B, C, H, W) -> SEDOutput, float32 on the CPU."""
        if self.model.training:
            raise RuntimeError("the model is in training mode; call model.eval() before predicting")
        device = next(self.model.parameters()).device
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.model.classify(image.to(device))
        return SEDOutput(output.clip_logits.float().cpu(), output.segment_logits.float().cpu(),
                         output.attention.float().cpu(), output.pooled)
