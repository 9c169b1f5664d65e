"""A comparison for people: a table as text or markdown, and a picture of every difference beside the noise floor."""
from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from birdkit.experiments import Report
from birdkit.metrics.comparison import BETTER, WORSE, Comparison, Row
from birdkit.pictures import CALL, INK, SOFT, Picture

COLOURS = {BETTER: "#2e7d4f", WORSE: CALL}
BAND = "#d9d9d9"


def text(report: Report, *, markdown: bool = False) -> str:
    """The question, a table with a row per run, and in words what can and cannot be concluded from it."""
    comparison = report.comparison
    lines = [f"**{_question(report)}**\n" if markdown else f"{_question(report)}\n"]
    if comparison is not None:
        table = _columns(report.table, comparison)
        lines += [markdown_table(table) if markdown else table.to_string(index=False), "", *_conclusions(comparison)]
    lines += [f"missing: {trial}" for trial in report.missing]
    return "\n".join(lines)


def picture(report: Report) -> Picture:
    """Each run's difference to the baseline with its interval, its single trainings as dots, the noise floor as a band.

    Without a baseline, scores instead of differences. Raises ValueError where nothing is done yet.
    """
    comparison = report.comparison
    if comparison is None:
        raise ValueError(f"no training of {report.asked.name} is done: there is nothing to draw")
    figure = Picture(figsize=(8.0, 1.6 + 0.42 * len(comparison.rows)), layout="constrained")
    axes = figure.add_subplot()
    if math.isfinite(comparison.floor):
        axes.axvspan(-comparison.floor, comparison.floor, color=BAND, zorder=0,
                     label=f"noise floor ±{comparison.floor:.4f}")
    base = next((row for row in comparison.rows if row.run == comparison.baseline), None)
    if base is not None:
        axes.axvline(0, color=INK, linewidth=1, zorder=1)
    for place, row in enumerate(comparison.rows):
        _draw_row(axes, place, row, base)
    axes.set_yticks(range(len(comparison.rows)), [f"{row.run}  {row.score.value:.3f}" for row in comparison.rows],
                    fontsize=8)
    axes.set_ylim(len(comparison.rows) - 0.4, -0.6)
    what = f"difference to {comparison.baseline}" if base else "score"
    axes.set_xlabel(f"{comparison.metric}, {what}; {comparison.level:.0%} interval, green: better, red: worse, dots: "
                    "single trainings", fontsize=8)
    axes.set_title(_question(report), fontsize=9)
    if math.isfinite(comparison.floor):
        axes.legend(fontsize=7, loc="best")
    return figure


def _question(report: Report) -> str:
    """What was asked, and on which soundscapes where it is not the validation."""
    asked = report.asked.question or report.asked.name
    return f"{asked} (on the test soundscapes)" if report.on_test else asked


def _draw_row(axes: Axes, place: int, row: Row, base: Row | None) -> None:
    """One run: a dot for each training, less the baseline's mean on its split, and what is known of the mean."""
    zero = {split: np.mean([score for (other, _), score in base.trainings.items() if other == split])
            for split, _ in base.trainings} if base else {split: 0.0 for split, _ in row.trainings}
    dots = [float(score - zero[split]) for (split, _), score in row.trainings.items() if split in zero]
    axes.plot(dots, [place] * len(dots), "o", color=SOFT, markersize=4, zorder=2)
    interval = row.difference if base else row.score
    if interval is not None:
        colour = COLOURS.get(row.verdict, INK)
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2, zorder=3)
        axes.plot(interval.value, place, "D", color=colour, markersize=6, zorder=4)


def _columns(table: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """What is shown of the table, as text; empty where the baseline has no difference to itself."""
    return pd.DataFrame({
        "run": table["run"], "trainings": table["trainings"], comparison.metric: _numbers(table["score"], ".4f"),
        "interval": _intervals(table["low"], table["high"], ".4f"),
        "difference": _numbers(table["difference"], "+.4f"),
        " interval": _intervals(table["difference_low"], table["difference_high"], "+.4f"),
        "share > 0": _numbers(table["above"], ".3f"), "verdict": table["verdict"], "after Holm": table["verdict_holm"],
        "s / training": _numbers(table["seconds"], ".0f"), "epochs": table["epochs"]})


def _numbers(values: pd.Series, form: str) -> list[str]:
    return [f"{value:{form}}" if math.isfinite(value) else "" for value in values]


def _intervals(low: pd.Series, high: pd.Series, form: str) -> list[str]:
    return [f"[{one}, {other}]" if one else "" for one, other in zip(_numbers(low, form), _numbers(high, form),
                                                                   strict=True)]


def markdown_table(table: pd.DataFrame) -> str:
    """A table of texts as markdown."""
    rows = [[str(name).strip() for name in table.columns], ["---"] * len(table.columns),
            *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _conclusions(comparison: Comparison) -> list[str]:
    """What the numbers can say: the noise floor, and how many comparisons were made."""
    lines = ["noise floor: unknown, for no run has been trained with two seeds"]
    if math.isfinite(comparison.floor):
        of_base = f"{comparison.baseline_sd:.4f}" if math.isfinite(comparison.baseline_sd) else "unknown"
        lines = [f"noise floor: differences below {comparison.floor:.4f} cannot be told from those of another seed "
                 f"(standard deviation between seeds: {of_base} of {comparison.baseline}, "
                 f"{comparison.pooled_sd:.4f} pooled over all runs)"]
    n = comparison.comparisons
    if not n:
        return [*lines, f"no comparison: {comparison.baseline} has no finished training yet, or no other run has"]
    return [*lines, f"{n} comparison{'s' if n > 1 else ''} with {comparison.baseline}: paired bootstrap over files and "
                    f"seeds, intervals {comparison.level:.0%}. After Holm, the chance of even one false verdict among "
                    f"all is below {1 - comparison.level:.0%}"]
