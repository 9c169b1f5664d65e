"""Train one split: the loop, its schedule, and the checkpoints it leaves."""
from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from birdkit import checkpoint
from birdkit.augmentations import build_augmentations
from birdkit.batch import Batch
from birdkit.config import RunConfig, TrainConfig
from birdkit.data import AudioStore, Backgrounds, ClipDataset, steps_per_epoch, table_hash, training_batches
from birdkit.losses import LOSSES
from birdkit.metrics import Interval
from birdkit.models import build_model
from birdkit.models.base import Model
from birdkit.settings import to_dict
from birdkit.validation import Validation

log = logging.getLogger(__name__)

STATE = "state.pt"
BEST = "best.safetensors"
LAST = "last.safetensors"
HISTORY = "history.csv"
MAX_SKIPPED = 20  # consecutive steps with a loss that is not finite


@dataclass(frozen=True)
class FitResult:
    """What a run leaves behind.

    best     the checkpoint to deploy: highest validation score, or the last one where nothing validates
    last     the checkpoint of the last step
    history  one row per validation: epoch, step, lr, loss, score, low, high, seconds
    """

    best: Path
    last: Path
    history: pd.DataFrame


def learning_rate(step: int, total_steps: int, warmup_steps: int, config: TrainConfig) -> float:
    """The rate of a step: linear up to `peak_lr`, then half a cosine down to `final_lr` at the last step.

    >>> [round(learning_rate(s, 10, 2, TrainConfig(peak_lr=1.0, final_lr=0.0)), 2) for s in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.0]
    """
    if step < warmup_steps:
        return config.peak_lr * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(total_steps - warmup_steps - 1, 1)
    return config.final_lr + (config.peak_lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def build_optimiser(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimiser with weight decay on matrices and kernels, none on norms and biases."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    kinds: dict[str, type[Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam,
                                         "radam": torch.optim.RAdam}
    if config.optimiser not in kinds:
        raise KeyError(f"no optimiser named {config.optimiser!r}; there is: {', '.join(kinds)}")
    return kinds[config.optimiser](groups, lr=config.peak_lr)  # type: ignore[call-arg]


def has_bf16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU says that it multiplies bf16 in hardware; False where it cannot be asked."""
    if not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def choose_precision(config: TrainConfig, device: str) -> str:
    """ "f32", "bf16" or "fp16": what was asked for, or under "auto" what the device does in hardware.

    Cards of the T4's class have no bf16 units: they get fp16 with a gradient scaler. A CPU gets bf16 only where it
    multiplies it in hardware, and is then up to twice as fast.
    """
    if config.precision != "auto":
        return config.precision
    if device == "cpu":
        return "bf16" if has_bf16_units() else "f32"
    return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"


class Trainer:
    """One run, step by step; `fit` is the whole of it.

    State that a restart needs is in `state_dict`: weights, averaged weights, optimiser, scaler, step, random state.
    """

    def __init__(self, config: RunConfig, model: Model, *, total_steps: int, per_epoch: int, device: str) -> None:
        self.config = config
        self.device = device
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.total_steps = total_steps
        self.warmup_steps = round(config.train.warmup_epochs * per_epoch)
        self.step = 0
        self.skipped = 0
        self.optimiser = build_optimiser(model, config.train)
        self.loss = LOSSES.build(config.loss.name, **config.loss.options)
        self.wave_augmentations = build_augmentations(config.augment.wave)
        self.spectrogram_augmentations = build_augmentations(config.augment.spectrogram)
        decay = config.train.ema_decay
        self.ema = ModelEmaV3(self.model, decay=decay, use_warmup=True) if decay else None
        precision = choose_precision(config.train, device)
        self.dtype = {"f32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")  # type: ignore[attr-defined]
        log.info("training on %s in %s", device, precision)

    @property
    def deployed(self) -> Model:
        """The model that validates and is saved: the averaged weights where there are any."""
        return self.model if self.ema is None else self.ema.module  # type: ignore[return-value]

    def train_step(self, batch: Batch) -> float:
        """One step on one batch; its loss, NaN where the step was skipped because the loss was not finite.

        Raises FloatingPointError after MAX_SKIPPED skipped steps in a row.
        """
        rate = learning_rate(self.step, self.total_steps, self.warmup_steps, self.config.train)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self._loss(batch.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        if bool(loss.isfinite()):
            self.skipped = 0
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimiser)
            if self.config.train.clip_grad_norm:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_grad_norm)
            self.scaler.step(self.optimiser)
            self.scaler.update()
            if self.ema is not None:
                self.ema.update(self.model, self.step)
        else:
            self.skipped += 1
            log.warning("step %d: the loss is %s, step skipped (%d in a row)",
                        self.step, float(loss.detach()), self.skipped)
            if self.skipped >= MAX_SKIPPED:
                raise FloatingPointError(f"the loss was not finite for {self.skipped} steps up to step {self.step}")
        self.step += 1
        return float(loss.detach())

    def _loss(self, batch: Batch) -> Tensor:
        """Augment, front end, augment, classify, compare. Random draws depend on the seed and the step alone."""
        generator = torch.Generator().manual_seed((self.config.seed << 32) + self.step)
        self.model.train()
        with torch.no_grad():
            for augmentation in self.wave_augmentations:
                batch = augmentation(batch, generator)
            batch = batch.replace(signal=self.model.spectrogram(batch.signal))
            for augmentation in self.spectrogram_augmentations:
                batch = augmentation(batch, generator)
            image = self.model.image(batch.signal)
        if image.ndim == 4:
            image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            output = self.model.classify(image)
        return self.loss(output, batch.target, batch.weight)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a restart at this step needs."""
        random: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.device != "cpu":
            random["cuda"] = torch.cuda.get_rng_state()
        return {"model": self.model.state_dict(), "ema": None if self.ema is None else self.ema.module.state_dict(),
                "optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict(), "step": self.step,
                "random": random}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same run."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        torch.set_rng_state(state["random"]["cpu"])
        if self.device != "cpu":
            torch.cuda.set_rng_state(state["random"]["cuda"])


def fit(config: RunConfig, recordings: pd.DataFrame, classes: Sequence[str], *, root: Path | str, out_dir: Path | str,
        soundscapes: pd.DataFrame | None = None, pseudo_labels: pd.DataFrame | None = None,
        progress: bool = True) -> FitResult:
    """Train one split and keep its best and last checkpoints in `out_dir`; a run that died goes on at its last epoch.

    recordings     the table of notebook 01; rows with split == config.split validate, all others train
    classes        names of the K classes, in the order of the submission
    root           folder that the tables' files are relative to
    soundscapes    unlabelled soundscapes: those of the validating split to validate over, the others to mix in
    pseudo_labels  their pseudo-label table, from round 1 on; again without the validating split

    Raises birdkit.data.DataError for tables that do not fit, ValueError where `out_dir` holds another run.
    """
    torch.set_flush_denormal(True)  # an untrained network is up to eight times slower on denormal numbers
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(config.seed)
    chosen = recordings[recordings["split"] != config.split] if config.split >= 0 else recordings
    chosen = chosen.reset_index(drop=True)
    store = AudioStore(root, config.frontend.sample_rate_hz, limit_gib=config.data.cache_gib)
    mixed = soundscapes
    if soundscapes is not None and config.split >= 0:
        mixed = soundscapes[soundscapes["split"] != config.split]
        if pseudo_labels is not None:
            pseudo_labels = pseudo_labels[pseudo_labels["file"].isin(mixed["file"])]
    backgrounds = choose_backgrounds(config, classes, mixed, pseudo_labels)
    dataset = ClipDataset(chosen, classes, config, store=store, backgrounds=backgrounds)
    per_epoch = steps_per_epoch(config, len(chosen))
    model = build_model(config.model, config.frontend, len(classes))
    trainer = Trainer(config, model, total_steps=per_epoch * config.train.epochs, per_epoch=per_epoch, device=device)
    run = _Run(out_dir, trainer, config=config, classes=classes, table=chosen,
               seen=[*chosen["file"], *(sorted(set(pseudo_labels["file"])) if pseudo_labels is not None else [])])
    run.resume()
    if trainer.step < trainer.total_steps:
        validation = None
        if config.split >= 0:
            validation = Validation.prepare(config, recordings[recordings["split"] == config.split], classes,
                                            store=store, soundscapes=soundscapes, progress=progress)
        batches = training_batches(dataset, chosen["label"].tolist(), config, first_step=trainer.step, device=device)
        run.epochs(batches, validation, per_epoch, progress=progress)
    return FitResult(out_dir / BEST, out_dir / LAST, pd.DataFrame(run.history))


def choose_backgrounds(config: RunConfig, classes: Sequence[str], soundscapes: pd.DataFrame | None,
                       pseudo_labels: pd.DataFrame | None) -> Backgrounds | None:
    """What is mixed in: pseudo-labelled windows from round 1 on, whole unlabelled soundscapes before, else None.

    Raises ValueError where the round of the config and the presence of pseudo-labels contradict each other.
    """
    if (config.round > 0) != (pseudo_labels is not None and len(pseudo_labels) > 0):
        raise ValueError(f"round {config.round} {'needs' if config.round else 'takes no'} pseudo-labels, but "
                         f"{0 if pseudo_labels is None else len(pseudo_labels)} windows were given")
    if pseudo_labels is not None and len(pseudo_labels):
        return Backgrounds.pseudo_labelled(pseudo_labels, classes, config.data, config.example_s)
    if soundscapes is not None and len(soundscapes):
        return Backgrounds.unlabelled(soundscapes, len(classes))
    return None


class _Run:
    """The files of a run: history, state, checkpoints."""

    def __init__(self, out_dir: Path, trainer: Trainer, *, config: RunConfig, classes: Sequence[str],
                 table: pd.DataFrame, seen: Sequence[str]) -> None:
        self.out_dir = out_dir
        self.trainer = trainer
        self.config = config
        self.classes = list(classes)
        self.table_hash = table_hash(table)
        self.seen = list(seen)
        self.history: list[dict[str, float]] = []
        self.best = -math.inf

    def resume(self) -> None:
        """Take up the state in the folder, if there is one; ValueError where it belongs to another run."""
        path = self.out_dir / STATE
        if not path.is_file():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["config"] != repr(to_dict(self.config)) or state["table_hash"] != self.table_hash:
            raise ValueError(f"{path} belongs to a run with another config or another training table; "
                             "choose another folder, or delete this one")
        self.trainer.load_state_dict(state["trainer"])
        self.history, self.best = state["history"], state["best"]
        log.info("going on at step %d of %d", self.trainer.step, self.trainer.total_steps)

    def epochs(self, batches: Any, validation: Validation | None, per_epoch: int, *, progress: bool) -> None:
        """Train to the end; after each epoch validate where it is due, write checkpoints and state."""
        trainer, every = self.trainer, self.config.train.validate_every
        bar = tqdm(total=trainer.total_steps, initial=trainer.step, unit="step", disable=not progress,
                   desc=f"round {self.config.round} split {self.config.split}", mininterval=1.0)
        losses: list[float] = []
        started = time.perf_counter()
        for batch in batches:
            losses.append(trainer.train_step(batch))
            bar.update()
            if trainer.step % per_epoch:
                continue
            epoch, done = trainer.step // per_epoch, trainer.step == trainer.total_steps
            if done or (every and epoch % every == 0):
                interval = validation.score(trainer.deployed.eval(), self.config, self.classes) if validation else None
                self._record(epoch, float(np.nanmean(losses)), interval, time.perf_counter() - started)
                bar.set_postfix(loss=f"{np.nanmean(losses):.4f}", score=f"{interval.value:.4f}" if interval else "-")
                losses, started = [], time.perf_counter()
            self._save_state()
        bar.close()

    def _record(self, epoch: int, loss: float, interval: Interval | None, seconds: float) -> None:
        score = interval.value if interval else math.nan
        self.history.append({"epoch": epoch, "step": self.trainer.step,
                             "lr": self.trainer.optimiser.param_groups[0]["lr"], "loss": loss, "score": score,
                             "low": interval.low if interval else math.nan,
                             "high": interval.high if interval else math.nan, "seconds": seconds})
        pd.DataFrame(self.history).to_csv(self.out_dir / HISTORY, index=False)
        names = [LAST]
        # Without validation the last checkpoint is the one to deploy; with it, the best.
        if interval is None or score >= self.best:
            self.best = score if interval else self.best
            names.append(BEST)
        for name in names:
            checkpoint.save(self.out_dir / name, self.trainer.deployed, config=self.config, classes=self.classes,
                            table_hash=self.table_hash, seen=self.seen, score=score if interval else None,
                            info={"step": self.trainer.step})

    def _save_state(self) -> None:
        partial = self.out_dir / (STATE + ".partial")
        torch.save({"trainer": self.trainer.state_dict(), "history": self.history, "best": self.best,
                    "config": repr(to_dict(self.config)), "table_hash": self.table_hash}, partial)
        os.replace(partial, self.out_dir / STATE)
