"""The rounds of pseudo-labelling for people: a table as text or markdown, and one picture of what each brought."""
from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from birdkit.config import SAME_SPLIT
from birdkit.kaggle import Workspace
from birdkit.pictures import CALL, INK, PALE, SOFT, Picture
from birdkit.reports.comparison import markdown_table
from birdkit.runs.rounds import ROUNDS, Round, last_that_helped, update_rounds


def rounds_text(rounds: Sequence[Round], *, markdown: bool = False) -> str:
    """A row per round, and which one is worth submitting."""
    table = pd.DataFrame([{
        "round": one.number, "soundscapes": one.labels.get("soundscapes", ""),
        "with a label": f"{one.labels['labelled']:.0%}" if one.labels else "", "students": len(one.students),
        one.metric: str(one.row.score), "gain": "" if one.row.difference is None else
        f"{one.row.difference.value:+.4f} [{one.row.difference.low:+.4f}, {one.row.difference.high:+.4f}]",
        "noise floor": f"{one.floor:.4f}" if math.isfinite(one.floor) else "", "verdict": one.verdict,
    } for one in rounds])
    said = markdown_table(table) if markdown else table.to_string(index=False)
    return "\n\n".join([said, conclusion(rounds), *([_honesty(rounds)] if len(rounds) > 1 else [])])


def _honesty(rounds: Sequence[Round]) -> str:
    """In words, whether validation can be believed."""
    biased = [one.number for one in rounds if one.biased]
    if not biased:
        return ("Students learnt from teachers of their own split alone, which had not heard what validates them: "
                "scores and gains are honest.")
    return (f"Scores and gains are biased upwards from round {biased[0]} on: students learnt from labels of teachers "
            "of other splits, which were trained on the recordings that validate the student. labelling.teachers = "
            f"{SAME_SPLIT!r} measures honestly, where distil.self_share is 0.")


def conclusion(rounds: Sequence[Round]) -> str:
    """In words, whether another round is worth training."""
    last = last_that_helped(rounds)
    if last < rounds[-1].number:
        return (f"{rounds[last + 1]}. Submit round {last}" +
                ("" if last + 1 == rounds[-1].number else "; what came after it was built on that"))
    return str(rounds[-1]) + (". Another round may help" if last else "")


def rounds_picture(rounds: Sequence[Round]) -> Picture:
    """The score of every round with its interval and its single students, and every gain beside its noise floor."""
    figure = Picture(figsize=(8.0, 3.2), layout="constrained")
    if not rounds:
        axes = figure.add_subplot()
        axes.text(0.5, 0.5, "nothing to compare yet: no finished student of round 0 validates,\n"
                  "or rounds have no split in common", ha="center", va="center")
        axes.set_axis_off()
        return figure
    scores, gains = figure.subplots(1, 2)
    _draw_scores(scores, rounds)
    _draw_gains(gains, rounds)
    figure.suptitle(textwrap.fill(conclusion(rounds), 120), fontsize=8)
    return figure


def update_picture(work: Workspace) -> Picture:
    """Write the rounds.csv of a work folder and rounds.png beside it, see birdkit.runs.rounds.update_rounds; the
    picture."""
    found = update_rounds(work)
    figure = rounds_picture(found)
    if found:
        figure.savefig(work.path(ROUNDS).with_suffix(".png"), dpi=150)
    return figure


def _draw_scores(axes: Axes, rounds: Sequence[Round]) -> None:
    numbers = [one.number for one in rounds]
    for one in rounds:
        students = list(one.row.trainings.values())
        axes.plot([one.number] * len(students), students, "o", color=SOFT, markersize=4, zorder=2)
        axes.plot([one.number] * 2, [one.row.score.low, one.row.score.high], color=INK, linewidth=2, zorder=1)
    axes.plot(numbers, [one.row.score.value for one in rounds], "D-", color=INK, markersize=6, linewidth=1, zorder=3)
    axes.set_xticks(numbers, ["0\nsupervised", *map(str, numbers[1:])])
    axes.set(xlabel="round", ylabel=rounds[0].metric)
    axes.set_title("validation; dots: single students, bar: 95 % interval", fontsize=8)


def _draw_gains(axes: Axes, rounds: Sequence[Round]) -> None:
    axes.axhline(0, color=INK, linewidth=1)
    for one in rounds:
        gain = one.row.difference
        if gain is None:
            continue
        if math.isfinite(one.floor):
            axes.bar(one.number, 2 * one.floor, bottom=-one.floor, width=0.5, color=PALE, zorder=0)
        colour = INK if one.helped else CALL
        axes.plot([one.number] * 2, [gain.low, gain.high], color=colour, linewidth=2)
        axes.plot(one.number, gain.value, "D", color=colour, markersize=6)
    later = [one.number for one in rounds[1:]]
    axes.set_xticks(later, [f"{number} - {number - 1}" for number in later])
    axes.set(xlabel="rounds", ylabel=f"gain in {rounds[0].metric}")
    axes.set_title("gain to the round before; grey: noise floor, red: no gain", fontsize=8)
