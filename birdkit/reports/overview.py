"""Pictures for people: what was audited, learnt, labelled and heard, and one page with all of it."""
from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps

from birdkit import checkpoint
from birdkit.kaggle import AUDIO_SUFFIXES, Workspace
from birdkit.metrics import per_class_roc_auc
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
from birdkit.preprocess import Audit
from birdkit.profiles import Competition, read_classes, recognise
from birdkit.pseudolabel import SURE
from birdkit.reports.rounds import rounds_picture
from birdkit.runs.rounds import update_rounds
from birdkit.submission import align, read_submission, score_interval, window_id

WINDOW_COLUMNS = ("file", "start_s", "end_s")


def show_audit(audit: Audit) -> Picture:
    """Recordings per class, most first, by the split that they validate, and what was excluded or found twice."""
    table, excluded = pd.read_parquet(audit.recordings), pd.read_csv(audit.excluded)
    settings = json.loads(audit.report.read_text(encoding="utf-8"))["settings"]
    counts = pd.crosstab(table["label"], table["split"])
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    figure = figure_of(max(7.5, 0.16 * len(counts) + 3), 4.0)
    axes, below = figure.add_subplot(), np.zeros(len(counts))
    splits = sorted({int(split) for split in table["split"]})
    for split, colour in zip(splits, colormaps["cividis"](np.linspace(0, 0.9, len(splits))), strict=True):
        name, colour = ("always trained on", PALE) if split < 0 else (f"validates split {split}", colour)
        axes.bar(range(len(counts)), counts[split], bottom=below, color=colour, label=f"{name} ({counts[split].sum()})")
        below += counts[split].to_numpy()
    class_ticks(axes, counts.index)
    axes.set_ylabel("recordings")
    axes.legend(fontsize=7, title=f"splits: {settings['splitting']['kind']}", title_fontsize=8)
    near = audit.counts.get("near_duplicates")
    axes.set_title(f"{len(table)} recordings of {len(counts)} classes, {table['duration_s'].sum() / 60:.0f} minutes; "
                   f"{len(excluded)} files excluded; "
                   f"{'near-duplicates not looked for' if near is None else f'{near} near-duplicates'}", fontsize=9)
    return figure


def learning_curve(history: pd.DataFrame) -> Picture:
    """Loss and score over epochs, the score with its bootstrap interval, and the learning rate.

    An average of epochs, which is no epoch, is a dot after the last one.
    """
    average, history = history[history["weights"] == "average"], history[history["weights"] != "average"]
    figure = figure_of(7.5, 3.0)
    loss, score = figure.subplots(1, 2)
    loss.plot(history["epoch"], history["loss"], color=INK, marker="o", markersize=3)
    loss.set(xlabel="epoch", ylabel="training loss")
    rate = loss.twinx()
    rate.plot(history["epoch"], history["lr"], color=SOFT, linestyle=":")
    rate.set_ylabel("learning rate (dotted)")
    if history["score"].notna().any():
        score.fill_between(history["epoch"], history["low"], history["high"], color=SOFT, alpha=0.4, linewidth=0)
        score.plot(history["epoch"], history["score"], color=CALL, marker="o", markersize=3)
        score.set(xlabel="epoch", ylabel="validation score")
        title = f"last {history['score'].iloc[-1]:.3f}, best {history['score'].max():.3f}"
        if len(average):
            score.plot(average["epoch"] + 0.5, average["score"], color=INK, marker="D", markersize=4, linestyle="")
            title += f", average of epochs {average['score'].iloc[-1]:.3f}"
        score.set_title(f"{title}; band: 95 % interval", fontsize=9)
    else:
        score.text(0.5, 0.5, "trained on everything:\nnothing validates", ha="center", va="center")
        score.set_axis_off()
    return figure


def pseudo_labels(table: pd.DataFrame) -> Picture:
    """How sure the teachers are: the histogram of probabilities, and windows above one half per class."""
    figure = figure_of(8.5, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    names = [name for name in table.columns if name not in WINDOW_COLUMNS]
    if not len(table):
        left.text(0.5, 0.5, "no teacher yet:\nan empty table", ha="center", va="center")
        for axes in (left, right):
            axes.set_axis_off()
        return figure
    values = table[names].to_numpy()
    left.hist(values.ravel(), bins=50, range=(0, 1), color=INK)
    left.set_yscale("log")
    left.set(xlabel="probability", ylabel="windows x classes")
    counts = pd.Series((values >= SURE).sum(0), index=names).sort_values(ascending=False)
    right.bar(range(len(counts)), counts.to_numpy(), color=CALL)
    class_ticks(right, counts.index)
    right.set_ylabel(f"windows with p ≥ {SURE:g}")
    right.set_title(f"{len(table)} windows of {table['file'].nunique()} soundscapes; "
                    f"{(values.max(1) >= SURE).mean():.0%} hold a label, "
                    f"{(counts > 0).sum()} of {len(names)} classes heard", fontsize=9)
    return figure


def soundscape(table: pd.DataFrame, *, root: Path | str, file: str | None = None, truth: pd.DataFrame | None = None,
               n_classes: int = 10) -> Picture:
    """The spectrogram of a soundscape and, under it, what was heard in each window.

    table  predictions: file, start_s, end_s, one column per class
    root   folder that the table's files are relative to
    file   which one; None takes the one with the surest predictions
    truth  rows of 0 and 1 in the same order for that file, marked by dots, where it is known
    """
    names = [name for name in table.columns if name not in WINDOW_COLUMNS]
    if not len(table):
        figure = figure_of(4.0, 1.0)
        figure.text(0.5, 0.5, "nothing was predicted", ha="center", va="center")
        return figure
    if file is None:
        file = str(table.assign(_sure=table[names].max(axis=1)).groupby("file")["_sure"].mean().idxmax())
    rows = table[table["file"] == file]
    probabilities = rows[names].to_numpy()
    wanted = probabilities.max(0) if truth is None else probabilities.max(0) + truth[names].to_numpy().max(0)
    top = np.argsort(-wanted)[:n_classes]
    figure = figure_of(9.0, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    end_s = float(rows["end_s"].max())
    draw_spectrogram(upper, Path(root) / file, end_s)
    upper.set_title(Path(file).name, fontsize=9)
    image = lower.imshow(probabilities[:, top].T, aspect="auto", vmin=0, vmax=1, cmap="YlOrRd", interpolation="nearest",
                         extent=(float(rows["start_s"].min()), end_s, len(top) - 0.5, -0.5))
    lower.set_yticks(range(len(top)), [names[k] for k in top], fontsize=7)
    lower.set_xlabel("seconds")
    figure.colorbar(image, ax=[upper, lower], label="probability", fraction=0.03)
    if truth is not None:
        windows, places = np.nonzero(truth[names].to_numpy()[:, top])
        middle = (rows["start_s"].to_numpy() + rows["end_s"].to_numpy()) / 2
        lower.plot(middle[windows], places, "o", color=INK, markersize=4)
        lower.set_xlabel("seconds; dots mark what is really there")
    return figure


def per_class(submission: Path | str, truth: Path | str) -> Picture:
    """ROC-AUC of every class with its number of positive windows, worst first."""
    target, probabilities, names = align(submission, truth)
    values = pd.Series(per_class_roc_auc(target, probabilities), index=names).dropna().sort_values()
    positives = pd.Series(target.sum(0), index=names)[values.index]
    figure = figure_of(max(6.0, 0.16 * len(values) + 3), 3.4)
    axes = figure.add_subplot()
    axes.bar(range(len(values)), values.to_numpy(), color=INK)
    axes.axhline(0.5, color=CALL, linewidth=1)
    axes.set_ylim(0.3, 1.0)
    axes.set_ylabel("ROC-AUC (line: chance)")
    class_ticks(axes, [f"{name} ({int(positives[name])})" for name in values.index])
    axes.set_title("in brackets: windows with the class", fontsize=9)
    return figure


def page(competition_dir: Path | str, work_dir: Path | str, *, truth: Path | str | None = None, year: int = 0) -> Path:
    """Write `report.html` into `work_dir`: one self-contained page of a finished pipeline; returns its path.

    Scores stand in it only where the truth is given. A generated competition is named as such.

    year  of the competition, stated; 0 to recognise it
    """
    competition, work, host = Path(competition_dir), Path(work_dir), recognise(competition_dir, year=year)
    submission = work / "submission.csv"
    parts = ["<h1>What birdkit heard</h1>", paragraph(origin_of(competition))]
    if truth is not None:
        parts += ["<h2>Score</h2>", _scores(competition, work, truth, host), image_tag(per_class(submission, truth))]
    classes = read_classes(competition, host)
    table = _submitted_windows(submission, competition, host, classes)
    known = None if truth is None else read_submission(truth, classes=classes)
    shown = _by_name(table, known, host)
    parts += ["<h2>A soundscape</h2>", image_tag(soundscape(table, root=competition / "test_soundscapes", file=shown,
                                                        truth=_truth_rows(known, table, shown, host)))]
    found = update_rounds(Workspace(work, roots=()))
    parts += ["<h2>Rounds</h2>", image_tag(rounds_picture(found))] if found else []
    for history in sorted(work.glob("round*_split*/history.csv")):
        best = checkpoint.read_info(history.parent / "best.safetensors")
        parts += [f"<h2>{html.escape(history.parent.name)}</h2>",
                  paragraph(f"{best['config']['model']['backbone']}, best checkpoint of step {best['step']}, "
                             f"trained on {len(best['seen'])} files"), image_tag(learning_curve(pd.read_csv(history)))]
    for labels in sorted(work.glob("pseudo_labels_r*.parquet")):
        if not labels.stem.removeprefix("pseudo_labels_r").isdigit():  # some teachers' labels of the same soundscapes
            continue
        judged = labels.with_suffix(".html").name
        parts += [f"<h2>{html.escape(labels.stem)}</h2>", image_tag(pseudo_labels(pd.read_parquet(labels))),
                  f'<p><a href="{html.escape(judged)}">More on whether to trust them</a></p>'
                  if (work / judged).is_file() else ""]
    parts += ["<h2>Files</h2>", _audit_table(work)]
    path = work / "report.html"
    return write_html(path, "birdkit", parts)


def _scores(competition: Path, work: Path, truth: Path | str, host: Competition) -> str:
    """A table of every submission's score, and of chance."""
    files = [(path.name, path) for path in sorted(work.glob("submission*.csv"))]
    files.append(("chance (the sample submission)", competition / "sample_submission.csv"))
    rows = [(name, score_interval(path, truth, host.year, metric=host.metric)) for name, path in files]
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in rows)
    head = f"<tr><th>submission</th><th>{html.escape(host.metric)}, 95 % interval over soundscapes</th></tr>"
    return f"<table>{head}{cells}</table>"


def _submitted_windows(submission: Path, competition: Path, host: Competition,
                       classes: Sequence[str]) -> pd.DataFrame:
    """A submission as a table of windows, files by name in the test folder."""
    table = read_submission(submission, classes=classes).reset_index()
    parts = table["row_id"].str.rsplit("_", n=1, expand=True)
    files = [path.name for path in (competition / "test_soundscapes").glob("*.*")
             if path.suffix.lower() in AUDIO_SUFFIXES]
    names = {window_id(name, 0, host).rpartition("_")[0]: name for name in files}
    table.insert(1, "file", parts[0].map(names))
    table.insert(2, "end_s", parts[1].astype(float))
    table.insert(2, "start_s", table["end_s"] - host.window_s)
    return table.dropna(subset=["file"]).drop(columns="row_id").sort_values(["file", "end_s"], ignore_index=True)


def _by_name(table: pd.DataFrame, known: pd.DataFrame | None, host: Competition) -> str | None:
    """The soundscape with the most in it where the truth is known."""
    if known is None:
        return None
    stems = known.index.str.rsplit("_", n=1).str[0]
    busiest = known.groupby(stems).sum().gt(0).sum(axis=1).idxmax()
    files = [file for file in table["file"].unique() if window_id(file, 0, host).rpartition("_")[0] == busiest]
    return files[0] if files else None


def _truth_rows(known: pd.DataFrame | None, table: pd.DataFrame, file: str | None,
                host: Competition) -> pd.DataFrame | None:
    """The truth of one soundscape, its rows in the order of the table."""
    if known is None or file is None:
        return None
    rows = table[table["file"] == file]
    return known.loc[[window_id(file, end_s, host) for end_s in rows["end_s"]]]


def _audit_table(work: Path) -> str:
    report = work / "audit.json"
    if not report.is_file():
        return paragraph("no audit in this folder")
    counts = json.loads(report.read_text(encoding="utf-8"))["counts"]
    rows = "".join(f"<tr><td>{html.escape(str(name))}</td><td>{count}</td></tr>" for name, count in counts.items())
    return f"<table>{rows}</table>"
