"""Weights from files: what is read, what of it fits, and a report of every tensor on either side that does not."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net")  # where trainers put them


class WeightsError(ValueError):
    """A weights file that cannot be read or does not fit; the message names the file and the tensors."""


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file gave to a model. Names of tensors as the model has them.

    loaded      taken over
    adapted     of these, the first convolutions whose input channels were summed or repeated to fit
    missing     the model has them, the file does not: they keep their random start
    mismatched  both have them, in different shapes; "name (file's shape -> model's shape)"
    unexpected  the file has them, the model does not
    """

    path: str
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """True where every tensor of both sides found its partner."""
        return not (self.missing or self.mismatched or self.unexpected)

    def __str__(self) -> str:
        counts = f"{self.path}: {len(self.loaded)} tensors loaded"
        if self.adapted:
            counts += f", {', '.join(self.adapted)} adapted to the image's channels"
        for kind in ("missing", "mismatched", "unexpected"):
            names = getattr(self, kind)
            if names:
                counts += f"; {len(names)} {kind}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        return counts


class _Inert:
    """Stands for a class that a pickled checkpoint names beside its weights; it does nothing."""

    def __init__(self, *values: Any, **named: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Takes the items of a pickled dict subclass, and drops them."""


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file, or of one that torch saved (.pt, .pth, .ckpt), unwrapped.

    No code of the file is run: torch reads with weights_only, and classes that a trainer pickled beside the weights,
    which that would refuse, become inert. Prefixes that every name shares, such as "module." or "sed_model.", stay.

    Raises FileNotFoundError, or WeightsError where the file holds no named tensors.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    if Path(path).suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(str(path))
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{path} is not a safetensors file: {error}") from error
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        with torch.serialization.safe_globals([(_Inert, name) for name in foreign]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, UnicodeDecodeError, AttributeError,
            torch.serialization.pickle.UnpicklingError) as error:
        raise WeightsError(f"{path} is not a file that torch saved: {str(error).splitlines()[0]}") from error
    for _ in WRAPPINGS:
        inner = next((content[key] for key in WRAPPINGS if isinstance(content, Mapping) and key in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no named tensors")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, path: Path | str, partial: bool = False,
                 within: Iterable[str] = (""), first_convolutions: Iterable[str] = ()) -> WeightsReport:
    """Copy named tensors into a module and report what became of each.

    partial             True allows that some do not fit
    within              prefixes of the module's tensors that the file is to fill; all others are left as they are
    first_convolutions  weights (D, C, h, w) that may be adapted to another number of image channels, by summing three
                        into one or repeating one into three, scaled so that three equal channels give what one gave

    Raises WeightsError where something is missing, mismatched or unexpected and `partial` is not set, or where nothing
    fits at all.
    """
    wanted = {name: value for name, value in module.state_dict().items()
              if any(name.startswith(prefix) for prefix in within)}
    # A counter of training steps, which old files lack and no forward pass reads.
    counted = {name for name in wanted if name.endswith("num_batches_tracked")}
    adapted, mismatched, fitting = [], [], {}
    for name in wanted.keys() & weights.keys():
        value = weights[name]
        if name in first_convolutions and value.ndim == 4 and value.shape[1] != wanted[name].shape[1]:
            value = _adapt_channels(value, wanted[name].shape[1])
            adapted.append(name)
        if value.shape != wanted[name].shape:
            mismatched.append(f"{name} ({list(value.shape)} -> {list(wanted[name].shape)})")
        else:
            fitting[name] = value
    report = WeightsReport(str(path), tuple(sorted(fitting)), tuple(adapted),
                           tuple(sorted(wanted.keys() - weights.keys() - counted)), tuple(sorted(mismatched)),
                           tuple(sorted(weights.keys() - wanted.keys())))
    if not fitting:
        raise WeightsError(f"nothing in {path} fits: {report}")
    if not report.complete and not partial:
        raise WeightsError(f"the weights fit only in part; partial_weights = True would accept that. {report}")
    module.load_state_dict(fitting, strict=False)
    (log.info if report.complete else log.warning)("%s", report)
    return report


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """(D, C, h, w) -> (D, channels, h, w), so that equal channels give what equal channels gave before."""
    return weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
