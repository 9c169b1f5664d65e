"""Commands on the way from checkpoints to a submission, and what it is worth."""
from __future__ import annotations

import argparse
from pathlib import Path

from birdkit.commands.base import Commands, add_competition, add_year, as_change, say, shown


def add_submitting(commands: Commands) -> None:
    """Add export, ensemble, effects, score, check."""
    command = commands.add_parser("export", help="write checkpoints as bundles for a fast runtime, and prove them")
    command.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    command.add_argument("--backend", default="openvino", choices=("openvino", "onnxruntime"))
    command.add_argument("--precision", default="f32", choices=("f32", "bf16", "f16", "int8"),
                         help="only openvino has others than f32 (default: %(default)s)")
    command.add_argument("--audio", type=Path, metavar="DIR", help="soundscapes to measure on; for a lower "
                         "precision than f32 there must be some (default: generated)")
    command.add_argument("--calibration", type=Path, metavar="DIR",
                         help="for the ranges of int8 (default: every fourth of those files)")
    command.add_argument("--truth", type=Path, metavar="CSV", help="of the soundscapes, in the form of a submission; "
                         "from 10 of them on the difference of the ROC-AUC counts")
    command.add_argument("--window", type=float, metavar="SECONDS", help="of a row (default: as the run's year)")
    command.add_argument("--out", type=Path, metavar="DIR", help="instead of beside each checkpoint")
    command.set_defaults(command=_export_command)

    command = commands.add_parser("ensemble", help="write the file of an ensemble of trained runs")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="folder of notebook 03's run")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a TOML file, see birdkit.ensembles")
    command.add_argument("--blend", default="probabilities", metavar="HOW", help="see birdkit.blending.blend")
    command.add_argument("--fit", action="store_true", help="weights fitted to the validation of the runs' split, "
                         "beside equal ones, and what that is worth on files it has not seen")
    command.set_defaults(command=_ensemble_command)

    command = commands.add_parser("effects", help="what every published post-processing does to the metric")
    add_competition(command)
    command.add_argument("--checkpoints", type=Path, nargs="+", metavar="FILE",
                         help="of one split (default: those of round 0 in WORK_DIR)")
    command.add_argument("--ensemble", default="", metavar="FILE", help="these models instead, see birdkit.ensembles")
    command.add_argument("--truth", type=Path, help="measure on the test soundscapes that it has rows for (default: on "
                         "the validation of the models' split)")
    command.add_argument("--quantile", type=float, metavar="Q", help="score decisions: above this quantile of all "
                         "probabilities or not (first seed: 0.85; default: as the models decide, where the year's "
                         "metric judges decisions)")
    add_year(command)
    command.add_argument("--set", type=as_change, nargs="+", default=[], metavar="SETTING=VALUE",
                         help="of how the models predict (birdkit.config.InferenceConfig), such as clip_step_s=2.5; "
                         "values are JSON")
    command.add_argument("--against", type=as_change, nargs="+", default=[], metavar="SETTING=VALUE",
                         help="instead: what further changes of that do to the score of what the models would submit")
    command.add_argument("--out", type=Path, metavar="DIR", help="for the CSV file (default: WORK_DIR)")
    command.add_argument("--markdown", action="store_true", help="say the tables as markdown")
    command.set_defaults(command=_effects_command)

    command = commands.add_parser("score", help="score a submission against a truth")
    command.add_argument("submission", type=Path, metavar="SUBMISSION")
    command.add_argument("truth", type=Path, metavar="TRUTH")
    command.add_argument("--year", type=int, required=True,
                         help="whose metric; of a year to come, the nearest known one's")
    command.add_argument("--metric", default="", metavar="NAME", help="another one, see birdkit.metrics.METRICS")
    command.add_argument("--per-class", action="store_true", help="also the figures of every class, worst first")
    command.set_defaults(command=_score_command)

    command = commands.add_parser("check", help="check a submission before it is submitted")
    command.add_argument("submission", type=Path, metavar="SUBMISSION")
    command.add_argument("competition_dir", type=Path, metavar="COMPETITION_DIR")
    add_year(command)
    command.set_defaults(command=_check_command)


def _export_command(options: argparse.Namespace) -> None:
    """Export checkpoints for another runtime, and say where the bundles are and what the gate measured."""
    from birdkit import export

    folders = [export.bundle_folder(path, options.backend, options.precision, options.out)
               for path in options.checkpoints]
    if len(set(folders)) < len(folders):
        raise ValueError(f"two of these checkpoints would be exported to one folder: {sorted(map(str, folders))}")
    with export.gate_audio(options.audio, precision=options.precision, calibration=options.calibration,
                                truth=options.truth) as measured_on:
        for path, folder in zip(options.checkpoints, folders, strict=True):
            exported = export.export_bundle(path, measured_on, backend=options.backend, folder=folder,
                                            precision=options.precision, window_s=options.window)
            spared = f"; left as they are: {exported.spared}" if exported.spared else ""
            say(f"bundle: {exported.folder}\n  {exported.report}{spared}")


def _ensemble_command(options: argparse.Namespace) -> None:
    """Write an ensemble of trained runs, with equal weights or also with fitted ones, and say what those are worth."""
    from birdkit.runs import ensembles

    making = ensembles.Making(tuple(options.runs), options.out, options.blend)
    say(ensembles.write_fitted(making) if options.fit else ensembles.write_equal(making))


def _effects_command(options: argparse.Namespace) -> None:
    """Say what every published post-processing and way to blend does to the metric, and write it as CSV."""
    from birdkit import reports
    from birdkit.reports import effects as reports_effects
    from birdkit.runs import effects

    run = effects.EffectsRun(options.competition_dir, options.work_dir, tuple(options.checkpoints or ()),
                             options.ensemble, options.truth, options.quantile, options.year, dict(options.set),
                             dict(options.against))
    if run.against:
        say(reports_effects.compared_text(effects.compare_settings(run), run.changes, run.against))
        return
    measured = effects.measure_effects(run)
    path = (options.out or options.work_dir) / f"{run.name}.csv"
    reports.write_effects(measured, path)
    say(f"{reports.effects_text(measured, markdown=options.markdown)}\n\n{path}")


def _score_command(options: argparse.Namespace) -> None:
    """Say the year's metric of a submission with its 95 % interval, bootstrapped over soundscapes."""
    from birdkit import submission

    metric = options.metric or submission.metric_name(options.submission, options.year)
    interval = submission.score_interval(options.submission, options.truth, options.year, metric=metric)
    say(f"{metric} {interval}")
    if options.per_class:
        say(shown(submission.score_classes(options.submission, options.truth)))


def _check_command(options: argparse.Namespace) -> None:
    """Say that a submission is as the host wants it, or what is wrong."""
    from birdkit import profiles, submission

    competition = profiles.recognise(options.competition_dir, year=options.year)
    table = submission.validate(options.submission, options.competition_dir, competition)
    say(f"{options.submission}: {len(table)} windows, {len(table.columns)} classes, {competition.row_format} as in "
         f"{competition.year}, ready to submit{' if what was guessed is right' if competition.guessed else ''}")
