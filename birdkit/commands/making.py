"""Commands around a competition: making one, going the whole way, packing, the page, and what models there are."""
from __future__ import annotations

import argparse
from pathlib import Path

from birdkit.commands.base import (
    Commands,
    add_changes,
    add_competition,
    add_year,
    as_change,
    as_round_changes,
    quiet,
    say,
    shown,
)
from birdkit.pipeline import run


def add_making(commands: Commands) -> None:
    """Add generate, pipeline, pack, report, models."""
    command = commands.add_parser("generate", help="write a small generated competition to try things on")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("--year", type=int, default=2025, help="whose files and rows (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--train-soundscapes", type=int, metavar="N",
                         help="minutes beside the recordings (default: 20)")
    command.add_argument("--tiny", action="store_true", help="the size of the tests, made in seconds")
    command.set_defaults(command=_generate_command)

    command = commands.add_parser("pipeline", help="run notebooks 01 to 04 on a competition's files")
    add_competition(command, work="what the notebooks write")
    command.add_argument("--recipe", default="small", help="a named run config (default: %(default)s)")
    command.add_argument("--rounds", type=int, help="of pseudo-labelling (default: the recipe's)")
    command.add_argument("--splits", type=int, nargs="+", metavar="N", help="to train (default: the recipe's)")
    command.add_argument("--every-round", action="store_true", help="write a submission after every round, to compare")
    command.add_argument("--until-no-gain", action="store_true",
                         help="no further round after one that did not gain beyond the noise floor")
    command.add_argument("--seed", type=int, default=0, metavar="N",
                         help="other models of the same kind, to see how much they differ (default: %(default)s)")
    add_changes(command)
    command.add_argument("--set-later", type=as_change, nargs="+", action="extend", default=[], metavar="SETTING=VALUE",
                         help="the same from round 1 on, for what only students have: model__drop_path=0.15")
    command.add_argument("--set-round", nargs="+", action="append", default=[], metavar=("N", "SETTING=VALUE"),
                         help="the same in one round, such as 2 pseudo__power=1.8; can be given again")
    command.add_argument("--ensemble", type=Path, metavar="FILE", help="submit these models, see birdkit.ensembles")
    add_year(command)
    command.set_defaults(command=_pipeline_command)

    command = commands.add_parser("pack", help="write recordings once, cut and resampled, to read them faster")
    add_competition(command)
    command.add_argument("--recipe", default="small", help="whose sample rate (default: %(default)s)")
    command.add_argument("--format", default="flac", choices=("flac", "int16"), help="flac is smaller, int16 faster")
    command.add_argument("--seconds", type=float, metavar="N", help="of each recording at most (default: all)")
    command.add_argument("--part", default="first", choices=("first", "loudest"), help="which (default: %(default)s)")
    command.add_argument("--limit-gib", type=float, metavar="N", help="refuse to write more; Kaggle keeps 20 GB")
    command.add_argument("--soundscapes", action="store_true", help="those that training mixes in, too, whole")
    command.add_argument("--estimate", action="store_true", help="only say how large it would be")
    command.set_defaults(command=_pack_command)

    command = commands.add_parser("report", help="write a page that shows what a finished pipeline heard")
    add_competition(command, work="what the notebooks write")
    command.add_argument("--truth", type=Path, help="of the test soundscapes, where it is known")
    add_year(command)
    command.set_defaults(command=_report_command)

    command = commands.add_parser("models", help="list the models and front ends there are, with size and speed")
    command.add_argument("names", nargs="*", metavar="MODEL", help="only these (default: all)")
    command.add_argument("--front-end", default="", metavar="NAME", help="instead of the published one")
    command.add_argument("--backbone", default="", metavar="NAME", help="a timm name instead of the published one")
    command.add_argument("--classes", type=int, default=206, metavar="K")
    command.add_argument("--no-timing", action="store_true", help="sizes alone, which takes less long")
    command.add_argument("--parity", type=Path, metavar="AUDIO_DIR", help="compare the export of every model on every "
                         "front end with torch, on audio of this folder")
    command.set_defaults(command=_models_command)


def _generate_command(options: argparse.Namespace) -> None:
    """Write a generated mini-competition and say where it and its truth are."""
    from birdkit import synthesis

    sizes = dict(synthesis.TINY) if options.tiny else {}
    if options.train_soundscapes is not None:
        sizes["n_train_soundscapes"] = options.train_soundscapes
    generated = synthesis.generate(options.folder, year=options.year, seed=options.seed, **sizes)
    say(f"generated competition: {generated.competition_dir}\nits truth: {generated.truth_path}")


def _pipeline_command(options: argparse.Namespace) -> None:
    """Run the notebooks and say where the submission is."""
    path = run(options.competition_dir, options.work_dir, recipe=options.recipe, rounds=options.rounds,
               splits=options.splits, every_round=options.every_round, until_no_gain=options.until_no_gain,
               seed=options.seed, changes=dict(options.set), later=dict(options.set_later),
               by_round=as_round_changes(options.set_round), ensemble=options.ensemble, year=options.year)
    say(f"submission: {path}")


def _pack_command(options: argparse.Namespace) -> None:
    """Write every recording once in a form that is fast to read again, or say how large that would be.

    Raises ValueError for soundscapes of which only `seconds` were asked for: their windows lie anywhere in them.
    """
    import pandas as pd

    from birdkit import kaggle, recipes
    from birdkit.data import packing

    work = kaggle.Workspace(options.work_dir)
    if options.soundscapes and options.seconds is not None:
        raise ValueError(f"--seconds {options.seconds:g} would cut the soundscapes, too, whose windows lie anywhere in "
                         "them: leave out --seconds, or --soundscapes")
    tables = {"recordings": pd.read_parquet(work.recordings())}
    if options.soundscapes:
        tables["soundscapes"] = pd.read_parquet(work.soundscapes())
        windows = work.labelled_soundscapes()
        if windows is not None:
            tables["labelled soundscapes"] = pd.read_parquet(windows).groupby("file", as_index=False).agg(
                duration_s=("end_s", "max"))
    how = {"sample_rate_hz": recipes.get(options.recipe).config.frontend.sample_rate_hz, "seconds": options.seconds,
           "part": options.part}
    for name, part in tables.items():
        size = packing.estimate(part, options.competition_dir, work.packed_dir(), **how)
        say(f"{size.files} {name}: {size.flac / 2**30:.2f} GiB as flac, {size.int16 / 2**30:.2f} GiB as int16; "
            f"{size.free / 2**30:.1f} GiB are free")
    if not options.estimate:
        table = pd.concat([part[["file", "duration_s"]] for part in tables.values()], ignore_index=True)
        packed = packing.pack(table, options.competition_dir, work.packed_dir(), format=options.format,
                              limit_gib=options.limit_gib, **how)
        say(f"packed: {len(packed)} files in {packed.folder}")


def _report_command(options: argparse.Namespace) -> None:
    """Write the page of pictures and figures of a finished pipeline and say where."""
    from birdkit import reports

    say(f"report: {reports.page(options.competition_dir, options.work_dir, truth=options.truth, year=options.year)}")


def _models_command(options: argparse.Namespace) -> None:
    """Say what front ends and models there are, how large and how fast; or how true their exports are."""
    from birdkit import catalogue
    from birdkit.recipes.presets import FRONT_ENDS

    if options.parity:
        chosen = [choice for name in ([options.front_end] if options.front_end else FRONT_ENDS)
                  for choice in catalogue.choices(names=options.names, backbone=options.backbone, frontend=name)]
        with quiet("birdkit.backends.conversion"):  # the table says it
            table = catalogue.export_parity(chosen, options.parity, n_classes=options.classes)
        say(shown(table))
        return
    chosen = catalogue.choices(names=options.names, backbone=options.backbone, frontend=options.front_end)
    if not options.names:
        say(shown(catalogue.list_front_ends(timing=not options.no_timing)) + "\n")
    say(shown(catalogue.list_models(chosen, n_classes=options.classes, timing=not options.no_timing)))
