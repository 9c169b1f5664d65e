"""The page that shows whether pseudo-labels can be trusted: figures, histograms, the surest windows, what changed."""
from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from birdkit.pictures import (
    CALL,
    INK,
    PALE,
    SOFT,
    Picture,
    class_ticks,
    draw_spectrogram,
    figure_of,
    image_tag,
    origin_of,
    paragraph,
    write_html,
)
from birdkit.pseudolabel.table import SURE
from birdkit.pseudolabel.trust import Trust

SHOWN = 8  # examples


def pictures(trust: Trust, *, root: Path | str, train_counts: pd.Series | None = None) -> dict[str, Picture]:
    """All pictures of a table, by title.

    root          folder that its files are relative to
    train_counts  recordings of each class, by its name; None where there are none
    """
    if not trust.windows:
        return {"No labels": _said("no teacher yet:\nan empty table" if not trust.origin["teachers"] else
                                   "no window reaches labelling.least_peak:\nan empty table")}
    drawn = {"How sure the teachers are": histograms(trust),
             "What they hear, and how often": counts(trust, train_counts), "The surest windows": surest(trust, root),
             "How much the windows of a file differ": spread(trust)}
    if trust.origin.get("agreement"):
        drawn["How far the teachers agree"] = agreement(trust)
    if trust.change is not None and trust.change.windows:
        drawn["What has changed since the last round"] = change(trust)
    return drawn


def histograms(trust: Trust) -> Picture:
    """For each class, the most heard first, how many windows have which probability."""
    order = np.argsort(-trust.labels, kind="stable")
    figure = figure_of(max(7.5, 0.16 * len(order) + 3), 3.8)
    axes = figure.add_subplot()
    axes.set_facecolor(PALE)
    shown = np.ma.masked_equal(trust.histogram[order].T, 0)
    image = axes.imshow(shown, origin="lower", aspect="auto", cmap="viridis", interpolation="nearest",
                        norm=LogNorm(vmin=1, vmax=max(2, trust.histogram.max())),
                        extent=(-0.5, len(order) - 0.5, 0, 1))
    axes.axhline(SURE, color=CALL, linewidth=1)
    class_ticks(axes, [trust.classes[k] for k in order])
    axes.set_ylabel("probability")
    axes.set_title(f"windows by probability; grey: none; from the line, p = {SURE:g}, a window counts as labelled",
                   fontsize=9)
    figure.colorbar(image, ax=axes, label="windows", fraction=0.03)
    return figure


def counts(trust: Trust, train_counts: pd.Series | None = None) -> Picture:
    """Per class: recordings to train on, windows that are labelled, share of soundscapes with a label."""
    recordings = None if train_counts is None else train_counts.reindex(trust.classes).fillna(0).to_numpy()
    order = np.argsort(-(trust.labels if recordings is None else recordings), kind="stable")
    bars = [(trust.labels, f"windows with p ≥ {SURE:g}", CALL),
            (trust.label_files / trust.files, "share of files", SOFT)]
    if recordings is not None:
        bars.insert(0, (recordings, "recordings to train on", INK))
    figure = figure_of(max(7.5, 0.16 * len(order) + 3), 0.9 + 1.6 * len(bars))
    rows = figure.subplots(len(bars), 1, sharex=True)
    for axes, (values, what, colour) in zip(rows, bars, strict=True):
        axes.bar(range(len(order)), values[order], color=colour)
        axes.set_ylim(0, 1.05 * values.max() or 1)
        axes.set_ylabel(what, fontsize=8)
    class_ticks(rows[-1], [trust.classes[k] for k in order])
    rows[0].set_title(f"{trust.labels.sum()} labels in {trust.windows} windows of {trust.files} files; "
                      f"{trust.labelled_files / trust.files:.0%} of the files hold one, "
                      f"{(trust.labels > 0).sum()} of {len(order)} classes heard", fontsize=9)
    return figure


def spread(trust: Trust) -> Picture:
    """How much the probabilities of a file change from window to window: at 0 a labeller repeats itself."""
    known = trust.spread[~np.isnan(trust.spread)]
    figure = figure_of(7.5, 3.0)
    axes = figure.add_subplot()
    axes.hist(known, bins=40, range=(0, max(float(known.max(initial=0)), 1e-3)), color=INK)
    axes.set(xlabel="standard deviation of the probability between the windows of a file, mean over classes",
             ylabel="files")
    axes.set_title(f"{len(known)} files of several windows; {(known == 0).sum()} at 0, as digital silence alone may be",
                   fontsize=9)
    return figure


def surest(trust: Trust, root: Path | str) -> Picture:
    """The window of each class that its teachers are surest of, as a spectrogram: listen to some before training."""
    chosen = trust.examples[:SHOWN]
    rows = -(-len(chosen) // 2)
    figure = figure_of(9.0, 2.3 * rows + 0.2)
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, one in zip(panels, chosen, strict=False):
        draw_spectrogram(axes, Path(root) / one.file, one.end_s, start_s=one.start_s)
        axes.set_title(f"{one.name}  {one.probability:.2f}\n{Path(one.file).name}", fontsize=8)
        axes.set_xlabel("seconds of the file", fontsize=8)
        axes.set_ylabel("mel band", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[len(chosen):]:
        axes.set_axis_off()
    return figure


def agreement(trust: Trust) -> Picture:
    """Each two teachers: how their probabilities go together, and how many labels they share; and class by class."""
    found = trust.origin["agreement"]
    per_class = pd.Series(found["per_class"], dtype=float).sort_values(ascending=False)
    figure = figure_of(max(8.5, 0.16 * len(per_class) + 3), 6.0)
    panels = figure.subplot_mosaic([["left", "right"], ["below", "below"]], height_ratios=(3, 2))
    _matrix(panels["left"], np.array(found["correlation"], float), "correlation of probabilities")
    _matrix(panels["right"], np.array(found["same_labels"], float), "labels of either that both give")
    axes = panels["below"]
    axes.set_title("of the windows that any teacher labels with the class, those that all do", fontsize=9)
    if per_class.empty:
        axes.text(0.5, 0.5, "no teacher gives a label", ha="center", va="center")
        axes.set_axis_off()
        return figure
    axes.bar(range(len(per_class)), per_class.to_numpy(), color=INK)
    class_ticks(axes, per_class.index)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share", fontsize=8)
    return figure


def change(trust: Trust) -> Picture:
    """Per class, labels that stayed, came and went since the table of an earlier round."""
    assert trust.change is not None, "there is no earlier table"
    found = trust.change
    total = found.kept + found.gained + found.lost
    order = np.argsort(-total, kind="stable")
    figure = figure_of(max(7.5, 0.16 * len(order) + 3), 3.4)
    axes = figure.add_subplot()
    places = range(len(order))
    axes.bar(places, found.kept[order], color=SOFT, label=f"kept ({found.kept.sum()})")
    axes.bar(places, found.gained[order], bottom=found.kept[order], color=INK, label=f"gained ({found.gained.sum()})")
    axes.bar(places, -found.lost[order], color=CALL, label=f"lost ({found.lost.sum()}), below 0")
    axes.axhline(0, color=INK, linewidth=0.8)
    class_ticks(axes, [trust.classes[k] for k in order])
    axes.set_ylabel(f"windows with p ≥ {SURE:g}")
    axes.legend(fontsize=7)
    axes.set_title(f"against the labels of round {found.round}, in {found.windows} windows of both tables; "
                   f"probabilities differ by {found.difference:.3f} on average", fontsize=9)
    return figure


def write_page(path: Path, trusts: Mapping[str, Trust], drawn: Mapping[str, Mapping[str, Picture]], *,
               origin: Path) -> Path:
    """Write one self-contained page of the tables that a labelling has written; returns its path.

    trusts  figures of the tables, by what was labelled
    drawn   their `pictures`
    origin  the competition's folder: generated audio is named as such
    """
    first = next(iter(trusts.values()))
    parts = [f"<h1>Pseudo-labels for round {first.origin['round']}</h1>", paragraph(origin_of(origin)),
             _teachers(first)]
    for name, trust in trusts.items():
        labelled_by = trust.origin.get("labelled_by", ())
        parts += [f"<h2>Labels of the {html.escape(name)}</h2>", _figures(trust)]
        for title, picture in drawn[name].items():
            parts += [f"<h3>{html.escape(title)}</h3>", image_tag(picture)]
        if len(trust.origin["teachers"]) == 1:
            parts.append(paragraph("A single teacher: nobody can say whether another would agree."))
        elif labelled_by and all(len(one["teachers"]) < 2 for one in labelled_by):
            parts.append(paragraph("No file was labelled by two teachers, since each may label only what it has not "
                                   "learnt from: nobody can say whether they agree."))
    return write_html(path, f"pseudo-labels, round {first.origin['round']}", parts)


def _teachers(trust: Trust) -> str:
    """A table of the teachers, by the numbers that pictures give them."""
    if not trust.origin["teachers"]:
        return paragraph("There are no teachers yet: nothing is labelled before a first round is trained.")
    rows = [[str(number), one["name"], one.get("model", ""), str(one["round"]), str(one["split"]), one["hash"][:12]]
            for number, one in enumerate(trust.origin["teachers"], start=1)]
    return _html_table(["teacher", "recipe", "model", "round", "split", "hash"], rows)


def _figures(trust: Trust) -> str:
    """A table of what there is, and of how it was made."""
    origin = trust.origin
    files = max(trust.files, 1)
    settings = {name: value for name, value in origin.get("settings", {}).items() if value is not None}
    rows = [["windows", str(trust.windows)], ["files", str(trust.files)],
            ["files with a label", f"{trust.labelled_files} ({trust.labelled_files / files:.0%})"],
            ["labels", str(int(trust.labels.sum()))],
            ["classes heard", f"{(trust.labels > 0).sum()} of {len(trust.classes)}"],
            ["left out: every teacher was trained on them", str(len(origin.get("seen_by_all_teachers", [])))],
            ["left out: not readable", str(len(origin.get("faults", {})))],
            ["window, stride", ", ".join(f"{origin[name]:g} s" for name in ("window_s", "stride_s") if name in origin)],
            ["settings", ", ".join(f"{name} {value}" for name, value in settings.items()) or "none"],
            ["made", origin["time"]]]
    if trust.labels.sum():
        largest = int(trust.labels.argmax())
        rows.insert(4, ["most of them", f"{trust.classes[largest]}, {trust.labels[largest] / trust.labels.sum():.0%}"])
    return _html_table([], rows)


def _html_table(head: list[str], rows: list[list[str]]) -> str:
    top = "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _matrix(axes: Axes, values: np.ndarray, title: str) -> None:
    """A square of numbers, NaN where two teachers have not heard the same."""
    axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
    names = [str(number) for number in range(1, len(values) + 1)]
    axes.set_xticks(range(len(values)), names, fontsize=8)
    axes.set_yticks(range(len(values)), names, fontsize=8)
    axes.set(xlabel="teacher", ylabel="teacher")
    if len(values) <= 12:
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, "–" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", fontsize=8,
                      color="white" if value > 0.6 else INK)
    axes.set_title(title, fontsize=9)


def _said(text: str) -> Picture:
    """A sentence instead of a picture."""
    figure = figure_of(7.5, 1.5)
    axes = figure.add_subplot()
    axes.text(0.5, 0.5, text, ha="center", va="center")
    axes.set_axis_off()
    return figure
