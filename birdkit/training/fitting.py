"""Train one split: its data, its epochs, what each scored, and the checkpoint to deploy."""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from birdkit.config import RunConfig
from birdkit.data import AudioStore, steps_per_epoch, training_batches
from birdkit.models import build_model
from birdkit.training import distributed
from birdkit.training.distributed import World
from birdkit.training.loop import Loop, Session
from birdkit.training.material import Material
from birdkit.training.relabelling import Relabelling
from birdkit.training.run_files import AVERAGE, BEST, COLUMNS, LAST, Progress, RunFiles
from birdkit.training.trainer import Trainer
from birdkit.training.validation import Validation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What a run leaves behind.

    best      the checkpoint to deploy: whatever validated best, the average included. Where nothing validates, the
              average if there is one, else the last
    last      the checkpoint of the last validated epoch
    average   the mean of the weights of several epochs, None where the config asks for none, or before the end
    history   one row for each validation: epoch, step, lr, loss, score with its interval from low to high, skipped
              (steps that changed nothing), seconds, weights: "model", "ema", "swa" or, in a row of its own at the
              end, "average", and distance from the teacher, NaN without
    finished  False where the session's limit stopped the run: `fit` with the same arguments goes on
    """

    best: Path
    last: Path
    average: Path | None
    history: pd.DataFrame
    finished: bool


def fit(config: RunConfig, recordings: pd.DataFrame, classes: Sequence[str], *, root: Path | str, out_dir: Path | str,
        soundscapes: pd.DataFrame | None = None, pseudo_labels: pd.DataFrame | None = None,
        labelled_soundscapes: pd.DataFrame | None = None, recording_labels: pd.DataFrame | None = None,
        packed: Path | str | None = None, resume_from: Path | str | None = None, progress: bool = True) -> FitResult:
    """Train one split into `out_dir`. A run that was killed or stopped goes on at the step of its last saved state, and
    ends as if nothing had happened: on a CPU, bit by bit.

    Where torchrun has started this process, all its processes train one model together, see
    birdkit.training.distributed.

    recordings        the table of notebook 01; rows with split == config.split validate, all others train
    classes           names of the K classes, in the order of the submission
    root              folder that the tables' files are relative to
    soundscapes       unlabelled soundscapes: those of the validating split to validate over, the others to mix in
    pseudo_labels     their pseudo-label table, from round 1 on; again without the validating split
    labelled_soundscapes  windows of other soundscapes that the host labelled, as DataConfig and its sources ask for
                      them; again without the validating split
    recording_labels  what teachers heard in the recordings, where config.distil.self_share asks for it
    packed            folder of a packing of the audio, see birdkit.data.AudioStore
    resume_from       the output of an earlier session, which may be read-only, to go on from where `out_dir` has no
                      state

    Raises birdkit.data.DataError for tables that do not fit; ValueError where round and pseudo-labels contradict each
    other, a source is missing that an augmentation mixes in, an augmentation or the loss does not fit the clips or the
    classes, a wave augmentation sets levels that the front end keeps, `out_dir` holds another run, or a session is too
    short for one validation; birdkit.kaggle.DiskSpaceError where the disk has no room for the run's files;
    FileNotFoundError where `resume_from` holds no run, or the teacher of config.distil is not there; ImportError where
    nothing can read that; and FloatingPointError, which names a file with the batch, where step after step is not
    finite.
    """
    session = Session(config.train.session_s)
    torch.set_flush_denormal(True)  # an untrained network is up to eight times slower on denormal numbers
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with distributed.join_world() as world:
        # Here, where a process knows its own GPU, on which a teacher computes.
        material = Material.choose(config, recordings, classes, soundscapes=soundscapes, labels={
            "pseudo_labels": pseudo_labels, "labelled_soundscapes": labelled_soundscapes,
            "recording_labels": recording_labels})
        trainer = _build_trainer(material, world)
        files = RunFiles(Path(out_dir), config, classes=classes, table_hash=material.table_hash,
                         learnt=material.hashes, seen=material.seen, seen_content=material.seen_content,
                         pseudo=material.pseudo)
        loop = Loop(trainer, files, session, world.share(_earlier(files, resume_from) if world.first else None))
        if not loop.progress.finished:
            trainer.rehearse()
            if world.first:
                files.require_room(trainer.model)
            store = AudioStore(root, config.frontend.sample_rate_hz, limit_gib=config.data.cache_gib, packed=packed)
            relabelling = Relabelling(material, trainer, files, root)
            going_on = True
            while going_on and not loop.progress.finished:
                dataset = relabelling.material(progress=progress).dataset(trainer.source_shares, store)
                # After the sources: a missing one must not be found when everything has been composed.
                if loop.validation is None and config.split >= 0 and world.first:
                    held_out = recordings[recordings["split"] == config.split]
                    loop.validation = Validation.prepare(config, held_out, classes, store=store,
                                                         soundscapes=soundscapes,
                                                         labelled_soundscapes=labelled_soundscapes, progress=progress)
                batches = training_batches(dataset, dataset.labels, config, first_step=trainer.step,
                                           device=trainer.device, rank=world.rank, world_size=world.size)
                with contextlib.closing(batches):
                    going_on = loop.train(batches, until=relabelling.next_step(), progress=progress and world.first)
        return world.share(_result(loop))


def _build_trainer(material: Material, world: World) -> Trainer:
    """The model with its first weights, which the seed decides, and the trainer of it."""
    config = material.config
    per_epoch = steps_per_epoch(config, len(material))
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = build_model(config.model, config.frontend, len(material.classes))
    trainer = Trainer(config, model, total_steps=per_epoch * config.train.epochs, per_epoch=per_epoch,
                      device="cuda" if torch.cuda.is_available() else "cpu", world=world, teacher=material.teacher,
                      classes=material.classes)
    log.info("%s parameters, %d recordings, %d epochs of %d steps of %d examples",
             f"{sum(p.numel() for p in model.parameters()):,}", len(material.recordings), config.train.epochs,
             per_epoch, config.train.batch_size)
    return trainer


def _earlier(files: RunFiles, resume_from: Path | str | None) -> tuple[Progress, dict[str, Any]] | None:
    """What an earlier start of the run has left, here or in the output of another session."""
    files.folder.mkdir(parents=True, exist_ok=True)
    if resume_from is not None:
        files.adopt(Path(resume_from))
    return files.load()


def _result(loop: Loop) -> FitResult:
    """What the run has left so far."""
    folder, history = loop.files.folder, loop.progress.history
    averaged = any(row["weights"] == "average" for row in history)
    return FitResult(folder / BEST, folder / LAST, folder / AVERAGE if averaged else None,
                     pd.DataFrame(history, columns=COLUMNS), loop.progress.finished)
