"""The score of a model on its validating split, by the same prediction as a submission."""
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from tqdm import tqdm

from birdkit.config import DataConfig, RunConfig
from birdkit.data import AudioStore
from birdkit.data.labelled_soundscapes import window_cells
from birdkit.data.packed import Int16Wave
from birdkit.data.tables import make_targets, spans
from birdkit.decisions import decide
from birdkit.inference import Predictor, predict_waves
from birdkit.inference.view import LEAST_WINDOW_S
from birdkit.inference.windows import n_windows
from birdkit.metrics import METRICS
from birdkit.metrics.comparison import Validated
from birdkit.models.base import Model
from birdkit.settings import to_dict
from birdkit.synthesis.composition import compose_from_recordings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validation:
    """Soundscapes with known truth, kept in memory between epochs.

    waves   the audio of each soundscape or recording, in 16 bits
    truth   one (rows, K) array of 0 and 1 for each
    rows    the windows of each that have a truth, in its order; None for all
    scored  the classes that count, in the order of the columns of the others; none for all
    whole   True where a wave is scored as one row, the maximum over its windows; False window by window
    """

    waves: tuple[Int16Wave, ...]
    truth: tuple[np.ndarray, ...]
    whole: bool
    window_s: float
    metric: str
    progress: bool = False
    scored: tuple[str, ...] = ()
    rows: tuple[np.ndarray | None, ...] = ()

    @classmethod
    def prepare(cls, config: RunConfig, held_out: pd.DataFrame, classes: Sequence[str], *, store: AudioStore,
                soundscapes: pd.DataFrame | None, labelled_soundscapes: pd.DataFrame | None = None,
                progress: bool = False) -> Validation:
        """What config.validation asks for, from the rows that validate.

        held_out     rows of the recordings table with split == config.split
        soundscapes  the soundscapes table; those of the same split are the backgrounds of composed soundscapes
        labelled_soundscapes  windows of others, with the split of their file, for the kinds that ask for them

        Raises ValueError where nothing is held out, or the competition's windows are not those of the labels.
        """
        competition, kind = config.competition, config.validation.kind
        if not len(held_out) and kind != "labelled":
            raise ValueError(f"split {config.split} holds no recording to validate on")
        labels = [[label, *secondary.split()]
                  for label, secondary in zip(held_out["label"], held_out["secondary"], strict=True)]
        waves: list[Int16Wave] = []
        truth: list[np.ndarray] = []
        scored_rows: list[np.ndarray | None] = []
        if kind == "recordings":
            rows = make_targets(held_out, classes, DataConfig(secondary_target=1.0)).astype(np.uint8)
            for file, span, row in zip(held_out["file"], spans(held_out), rows, strict=True):
                waves.append(Int16Wave.of(store.span(file, *span)))
                truth.append(row[None])
        if kind in ("composed", "composed_and_labelled"):
            own: list[str] = []
            if soundscapes is not None:
                own = soundscapes.loc[soundscapes["split"] == config.split, "file"].tolist()
            sources = [(partial(store.whole, file), names)
                       for file, names in zip(held_out["file"], labels, strict=True)]
            background = partial(store.whole, quiet=config.validation.backgrounds == "quiet")
            composed = compose_from_recordings(
                sources, [partial(background, file) for file in own], rng=np.random.default_rng(config.split),
                sample_rate_hz=config.frontend.sample_rate_hz, n_soundscapes=config.validation.n_soundscapes,
                soundscape_s=competition.soundscape_s)
            for soundscape in tqdm(composed, "composing the validation", config.validation.n_soundscapes, leave=False,
                                   unit="soundscape", disable=not progress):
                waves.append(Int16Wave.of(soundscape.wave))
                truth.append(soundscape.truth(classes, window_s=competition.window_s))
        scored_rows += [None] * len(waves)
        if kind in ("labelled", "composed_and_labelled"):
            rate_hz = config.frontend.sample_rate_hz
            for file, rows, heard in _labelled(config, labelled_soundscapes, classes):
                wave = store.whole(file)
                there = rows < n_windows(len(wave), competition.window_s * rate_hz,
                                         least_samples=LEAST_WINDOW_S * rate_hz)  # a submission has no others
                waves.append(Int16Wave.of(wave))
                truth.append(heard[there])
                scored_rows.append(rows[there])
        known = int((np.concatenate(truth).max(0) > 0).sum())
        log.info("validating on %d %s with %d of %d classes", len(waves), kind, known, len(classes))
        return cls(tuple(waves), tuple(truth), kind == "recordings", competition.window_s, competition.metric, progress,
                   config.task.scored, tuple(scored_rows))

    def predict(self, model: Model, config: RunConfig, classes: Sequence[str]) -> list[np.ndarray]:
        """Probabilities of each wave's rows, as a submission would hold them: (rows, K) each."""
        predictors = Predictor.of_model(model, config, classes)
        waves = tqdm(self.waves, "validating", leave=False, unit="soundscape", disable=not self.progress)
        named = ((f"{index:05d}", wave.wave()) for index, wave in enumerate(waves))
        table = predict_waves(named, predictors, window_s=self.window_s, classes=classes).table
        said = [part[list(classes)].to_numpy() for _, part in table.groupby("file", sort=True)]
        if self.whole:
            return [part.max(0, keepdims=True) for part in said]
        return [part if rows is None else part[rows]
                for part, rows in zip(said, self.rows or [None] * len(said), strict=True)]

    def validate(self, model: Model, config: RunConfig, classes: Sequence[str]) -> Validated:
        """What a model says beside the truth of the classes that count, its rows grouped by soundscape or recording.

        Where the metric judges decisions, what the config makes of the probabilities of all rows. The origin is the
        config.
        """
        rows = self.predict(model, config, classes)
        groups = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        scored = self.scored or tuple(classes)
        columns = [list(classes).index(name) for name in scored]
        said = np.concatenate(rows)[:, columns]
        decisions = decide(said, scored, config.inference.decision) if METRICS[self.metric].on_decisions else None
        return Validated(np.concatenate(self.truth)[:, columns], said, groups, scored, self.metric,
                         {"config": to_dict(config)}, decisions)


def _labelled(config: RunConfig, table: pd.DataFrame | None,
              classes: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each labelled soundscape of the validating split: its file, the numbers of its labelled windows, their truth."""
    own = None if table is None else table[table["split"] == config.split]
    if own is None or not len(own):
        raise ValueError(f"validation.kind = {config.validation.kind!r}, but the host labelled no soundscape of split "
                         f"{config.split}: choose \"composed\"")
    window_s = config.competition.window_s
    for file, windows in own.groupby("file", sort=True):
        numbers = windows["start_s"].to_numpy(float) / window_s
        if np.abs(numbers - np.round(numbers)).max() > 1e-6:  # inference begins its windows at the multiples
            raise ValueError(f"{file}: labelled windows begin at {windows['start_s'].tolist()[:3]} s, not at multiples "
                             f"of {window_s:g} s; run notebook 01 again")
        yield str(file), np.round(numbers).astype(int), window_cells(windows, classes).astype(np.uint8)
