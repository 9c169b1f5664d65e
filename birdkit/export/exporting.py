"""Checkpoints to bundles: converted, written, read back, and let through the gate; or refused, with nothing left."""
from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from birdkit import audio, checkpoint, synthesis
from birdkit.audio import AudioError
from birdkit.backends import ExportError, bundles, exported_backend
from birdkit.checkpoint import Checkpoint
from birdkit.config import FrontEndConfig
from birdkit.export import gate
from birdkit.export.gate import GateReport
from birdkit.frontend import FrontEnd
from birdkit.inference import Predictor
from birdkit.inference.predictor import bundle_predictors
from birdkit.kaggle import AUDIO_SUFFIXES
from birdkit.models.base import lengthen
from birdkit.submission import read_truth

log = logging.getLogger(__name__)

CALIBRATION_CLIPS = 200  # images that int8 measures its ranges on
CALIBRATION_SHARE = 4  # every fourth file, where no other audio is given for that
GENERATED_FILES = 6  # of a minute each, where there is no audio


@dataclass(frozen=True)
class GateAudio:
    """What a bundle is measured on.

    files        soundscapes for the gate
    calibration  files for the ranges of int8, apart from `files` where there are enough
    audio        both in words
    truth        of the rows of `files`, see birdkit.export.measure_gate; None without

    What lower precisions are measured on must be real: `gate_audio` gives them no generated soundscapes.
    """

    files: tuple[Path, ...]
    calibration: tuple[Path, ...]
    audio: str
    truth: pd.DataFrame | None = None


@dataclass(frozen=True)
class Exported:
    """A bundle that passed the gate, and what the gate measured; `spared` says what is not in int8."""

    folder: Path
    report: GateReport
    spared: str = ""


@contextlib.contextmanager
def gate_audio(folder: Path | None, *, precision: str, calibration: Path | None = None,
               truth: Path | None = None) -> Iterator[GateAudio]:
    """The audio of a folder; for f32, which has to be exact on any sound, generated soundscapes where none is given.

    For int8 every fourth file is for its ranges and the others for the gate, unless other audio is given for that.

    calibration  a folder of audio for the ranges of int8
    truth        a csv that birdkit.submission.read_truth reads

    Raises FileNotFoundError where a folder holds no audio, ValueError where a lower precision is given none.
    """
    if folder is None and precision != "f32":
        raise ValueError(f"{precision} is proven on real audio alone, since it changes what is heard: name a folder of "
                         "soundscapes, `birdkit export --audio DIR`")
    labels = None if truth is None else read_truth(truth)
    with contextlib.ExitStack() as stack:
        if folder is None:
            log.warning("no audio is given: the bundle is measured on generated soundscapes, which no field has heard")
            where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            made = synthesis.generate(where / "generated", n_classes=8, n_recordings=16, n_train_soundscapes=0,
                                      n_test_soundscapes=GENERATED_FILES, longest_s=3.0, progress=False)
            files, name = _audio_of(made.competition_dir / "test_soundscapes"), "generated soundscapes"
        else:
            files, name = _audio_of(folder), f"files of {folder}"
        ranges = _audio_of(calibration) if calibration else files[::CALIBRATION_SHARE]
        if precision == "int8" and not calibration and len(files) > 1:
            files = [file for file in files if file not in ranges]
        yield GateAudio(tuple(files), tuple(ranges) if precision == "int8" else (), f"{len(files)} {name}", labels)


def bundle_folder(path: Path | str, backend: str, precision: str, out: Path | None = None) -> Path:
    """Where a checkpoint's bundle belongs: beside it, in <backend>_<precision>; or in `out`, below the name of the
    checkpoint's folder.

    >>> bundle_folder("work/round0_split0/best.safetensors", "openvino", "int8").as_posix()
    'work/round0_split0/openvino_int8'
    """
    run = Path(path).parent
    return (run if out is None else out / run.absolute().name) / f"{backend}_{precision}"


def export_bundle(path: Path | str, measured_on: GateAudio, *, backend: str = "openvino", precision: str = "f32",
                  folder: Path | None = None, window_s: float | None = None) -> Exported:
    """Export a checkpoint as a bundle that passed the gate; a bundle that was in the folder before is replaced.

    int8 is tried on the whole network, and where the gate refuses that, with the head and the first convolution left
    as they are.

    folder    where to; None for `bundle_folder`
    window_s  of a row; None as the year of the run config has it

    Raises CheckpointError for a checkpoint that does not prove itself, ValueError for a backend or precision that is
    not to be had, ImportError for missing packages, FileExistsError where the folder holds something else, and
    ExportError, which leaves nothing on disk, where the bundle is not the model.
    """
    kind = exported_backend(backend)
    kind.check_precision(precision)
    missing = kind.missing_to_convert(precision)
    if missing:
        raise ImportError(f"to export for {backend} at {precision} needs packages that are not installed: "
                          f"{', '.join(missing)}")
    loaded = checkpoint.load(path)
    seconds = loaded.config.competition.window_s if window_s is None else window_s
    target = folder or bundle_folder(path, backend, precision)
    if target.exists() and not bundles.is_bundle(target):
        raise FileExistsError(f"{target} is there and no bundle; it is not replaced")
    refused: list[str] = []
    for spare in (False, True) if precision == "int8" else (False,):
        spared = "the head and the first convolution" if spare else ""
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _write_networks(partial, path, loaded, measured_on, backend=backend, precision=precision, spare=spare)
            report = _measure(partial, path, measured_on, seconds)
            gate.require_gate(report, precision)
            bundles.seal(partial, report.to_dict() | {"spared": spared})
            _put(partial, target)
        except ExportError as error:
            refused.append(f"{'without ' + spared if spare else 'all of it'}: {error}")
            log.warning("%s is refused at %s, %s", path, precision, refused[-1])
        else:
            log.info("%s passed the gate at %s%s: %s", path, precision, f" without {spared}" * spare, report)
            return Exported(target, report, spared)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    raise ExportError(f"{path} is not exported for {backend} at {precision}. {'. '.join(refused)}")


def _write_networks(folder: Path, path: Path | str, loaded: Checkpoint, measured_on: GateAudio, *, backend: str,
                    precision: str, spare: bool) -> None:
    """Convert a checkpoint at all its scales and write a bundle that has not passed the gate yet."""
    kind, networks = exported_backend(backend), []
    for times in loaded.config.inference.scales:
        model = lengthen(loaded.model, times)
        images = calibration_images(measured_on.calibration, model.frontend) if precision == "int8" else None
        networks.append((times, model, kind.convert(model, precision=precision, calibration=images, spare=spare)))
    bundles.write_bundle(folder, path, loaded, networks, backend=backend, precision=precision)


def _measure(folder: Path, path: Path | str, measured_on: GateAudio, window_s: float) -> GateReport:
    """A bundle, as it is read back from disk, beside the checkpoint, which is read anew: converting saw the other."""
    exported = bundle_predictors(bundles.read_bundle(folder))
    loaded = checkpoint.load(path)
    model = Predictor.of_model(loaded.model, loaded.config, loaded.classes)
    return gate.measure_gate(model, exported, measured_on.files, window_s=window_s, audio=measured_on.audio,
                             truth=measured_on.truth, competition=loaded.config.competition)


def calibration_images(files: Sequence[Path], front: FrontEnd, *, n: int = CALIBRATION_CLIPS) -> Tensor:
    """Images of clips that follow each other in files, evenly from all of them, (up to n, C, H, W).

    Raises ExportError where no file can be read.
    """
    config, images = front.config, []
    each = max(1, n // max(len(files), 1))
    for file in files[:n]:
        try:
            clips = _clips(file, config, each)
        except AudioError as error:
            log.warning("not measured on: %s", error)
            continue
        with torch.inference_mode():
            images.append(front(torch.from_numpy(clips)))
    if not images:
        raise ExportError(f"none of {len(files)} files can be read for the ranges of int8")
    return torch.cat(images)


def _clips(file: Path, config: FrontEndConfig, n: int) -> np.ndarray:
    """The first n clips of a file, the last filled by repetition, (up to n, N)."""
    wave = audio.load(file, config.sample_rate_hz, duration_s=n * config.clip_s)
    pieces = [wave[first:first + config.n_samples] for first in range(0, len(wave), config.n_samples)]
    return np.stack([audio.pad_cyclic(piece, config.n_samples) for piece in pieces])


def _audio_of(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"no audio files ({', '.join(AUDIO_SUFFIXES)}) in {folder}")
    return files


def _put(partial: Path, target: Path) -> None:
    """Put a finished bundle in its place, instead of the one that may be there."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
