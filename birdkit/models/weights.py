"""Weights from files: what is read, what of it fits, and a report of every tensor on either side that does not."""
from __future__ import annotations

import contextlib
import logging
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

# What trainers put around a state dict, and before its names: averaging, data parallel, torch.compile, Lightning.
WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "sed_model.")
DICTS = re.compile(r".*(dict|cfgnode|box|munch)", re.IGNORECASE)  # classes that are filled like a dict
# Nothing that a file names is ever called; but a file that names one of these is an attack, and no weights of anyone's.
CODE = re.compile(r"builtins\.(eval|exec|compile|open|__import__)|"
                  r"(os|posix|nt|sys|subprocess|shutil|runpy|importlib|socket|ctypes)\..*")
# What readers raise on damaged files; torch's reaches into pickle, zip and struct.
DAMAGE = (safetensors.SafetensorError, pickle.UnpicklingError, struct.error, RuntimeError, ValueError, TypeError,
          AttributeError, LookupError, AssertionError, EOFError, OSError)


class WeightsError(ValueError):
    """A weights file that cannot be read or does not fit; the message names the file and the tensors."""


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file gave to a model. Names of tensors as the model has them.

    loaded      taken over
    adapted     of these, the first convolutions that were fitted to the image's channels
    missing     the model has them, the file does not: they keep their random start
    mismatched  both have them, in different shapes; "name ([file's shape] -> [model's shape])"
    unexpected  the file has them, the model does not
    """

    path: str
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """The tensors without a partner by kind; empty where every tensor of both sides found one."""
        kinds = {"missing": self.missing, "mismatched": self.mismatched, "unexpected": self.unexpected}
        return {kind: names for kind, names in kinds.items() if names}

    def __str__(self) -> str:
        counts = f"{self.path}: {len(self.loaded)} tensors loaded"
        if self.adapted:
            counts += f", {', '.join(self.adapted)} fitted to the image's channels"
        for kind, names in self.left_out.items():
            counts += f"; {len(names)} {kind}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        return counts


class _Inert:
    """Stands for whatever class or function a pickle names beside its weights; it does nothing."""

    def __init__(self, *values: Any) -> None:
        """Takes the arguments of a pickled call, and drops them."""

    def __setstate__(self, state: Any) -> None:
        """Takes a pickled object's state, and drops it."""


class _InertDict:
    """Stands for a dict of a class of its own: torch's reader fills only plain ones."""

    def __new__(cls, *values: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file, or of one that torch saved (.pt, .pth, .ckpt), unwrapped.

    No code of the file is run: torch reads with weights_only, and the classes that a trainer pickled beside the
    weights, which that would refuse, become inert. A prefix of PREFIXES that every name carries is taken off.

    Raises FileNotFoundError, or WeightsError where the file is damaged, would run code, or holds no named tensors.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    if Path(path).suffix == ".safetensors":
        with _reading(path):
            content: Any = safetensors.torch.load_file(str(path))
    else:
        content = _load_pickled(path)
    weights = {str(name): value.detach() for name, value in _unwrap(content).items() if isinstance(value, Tensor)}
    if not weights:
        raise WeightsError(f"{path} holds no named tensors")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), ""):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, path: Path | str, partial: bool = False,
                 within: Iterable[str] = ("",), adapted: Iterable[str] = ()) -> WeightsReport:
    """Copy named tensors into a module, all that fit or none, and report what became of each.

    partial  True allows that some do not fit
    within   prefixes of the module's tensors that the file is to fill; all others are left as they are
    adapted  names of weights that are no longer as the file has them

    Raises WeightsError where something is missing, mismatched or unexpected and `partial` is not set, or where nothing
    fits at all.
    """
    wanted = {name: value for name, value in module.state_dict().items() if name.startswith(tuple(within))}
    # A counter of training steps, which old files lack and no forward pass reads.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    shared = sorted(wanted.keys() & weights.keys())
    fitting = {name: weights[name] for name in shared if weights[name].shape == wanted[name].shape}
    mismatched = tuple(f"{name} ({list(weights[name].shape)} -> {list(wanted[name].shape)})"
                       for name in shared if name not in fitting)
    report = WeightsReport(str(path), tuple(fitting), tuple(sorted(fitting.keys() & set(adapted))),
                           tuple(sorted(wanted.keys() - weights.keys() - counters)), mismatched,
                           tuple(sorted(weights.keys() - wanted.keys())))
    if not fitting:
        raise WeightsError(f"nothing in {path} fits: {report}")
    if report.left_out and not partial:
        raise WeightsError(f"the weights fit only in part; partial_weights = True would accept that. {report}")
    module.load_state_dict(fitting, strict=False)
    (log.warning if report.left_out else log.info)("%s", report)
    for kind, names in report.left_out.items():
        log.info("%s: all %d %s: %s", path, len(names), kind, ", ".join(names))
    return report


def _load_pickled(path: Path | str) -> Any:
    with _reading(path):
        # Files of before torch 1.6 are no zips, and torch cannot tell what classes those name.
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path)) if zipfile.is_zipfile(path) else []
    if code := sorted(name for name in foreign if CODE.fullmatch(name)):
        raise WeightsError(f"{path} would run code: its pickle names {', '.join(code)}")
    stand_ins: list[Any] = [(_InertDict if DICTS.fullmatch(name) else _Inert, name) for name in foreign]
    with _reading(path), torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Whatever a damaged file makes its reader raise becomes a WeightsError with the reader's reason."""
    try:
        yield
    except DAMAGE as error:
        # torch gives advice before and after the reason, all of it on weights_only.
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
        reason = f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
        raise WeightsError(f"{path} cannot be read as weights. {reason}") from error


def _unwrap(content: Any) -> Mapping[Any, Any]:
    """The innermost state dict."""
    if not isinstance(content, Mapping):
        return {}
    inner = next((content[key] for key in WRAPPINGS if isinstance(content.get(key), Mapping)), None)
    return content if inner is None else _unwrap(inner)
