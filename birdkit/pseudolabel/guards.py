"""What makes labels unfit to be trained on: each guard is an error that names the file, the class or the teacher."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from birdkit import audio
from birdkit.config import LabelConfig
from birdkit.predictor import Predictor
from birdkit.pseudolabel.table import PseudoLabelError
from birdkit.view import LEAST_WINDOW_S

SILENCE = 1e-6  # largest sample of a soundscape that may have equal windows
FEW_CLASSES = 2  # of so few, one always takes half of the labels


@dataclass(frozen=True)
class Teacher:
    """A checkpoint that labels: a predictor at each of its scales."""

    predictors: tuple[Predictor, ...]

    @property
    def one(self) -> Predictor:
        """Any of them, for what they have in common."""
        return self.predictors[0]

    def saw(self, name: str, content: str, *, by_people: bool = False) -> bool:
        """Whether it was trained on a file's labels, or on a copy of the file under another name.

        by_people  True asks for labels of people alone
        """
        seen = {name} & self.one.seen | {content} & self.one.seen_content
        return bool(seen - self.one.pseudo if by_people else seen)

    def one_clip_s(self) -> float:
        """The longest file in all windows of which it rightly hears the same: a single clip that is not divided.

        0 where its windows are pooled from the segments that lie in them.
        """
        config = self.one.config
        undivided = config.inference.pool == "clips" or config.model.head_axis == "frequency"
        shortest_s = min(one.config.frontend.clip_s for one in self.predictors)
        return shortest_s + LEAST_WINDOW_S / 2 if undivided else 0.0  # a rest so short gets no clip of its own


def refuse_late(teachers: Sequence[Teacher], round: int) -> None:
    """PseudoLabelError where a teacher is of the round that it labels for, or of a later one."""
    late = [f"{one.one.source} of round {one.one.config.round}" for one in teachers if one.one.config.round >= round]
    if late:
        raise PseudoLabelError(f"round {round} is labelled by teachers of earlier rounds, not by {', '.join(late)}")


def refuse_foreign_classes(teachers: Sequence[Teacher], classes: Sequence[str]) -> None:
    """PseudoLabelError where a teacher knows a class that the taxonomy does not: it is of another competition."""
    for one in teachers:
        foreign = [name for name in one.one.classes if name not in set(classes)]
        if foreign:
            raise PseudoLabelError(f"{one.one.source} knows {len(foreign)} of {len(one.one.classes)} classes that are "
                                   f"not among the {len(classes)} of the taxonomy: {', '.join(foreign[:5])}")


def refuse_constant(file: str, probabilities: np.ndarray, path: Path, *, duration_s: float,
                    one_clip_s: float = 0.0) -> None:
    """PseudoLabelError where a soundscape of several windows has the same probabilities, (W, K), in all of them.

    Digital silence sounds the same all the time, and so do the windows of a file of at most `one_clip_s` seconds, which
    the network hears as one; anything else is a labeller that repeats itself.
    """
    if len(probabilities) < 2 or np.ptp(probabilities, axis=0).any() or duration_s <= one_clip_s:
        return
    if audio.check(path).peak > SILENCE:
        raise PseudoLabelError(f"{file}: all {len(probabilities)} windows have the same probabilities; the labeller "
                               "repeats one window, or the teachers hear nothing at all")


def refuse_dominant(counts: np.ndarray, classes: Sequence[str], config: LabelConfig) -> None:
    """PseudoLabelError where one class takes more than `most_share` of all labels.

    counts  labels of each class, (K,); fewer than `share_from` in all say nothing, nor do they of one or two classes
    """
    total, largest = int(counts.sum()), int(counts.argmax())
    share = counts[largest] / max(total, 1)
    if len(classes) > FEW_CLASSES and total >= config.share_from and share > config.most_share:
        raise PseudoLabelError(f"{classes[largest]} takes {int(counts[largest])} of {total} labels, {share:.0%}, more "
                               f"than labelling.most_share = {config.most_share:g}: the teachers hear it everywhere. "
                               "Listen to some; if it is true, raise the share")
