"""The `birdkit` command: results on stdout, everything else on stderr.

What takes long to load is imported inside the command that needs it, so that `birdkit --help` answers at once.
"""
from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import birdkit
from birdkit.pipeline import PipelineError, run

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it succeeded, 1 with one line on stderr where its input is at fault."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.command(options)
    except (OSError, ValueError, KeyError, TypeError, PipelineError) as error:
        if options.debug:
            raise
        sys.stderr.write(f"birdkit: {error}\n")
        return 1
    return 0


def generate_command(options: argparse.Namespace) -> None:
    """Write a generated mini-competition and say where it and its truth are."""
    from birdkit import synthesis

    generated = synthesis.generate(options.folder, seed=options.seed)
    _say(f"generated competition: {generated.competition_dir}\nits truth: {generated.truth_path}")


def pipeline_command(options: argparse.Namespace) -> None:
    """Run the notebooks and say where the submission is."""
    path = run(options.competition_dir, options.work_dir, recipe=options.recipe, rounds=options.rounds,
               splits=options.splits, every_round=options.every_round, changes=dict(options.set))
    _say(f"submission: {path}")


def score_command(options: argparse.Namespace) -> None:
    """Say the year's metric of a submission with its 95 % interval, bootstrapped over soundscapes."""
    from birdkit import submission
    from birdkit.profiles import profile

    interval = submission.score_interval(options.submission, options.truth, options.year)
    _say(f"{profile(options.year).metric} {interval}")


def check_command(options: argparse.Namespace) -> None:
    """Say that a submission is as the host wants it, or what is wrong."""
    from birdkit import submission

    table = submission.validate(options.submission, options.competition_dir)
    _say(f"{options.submission}: {len(table)} rows, {len(table.columns)} classes, ready to submit")


def report_command(options: argparse.Namespace) -> None:
    """Write the page of pictures and figures of a finished pipeline and say where."""
    from birdkit import report as pictures

    _say(f"report: {pictures.page(options.competition_dir, options.work_dir, truth=options.truth)}")


def models_command(options: argparse.Namespace) -> None:
    """Say what front ends and models there are, how large and how fast; or how true their exports are."""
    from birdkit import catalogue
    from birdkit.presets import FRONT_ENDS

    logging.getLogger("birdkit.export").setLevel(logging.WARNING)  # the table says it
    if options.parity:
        chosen = [choice for name in ([options.front_end] if options.front_end else FRONT_ENDS)
                  for choice in catalogue.choices(names=options.names, backbone=options.backbone, frontend=name)]
        _say(_table(catalogue.export_parity(chosen, options.parity, n_classes=options.classes)))
        return
    chosen = catalogue.choices(names=options.names, backbone=options.backbone, frontend=options.front_end)
    if not options.names:
        _say(_table(catalogue.list_front_ends(timing=not options.no_timing)) + "\n")
    _say(_table(catalogue.list_models(chosen, n_classes=options.classes, timing=not options.no_timing)))


def _table(table: pd.DataFrame) -> str:
    """A table as text, empty where a value is missing."""
    return table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="birdkit", description=(birdkit.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"birdkit {birdkit.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("generate", help="write a small generated competition to try things on")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(command=generate_command)

    command = commands.add_parser("pipeline", help="run notebooks 01 to 04 on a competition's files")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR")
    command.add_argument("--recipe", default="small", help="a named run config (default: %(default)s)")
    command.add_argument("--rounds", type=int, help="of pseudo-labelling (default: the recipe's)")
    command.add_argument("--splits", type=int, nargs="+", metavar="N", help="to train (default: the recipe's)")
    command.add_argument("--every-round", action="store_true", help="write a submission after every round, to compare")
    command.add_argument("--set", type=_change, nargs="+", action="extend", default=[], metavar="SETTING=VALUE",
                         help="a change of the recipe when training, such as train__epochs=5; values are JSON")
    command.set_defaults(command=pipeline_command)

    command = commands.add_parser("score", help="score a submission against a truth")
    command.add_argument("submission", type=Path, metavar="SUBMISSION")
    command.add_argument("truth", type=Path, metavar="TRUTH")
    command.add_argument("--year", type=int, required=True, help="whose metric")
    command.set_defaults(command=score_command)

    command = commands.add_parser("check", help="check a submission before it is submitted")
    command.add_argument("submission", type=Path, metavar="SUBMISSION")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.set_defaults(command=check_command)

    command = commands.add_parser("models", help="list the models and front ends there are, with size and speed")
    command.add_argument("names", nargs="*", metavar="MODEL", help="only these (default: all)")
    command.add_argument("--front-end", default="", metavar="NAME", help="instead of the published one")
    command.add_argument("--backbone", default="", metavar="NAME", help="a timm name instead of the published one")
    command.add_argument("--classes", type=int, default=206, metavar="K")
    command.add_argument("--no-timing", action="store_true", help="sizes alone, which takes less long")
    command.add_argument("--parity", type=Path, metavar="AUDIO_DIR", help="compare the export of every model on every "
                         "front end with torch, on audio of this folder")
    command.set_defaults(command=models_command)

    command = commands.add_parser("report", help="write a page that shows what a finished pipeline heard")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR")
    command.add_argument("--truth", type=Path, help="of the test soundscapes, where it is known")
    command.set_defaults(command=report_command)
    return parser


def _change(text: str) -> tuple[str, Any]:
    """ "train__epochs=5" as ("train__epochs", 5); what is not JSON is text."""
    setting, sign, value = text.partition("=")
    if not sign or not setting:
        raise argparse.ArgumentTypeError(f"{text!r} is not SETTING=VALUE")
    try:
        return setting, json.loads(value)
    except json.JSONDecodeError:
        return setting, value


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
