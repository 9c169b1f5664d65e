"""Learning from a teacher beside the labels: which one, what it has heard, how far the student is from it."""
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from birdkit.augmentations import AUGMENTATIONS, Augmentation, During, OneOf, Repeat
from birdkit.augmentations.background import BackgroundMixing
from birdkit.batch import Batch
from birdkit.config import DistilConfig, RunConfig
from birdkit.data.teacher_table import TeacherTable, read_teacher_table
from birdkit.models.base import Model
from birdkit.output import SEDOutput
from birdkit.training.teacher_model import TeacherModel

log = logging.getLogger(__name__)

Teacher = TeacherTable | TeacherModel


def choose_teacher(config: RunConfig, classes: Sequence[str], files: Collection[str]) -> Teacher | None:
    """The teacher that the config names, None where it names none.

    classes  names of the K classes
    files    the training recordings, as a table of a teacher names them

    Raises what read_teacher_table and TeacherModel raise, and ValueError where augmentations mix what the teacher does
    not hear into every example.
    """
    settings = config.distil
    if not settings.teacher:
        return None
    log.info("the teacher %s hears what about %.0f %% of the examples are; into the others animals are mixed, and they "
             "learn from their labels alone", settings.teacher, 100 * refuse_unheard(config))
    if not settings.is_network:
        return read_teacher_table(settings, classes, files=files, clip_s=config.example_s)
    rate = config.frontend.sample_rate_hz
    return TeacherModel(settings, classes, clip_samples=config.model.parts * config.frontend.n_samples,
                        sample_rate_hz=rate)


def refuse_unheard(config: RunConfig) -> float:
    """The share of examples, about, of which the teacher can say something, in [0, 1].

    Raises ValueError where it is 0. From round 1 on that is a warning: some recipes mix a soundscape into every example
    then, and learn what the teacher said in round 0 from the labels of that round's models.

    A table knows the recordings alone; a network hears the wave behind the `wave` members. Whatever mixes animals in
    after that gives the student a sound of which the teacher has said nothing, since the embedding of a mix is no mix
    of embeddings: such an example learns from its labels alone. Only backgrounds from a folder, in which no animals
    are, count as nothing: the student learns to hear through them what the teacher heard without them.
    """
    stages = config.augment.spectrogram if config.distil.is_network else (*config.augment.wave,
                                                                          *config.augment.spectrogram)
    quiet, left, mixing = _quiet(config), 1.0, []
    for member in stages:
        share = _mixed(AUGMENTATIONS.build(member.name, **member.options), quiet)
        left *= 1 - share
        mixing += [member.name] if share else []
    if left <= 1e-9:
        left = 0.0
        heard = "waves, before spectrograms are mixed" if config.distil.is_network else "the recordings alone"
        what = (f"the teacher {config.distil.teacher} hears {heard}, but {', '.join(mixing)} would mix animals that it "
                "has not heard into every example: take them out, or lower their p"
                + ("" if config.distil.is_network else ", or give an ONNX network, which hears the mix"))
        if not config.round:
            raise ValueError(what)
        log.warning("%s. Round %d learns from labels alone", what, config.round)
    return left


def _quiet(config: RunConfig) -> frozenset[str]:
    """The sources without animals."""
    return frozenset(source.name for source in config.data.sources if source.kind == "folder")


def _mixed(one: Augmentation, quiet: Collection[str]) -> float:
    """The share of examples with which an augmentation mixes others, or any source but the `quiet` ones, in [0, 1]."""
    if isinstance(one, Repeat):
        each = [_mixed(one.member_of(count), quiet) for count in one.counts]
        return one.p * sum(1 - (1 - share)**count for share, count in zip(each, one.counts, strict=True)) / len(each)
    if isinstance(one, During):
        return one.p * (one.end - one.start) * _mixed(one.member, quiet)
    if isinstance(one, OneOf):
        inside = [cast(Augmentation, member) for member in one.members]
        mixes = any(_mixed(member, quiet) for member in inside)  # then whatever it changes is taken for mixed
        return one.p * sum(share * member.p for share, member in zip(one.shares, inside, strict=True)) * mixes
    return one.p if one.mixes and not (isinstance(one, BackgroundMixing) and one.source in quiet) else 0.0


def strength(progress: float, config: DistilConfig) -> float:
    """s, how much of the distillation is left, in [0, 1], see DistilConfig.

    >>> [strength(progress, DistilConfig(schedule="linear", until=0.5)) for progress in (0.0, 0.25, 0.5, 0.9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    if progress >= config.until:
        return 0.0
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress / config.until))
    return 1 - progress / config.until if config.schedule == "linear" else 1.0


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of the angle between embeddings, (B, W) and (B, W) -> (B,) in [0, 2].

    >>> cosine_distance(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([0., 1.])
    """
    return 1 - functional.cosine_similarity(student.float(), teacher.float(), dim=1)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)) of logits, (B, W) and (B, W) -> (B,) >= 0.

    Hinton et al. 2015, arXiv:1503.02531.
    """
    said, known = (functional.log_softmax(logits.float() / temperature, 1) for logits in (student, teacher))
    return temperature**2 * (known.exp() * (known - said)).sum(1)


class Projection(nn.Module):
    """From a student's features to a teacher's: the mean over segments, and one or two layers.

    It learns with the model, and is no part of it: what is deployed has none.

    n_features  D, of the student
    width       W, of the teacher
    hidden      width of a layer between, with a ReLU; 0 for none
    """

    def __init__(self, n_features: int, width: int, hidden: int = 0) -> None:
        super().__init__()
        layers = [nn.Linear(n_features, hidden), nn.ReLU()] if hidden else []
        self.layers = nn.Sequential(*layers, nn.Linear(hidden or n_features, width))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, S) -> (B, W)."""
        return self.layers(features.mean(2))


class Distiller:
    """A teacher at work in a training run.

    projection  None where logits are compared
    counted     examples that counted, and all, since `take_counted` was asked last
    """

    def __init__(self, config: RunConfig, teacher: Teacher, model: Model) -> None:
        self.config, self.teacher = config.distil, teacher
        self.known = None if teacher.known is None else torch.from_numpy(teacher.known)
        self.quiet = _quiet(config)
        self.counted = torch.zeros(2, dtype=torch.long)
        self.projection: Projection | None = None
        if self.known is None:
            with torch.random.fork_rng([]):
                torch.manual_seed(config.seed)
                self.projection = Projection(_n_features(model), teacher.width, self.config.hidden)

    def untouched(self, member: Augmentation, before: Batch, after: Batch) -> Tensor:
        """Which examples a member has left without any animals that it did not hold before, (B,)."""
        if not _mixed(member, self.quiet) or after is before:
            return before.weight.new_ones(len(before), dtype=torch.bool)
        return (before.signal == after.signal).flatten(1).all(1)

    def take_counted(self) -> tuple[int, int]:
        """How many examples counted, of how many that were shown while the teacher was asked; then from 0 on."""
        counted, shown = self.counted.tolist()
        self.counted = torch.zeros_like(self.counted)
        return counted, shown

    def listen(self, wave: Batch) -> Batch:
        """The batch with what the teacher says of its waves, as they are now; a table has said so before."""
        if not strength(wave.progress, self.config):
            return wave.replace(teacher=None)
        if isinstance(self.teacher, TeacherModel):
            return wave.replace(teacher=self.teacher(wave.signal))
        if wave.teacher is None:
            raise ValueError("this batch was made without the teacher's table")
        return wave

    def distance(self, output: SEDOutput, projected: Tensor | None, teacher: Tensor, weight: Tensor) -> Tensor:
        """The weighted mean distance of examples from what the teacher says of them, a scalar; 0 where none counts.

        output     of B clips
        projected  (B, W) embeddings of the student, None for logits
        teacher    (B, W); rows of NaN in a table's were not heard and have no influence. Those of a network have: the
                   step is skipped as any other that is not finite
        weight     (B,) >= 0, of the examples
        """
        if isinstance(self.teacher, TeacherTable):
            unheard = teacher.isnan().any(1)
            weight, teacher = weight.masked_fill(unheard, 0.0), teacher.masked_fill(unheard[:, None], 0.0)
        if projected is not None:
            each = cosine_distance(projected, teacher)
        else:
            logits = output.clip_logits[:, self.known.to(weight.device)]  # type: ignore[union-attr]
            each = divergence(logits, teacher, self.config.temperature)
        return (weight * each).sum() / weight.sum().clamp_min(1e-12)

    def join(self, loss: Tensor, output: SEDOutput, projected: Tensor | None, batch: Batch, *, untouched: Tensor,
             gather: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of labels and teacher together, and the distance, NaN where the teacher is not asked any more, and
        where no example counts: the loss is then that of the labels.

        loss, output  of all processes' examples
        projected     of this process's, as its part of the batch is
        untouched     (B,) of those, whether they are what the teacher heard; the others do not count
        gather        the rows of all processes, see birdkit.training.distributed.World
        """
        if batch.teacher is None:
            # Other processes wait for every gradient, also for those of a projection that is not used any more.
            idle = 0.0 if projected is None else 0.0 * projected.float().sum()
            return loss + idle, loss.new_tensor(math.nan)
        share, teacher = strength(batch.progress, self.config), gather(batch.teacher)
        weight = gather(batch.weight * untouched)
        distance = self.distance(output, None if projected is None else gather(projected), teacher, weight)
        count = weight > 0
        if isinstance(self.teacher, TeacherTable):
            count = count & ~teacher.isnan().any(1)
        self.counted = self.counted.to(count.device) + torch.stack([count.sum(), torch.ones_like(count).sum()])
        any_counts = count.any()
        labels = torch.where(any_counts, 1 - share * (1 - self.config.label_weight), 1.0)
        told = torch.where(any_counts, distance, math.nan)
        return labels * loss + share * self.config.weight * distance, told


@torch.no_grad()
def _n_features(model: Model) -> int:
    """D, the features that a model decides on."""
    config = model.frontend.config
    weight = next(model.parameters())
    image = torch.zeros(1, config.n_channels, *config.image_size, device=weight.device, dtype=weight.dtype)
    was_training = model.training
    features = model.eval().joined_features(image)
    model.train(was_training)
    return features.shape[1]
