"""What makes labels unfit to be trained on: each guard is an error that names the file, the class or the teacher."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from birdkit import audio
from birdkit.config import LabelConfig
from birdkit.inference import Heard, Predictor, SoundscapeFile
from birdkit.inference.repetition import TOLERANCE, Spread, spread_of_probabilities
from birdkit.pseudolabel.table import STEADY, SURE, PseudoLabelError, provenance, read

SILENCE = 1e-6  # largest sample of a soundscape that may have equal windows
SAME_IMAGE = 0.05  # how far images of a steady hum may be apart, as a share of their deviation; of noise it is above 1
FEW_CLASSES = 2  # of so few, one always takes half of the labels
_ONE_WINDOW = "all {} windows have the same probabilities"
_ONE_CLIP = "all clips have the same output, though they sound unlike and make {} windows"


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


def refuse_repeated(heard: Heard, predictors: Sequence[Predictor], path: Path) -> None:
    """PseudoLabelError where one window, or one clip, of a soundscape was taken for all of them.

    The windows show a labeller that repeats one of them; only the clips show one that repeats an image or an output,
    for windows that hold parts of several clips, or are smoothed, differ even so. What sounds the same all the time may
    have equal rows: digital silence, a hum, and the windows of a file that the network hears as a single clip.

    heard       what `predictors` say of the audio at `path`; its `spreads` are theirs
    """
    faults = [fault for one, of in zip(predictors, heard.spreads, strict=True) if (fault := _repeats(one, of, path))]
    own = all(of.windows_are_one for of in heard.spreads)
    if not own and spread_of_probabilities(heard.probabilities) <= max(of.tolerance for of in heard.spreads):
        faults.append(_ONE_WINDOW)
    if faults and audio.check(path).peak > SILENCE:
        raise PseudoLabelError(f"{heard.name}: {faults[0].format(len(heard.probabilities))}; the labeller repeats it, "
                               "or the teacher hears nothing at all")


def _repeats(one: Predictor, of: Spread, path: Path) -> str:
    """What a predictor repeats in all windows or clips, in words; "" for nothing, or where that is right."""
    if not (of.clips_are_one or of.windows_are_one):
        return ""
    if np.isnan(of.clips):
        config = one.config
        undivided = config.inference.pool == "clips" or config.model.head_axis == "frequency" or one.n_segments < 2
        return "" if undivided else _ONE_WINDOW
    if of.clips_are_one and _sounds_the_same(one, path):
        return ""
    return _ONE_WINDOW if of.windows_are_one else _ONE_CLIP


@torch.inference_mode()
def _sounds_the_same(one: Predictor, path: Path) -> bool:
    """Whether a predictor's front end shows the same in all clips of a soundscape, but for SAME_IMAGE."""
    soundscape = SoundscapeFile(path)
    starts = one.view.starts(soundscape.n_samples(one.config.frontend.sample_rate_hz))
    images = (one.frontend(torch.from_numpy(one.view.clips(soundscape, starts[i:i + 1])).to(one.device))
              for i in range(len(starts)))
    first = next(images)
    most = SAME_IMAGE * float(first.std()) + 1e-6
    return all(float((image - first).square().mean().sqrt()) <= most for image in images)


def refuse_dominant(counts: np.ndarray, classes: Sequence[str], config: LabelConfig, *, of: Path | str) -> None:
    """PseudoLabelError where one class takes more than `most_share` of all labels.

    counts  labels of each class, (K,); fewer than `share_from` in all say nothing, nor do they of one or two classes
    of      the table
    """
    total, largest = int(counts.sum()), int(counts.argmax())
    share = counts[largest] / max(total, 1)
    if len(classes) > FEW_CLASSES and total >= config.share_from and share > config.most_share:
        raise PseudoLabelError(f"{of}: {classes[largest]} takes {int(counts[largest])} of {total} labels, {share:.0%}, "
                               f"more than labelling.most_share = {config.most_share:g}: the teachers hear it "
                               "everywhere. Listen to some; if it is true, raise the share")


def read_for_training(path: Path | str, *, classes: Sequence[str], expected_round: int,
                      config: LabelConfig) -> pd.DataFrame:
    """A table as birdkit.pseudolabel.read gives it, whoever wrote it, after the guards that need no audio.

    config  whose `most_share` holds, or that which the table was made with, if it is larger

    Raises PseudoLabelError, with the path, where a file has equal probabilities in all windows and the table does not
    say that it was heard to sound the same all the time, or a class takes too many labels; and what `read` raises.
    """
    table, origin = read(path, classes=classes, expected_round=expected_round), provenance(path)
    steady, values = origin.get(STEADY, {"files": (), "tolerance": TOLERANCE["f32"]}), table[list(classes)].to_numpy()
    known = set(steady["files"])
    for file, rows in table.groupby("file", sort=False).indices.items():
        same = spread_of_probabilities(values[rows]) <= steady["tolerance"]
        if same and values[rows].any() and file not in known:  # a floor may have left a file nothing but zeros
            raise PseudoLabelError(f"{path}: {file}: {_ONE_WINDOW.format(len(rows))}; whoever made the table repeated "
                                   "one window: label anew")
    own = origin.get("settings", {}).get("most_share", 0.0)
    refuse_dominant((values >= SURE).sum(0), classes, replace(config, most_share=max(own, config.most_share)), of=path)
    return table
