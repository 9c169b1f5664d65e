"""The gate that a bundle passes before anyone may use it: real audio through the model as it was trained and through
the exported files, from the waveform to the rows of a submission.

On the one side is torch with the model in memory, which validated it; on the other what was read back from disk, with
its own front end, windows, pooling, class names and post-processing.
"""
from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from birdkit.backends import ExportError
from birdkit.backends.parity import Parity, allowed_error, output_parity, rank_agreements, require_parity
from birdkit.inference import WINDOW_COLUMNS, Predictor, predict
from birdkit.inference.predictor import join_outputs
from birdkit.metrics import Interval, bootstrap_difference, macro_roc_auc
from birdkit.output import SEDOutput
from birdkit.profiles import Competition
from birdkit.submission import window_id

log = logging.getLogger(__name__)

MAX_ROW_ERROR = 1e-4  # f32: of a probability, which moves at most a quarter as far as its logit

# Lower precisions must keep the ranking of the rows: the rank correlation, as a mean over the classes and in each of
# them, for none may be given up for the others. Less is enough where a truth says what the changes of order cost. On
# real audio bf16 kept 0.9999 in every class, int8 0.987 on average and 0.955 in the worst (README, "Results").
MIN_RANK_AGREEMENT, MIN_CLASS_AGREEMENT = 0.98, 0.9
MIN_JUDGED_MEAN, MIN_JUDGED_AGREEMENT = 0.95, 0.8
MIN_TRUTH_FILES = 10  # of fewer, a bootstrap over files says nothing: of one file its interval has no width at all
# The interval of the ROC-AUC difference must not reach below this loss. A step of post-processing is worth 0.001 to
# 0.01 (birdkit.postprocess.published), and for 0.01 the 2024 third place left a runtime of twice the speed alone: what
# may have cost as much as a usual step brings is not the same score.
MAX_AUC_LOSS = 0.005
SEEN_AUC_LOSS = 0.0005  # a leaderboard of three decimals shows no less: a loss above it that is sure is a loss


@dataclass(frozen=True)
class TruthReport:
    """What a truth says of the model's rows and of the exported ones.

    files       soundscapes of which it has rows
    classes     that it can judge: heard in some of these rows, and not in all
    auc         macro ROC-AUC of the model over them
    difference  of the exported rows minus the model's, with its interval from a paired bootstrap over files
    others_rank_min, others_rank_min_class  the lowest rank correlation of the classes that it cannot judge, and which
                that is; 1 and "" where there are none
    """

    files: int
    classes: int
    auc: float
    difference: Interval
    others_rank_min: float = 1.0
    others_rank_min_class: str = ""

    def __str__(self) -> str:
        change, others = self.difference, self.others_rank_min_class
        rest = f"; of the others the rank correlation is at least {self.others_rank_min:.5f} ({others})" * bool(others)
        return (f"ROC-AUC {self.auc:.4f}, changed by {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}], of "
                f"{self.classes} classes in {self.files} files{rest}")


@dataclass(frozen=True)
class GateReport:
    """How far what was exported is from the model, over all rows of some files.

    audio        what was heard, in words
    files, rows  soundscapes that could be read, and their windows
    logits       of all clips of all files; of several scales, the worst of each figure
    row_error    largest difference of a probability in a row
    rank_mean, rank_min  over the classes, Spearman's correlation of the rows' probabilities, 1 = same order
    rank_min_class  the class with rank_min
    truth        what a truth says of the difference, None without one
    """

    audio: str
    files: int
    rows: int
    logits: Parity
    row_error: float
    rank_mean: float
    rank_min: float
    rank_min_class: str
    truth: TruthReport | None = None

    def __str__(self) -> str:
        truth = "no ROC-AUC difference is known: no truth" if self.truth is None else self.truth
        return (f"{self.rows} rows of {self.audio}: {self.logits}; rows differ by up to {self.row_error:.3g}, their "
                f"rank correlation per class is {self.rank_mean:.5f} on average and at least {self.rank_min:.5f} "
                f"({self.rank_min_class}); {truth}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and numbers, ready for JSON."""
        return asdict(self)


def measure_gate(model: Sequence[Predictor], exported: Sequence[Predictor], files: Sequence[Path], *, window_s: float,
                 audio: str, truth: pd.DataFrame | None = None, competition: Competition | None = None) -> GateReport:
    """Predict files with both and compare, from the waveform to the rows.

    model     predictors of the model in memory, in torch at f32, at each of its scales
    exported  the same of what was read back from disk
    audio     what the files are, in words, for the report
    truth     windows as index, a column of 0 and 1 per class, as birdkit.submission.read_truth reads it; rows and
              classes are matched by name
    competition  how the truth names its rows; None for <stem>_<second>

    Raises ExportError where the two name other classes or give other rows, or no file can be read, and ValueError
    where the truth names none of the rows or classes, or holds nothing that can be judged.
    """
    names = competition if truth is not None else None
    wanted, wanted_outputs = _predicted_rows(model, files, window_s, names)
    got, got_outputs = _predicted_rows(exported, files, window_s, names)
    if set(wanted.columns) != set(got.columns) or not wanted.index.equals(got.index):
        raise ExportError(f"the exported network gives {got.shape[0]} rows of {got.shape[1]} classes, the model "
                          f"{wanted.shape[0]} of {wanted.shape[1]}, or others")
    classes = list(wanted.columns)
    mine, theirs = wanted.to_numpy(float), got[classes].to_numpy(float)
    agreements = rank_agreements(mine, theirs)
    lowest = int(agreements.argmin())
    parities = [output_parity(a, b) for a, b in zip(wanted_outputs, got_outputs, strict=True)]
    on_truth = None if truth is None else _on_truth(truth, wanted, got, dict(zip(classes, agreements, strict=True)))
    return GateReport(audio, len({row.rpartition("_")[0] for row in wanted.index}), len(wanted), _worst(parities),
                      float(np.abs(mine - theirs).max()), float(agreements.mean()), float(agreements[lowest]),
                      classes[lowest], on_truth)


def require_gate(report: GateReport, precision: str) -> None:
    """Raise ExportError, with the numbers, where what was exported may not be used.

    f32  logits within 1e-4 of their sigma, rows within 1e-4
    lower precisions  a rank correlation of 0.98 on average and of 0.9 in every class. With a truth of 10 files or more
         0.95 on average and 0.8 in the classes that it judges, and an interval of the ROC-AUC difference that neither
         reaches below -0.005 nor lies below -0.0005, which would be a sure loss
    """
    if precision == "f32":
        require_parity(report.logits)
        limit = max(MAX_ROW_ERROR, allowed_error(report.logits))
        faults = [f"f32 rows may differ by {limit:.3g}"] if not report.row_error <= limit else []
    else:
        faults = [f"{precision} {what}" for what in _lost(report)]
    if faults:
        raise ExportError(f"the exported network is not the model: {report}; {'; '.join(faults)}")


def _lost(report: GateReport) -> list[str]:
    """What a lower precision may not do and did."""
    truth, faults = report.truth, []
    if truth is None or truth.files < MIN_TRUTH_FILES:
        if not (report.rank_mean >= MIN_RANK_AGREEMENT and report.rank_min >= MIN_CLASS_AGREEMENT):
            faults.append(f"needs a rank correlation of {MIN_RANK_AGREEMENT} on average and of {MIN_CLASS_AGREEMENT} "
                          f"in every class, or a truth of {MIN_TRUTH_FILES} files that shows that nothing is lost")
        return faults
    if not (report.rank_mean >= MIN_JUDGED_MEAN and report.rank_min >= MIN_JUDGED_AGREEMENT):
        faults.append(f"needs a rank correlation of {MIN_JUDGED_MEAN} on average and of {MIN_JUDGED_AGREEMENT} in "
                      "every class")
    if not truth.others_rank_min >= MIN_CLASS_AGREEMENT:
        faults.append(f"needs a rank correlation of {MIN_CLASS_AGREEMENT} in every class that the truth does not judge")
    if not truth.difference.low >= -MAX_AUC_LOSS:
        faults.append(f"may have lost more than {MAX_AUC_LOSS} of ROC-AUC")
    if not truth.difference.high >= -SEEN_AUC_LOSS:
        faults.append(f"has surely lost ROC-AUC, more than {SEEN_AUC_LOSS}")
    return faults


class _Recorder:
    """A network that keeps what it says."""

    def __init__(self, predictor: Predictor) -> None:
        self._classify = predictor.classify
        self.outputs: list[SEDOutput] = []

    def __call__(self, image: Tensor) -> SEDOutput:
        self.outputs.append(self._classify(image))
        return self.outputs[-1]


def _predicted_rows(predictors: Sequence[Predictor], files: Sequence[Path], window_s: float,
                    competition: Competition | None) -> tuple[pd.DataFrame, list[SEDOutput]]:
    """The rows of files, ids as index and classes as columns; and all that each network said."""
    listening = [copy.copy(one) for one in predictors]
    recorders = [_Recorder(one) for one in predictors]
    for one, recorder in zip(listening, recorders, strict=True):
        one.classify = recorder
    predictions = predict(files, listening, window_s=window_s, progress=False)
    if predictions.table.empty:
        raise ExportError(f"none of {len(files)} files can be predicted: {dict(predictions.faults.to_numpy())}")
    table = predictions.table
    ids = [window_id(file, end_s, competition) for file, end_s in zip(table["file"], table["end_s"], strict=True)]
    rows = table.drop(columns=list(WINDOW_COLUMNS)).set_axis(pd.Index(ids), axis=0)
    return rows, [join_outputs(recorder.outputs) for recorder in recorders]


def _on_truth(truth: pd.DataFrame, wanted: pd.DataFrame, got: pd.DataFrame,
              agreements: Mapping[str, float]) -> TruthReport:
    """The model's macro ROC-AUC and by how much the exported rows change it, on what the truth knows."""
    classes = [name for name in wanted.columns if name in truth.columns]
    rows = [row for row in wanted.index if row in truth.index]
    if not classes or not rows:
        raise ValueError(f"the truth names {len(rows)} of {len(wanted)} rows and {len(classes)} of "
                         f"{wanted.shape[1]} classes: it is of other files or classes")
    labels, *sides = (table.loc[rows, classes].to_numpy(float) for table in (truth, wanted, got))
    judged = {name for name, share in zip(classes, labels.mean(0), strict=True) if 0 < share < 1}
    if not judged:
        raise ValueError(f"the truth judges none of {len(classes)} classes: none is heard in some of {len(rows)} rows "
                         "and not in others")
    others = {name: value for name, value in agreements.items() if name not in judged}
    lowest = min(others, key=lambda name: others[name], default="")
    files = [row.rpartition("_")[0] for row in rows]
    return TruthReport(len(set(files)), len(judged), macro_roc_auc(labels, sides[0]),
                       bootstrap_difference(labels, sides[1], sides[0], files), float(others.get(lowest, 1.0)), lowest)


def _worst(parities: Sequence[Parity]) -> Parity:
    """The worst of each figure; of the sigmas, the smallest."""
    return Parity(max(one.max_error for one in parities), min(one.sigma for one in parities),
                  max(one.attention_error for one in parities), min(one.rank_agreement for one in parities))
