"""The loop of a training run: steps, validations, averages, and when to save or to stop."""
from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import astuple, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from birdkit.batch import Batch
from birdkit.metrics.comparison import Validated
from birdkit.models.base import Model
from birdkit.training.averaging import epochs_to_average
from birdkit.training.run_files import AVERAGE, LAST, Progress, RunFiles
from birdkit.training.trainer import Trainer
from birdkit.training.validation import Validation

log = logging.getLogger(__name__)

SLACK = 1.5  # by how much what is still to be done in a session may take longer than the last time


class Session:
    """The time until whoever lent this machine takes it back: `limit_s` from now on, 0 for no limit."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.began_s = time.monotonic()

    def too_short_for(self, work_s: float) -> bool:
        """Whether work of this length might not be done in time any more."""
        return 0 < self.limit_s < time.monotonic() - self.began_s + SLACK * work_s


class Loop:
    """A run on its way. In every process of its world; the first one validates and writes.

    earlier     what `RunFiles.load` gave, to go on from there
    validation  what epochs are scored on, None for nothing
    """

    validation: Validation | None = None

    def __init__(self, trainer: Trainer, files: RunFiles, session: Session,
                 earlier: tuple[Progress, dict[str, Any]] | None = None) -> None:
        self.trainer, self.files, self.session = trainer, files, session
        self.settings, self.world = trainer.config.train, trainer.world
        self.progress, state = earlier or (Progress(), {})
        self.saved_s = time.monotonic()
        self.idle = True  # until something has been done in this session
        if state:
            trainer.load_state_dict(state)
            log.info("going on at step %d of %d", trainer.step, trainer.total_steps)

    def train(self, batches: Iterable[Batch], *, until: int = 0, progress: bool) -> bool:
        """Train to the end, or until the session ends; either way the state is saved. False where the session ended.

        batches   from the trainer's step on
        until     a step to pause at, to go on with other batches; 0 for the end
        progress  whether to show a bar

        Raises ValueError where a session is too short for one validation, and FloatingPointError, naming a file with
        the batch, where step after step is not finite.
        """
        name = f"round {self.trainer.config.round} split {self.trainer.config.split}"
        with tqdm(total=self.trainer.total_steps, initial=self.trainer.step, desc=name, unit="step", mininterval=1.0,
                  disable=not progress) as bar:
            in_time = self._steps(batches, until or self.trainer.total_steps, bar)
            if in_time and not until:
                in_time = self.progress.finished = self._average()
        if not self.world.first:
            return in_time
        self._save()
        if self.progress.finished:
            self.files.prune_epochs(())
        elif not in_time:
            log.warning("stopped at step %d of %d, before the session's %g s are over: start the notebook again with "
                        "this output attached", self.trainer.step, self.trainer.total_steps, self.session.limit_s)
        return in_time

    def _steps(self, batches: Iterable[Batch], until: int, bar: tqdm) -> bool:
        """All steps up to one, and the validations between them; False where the session ends before."""
        if not self._close_epoch(bar):
            return False
        began_s = time.monotonic()
        for batch in batches:
            self.progress.losses.append(self._step(batch))
            self.progress.distances.append(self.trainer.distance)
            self.idle = False
            bar.update()
            step_s = time.monotonic() - began_s
            self.progress.seconds += step_s
            if not self._close_epoch(bar) or self._over(step_s):
                return False
            if self.trainer.step == until:
                return True
            if self.world.first and time.monotonic() - self.saved_s >= self.settings.save_every_s:
                self._save()
            began_s = time.monotonic()
        return True

    def _over(self, work_s: float) -> bool:
        """Whether the session is too short for this work, and for saving the state after it; all processes agree."""
        return self.world.agree(self.session.too_short_for(work_s + self.progress.save_s))

    def _step(self, batch: Batch) -> float:
        """One step; where the run gives up, with the batch on disk."""
        try:
            return self.trainer.train_step(batch)
        except FloatingPointError as error:
            path = self.files.write_batch(batch, self.trainer.step, self.world.rank)
            raise FloatingPointError(f"{error}. The last batch is in {path}") from error

    def _close_epoch(self, bar: tqdm) -> bool:
        """Validate and record an epoch that has just ended, if that is due; False where the session is too short."""
        epoch, rest = divmod(self.trainer.step, self.trainer.per_epoch)
        every = self.settings.validate_every
        due = self.trainer.step == self.trainer.total_steps or bool(every and epoch % every == 0)
        if rest or not due or epoch <= self.progress.closed:
            return True
        if not self._time_to_validate():
            return False
        self.progress.closed, self.idle = epoch, False
        if self.world.first:
            row = self._record(epoch, self.trainer.deployed, LAST, weights=self.trainer.averaged)
            bar.set_postfix(loss=f"{row['loss']:.4f}", score=f"{row['score']:.4f}")
            kept = self._kept()
            if epoch in kept:
                self.files.keep_epoch(epoch)
            self._save()
            self.files.prune_epochs(kept)
        self.world.agree(False)  # the others wait here
        return True

    def _average(self) -> bool:
        """Record the average of epochs, if there is to be one; False where the session is too short."""
        if not self.settings.average:
            return True
        if not self._time_to_validate():
            return False
        if self.world.first:
            kept = self._kept()
            model = copy.deepcopy(self.trainer.deployed)
            model.load_state_dict(self.files.average(kept))
            log.info("averaging the weights of epochs %s", ", ".join(map(str, kept)))
            self._record(self.progress.closed, model, AVERAGE, weights="average", averaged=kept)
        self.world.agree(False)
        return True

    def _record(self, epoch: int, model: Model, name: str, *, weights: str, **info: Any) -> dict[str, Any]:
        """Score a model, write its checkpoint and its row of the history; the best one is deployed."""
        progress, began_s = self.progress, time.monotonic()
        validated = self._validated(model)
        score, low, high = (math.nan, math.nan, math.nan) if validated is None else astuple(validated.interval())
        self.files.write_checkpoint(name, model, score=score, step=self.trainer.step, weights=weights, **info)
        if score >= progress.best:
            progress.best = score
            self.files.deploy(name, validated)
        elif progress.best == -math.inf:  # nothing has a score so far
            self.files.deploy(name)
        took_s = time.monotonic() - began_s
        if self.trainer.distiller is not None:
            log.info("epoch %d: what the teacher says counted in %d of %d examples", epoch,
                     *self.trainer.distiller.take_counted())
        row = {"epoch": epoch, "step": self.trainer.step, "lr": self.trainer.optimiser.param_groups[0]["lr"],
               "loss": _mean(progress.losses), "score": score, "low": low, "high": high,
               "skipped": self.trainer.skipped - sum(row["skipped"] for row in progress.history),
               "seconds": progress.seconds + took_s, "weights": weights, "distance": _mean(progress.distances)}
        progress.history.append(row)
        progress.losses, progress.distances, progress.seconds = [], [], 0.0
        progress.validation_s = max(took_s, progress.validation_s or 0.0)
        self.files.write_history(progress.history)
        return row

    def _validated(self, model: Model) -> Validated | None:
        """What a model says of the validation; None where nothing validates."""
        if self.validation is None:
            return None
        return self.validation.validate(model.eval(), self.trainer.config, self.files.classes)

    def _kept(self) -> list[int]:
        """The epochs that would be averaged if the run ended now."""
        scores = {row["epoch"]: row["score"] for row in self.progress.history if row["weights"] != "average"}
        return epochs_to_average(scores, self.settings.average, self.settings.average_of)

    def _time_to_validate(self) -> bool:
        """Whether the session is long enough for a validation; ValueError where no session ever will be."""
        needed_s = self._validation_s()
        if not self._over(needed_s):
            return True
        if self.idle:
            raise ValueError(f"session_s = {self.session.limit_s:g} is too short for this run: a validation takes "
                             f"about {needed_s:.1f} s")
        return False

    def _validation_s(self) -> float:
        """About how long a validation takes; before the first, estimated from one of its waves."""
        if self.progress.validation_s is not None or self.validation is None or not self.session.limit_s:
            return self.progress.validation_s or 0.0
        waves = self.validation.waves
        one = replace(self.validation, waves=waves[:1], truth=self.validation.truth[:1], progress=False)
        began_s = time.monotonic()
        one.predict(self.trainer.deployed.eval(), self.trainer.config, self.files.classes)
        return (time.monotonic() - began_s) * sum(map(len, waves)) / len(waves[0])

    def _save(self) -> None:
        """Write the state; of a finished run, that it has finished."""
        began_s = time.monotonic()
        self.files.save(self.progress, {} if self.progress.finished else self.trainer.state_dict())
        self.saved_s = time.monotonic()
        self.progress.save_s = max(self.progress.save_s, self.saved_s - began_s)


def _mean(losses: list[float]) -> float:
    """Of those that are finite, NaN for none."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return float(np.mean(finite)) if finite else math.nan
