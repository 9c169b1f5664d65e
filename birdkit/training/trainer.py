"""One training step after the other: what is done to a batch, a model and its averages."""
from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Generator, Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from birdkit.augmentations import Augmentation, build_augmentations, joint_shares
from birdkit.batch import Batch
from birdkit.config import RunConfig
from birdkit.losses import LOSSES, bind_classes
from birdkit.models.base import Model
from birdkit.output import SEDOutput
from birdkit.training.averaging import EqualAverage
from birdkit.training.distillation import Distiller, Projection, Teacher
from birdkit.training.distributed import World
from birdkit.training.optimisation import build_optimiser, choose_precision, learning_rate

log = logging.getLogger(__name__)

MAX_SKIPPED = 20  # steps in a row that change nothing
AUGMENTATION, DROPOUT = 0, 1  # what random numbers are for


class Network(nn.Module):
    """The half of a model that learns, as one module that can be compiled and run by several processes.

    projection  of its features to those of a teacher, if there is one
    """

    def __init__(self, model: Model, projection: Projection | None = None) -> None:
        super().__init__()
        self.model, self.projection = model, projection

    def forward(self, image: Tensor) -> tuple[SEDOutput, Tensor | None]:
        """`Model.classify`, and the projected features, (B, W), None without a projection."""
        features = self.model.joined_features(image)
        return self.model.decide(features), None if self.projection is None else self.projection(features)


class Trainer:
    """One run, step by step; birdkit.training.fit is the whole of it.

    Everything random in a step depends on (seed, step, process) alone, and torch's global state is as before after it.
    So `state_dict` is all that a restart needs: weights, averaged weights, optimiser, scaler, step.

    total_steps  of the run
    per_epoch    steps in an epoch
    device       "cpu" or "cuda"
    world        the processes that train together; each gets its own part of every batch
    teacher      what config.distil names, see birdkit.training.distillation.choose_teacher
    classes      names of the K classes, which settings of the loss may go by; () where none does

    Raises ValueError where the front end keeps how loud clips are and a wave augmentation would decide it.

    skipped   steps so far that changed nothing, because their loss or gradients were not finite
    distance  from the teacher in the last step; NaN without
    """

    def __init__(self, config: RunConfig, model: Model, *, total_steps: int, per_epoch: int, device: str,
                 world: World | None = None, teacher: Teacher | None = None, classes: Sequence[str] = ()) -> None:
        self.config, self.settings = config, config.train
        self.total_steps, self.per_epoch = total_steps, per_epoch
        self.device = device
        self.world = world or World()
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        shared_norms = self.world.share_batch_norms(self.model, device)
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.distance = math.nan
        self.distiller = None if teacher is None else Distiller(config, teacher, self.model)
        self.projection = None if self.distiller is None else self.distiller.projection
        network = Network(self.model, self.projection).to(device)
        self._weights = list(network.parameters())
        self.optimiser = build_optimiser(network, self.settings)
        self.loss = LOSSES.build(config.loss.name, **config.loss.options)
        if classes:
            bind_classes(self.loss, classes)
        self.loss.to(device)
        self.wave_augmentations = build_augmentations(config.augment.wave, "wave")
        self.spectrogram_augmentations = build_augmentations(config.augment.spectrogram, "spectrogram")
        _refuse_levels(config, self.wave_augmentations)
        decay = self.settings.ema_decay
        self.ema = ModelEmaV3(self.model, decay=decay, use_warmup=True) if decay else None
        self.swa = EqualAverage(self.model) if self.settings.swa_start < 1 else None
        precision = choose_precision(self.settings, device, backbone=config.model.backbone)
        self.dtype = precision.dtype
        self.scaler = torch.amp.GradScaler(device, enabled=self.dtype == torch.float16)  # type: ignore[attr-defined]
        self.network = self.world.parallel(network, device)
        if self.settings.compile:
            self.network = torch.compile(self.network)  # type: ignore[assignment]
        # A forward pass that is not finite would stay in the statistics of batch norms.
        self._buffers = [buffer for name, buffer in self.model.named_buffers() if not name.startswith("frontend.")]
        self._before = [buffer.clone() for buffer in self._buffers]
        log.info("training on %s in %s (%s), %d process%s%s%s", device, precision.name, precision.reason,
                 self.world.size, "es" if self.world.size > 1 else "",
                 " with shared batch norms" if shared_norms else "", ", compiled" if self.settings.compile else "")

    @property
    def source_shares(self) -> dict[str, float]:
        """The sources that the augmentations mix in, and for which share of the examples each is needed."""
        return joint_shares((*self.wave_augmentations, *self.spectrogram_augmentations))

    @property
    def _average(self) -> ModelEmaV3 | EqualAverage | None:
        return self.swa if self.ema is None else self.ema

    @property
    def averaged(self) -> str:
        """What `deployed` is: "model", "ema" or "swa"."""
        return "ema" if self.ema is not None else "swa" if self.swa is not None and self.swa.members else "model"

    @property
    def deployed(self) -> Model:
        """The model that validates and is saved: the averaged weights where there are any."""
        if self._average is None or self.averaged == "model":
            return self.model
        return self._average.module  # type: ignore[return-value]

    @torch.no_grad()
    def rehearse(self) -> None:
        """Every augmentation, those inside others too, and the loss, once on two examples of silence.

        What does not fit the clips or the classes raises its ValueError here, and not after an hour of validation or in
        the first step that happens to draw it. Nothing of the run changes.
        """
        model, generator = self.model, Generator().manual_seed(0)
        n_samples = self.config.model.parts * self.config.frontend.n_samples

        def silence() -> Batch:
            return Batch(torch.zeros(2, n_samples), torch.zeros(2, model.n_classes), torch.ones(2))

        batch = silence().replace(sources={name: silence() for name in self.source_shares}).to(self.device)
        _try_all(self.wave_augmentations, batch, generator)
        if self.spectrogram_augmentations:
            _try_all(self.spectrogram_augmentations, self._to_spectrograms(batch), generator)
        segments = torch.zeros(2, 1, model.n_classes, device=self.device)
        self.loss(SEDOutput(segments[:, 0], segments, torch.ones_like(segments)), batch.target, batch.weight)

    def train_step(self, batch: Batch) -> float:
        """One step on one batch, or on this process's part of it; the loss of the whole batch, NaN or inf as it came.

        Where the loss or a gradient is not finite, weights, averages and batch norms stay as they were. Raises
        FloatingPointError after MAX_SKIPPED such steps in a row.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.total_steps, self.per_epoch, self.settings)
        _copy_all(self._before, self._buffers)
        self.optimiser.zero_grad(set_to_none=True)
        batch = batch.to(self.device).replace(progress=self.step / self.total_steps)
        with self._seeded(), _fastest_convolutions():
            loss, distance = self._loss(batch)
            # Processes take the mean of their gradients; each has those of its own rows only.
            self.scaler.scale(loss * self.world.size).backward()
        self.scaler.unscale_(self.optimiser)
        norm = get_total_norm([p.grad for p in self._weights if p.grad is not None])
        # The only time that the host waits for the device.
        value, size, self.distance = torch.stack([loss.detach(), norm, distance.detach()]).tolist()
        if math.isfinite(value) and math.isfinite(size):
            self._update(norm)
        else:
            self._skip(value)
        self.scaler.update()
        self.step += 1
        late = self.step > self.settings.swa_start * self.total_steps
        if self.swa is not None and late and self.step % self.per_epoch == 0:
            self.swa.add(self.model)
        return value

    def _update(self, norm: Tensor) -> None:
        """Change the weights by the gradients, and the averages by the weights."""
        self.skipped_in_a_row = 0
        if self.settings.clip_grad_norm:
            clip_grads_with_norm_(self._weights, self.settings.clip_grad_norm, norm)
        self.scaler.step(self.optimiser)
        if self.ema is not None:
            self.ema.update(self.model, self.step)

    def _skip(self, loss: float) -> None:
        """Undo what the forward pass has left behind."""
        _copy_all(self._buffers, self._before)
        self.skipped += 1
        self.skipped_in_a_row += 1
        overflow = self.scaler.is_enabled() and math.isfinite(loss)
        what = f"gradients overflow at a scale of {self.scaler.get_scale():g}" if overflow else \
            "the gradients are not finite" if math.isfinite(loss) else f"the loss is {loss}"
        # The scaler finds its scale by trying, so an overflow now and then is as it should be.
        log.log(logging.INFO if overflow else logging.WARNING, "step %d: %s, step skipped (%d in a row)",
                self.step, what, self.skipped_in_a_row)
        if self.skipped_in_a_row >= MAX_SKIPPED:
            hint = "; train.precision = \"f32\" has a wider range" if self.scaler.is_enabled() else ""
            raise FloatingPointError(f"loss or gradients were not finite for {self.skipped_in_a_row} steps up to step "
                                     f"{self.step}; the last time {what}{hint}")

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Augment, front end, augment, classify, compare: the loss of all processes' parts as one batch, and how far
        the model is from its teacher."""
        generator = Generator().manual_seed(self._seed(AUGMENTATION))
        self.model.train()
        with torch.no_grad():
            batch, untouched = self._augmented(batch, self.wave_augmentations, generator)
            if self.distiller is not None:
                batch = self.distiller.listen(batch)
                if self.config.distil.is_network:  # it hears the mix
                    untouched = torch.ones_like(untouched)
            batch, still = self._augmented(self._to_spectrograms(batch), self.spectrogram_augmentations, generator)
            image = self.model.image(batch.signal)
        if image.ndim == 4:
            image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            output, projected = self.network(image)
        gather = self.world.gather
        joined = SEDOutput(gather(output.clip_logits), gather(output.segment_logits), gather(output.attention),
                           output.pooled)
        loss = self.loss(joined, gather(batch.target), gather(batch.weight), gather(batch.cell_weight))
        if self.distiller is None:
            return loss, loss.new_tensor(math.nan)
        return self.distiller.join(loss, joined, projected, batch, untouched=untouched & still, gather=gather)

    def _augmented(self, batch: Batch, members: Sequence[Augmentation], generator: Generator) -> tuple[Batch, Tensor]:
        """The batch behind these augmentations, and in which examples a teacher would hear no other animals, (B,)."""
        untouched = batch.weight.new_ones(len(batch), dtype=torch.bool)
        for member in members:
            after = member(batch, generator)
            if self.distiller is not None:
                untouched = untouched & self.distiller.untouched(member, batch, after)
            batch = after
        return batch, untouched

    def _to_spectrograms(self, batch: Batch) -> Batch:
        """The batch behind the front end, with those of its sources that a later augmentation mixes in."""
        needed = frozenset[str]().union(*(member.sources for member in self.spectrogram_augmentations))
        sources = {name: source.replace(signal=self.model.spectrogram(source.signal))
                   for name, source in batch.sources.items() if name in needed}
        return batch.replace(signal=self.model.spectrogram(batch.signal), sources=sources)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """torch's global random numbers, which dropout takes, from this step's own seed; as they were afterwards."""
        with torch.random.fork_rng([] if self.device == "cpu" else [torch.cuda.current_device()]):
            torch.manual_seed(self._seed(DROPOUT))
            yield

    def _seed(self, purpose: int) -> int:
        """32 bits of (seed, step, process, purpose): torch's CPU generator does not look at more."""
        parts = [self.config.seed, self.step, self.world.rank, purpose]
        return int(np.random.SeedSequence(parts).generate_state(1)[0])

    def state_dict(self) -> dict[str, Any]:
        """Everything that a restart at this step needs."""
        average, projection = self._average, self.projection
        return {"model": self.model.state_dict(),
                "projection": None if projection is None else projection.state_dict(),
                "average": None if average is None else average.state_dict(),
                "optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict(), "step": self.step,
                "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same run."""
        self.model.load_state_dict(state["model"])
        if self.projection is not None:
            self.projection.load_state_dict(state["projection"])
        average = self._average
        if average is not None:
            average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN try its ways of each convolution once and keep the fastest: the shapes of all steps are the same.

    Not in validation, whose batches differ in size, nor where somebody asked for deterministic ones.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = before or not (cudnn.deterministic or torch.are_deterministic_algorithms_enabled())
    try:
        yield
    finally:
        cudnn.benchmark = before


def _try_all(members: Sequence[Augmentation], batch: Batch, generator: Generator) -> None:
    """Draw and apply each member, and whatever is inside it, to a batch."""
    for member in members:
        for part in (part for part in member.modules() if isinstance(part, Augmentation)):
            part.transform(batch, **part.sample(batch, generator))


def _refuse_levels(config: RunConfig, augmentations: Sequence[Augmentation]) -> None:
    """Raise ValueError where training would be at levels that no file has, and the front end shows them."""
    setting = [member.name for member, built in zip(config.augment.wave, augmentations, strict=True)
               if built.sets_level]
    if config.frontend.level == "none" and setting:
        raise ValueError(f"the front end keeps how loud a clip is (frontend.level = 'none'), but {', '.join(setting)} "
                         "in augment.wave would bring waves to levels of their own, which no soundscape has: give "
                         "these members level = \"none\" (sumix renormalise = \"none\", too), mix spectrograms "
                         "(augment.spectrogram), take `background`, or a front end of level \"rms\" or \"peak\"")


def _copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors in one call: a network has hundreds."""
    if targets:
        torch._foreach_copy_(targets, sources)
