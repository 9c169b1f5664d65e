"""The `birdkit` command: results on stdout, everything else on stderr.

What takes long to load is imported inside the command that needs it, so that `birdkit --help` answers at once.
"""
from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import birdkit
from birdkit.commands.learning import add_learning
from birdkit.commands.making import add_making
from birdkit.commands.submitting import add_submitting
from birdkit.pipeline import PipelineError
from birdkit.runs.jobs import JobsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it succeeded, 1 with one line on stderr where its input is at fault, 141 where nobody
    reads its stdout any more, as after `| head`.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return 141
    except (OSError, ValueError, KeyError, TypeError, ImportError, PipelineError, JobsError) as error:
        if options.debug:
            raise
        sys.stderr.write(f"birdkit: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("birdkit: stopped; the same command goes on from here\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="birdkit", description=(birdkit.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"birdkit {birdkit.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_making, add_learning, add_submitting):
        add(commands)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
