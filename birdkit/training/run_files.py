"""The folder of a training run: its checkpoints, its history, and the state from which it goes on."""
from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from birdkit import checkpoint
from birdkit.batch import Batch
from birdkit.config import RunConfig
from birdkit.kaggle.disk import require_room
from birdkit.metrics.comparison import Validated
from birdkit.models.base import Model
from birdkit.training.averaging import average_checkpoints, identity

log = logging.getLogger(__name__)

STATE = "state.pt"
HISTORY = "history.csv"
BEST = "best.safetensors"
LAST = "last.safetensors"
AVERAGE = "average.safetensors"
PREDICTIONS = "predictions.npz"  # of the best checkpoint for the validation, with the truth
EPOCHS = "epochs"  # folder of the checkpoints that may still be averaged
BAD_BATCH = "bad_batch"
BESIDE_WEIGHTS = 4 * 2**20  # bytes of a checkpoint or a state that are no weights: golden sample, names of files
COLUMNS = ("epoch", "step", "lr", "loss", "score", "low", "high", "skipped", "seconds", "weights",
           "distance")


@dataclass
class Progress:
    """How far a run has come: what its next start needs beside the trainer's own state.

    history       one row for each validation, see birdkit.training.FitResult
    closed        the last epoch that has its row
    best          the highest score so far
    losses        of the steps since the last row
    distances     from a teacher, of the same steps; NaN without
    seconds       of work since the last row
    save_s        the longest time it took to save the state
    validation_s  the longest that a validation and its checkpoints took, None before the first
    finished      True when nothing is left to do
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    closed: int = 0
    best: float = -math.inf
    losses: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    seconds: float = 0.0
    save_s: float = 0.0
    validation_s: float | None = None
    finished: bool = False


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that came to its end; not one that was stopped, or killed, or never began."""
    return _says_finished(folder) is True


def is_unfinished(folder: Path) -> bool:
    """Whether a folder holds a run that was stopped, or killed, before its end."""
    return _says_finished(folder) is False


def _says_finished(folder: Path) -> bool | None:
    """What the state of a run says; None where there is none."""
    path = folder / STATE
    return bool(torch.load(path, map_location="cpu", weights_only=True)["progress"]["finished"]) if path.is_file() \
        else None


class RunFiles:
    """The folder of a run, written so that it can be killed at any time and goes on as if nothing had happened.

    Every file is written beside its name and then renamed: it is there whole or not at all.

    classes      names of the K classes
    table_hash   of the training table
    learnt       hashes of whatever else is learnt from, by what it is
    seen         files whose labels the model is trained on
    seen_content  contents of these, as far as they are known, see birdkit.checkpoint.Checkpoint
    pseudo       names and contents of those whose labels are pseudo-labels alone
    """

    def __init__(self, folder: Path, config: RunConfig, *, classes: Sequence[str], table_hash: str,
                 learnt: Mapping[str, str] | None = None, seen: Collection[str],
                 seen_content: Collection[str] = (), pseudo: Collection[str] = ()) -> None:
        self.folder = folder
        self.config = config
        self.classes = list(classes)
        self.table_hash = table_hash
        self.seen = list(seen)
        self.seen_content = list(seen_content)
        self.pseudo = list(pseudo)
        self.learnt = dict(learnt or {})
        self.origin = {"config": identity(config), "training table": table_hash, **self.learnt}

    def room(self, model: Model) -> dict[str, int]:
        """Bytes that the run may write, by what they are; each file lies beside its new version for a moment.

        A checkpoint holds the weights once; the state holds them, the optimiser's two moments, and an averaged copy.
        """
        settings, weights = self.config.train, sum(value.nbytes for value in model.state_dict().values())
        copies = 4 if settings.ema_decay or settings.swa_start < 1 else 3
        parts = {"checkpoints": 3 * (weights + BESIDE_WEIGHTS), "state": 2 * (copies * weights + BESIDE_WEIGHTS)}
        if settings.average:
            parts["epochs to average"] = (settings.average + 2) * (weights + BESIDE_WEIGHTS)
        return parts

    def require_room(self, model: Model) -> None:
        """Raise birdkit.kaggle.DiskSpaceError where the disk has no room for that."""
        there = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        require_room(self.folder, self.room(model), what=f"training split {self.config.split}", there=there)

    def adopt(self, earlier: Path) -> None:
        """Copy the output of an earlier session, which may be read-only, unless this folder has a state of its own.

        Raises FileNotFoundError where there is no state.
        """
        if not (earlier / STATE).is_file():
            raise FileNotFoundError(f"{earlier} holds no {STATE}: it is not the output of a run that was stopped")
        if (self.folder / STATE).is_file():
            return
        (self.folder / EPOCHS).mkdir(parents=True, exist_ok=True)
        epochs = [f"{EPOCHS}/{path.name}" for path in (earlier / EPOCHS).glob("*.safetensors")]
        epochs += [path.name for path in earlier.glob("relabelled_epoch*.parquet")]
        # The state last: until it is there, nothing has been copied.
        for name in (HISTORY, BEST, LAST, AVERAGE, PREDICTIONS, *epochs, STATE):
            if (earlier / name).is_file():
                _copy(earlier / name, self.folder / name)
        log.info("going on from the output of an earlier session, %s", earlier)

    def load(self) -> tuple[Progress, dict[str, Any]] | None:
        """The progress and the trainer's state, which is empty where the run has finished; None in a new folder.

        Raises ValueError where the folder belongs to another run.
        """
        path = self.folder / STATE
        if not path.is_file():
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        others = [name for name, value in self.origin.items() if state["origin"].get(name, "") != value]
        if others:
            raise ValueError(f"{path} belongs to a run with another {' and another '.join(others)}; choose another "
                             "folder, or delete this one")
        return Progress(**state["progress"]), state["trainer"]

    def save(self, progress: Progress, trainer: dict[str, Any]) -> None:
        """Write the state."""
        partial = self.folder / (STATE + ".partial")
        torch.save({"progress": asdict(progress), "trainer": trainer, "origin": self.origin}, partial)
        os.replace(partial, self.folder / STATE)

    def write_history(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the history as a table."""
        partial = self.folder / (HISTORY + ".partial")
        pd.DataFrame(history, columns=COLUMNS).to_csv(partial, index=False)
        os.replace(partial, self.folder / HISTORY)

    def write_checkpoint(self, name: str, model: Model, *, score: float, step: int, **info: Any) -> None:
        """Write a model, with the score that it was validated with, NaN for none, and further information."""
        checkpoint.save(self.folder / name, model, config=self.config, classes=self.classes,
                        table_hash=self.table_hash, seen=self.seen, seen_content=self.seen_content, pseudo=self.pseudo,
                        score=None if math.isnan(score) else score,
                        info={"step": step, **info})

    def deploy(self, name: str, validated: Validated | None = None) -> None:
        """Make a checkpoint the one named best, and what it says of the validation its predictions."""
        _copy(self.folder / name, self.folder / BEST)
        if validated is not None:
            origin = {**validated.origin, "learnt": {"training table": self.table_hash, **self.learnt}}
            replace(validated, origin=origin).save(self.folder / PREDICTIONS)

    def keep_epoch(self, epoch: int) -> None:
        """Keep the last checkpoint as that of an epoch."""
        (self.folder / EPOCHS).mkdir(exist_ok=True)
        _copy(self.folder / LAST, self._epoch(epoch))

    def prune_epochs(self, kept: Collection[int]) -> None:
        """Remove the checkpoints of all epochs but the `kept` ones."""
        if not kept:
            shutil.rmtree(self.folder / EPOCHS, ignore_errors=True)
        wanted = {self._epoch(number) for number in kept}
        for path in (self.folder / EPOCHS).glob("*"):
            if path not in wanted:
                path.unlink()

    def average(self, epochs: Collection[int]) -> dict[str, Tensor]:
        """The mean of the weights of epochs that were kept; see birdkit.training.averaging.average_checkpoints."""
        return average_checkpoints([self._epoch(number) for number in epochs])

    def write_batch(self, batch: Batch, step: int, rank: int) -> Path:
        """Write a batch as it came from the files; with the seed and the step, what was done to it can be repeated."""
        path = self.folder / f"{BAD_BATCH}{f'_rank{rank}' if rank else ''}.safetensors"
        parts = {"": batch, **{f"sources.{name}.": source for name, source in batch.sources.items()}}
        tensors = {f"{prefix}{name}": getattr(part, name).detach().cpu().contiguous() for prefix, part in parts.items()
                   for name in ("signal", "target", "weight", "cell_weight", "teacher", "p_factor")
                   if getattr(part, name) is not None}
        save_file({**tensors, "step": torch.tensor(step)}, path)
        return path

    def _epoch(self, number: int) -> Path:
        return self.folder / EPOCHS / f"epoch{number:04d}.safetensors"


def _copy(source: Path, target: Path) -> None:
    """Copy a file's content; the copy can be written to, whatever the source's mode."""
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    os.replace(partial, target)
