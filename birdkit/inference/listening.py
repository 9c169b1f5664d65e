"""Soundscapes through the networks: images of several at once, with as many models as the time that is left affords."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from birdkit.inference.predictor import Predictor, join_outputs, models_of, split_output
from birdkit.inference.reading import IMAGES_AT_ONCE, OUT_OF_TIME, Images, Piece, ReadAhead
from birdkit.inference.soundscapes import Soundscape
from birdkit.inference.view import View
from birdkit.output import SEDOutput
from birdkit.pace import Clock, Pace, Plan, Taken


@dataclass(frozen=True)
class Listened:
    """What networks say about the clips of one soundscape.

    starts   first sample of what each clip is about, per view
    used     places in the list of the predictors that were asked
    outputs  of these
    calls    of the call detectors
    """

    name: str
    soundscape: Soundscape
    starts: Mapping[View, np.ndarray]
    used: tuple[int, ...]
    outputs: Sequence[SEDOutput]
    calls: Sequence[SEDOutput]


@dataclass
class _Heard:
    """The same while a soundscape is worked off, piece by piece."""

    plan: Plan
    outputs: list[list[SEDOutput]]
    calls: list[list[SEDOutput]]
    starts: list[dict[View, np.ndarray]] = field(default_factory=list)

    def listened(self, piece: Piece) -> Listened:
        """All pieces joined, when the last one is done."""
        starts = {view: np.concatenate([part[view] for part in self.starts]) for view in self.starts[0]}
        outputs, calls = ([join_outputs(parts) for parts in some] for some in (self.outputs, self.calls))
        return Listened(piece.name, piece.soundscape, starts, self.plan.used, outputs, calls)


class Listener:
    """Predictors, and the call detectors beside them, that hear soundscapes.

    The images of several soundscapes go through a network in one call, so that no core waits at the end of each; a long
    soundscape goes piece by piece. Each view is computed once however many predictors share it.

    least  models that are kept however short time is
    taken  what a second of sound took, as the last call of `listen` has it; None before
    """

    def __init__(self, predictors: Sequence[Predictor], gates: Sequence[Predictor], least: int) -> None:
        self.predictors = predictors
        self.gates = gates
        self.least = least
        self.makers = {one.view: one for one in reversed([*predictors, *gates])}
        self.taken: Taken | None = None

    def listen(self, named: Iterable[tuple[str, Callable[[], Soundscape]]], n_soundscapes: int, *,
               faults: dict[str, str], dropped: list[str], deadline: Clock | None, workers: int) -> Iterator[Listened]:
        """What they say of one soundscape after the other.

        faults   soundscapes that cannot be heard are entered with the reason, as they are met
        dropped  what was left out because time was short is entered in words, with the soundscape from which on
        workers  threads that read ahead, 0 for one per core, at most four
        """
        pace = Pace(n_soundscapes, list(Counter(models_of(self.predictors)).values()), self.least, deadline)
        reader = ReadAhead(self.makers, workers or min(os.cpu_count() or 1, 4), is_over=pace.is_over)
        groups = reader.groups(named, faults, lambda: pace.images_at_once(IMAGES_AT_ONCE))
        heard: dict[str, _Heard] = {}
        plan, n_lost = pace.now, 0
        with closing(groups):
            for group in groups:
                pace.lost(reader.n_lost - n_lost)
                n_lost = reader.n_lost
                if group[0].first and pace.is_over():
                    faults.update((piece.name, OUT_OF_TIME) for piece in group)
                    continue
                if group[0].first and pace.plan() != plan:
                    plan = pace.now
                    dropped.append(f"from {group[0].name} on, with {pace.n_left} left: {self._described(plan)}")
                    reader.augmented = plan.augmented
                for piece in group:
                    if piece.first:
                        heard[piece.name] = _Heard(plan, [[] for _ in plan.used], [[] for _ in self.gates])
                self._hear(group, [heard[piece.name] for piece in group], pace)
                finished = [piece for piece in group if piece.last]
                if finished:
                    pace.done(len(finished), [_clip_counts(group, self.predictors[index].view) for index in plan.used],
                              sum(piece.soundscape.duration_s for piece in finished))
                    self.taken = pace.taken()
                for piece in finished:
                    yield heard.pop(piece.name).listened(piece)

    def _hear(self, group: Sequence[Piece], heard: Sequence[_Heard], pace: Pace) -> None:
        """Put the images of a group through the networks."""
        plan = heard[0].plan
        chosen = [piece.images if plan.augmented else {view: one.plain() for view, one in piece.images.items()}
                  for piece in group]
        for one, images in zip(heard, chosen, strict=True):
            one.starts.append({view: part.starts for view, part in images.items()})
        joined = {view: _one_batch([images[view] for images in chosen]) for view in self.makers}
        counts = {view: [len(images[view].starts) for images in chosen] for view in self.makers}
        for place, index in enumerate(plan.used):
            predictor = self.predictors[index]
            with pace.timing(index, sum(counts[predictor.view])):
                output = predictor(joined[predictor.view])
            for one, part in zip(heard, split_output(output, counts[predictor.view]), strict=True):
                one.outputs[place].append(part)
        for index, gate in enumerate(self.gates):
            for one, part in zip(heard, split_output(gate(joined[gate.view]), counts[gate.view]), strict=True):
                one.calls[index].append(part)

    def _described(self, plan: Plan) -> str:
        """A plan in words, for the report."""
        left_out = [one.label for index, one in enumerate(self.predictors) if index not in plan.used]
        without = f" (without {', '.join(left_out)})" if left_out else ""
        return (f"{len(plan.used)} of {len(self.predictors)} predictors{without}, test-time augmentation "
                f"{'as asked for' if plan.augmented else 'left out'}")


def _one_batch(parts: Sequence[Images]) -> Tensor:
    """The images of several pieces as one batch."""
    return parts[0].images if len(parts) == 1 else torch.cat([part.images for part in parts])


def _clip_counts(group: Sequence[Piece], view: View) -> tuple[int, int]:
    """Images of a group: those that were made, and those of them that are needed."""
    return (sum(len(piece.images[view].starts) for piece in group),
            sum(int(piece.images[view].needed.sum()) for piece in group))
