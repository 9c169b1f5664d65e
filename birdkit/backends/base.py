"""The contract of a backend: an image goes in, a SEDOutput in float32 comes out, at a precision that is named."""
from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from birdkit.models.base import Model
from birdkit.models.weight_standardisation import fold_weight_standardisation
from birdkit.output import SEDOutput
from birdkit.registry import Registry

BACKENDS: Registry[Backend] = Registry("backend")
AUTO = "auto"  # the first of openvino, onnxruntime and torch that can do it, see `choose_backend`

# f32   as trained
# bf16  computed in bfloat16 where the CPU has it
# f16   weights rounded to half precision, which halves the file; computed in f32
# int8  weights and activations in 8 bits, with ranges measured on real clips
PRECISIONS = ("f32", "bf16", "f16", "int8")


class ExportError(ValueError):
    """An exported network that does not do what the model does; the message holds the numbers."""


class Backend:
    """`classify` of a model behind one runtime.

    backend     its name in BACKENDS
    precisions  those of PRECISIONS that it has
    needs       packages that it runs with
    precision   the one in effect, one of `precisions`
    pooled      the model's, see SEDOutput
    """

    backend: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ()
    precision: str
    pooled: str

    def __call__(self, image: Tensor) -> SEDOutput:
        """(B, C, H, W) float32, any B -> SEDOutput, float32 on the CPU."""
        raise NotImplementedError

    @classmethod
    def missing(cls) -> list[str]:
        """The packages of `needs` that are not installed."""
        return absent(cls.needs)

    @classmethod
    def check_precision(cls, precision: str) -> None:
        """Raise ValueError for a precision that this backend does not have."""
        if precision not in cls.precisions:
            raise ValueError(f"precision = {precision!r}; with {cls.backend} it must be one of "
                             f"{', '.join(cls.precisions)}")


class ExportedBackend(Backend):
    """A backend with a network of its own, converted from the model, which can be kept in files.

    converter_needs  further packages, needed to convert but not to run
    """

    converter_needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, network: Any, *, precision: str, pooled: str, threads: int = 0) -> None:
        """Make a network ready to run; `threads` of the CPU, 0 for all."""
        raise NotImplementedError

    @classmethod
    def convert(cls, model: Model, *, precision: str, calibration: Tensor | None = None, spare: bool = False) -> Any:
        """The network of (1, C, H, W) -> clip logits, segment logits, attention, of a model in eval mode on the CPU.

        calibration  (N, C, H, W) images of real clips; needed for int8 alone
        spare        True leaves the head and the first convolution out of int8
        """
        raise NotImplementedError

    @classmethod
    def write(cls, network: Any, folder: Path, stem: str) -> list[Path]:
        """Write a network to files named `stem` in a folder, and return them."""
        raise NotImplementedError

    @classmethod
    def read(cls, folder: Path, stem: str) -> Any:
        """The network that was written."""
        raise NotImplementedError

    @classmethod
    def missing_to_convert(cls, precision: str) -> list[str]:
        """The packages that are not installed, of those that converting to this precision needs."""
        return absent([*cls.needs, *cls.converter_needs, *(["nncf"] if precision == "int8" else [])])


def absent(packages: Sequence[str]) -> list[str]:
    """Those of some packages that are not installed.

    >>> absent(["json", "a_package_that_is_not_there"])
    ['a_package_that_is_not_there']
    """
    return [name for name in packages if importlib.util.find_spec(name) is None]


class Outputs(nn.Module):
    """A model's `classify` as plain tensors, which is what a tracer understands: clip logits, segment logits and
    attention, and after them, where they are asked for, the features that they were decided on."""

    def __init__(self, model: Model, *, features: bool = False) -> None:
        super().__init__()
        # A copy, for a graph may keep using the weights' memory: later changes of the model would reach it.
        self.model: Model = copy.deepcopy(model)
        fold_weight_standardisation(self.model)
        self.features = features
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> (B, K), (B, S, K), (B, S, K), and (B, D, S)."""
        features = self.model.joined_features(image)
        output = self.model.decide(features)
        kept = (features,) if self.features else ()
        return output.clip_logits, output.segment_logits, output.attention, *kept


def checked_example(model: Model) -> Tensor:
    """A blank image to trace a model with, (1, C, H, W); ValueError where the model is not in eval mode on the CPU."""
    if model.training or next(model.parameters()).device.type != "cpu":
        raise ValueError("only a model in eval mode on the CPU can be exported")
    config = model.frontend.config
    return torch.zeros(1, config.n_channels, *config.image_size)
