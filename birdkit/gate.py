"""The gate that a bundle passes before anyone may use it: real audio through the model as it was trained and through
the exported files, from the waveform to the rows of a submission.

On the one side is torch with the model in memory, which validated it; on the other what was read back from disk, with
its own front end, windows, pooling, class names and post-processing.
"""
from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from birdkit.backends import ExportError
from birdkit.inference import WINDOW_COLUMNS, predict
from birdkit.metrics import Interval, bootstrap_difference, macro_roc_auc
from birdkit.output import SEDOutput
from birdkit.parity import MIN_RANK_AGREEMENT, Parity, allowed_error, output_parity, rank_agreements, require_parity
from birdkit.predictor import Predictor, join_outputs
from birdkit.profiles import ROW_ID
from birdkit.submission import window_id

log = logging.getLogger(__name__)

MAX_ROW_ERROR = 1e-4  # f32: of a probability, which moves at most a quarter as far as its logit
MIN_CLASS_AGREEMENT = 0.9  # lower precisions, without a truth: no class may be given up for the mean of the others
MIN_AGREEMENT_WITH_TRUTH = 0.9  # of the mean, where a truth says what the changes of order cost
# Lower precisions, with a truth: the interval of the difference must not reach below this loss, for which the 2024
# third place left a runtime of twice the speed alone.
MAX_AUC_LOSS = 0.01


@dataclass(frozen=True)
class GateReport:
    """How far what was exported is from the model, over all rows of some files.

    audio        what was heard, in words
    files, rows  soundscapes that could be read, and their windows
    logits       of all clips of all files; of several scales, the worst of each figure
    row_error    largest difference of a probability in a row
    rank_mean, rank_min  over the classes, Spearman's correlation of the rows' probabilities, 1 = same order
    rank_min_class  the class with rank_min
    auc          macro ROC-AUC of the model on the truth, None without one
    auc_difference  of the exported rows minus the model's, with its interval from a paired bootstrap over files
    """

    audio: str
    files: int
    rows: int
    logits: Parity
    row_error: float
    rank_mean: float
    rank_min: float
    rank_min_class: str
    auc: float | None = None
    auc_difference: Interval | None = None

    def __str__(self) -> str:
        truth = "" if self.auc is None else f"; ROC-AUC {self.auc:.4f}, changed by {self.auc_difference}"
        return (f"{self.rows} rows of {self.audio}: {self.logits}; rows differ by up to {self.row_error:.3g}, their "
                f"rank correlation per class is {self.rank_mean:.5f} on average and at least {self.rank_min:.5f} "
                f"({self.rank_min_class}){truth}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and numbers, ready for JSON."""
        return asdict(self)


def measure_gate(model: Sequence[Predictor], exported: Sequence[Predictor], files: Sequence[Path], *, window_s: float,
            audio: str, truth: pd.DataFrame | None = None) -> GateReport:
    """Predict files with both and compare, from the waveform to the rows.

    model     predictors of the model in memory, in torch at f32, at each of its scales
    exported  the same of what was read back from disk
    audio     what the files are, in words, for the report
    truth     row_id as index, a column of 0 and 1 per class; rows and classes are matched by name

    Raises ExportError where the two name other classes or give other rows, or no file can be read, and ValueError
    where the truth names none of the rows or classes.
    """
    wanted, wanted_outputs = _predicted_rows(model, files, window_s)
    got, got_outputs = _predicted_rows(exported, files, window_s)
    if set(wanted.columns) != set(got.columns) or not wanted.index.equals(got.index):
        raise ExportError(f"the exported network gives {got.shape[0]} rows of {got.shape[1]} classes, the model "
                          f"{wanted.shape[0]} of {wanted.shape[1]}, or others")
    classes = list(wanted.columns)
    mine, theirs = wanted.to_numpy(float), got[classes].to_numpy(float)
    agreements = rank_agreements(mine, theirs)
    lowest = int(agreements.argmin())
    parities = [output_parity(a, b) for a, b in zip(wanted_outputs, got_outputs, strict=True)]
    auc, difference = _on_truth(truth, wanted, got) if truth is not None else (None, None)
    return GateReport(audio, len({row.rpartition("_")[0] for row in wanted.index}), len(wanted), _worst(parities),
                      float(np.abs(mine - theirs).max()), float(agreements.mean()), float(agreements[lowest]),
                      classes[lowest], auc, difference)


def require_gate(report: GateReport, precision: str) -> None:
    """Raise ExportError, with the numbers, where what was exported may not be used.

    f32  logits within 1e-4 of their sigma, rows within 1e-4
    lower precisions  with a truth: no more than 0.01 of ROC-AUC lost, the interval included; without one: the order
         of the rows of every class
    """
    if precision == "f32":
        require_parity(report.logits, precision)
        limit = max(MAX_ROW_ERROR, allowed_error(report.logits))
        good, allowed = report.row_error <= limit, f"f32 rows may differ by {limit:.3g}"
    elif report.auc_difference is not None:
        good = report.auc_difference.low >= -MAX_AUC_LOSS and report.rank_mean >= MIN_AGREEMENT_WITH_TRUTH
        allowed = (f"{precision} may lose {MAX_AUC_LOSS} of ROC-AUC with the interval, and needs a mean rank "
                   f"correlation of {MIN_AGREEMENT_WITH_TRUTH}")
    else:
        good = report.rank_mean >= MIN_RANK_AGREEMENT and report.rank_min >= MIN_CLASS_AGREEMENT
        allowed = (f"{precision} needs a rank correlation of {MIN_RANK_AGREEMENT} on average and of "
                   f"{MIN_CLASS_AGREEMENT} in every class, or a truth that shows that nothing is lost")
    if not good:
        raise ExportError(f"the exported network is not the model: {report}; {allowed}")


def read_truth(path: Path | str) -> pd.DataFrame:
    """A truth as `measure_gate` takes it, from a csv of row_id and class columns; ValueError where it is not one."""
    table = pd.read_csv(path, dtype={ROW_ID: str})
    if ROW_ID not in table.columns or table[ROW_ID].duplicated().any():
        raise ValueError(f"{path}: a truth has a column {ROW_ID!r} with a name for every row, each of them once")
    return table.set_index(ROW_ID)


class _Recorder:
    """A network that keeps what it says."""

    def __init__(self, predictor: Predictor) -> None:
        self._classify = predictor.classify
        self.outputs: list[SEDOutput] = []

    def __call__(self, image: Tensor) -> SEDOutput:
        self.outputs.append(self._classify(image))
        return self.outputs[-1]


def _predicted_rows(predictors: Sequence[Predictor], files: Sequence[Path],
          window_s: float) -> tuple[pd.DataFrame, list[SEDOutput]]:
    """The rows of files, ids as index and classes as columns; and all that each network said."""
    listening = [copy.copy(one) for one in predictors]
    recorders = [_Recorder(one) for one in predictors]
    for one, recorder in zip(listening, recorders, strict=True):
        one.classify = recorder
    predictions = predict(files, listening, window_s=window_s, progress=False)
    if predictions.table.empty:
        raise ExportError(f"none of {len(files)} files can be predicted: {dict(predictions.faults.to_numpy())}")
    table = predictions.table
    ids = [window_id(file, end_s) for file, end_s in zip(table["file"], table["end_s"], strict=True)]
    rows = table.drop(columns=list(WINDOW_COLUMNS)).set_axis(pd.Index(ids), axis=0)
    return rows, [join_outputs(recorder.outputs) for recorder in recorders]


def _on_truth(truth: pd.DataFrame, wanted: pd.DataFrame, got: pd.DataFrame) -> tuple[float, Interval]:
    """The model's macro ROC-AUC and by how much the exported rows change it, on what the truth knows."""
    classes = [name for name in wanted.columns if name in truth.columns]
    rows = [row for row in wanted.index if row in truth.index]
    if not classes or not rows:
        raise ValueError(f"the truth names {len(rows)} of {len(wanted)} rows and {len(classes)} of "
                         f"{wanted.shape[1]} classes: it is of other files or classes")
    labels, *sides = (table.loc[rows, classes].to_numpy(float) for table in (truth, wanted, got))
    files = [row.rpartition("_")[0] for row in rows]
    return macro_roc_auc(labels, sides[0]), bootstrap_difference(labels, sides[1], sides[0], files)


def _worst(parities: Sequence[Parity]) -> Parity:
    """The worst of each figure; of the sigmas, the smallest."""
    return Parity(max(one.max_error for one in parities), min(one.sigma for one in parities),
                  max(one.attention_error for one in parities), min(one.rank_agreement for one in parities))
