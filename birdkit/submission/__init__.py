"""Predictions to submission.csv: every row the host asks for, checked by name and scored as the host scores.

Post-processing is not done here: what is written is what was predicted, or decided by a rule that is handed in.

asking    which rows and files a submission is asked for
forms     the forms of all years' tables, and the names of their rows
writing   submission.csv from predictions
checking  what the host will check, and its score
"""
from birdkit.submission.asking import Asked, ask, expected_rows
from birdkit.submission.checking import (
    align,
    is_constant,
    metric_name,
    score,
    score_classes,
    score_interval,
    validate,
)
from birdkit.submission.forms import (
    NOCALL,
    SubmissionError,
    lay_out,
    read_submission,
    read_truth,
    row_ids,
    window_id,
)
from birdkit.submission.writing import SubmissionReport, write

__all__ = ["NOCALL", "Asked", "SubmissionError", "SubmissionReport", "align", "ask", "expected_rows", "is_constant",
           "lay_out", "metric_name", "read_submission", "read_truth", "row_ids", "score", "score_classes",
           "score_interval", "validate", "window_id", "write"]
