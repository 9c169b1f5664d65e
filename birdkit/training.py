"""Train one split: its data, its epochs, what each scored, and the checkpoint to deploy."""
from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from birdkit import checkpoint, distributed
from birdkit.audio_store import AudioStore
from birdkit.config import RunConfig
from birdkit.data import ClipDataset, steps_per_epoch, training_batches
from birdkit.distillation import Teacher, choose_teacher
from birdkit.distributed import World
from birdkit.loop import Loop, Session
from birdkit.models import build_model
from birdkit.recording_labels import choose_recording_labels
from birdkit.run_files import AVERAGE, BEST, COLUMNS, LAST, Progress, RunFiles
from birdkit.sources import choose_sources
from birdkit.tables import keep_rated, table_hash
from birdkit.teacher_table import TeacherTable
from birdkit.trainer import Trainer
from birdkit.validation import Validation

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
        recording_labels: pd.DataFrame | None = None,
        packed: Path | str | None = None, resume_from: Path | str | None = None, progress: bool = True) -> FitResult:
    """Train one split into `out_dir`. A run that was killed or stopped goes on at the step of its last saved state, and
    ends as if nothing had happened: on a CPU, bit by bit.

    Where torchrun has started this process, all its processes train one model together, see birdkit.distributed.

    recordings        the table of notebook 01; rows with split == config.split validate, all others train
    classes           names of the K classes, in the order of the submission
    root              folder that the tables' files are relative to
    soundscapes       unlabelled soundscapes: those of the validating split to validate over, the others to mix in
    pseudo_labels     their pseudo-label table, from round 1 on; again without the validating split
    recording_labels  what teachers heard in the recordings, where config.distil.self_share asks for it
    packed            folder of a packing of the audio, see birdkit.audio_store.AudioStore
    resume_from       the output of an earlier session, which may be read-only, to go on from where `out_dir` has no
                      state

    Raises birdkit.tables.DataError for tables that do not fit; ValueError where round and pseudo-labels contradict each
    other, a source is missing that an augmentation mixes in, `out_dir` holds another run, or a session is too short for
    one validation; FileNotFoundError where `resume_from` holds no run, or the teacher of config.distil is not there;
    ImportError where nothing can read that; and FloatingPointError, which names a file with the batch, where step after
    step is not finite.
    """
    session = Session(config.train.session_s)
    torch.set_flush_denormal(True)  # an untrained network is up to eight times slower on denormal numbers
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    trained, mixed = recordings, soundscapes
    if config.split >= 0:
        trained = recordings[recordings["split"] != config.split]
        if soundscapes is not None:
            mixed = soundscapes[soundscapes["split"] != config.split]
            if pseudo_labels is not None:
                pseudo_labels = pseudo_labels[pseudo_labels["file"].isin(mixed["file"])]
    trained = keep_rated(trained, config.data)
    heard = choose_recording_labels(config.distil, config.round, recording_labels, trained["file"], classes)
    with distributed.join_world() as world:
        teacher = choose_teacher(config, classes, trained["file"])
        trainer = _build_trainer(config, len(classes), len(trained), world, teacher)
        files = RunFiles(Path(out_dir), config, classes=classes, table_hash=table_hash(trained),
                         labels_hash=_labels_hash(pseudo_labels, classes),
                         others={"recording labels": _labels_hash(recording_labels, classes),
                                 "teacher": checkpoint.file_hash(config.distil.teacher) if teacher else ""},
                         seen={*trained["file"], *([] if pseudo_labels is None else pseudo_labels["file"])})
        loop = Loop(trainer, files, session, world.share(_earlier(files, resume_from) if world.first else None))
        if not loop.progress.finished:
            store = AudioStore(root, config.frontend.sample_rate_hz, limit_gib=config.data.cache_gib, packed=packed)
            sources = choose_sources(config, trainer.sources, classes, recordings=trained, soundscapes=mixed,
                                     pseudo_labels=pseudo_labels)
            dataset = ClipDataset(trained, classes, config, store=store, sources=sources, recording_labels=heard,
                                  teacher=teacher if isinstance(teacher, TeacherTable) else None)
            if config.split >= 0 and world.first:
                held_out = recordings[recordings["split"] == config.split]
                loop.validation = Validation.prepare(config, held_out, classes, store=store, soundscapes=soundscapes,
                                                     progress=progress)
            batches = training_batches(dataset, trained["label"].tolist(), config, first_step=trainer.step,
                                       device=trainer.device, rank=world.rank, world_size=world.size)
            with contextlib.closing(batches):
                loop.train(batches, progress=progress and world.first)
        return world.share(_result(loop))


def _labels_hash(pseudo_labels: pd.DataFrame | None, classes: Sequence[str]) -> str:
    """sha256 over the windows and their labels, whatever else a table says of them; "" without."""
    if pseudo_labels is None:
        return ""
    columns = ["file", "start_s", *(name for name in classes if name in pseudo_labels.columns)]
    rows = pd.util.hash_pandas_object(pseudo_labels[columns], index=False).to_numpy()
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _build_trainer(config: RunConfig, n_classes: int, n_recordings: int, world: World,
                   teacher: Teacher | None) -> Trainer:
    """The model with its first weights, which the seed decides, and the trainer of it."""
    per_epoch = steps_per_epoch(config, n_recordings)
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = build_model(config.model, config.frontend, n_classes)
    trainer = Trainer(config, model, total_steps=per_epoch * config.train.epochs, per_epoch=per_epoch,
                      device="cuda" if torch.cuda.is_available() else "cpu", world=world, teacher=teacher)
    log.info("%s parameters, %d recordings, %d epochs of %d steps of %d examples",
             f"{sum(p.numel() for p in model.parameters()):,}", n_recordings, config.train.epochs, per_epoch,
             config.train.batch_size)
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
