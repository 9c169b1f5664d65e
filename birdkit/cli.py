"""The `birdkit` command: results on stdout, everything else on stderr.

What takes long to load is imported inside the command that needs it, so that `birdkit --help` answers at once.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import birdkit
from birdkit.jobs import JobsError
from birdkit.pipeline import PipelineError, run

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it succeeded, 1 with one line on stderr where its input is at fault."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.command(options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, PipelineError, JobsError) as error:
        if options.debug:
            raise
        sys.stderr.write(f"birdkit: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("birdkit: stopped; the same command goes on from here\n")
        return 130
    return 0


def generate_command(options: argparse.Namespace) -> None:
    """Write a generated mini-competition and say where it and its truth are."""
    from birdkit import synthesis

    sizes = synthesis.TINY if options.tiny else {}
    generated = synthesis.generate(options.folder, year=options.year, seed=options.seed, **sizes)
    _say(f"generated competition: {generated.competition_dir}\nits truth: {generated.truth_path}")


def pipeline_command(options: argparse.Namespace) -> None:
    """Run the notebooks and say where the submission is."""
    path = run(options.competition_dir, options.work_dir, recipe=options.recipe, rounds=options.rounds,
               splits=options.splits, every_round=options.every_round, until_no_gain=options.until_no_gain,
               seed=options.seed, changes=dict(options.set), ensemble=options.ensemble, year=options.year)
    _say(f"submission: {path}")


def pack_command(options: argparse.Namespace) -> None:
    """Write every recording once in a form that is fast to read again, or say how large that would be."""
    import pandas as pd

    from birdkit import kaggle, packing, recipes

    work = kaggle.Workspace(options.work_dir)
    table = pd.read_parquet(work.recordings())
    how = {"sample_rate_hz": recipes.get(options.recipe).config.frontend.sample_rate_hz, "seconds": options.seconds,
           "part": options.part}
    size = packing.estimate(table, options.competition_dir, work.packed_dir(), **how)
    _say(f"{size.files} recordings: {size.flac / 2**30:.2f} GiB as flac, {size.int16 / 2**30:.2f} GiB as int16; "
         f"{size.free / 2**30:.1f} GiB are free")
    if not options.estimate:
        packed = packing.pack(table, options.competition_dir, work.packed_dir(), format=options.format,
                              limit_gib=options.limit_gib, **how)
        _say(f"packed: {len(packed)} recordings in {packed.folder}")


def label_command(options: argparse.Namespace) -> None:
    """Let teachers label soundscapes, as notebook 02 does, and say where the labels and their page are."""
    from birdkit import label_run

    run = label_run.LabelRun(options.competition_dir, options.work_dir, options.recipe, options.round,
                             changes=dict(options.set), teachers=options.teachers, ensemble=options.ensemble,
                             root=options.root, files=options.files, out=options.out, device=options.device,
                             year=options.year)
    outcome = label_run.label_round(run)
    tables = [outcome.table, *([outcome.recording_labels] if outcome.recording_labels else [])]
    _say("\n".join([*(f"labels: {table}" for table in tables), f"page: {outcome.page}"]))


def train_command(options: argparse.Namespace) -> None:
    """Train one split, as notebook 03 does, and say where its best checkpoint is."""
    from birdkit import runs

    chosen = runs.Run(options.competition_dir, options.work_dir, options.recipe, options.round, options.split,
                      changes=dict(options.set), noise=dict(options.noise), out_dir=options.out,
                      pseudo_labels=options.pseudo_labels, resume_from=options.resume_from, ends_s=options.ends,
                      year=options.year)
    result = runs.train(chosen)
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun lets train one model
        _say(f"checkpoint: {result.best}" if result.finished else f"not finished: {chosen.folder}; start it again")


def train_calls_command(options: argparse.Namespace) -> None:
    """Train a call detector and say where its best checkpoint is."""
    from birdkit import call_run

    chosen = call_run.CallRun(options.competition_dir, options.work_dir, options.recipe, options.split,
                              changes=dict(options.set), labelled=options.labelled, noise=options.noise,
                              year=options.year)
    _say(f"checkpoint: {call_run.train_calls(chosen).best}")


def export_command(options: argparse.Namespace) -> None:
    """Export checkpoints for another runtime, and say where the bundles are and what the gate measured."""
    from birdkit import bundle_export

    folders = [bundle_export.bundle_folder(path, options.backend, options.precision, options.out)
               for path in options.checkpoints]
    if len(set(folders)) < len(folders):
        raise ValueError(f"two of these checkpoints would be exported to one folder: {sorted(map(str, folders))}")
    with bundle_export.material(options.audio, precision=options.precision, calibration=options.calibration,
                                truth=options.truth) as measured_on:
        for path, folder in zip(options.checkpoints, folders, strict=True):
            exported = bundle_export.export_bundle(path, measured_on, backend=options.backend, folder=folder,
                                                   precision=options.precision, window_s=options.window)
            spared = f"; left as they are: {exported.spared}" if exported.spared else ""
            _say(f"bundle: {exported.folder}\n  {exported.report}{spared}")


def compare_command(options: argparse.Namespace) -> None:
    """Train what a table of runs asks for, say how they differ, and write the table and a picture."""
    from birdkit import experiments, jobs, plan, report_compare

    table = plan.read_table(options.table)
    if options.seeds is not None:
        table = dataclasses.replace(table, seeds=tuple(options.seeds))
    with _quiet("birdkit.profiles"):  # it would say the year for every training
        report = experiments.run_table(table, options.competition_dir, options.work_dir, jobs=options.jobs,
                                       only=options.only)
    _say(report_compare.text(report, markdown=options.markdown))
    if report.comparison is not None:
        report_compare.picture(report).savefig(report.picture, dpi=150)
        _say(f"\n{report.csv}\n{report.picture}")
    jobs.check_outcomes(report.outcomes)


def rounds_command(options: argparse.Namespace) -> None:
    """Say what each round of pseudo-labelling brought, over several work folders where they differ in their seed."""
    from birdkit import kaggle, report_rounds, rounds

    found = rounds.read_rounds(*(kaggle.Workspace(folder) for folder in options.work_dirs))
    _say(report_rounds.rounds_text(found, markdown=options.markdown))
    path = (options.out or options.work_dirs[0]) / rounds.ROUNDS
    rounds.write_rounds(found, path)
    report_rounds.rounds_picture(found).savefig(path.with_suffix(".png"), dpi=150)
    _say(f"\n{path}\n{path.with_suffix('.png')}")


def ensemble_command(options: argparse.Namespace) -> None:
    """Write an ensemble of trained runs, with equal weights or also with fitted ones, and say what those are worth."""
    from birdkit import ensemble_making

    making = ensemble_making.Making(tuple(options.runs), options.out, options.blend)
    _say(ensemble_making.fit(making) if options.fit else ensemble_making.write_equal(making))


def effects_command(options: argparse.Namespace) -> None:
    """Say what every published post-processing and way to blend does to the metric, and write it as CSV."""
    from birdkit import effects_run, report_effects

    run = effects_run.EffectsRun(options.competition_dir, options.work_dir, tuple(options.checkpoints or ()),
                                 options.ensemble, options.truth, options.quantile)
    measured = effects_run.measure_effects(run)
    path = (options.out or options.work_dir) / f"{run.name}.csv"
    report_effects.write_effects(measured, path)
    _say(f"{report_effects.effects_text(measured, markdown=options.markdown)}\n\n{path}")


def score_command(options: argparse.Namespace) -> None:
    """Say the year's metric of a submission with its 95 % interval, bootstrapped over soundscapes."""
    from birdkit import submission
    from birdkit.profiles import profile

    metric = options.metric or profile(options.year).metric
    interval = submission.score_interval(options.submission, options.truth, options.year, metric=metric)
    _say(f"{metric} {interval}")
    if options.per_class:
        _say(_shown(submission.score_classes(options.submission, options.truth)))


def check_command(options: argparse.Namespace) -> None:
    """Say that a submission is as the host wants it, or what is wrong."""
    from birdkit import profiles, submission

    competition = profiles.recognise(options.competition_dir, year=options.year)
    table = submission.validate(options.submission, options.competition_dir, competition)
    _say(f"{options.submission}: {len(table)} windows, {len(table.columns)} classes, {competition.row_format} as in "
         f"{competition.year}, ready to submit{' if what was guessed is right' if competition.guessed else ''}")


def report_command(options: argparse.Namespace) -> None:
    """Write the page of pictures and figures of a finished pipeline and say where."""
    from birdkit import report as pictures

    _say(f"report: {pictures.page(options.competition_dir, options.work_dir, truth=options.truth, year=options.year)}")


def models_command(options: argparse.Namespace) -> None:
    """Say what front ends and models there are, how large and how fast; or how true their exports are."""
    from birdkit import catalogue
    from birdkit.presets import FRONT_ENDS

    if options.parity:
        chosen = [choice for name in ([options.front_end] if options.front_end else FRONT_ENDS)
                  for choice in catalogue.choices(names=options.names, backbone=options.backbone, frontend=name)]
        with _quiet("birdkit.export"):  # the table says it
            table = catalogue.export_parity(chosen, options.parity, n_classes=options.classes)
        _say(_shown(table))
        return
    chosen = catalogue.choices(names=options.names, backbone=options.backbone, frontend=options.front_end)
    if not options.names:
        _say(_shown(catalogue.list_front_ends(timing=not options.no_timing)) + "\n")
    _say(_shown(catalogue.list_models(chosen, n_classes=options.classes, timing=not options.no_timing)))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Warnings alone from one logger; afterwards it is as it was, since the process may go on."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _shown(table: pd.DataFrame) -> str:
    """A table as text, empty where a value is missing."""
    return table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="birdkit", description=(birdkit.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"birdkit {birdkit.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("generate", help="write a small generated competition to try things on")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("--year", type=int, default=2025, help="whose files and rows (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--tiny", action="store_true", help="the size of the tests, made in seconds")
    command.set_defaults(command=generate_command)

    command = commands.add_parser("pipeline", help="run notebooks 01 to 04 on a competition's files")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR")
    command.add_argument("--recipe", default="small", help="a named run config (default: %(default)s)")
    command.add_argument("--rounds", type=int, help="of pseudo-labelling (default: the recipe's)")
    command.add_argument("--splits", type=int, nargs="+", metavar="N", help="to train (default: the recipe's)")
    command.add_argument("--every-round", action="store_true", help="write a submission after every round, to compare")
    command.add_argument("--until-no-gain", action="store_true",
                         help="no further round after one that did not gain beyond the noise floor")
    command.add_argument("--seed", type=int, default=0, metavar="N",
                         help="other models of the same kind, to see how much they differ (default: %(default)s)")
    command.add_argument("--set", type=_change, nargs="+", action="extend", default=[], metavar="SETTING=VALUE",
                         help="a change of the recipe, such as train__epochs=5; values are JSON")
    command.add_argument("--ensemble", type=Path, metavar="FILE", help="submit these models, see birdkit.ensembles")
    _add_year(command)
    command.set_defaults(command=pipeline_command)

    command = commands.add_parser("pack", help="write the recordings once, cut and resampled, to read them faster")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="where notebook 01 wrote its tables")
    command.add_argument("--recipe", default="small", help="whose sample rate (default: %(default)s)")
    command.add_argument("--format", default="flac", choices=("flac", "int16"), help="flac is smaller, int16 faster")
    command.add_argument("--seconds", type=float, metavar="N", help="of each recording at most (default: all)")
    command.add_argument("--part", default="first", choices=("first", "loudest"), help="which (default: %(default)s)")
    command.add_argument("--limit-gib", type=float, metavar="N", help="refuse to write more; Kaggle keeps 20 GB")
    command.add_argument("--estimate", action="store_true", help="only say how large it would be")
    command.set_defaults(command=pack_command)

    command = commands.add_parser("label", help="let checkpoints label soundscapes, as notebook 02 does")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR", help="whose classes and windows")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="where the notebooks wrote")
    command.add_argument("--round", type=int, required=True, help="that will train on the labels, from 1 on")
    command.add_argument("--recipe", default="small", help="a named run config (default: %(default)s)")
    command.add_argument("--set", type=_change, nargs="+", action="extend", default=[], metavar="SETTING=VALUE",
                         help="a change of the recipe, such as labelling__stride_s=2.5; values are JSON")
    command.add_argument("--teachers", type=Path, nargs="+", default=[], metavar="PATH",
                         help="checkpoints (default: all of the round before, in WORK_DIR)")
    command.add_argument("--ensemble", default="", metavar="FILE", help="these teachers, see birdkit.ensembles")
    command.add_argument("--root", type=Path, metavar="DIR",
                         help="one's own audio: everything below this folder instead of the competition's soundscapes")
    command.add_argument("--files", nargs="+", default=[], metavar="FILE", help="only these, relative to --root")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: WORK_DIR/pseudo_labels_r<ROUND>.parquet")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    _add_year(command)
    command.set_defaults(command=label_command)

    command = commands.add_parser("train", help="train one split, as notebook 03 does; torchrun can start it")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="where notebook 01 wrote its tables")
    command.add_argument("--recipe", default="small", help="a named run config (default: %(default)s)")
    command.add_argument("--round", type=int, default=0, help="from 1 on with pseudo-labels (default: %(default)s)")
    command.add_argument("--split", type=int, default=0, help="that validates; -1 for none (default: %(default)s)")
    command.add_argument("--set", type=_change, nargs="+", action="extend", default=[], metavar="SETTING=VALUE",
                         help="a change of the recipe, such as train__epochs=5; values are JSON")
    command.add_argument("--out", type=Path, metavar="DIR", help="default: WORK_DIR/round<ROUND>_split<SPLIT>")
    command.add_argument("--pseudo-labels", type=Path, metavar="FILE", help="default: the round's in WORK_DIR")
    command.add_argument("--noise", type=_folder, nargs="+", action="extend", default=[], metavar="NAME=DIR",
                         help="the folder of one of the recipe's sources of noise")
    command.add_argument("--resume-from", default="", metavar="DIR", help="what an earlier session has left")
    command.add_argument("--ends", type=float, default=0.0, metavar="TIME",
                         help="seconds since 1970 at which to save and stop, such as $(date -d '11 hours' +%%s)")
    _add_year(command)
    command.set_defaults(command=train_command)

    command = commands.add_parser("train-calls", help="train a call detector, the gate of a submission")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="where notebook 04 will look for it")
    command.add_argument("--recipe", default="call_detector", help="a named run config (default: %(default)s)")
    command.add_argument("--split", type=int, default=0, help="that validates; -1 for none (default: %(default)s)")
    command.add_argument("--set", type=_change, nargs="+", action="extend", default=[], metavar="SETTING=VALUE",
                         help="a change of the recipe, such as train__epochs=5; values are JSON")
    command.add_argument("--labelled", type=_folder, nargs="+", action="extend", default=[], metavar="CSV=DIR",
                         help="short files with and without birds, and their table of itemid and hasbird")
    command.add_argument("--noise", type=Path, nargs="+", action="extend", default=[], metavar="DIR",
                         help="audio in which nothing calls")
    _add_year(command)
    command.set_defaults(command=train_calls_command)
    command = commands.add_parser("export", help="write checkpoints as bundles for a fast runtime, and prove them")
    command.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    command.add_argument("--backend", default="openvino", choices=("openvino", "onnxruntime"))
    command.add_argument("--precision", default="f32", choices=("f32", "bf16", "f16", "int8"),
                         help="only openvino has others than f32 (default: %(default)s)")
    command.add_argument("--audio", type=Path, metavar="DIR", help="soundscapes to measure on (default: generated)")
    command.add_argument("--calibration", type=Path, metavar="DIR",
                         help="for the ranges of int8 (default: every fourth of those files)")
    command.add_argument("--truth", type=Path, metavar="CSV", help="row_id and class columns of the soundscapes")
    command.add_argument("--window", type=float, metavar="SECONDS", help="of a row (default: as the run's year)")
    command.add_argument("--out", type=Path, metavar="DIR", help="instead of beside each checkpoint")
    command.set_defaults(command=export_command)

    command = commands.add_parser("compare", help="train a table of runs with several seeds each, and compare them")
    command.add_argument("table", type=Path, metavar="TABLE", help="a TOML file, see birdkit.plan.Table")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR")
    command.add_argument("--jobs", type=int, default=1, metavar="N",
                         help="trainings at once; 0 compares what is done (default: %(default)s)")
    command.add_argument("--seeds", type=int, nargs="+", metavar="N", help="instead of the table's")
    command.add_argument("--only", nargs="+", default=[], metavar="NAME", help="train only these runs")
    command.add_argument("--markdown", action="store_true", help="say the table as markdown")
    command.set_defaults(command=compare_command)

    command = commands.add_parser("rounds", help="what each round of pseudo-labelling brought")
    command.add_argument("work_dirs", type=Path, nargs="+", metavar="WORK_DIR",
                         help="several that differ in their seed are taken together")
    command.add_argument("--out", type=Path, metavar="DIR", help="for rounds.csv and its picture (default: the first)")
    command.add_argument("--markdown", action="store_true", help="say the table as markdown")
    command.set_defaults(command=rounds_command)

    command = commands.add_parser("ensemble", help="write the file of an ensemble of trained runs")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="folder of notebook 03's run")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a TOML file, see birdkit.ensembles")
    command.add_argument("--blend", default="probabilities", metavar="HOW", help="see birdkit.blending.blend")
    command.add_argument("--fit", action="store_true", help="weights fitted to the validation of the runs' split, "
                         "beside equal ones, and what that is worth on files it has not seen")
    command.set_defaults(command=ensemble_command)

    command = commands.add_parser("effects", help="what every published post-processing does to the metric")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    command.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="where notebook 01 wrote its tables")
    command.add_argument("--checkpoints", type=Path, nargs="+", metavar="FILE",
                         help="of one split (default: those of round 0 in WORK_DIR)")
    command.add_argument("--ensemble", default="", metavar="FILE", help="these models instead, see birdkit.ensembles")
    command.add_argument("--truth", type=Path, help="measure on the test soundscapes that it has rows for (default: on "
                         "the validation of the models' split)")
    command.add_argument("--quantile", type=float, metavar="Q", help="score decisions: above this quantile of all "
                         "probabilities or not (first seed: 0.85)")
    command.add_argument("--out", type=Path, metavar="DIR", help="for the CSV file (default: WORK_DIR)")
    command.add_argument("--markdown", action="store_true", help="say the tables as markdown")
    command.set_defaults(command=effects_command)

    command = commands.add_parser("score", help="score a submission against a truth")
    command.add_argument("submission", type=Path, metavar="SUBMISSION")
    command.add_argument("truth", type=Path, metavar="TRUTH")
    command.add_argument("--year", type=int, required=True, help="whose metric")
    command.add_argument("--metric", default="", metavar="NAME", help="another one, see birdkit.metrics.METRICS")
    command.add_argument("--per-class", action="store_true", help="also the figures of every class, worst first")
    command.set_defaults(command=score_command)

    command = commands.add_parser("check", help="check a submission before it is submitted")
    command.add_argument("submission", type=Path, metavar="SUBMISSION")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    _add_year(command)
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
    _add_year(command)
    command.set_defaults(command=report_command)
    return parser


def _add_year(command: argparse.ArgumentParser) -> None:
    """The option by which a person states what is recognised otherwise."""
    command.add_argument("--year", type=int, default=0, metavar="YEAR",
                         help="of the competition's files (default: recognised by them)")


def _change(text: str) -> tuple[str, Any]:
    """ "train__epochs=5" as ("train__epochs", 5); what is not JSON is text."""
    setting, sign, value = text.partition("=")
    if not sign or not setting:
        raise argparse.ArgumentTypeError(f"{text!r} is not SETTING=VALUE")
    try:
        return setting, json.loads(value)
    except json.JSONDecodeError:
        return setting, value


def _folder(text: str) -> tuple[str, str]:
    """ "nocall=/data/ff1010bird" as ("nocall", "/data/ff1010bird")."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, folder


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
