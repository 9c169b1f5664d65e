"""Commands that train and label, and that compare what was trained."""
from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from birdkit.commands.base import Commands, add_changes, add_competition, add_year, as_folder, quiet, say


def add_learning(commands: Commands) -> None:
    """Add label, train, compare, rounds."""
    command = commands.add_parser("label", help="let checkpoints label soundscapes, as notebook 02 does")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR", help="whose classes and windows")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="where the notebooks wrote")
    command.add_argument("--round", type=int, required=True, help="that will train on the labels, from 1 on")
    command.add_argument("--recipe", default="small", help="a named run config (default: %(default)s)")
    add_changes(command)
    command.add_argument("--teachers", type=Path, nargs="+", default=[], metavar="PATH",
                         help="checkpoints (default: all of the round before, in WORK_DIR)")
    command.add_argument("--ensemble", default="", metavar="FILE", help="these teachers, see birdkit.ensembles")
    command.add_argument("--root", type=Path, metavar="DIR",
                         help="one's own audio: everything below this folder instead of the competition's soundscapes")
    command.add_argument("--files", nargs="+", default=[], metavar="FILE", help="only these, relative to --root")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: WORK_DIR/pseudo_labels_r<ROUND>.parquet")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add_year(command)
    command.set_defaults(command=_label_command)

    command = commands.add_parser("train", help="train one split, as notebook 03 does; torchrun can start it")
    add_competition(command)
    command.add_argument("--recipe", default="small", help="a named run config (default: %(default)s)")
    command.add_argument("--round", type=int, default=0, help="from 1 on with pseudo-labels (default: %(default)s)")
    command.add_argument("--split", type=int, default=0, help="that validates; -1 for none (default: %(default)s)")
    add_changes(command)
    command.add_argument("--out", type=Path, metavar="DIR", help="default: WORK_DIR/round<ROUND>_split<SPLIT>")
    command.add_argument("--pseudo-labels", type=Path, metavar="FILE", help="default: the round's in WORK_DIR")
    command.add_argument("--noise", type=as_folder, nargs="+", action="extend", default=[], metavar="NAME=DIR",
                         help="the folder of one of the recipe's sources of noise; for a call detector, one in which "
                              "nothing calls")
    command.add_argument("--labelled", type=as_folder, nargs="+", action="extend", default=[], metavar="CSV=DIR",
                         help="for a call detector: short files with and without birds, and their table of itemid and "
                              "hasbird")
    command.add_argument("--resume-from", default="", metavar="DIR", help="what an earlier session has left")
    command.add_argument("--ends", type=float, default=0.0, metavar="TIME",
                         help="seconds since 1970 at which to save and stop, such as $(date -d '11 hours' +%%s)")
    add_year(command)
    command.set_defaults(command=_train_command)

    command = commands.add_parser("compare", help="train a table of runs with several seeds each, and compare them")
    command.add_argument("table", type=Path, metavar="TABLE", help="a TOML file, see birdkit.experiments.Table")
    add_competition(command, work="what the notebooks write")
    command.add_argument("--jobs", type=int, default=1, metavar="N",
                         help="trainings at once; 0 compares what is done (default: %(default)s)")
    command.add_argument("--seeds", type=int, nargs="+", metavar="N", help="instead of the table's")
    add_changes(command)
    command.add_argument("--only", nargs="+", default=[], metavar="NAME", help="train only these runs")
    command.add_argument("--truth", type=Path, help="compare on the test soundscapes instead, at the end: what is "
                         "chosen by it is chosen by the test")
    command.add_argument("--markdown", action="store_true", help="say the table as markdown")
    add_year(command)
    command.set_defaults(command=_compare_command)

    command = commands.add_parser("rounds", help="what each round of pseudo-labelling brought")
    command.add_argument("work_dirs", type=Path, nargs="+", metavar="WORK_DIR",
                         help="several that differ in their seed are taken together")
    command.add_argument("--out", type=Path, metavar="DIR", help="for rounds.csv and its picture (default: the first)")
    command.add_argument("--markdown", action="store_true", help="say the table as markdown")
    command.set_defaults(command=_rounds_command)


def _label_command(options: argparse.Namespace) -> None:
    """Let teachers label soundscapes, as notebook 02 does, and say where the labels and their page are."""
    from birdkit.runs import labelling

    run = labelling.LabelRun(options.competition_dir, options.work_dir, options.recipe, options.round,
                             changes=dict(options.set), teachers=options.teachers, ensemble=options.ensemble,
                             root=options.root, files=options.files, out=options.out, device=options.device,
                             year=options.year)
    outcome = labelling.label_round(run)
    tables = [outcome.table, *([outcome.recording_labels] if outcome.recording_labels else [])]
    say("\n".join([*(f"labels: {table}" for table in tables), f"page: {outcome.page}"]))


def _train_command(options: argparse.Namespace) -> None:
    """Train one split, as notebook 03 does, and say where its best checkpoint is."""
    from birdkit.runs import training

    chosen = training.Run(options.competition_dir, options.work_dir, options.recipe, options.round, options.split,
                          changes=dict(options.set), noise=dict(options.noise), labelled=dict(options.labelled),
                          out_dir=options.out, pseudo_labels=options.pseudo_labels, resume_from=options.resume_from,
                          ends_s=options.ends, year=options.year)
    result = training.train(chosen)
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun lets train one model
        say(f"checkpoint: {result.best}" if result.finished else f"not finished: {chosen.folder}; start it again")


def _compare_command(options: argparse.Namespace) -> None:
    """Train what a table of runs asks for, say how they differ, and write the table and a picture."""
    from birdkit import experiments
    from birdkit.reports import comparison
    from birdkit.runs import jobs

    table = experiments.read_table(options.table)
    if options.seeds is not None:
        table = dataclasses.replace(table, seeds=tuple(options.seeds))
    table = dataclasses.replace(table, changes={**table.changes, **dict(options.set)}, year=options.year or table.year)
    with quiet("birdkit.profiles"):  # it would say the year for every training
        report = experiments.run_table(table, options.competition_dir, options.work_dir, jobs=options.jobs,
                                       only=options.only, truth=options.truth)
    say(comparison.text(report, markdown=options.markdown))
    if report.comparison is not None:
        comparison.picture(report).savefig(report.picture, dpi=150)
        say(f"\n{report.csv}\n{report.picture}")
    jobs.check_outcomes(report.outcomes)


def _rounds_command(options: argparse.Namespace) -> None:
    """Say what each round of pseudo-labelling brought, over several work folders where they differ in their seed."""
    from birdkit import kaggle, reports
    from birdkit.runs import rounds

    found = rounds.read_rounds(*(kaggle.Workspace(folder) for folder in options.work_dirs))
    say(reports.rounds_text(found, markdown=options.markdown))
    path = (options.out or options.work_dirs[0]) / rounds.ROUNDS
    rounds.write_rounds(found, path)
    reports.rounds_picture(found).savefig(path.with_suffix(".png"), dpi=150)
    say(f"\n{path}\n{path.with_suffix('.png')}")
