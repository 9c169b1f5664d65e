"""`python -m birdkit.sending ACTION`: what `kaggle_submit.sh` asks.

The answer is on stdout; where there is none, the exit status is 1 and the reason on stderr.
"""
from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from birdkit.kaggle import manifest
from birdkit.sending import attached, masking, outputs, record, recovery, replies, staging


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one action."""
    options = _arguments().parse_args(arguments)
    try:
        answer = ACTIONS[options.action](options)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if answer is not None:
        sys.stdout.write(f"{answer}\n")
    return 0


def _stage_wheels(options: argparse.Namespace) -> str:
    return staging.stage_wheels(options.folder, options.files, owner=options.owner, slug=options.slug,
                                commit=options.commit)


def _stage_weights(options: argparse.Namespace) -> str:
    return staging.stage_weights(options.folder, options.files[0], owner=options.owner, slug=options.slug,
                                 commit=options.commit)


def _kernel(options: argparse.Namespace) -> staging.Kernel:
    return staging.Kernel(options.owner, options.slug, options.competition, tuple(options.datasets),
                          tuple(options.kernels), options.accelerator, options.internet)


def _stage_kernel(options: argparse.Namespace) -> str:
    return staging.stage_kernel(options.folder, options.files[0], _kernel(options), _settings(options), options.stamp)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: _value(text) for name, text in options.set}


def _find_weights(options: argparse.Namespace) -> str:
    work = Path(options.files[0])
    return "\n".join(path.relative_to(work).as_posix() for path in staging.find_weights(work))


def _metadata(options: argparse.Namespace) -> str:
    """What would be written, for a dry run: a dataset's where no notebook is given."""
    if not options.files:
        return json.dumps(staging.dataset_metadata(options.owner, options.slug), indent=1)
    staging.check_notebook(options.files[0])
    return json.dumps(_kernel(options).metadata(Path(options.files[0]).name), indent=1)


def _sent_content(options: argparse.Namespace) -> str:
    return json.loads(Path(options.files[0]).read_text(encoding="utf-8"))["content_sha256"]


def _files_there(options: argparse.Namespace) -> None:
    own = Path(options.files[0])
    replies.check_files(_stdin(), json.loads(own.read_text(encoding="utf-8")), own.stat().st_size)


def _submission(options: argparse.Namespace) -> str:
    """Reference, status and score in a line each; an empty answer where there is none."""
    found = replies.find_submission(_stdin(), options.key)
    return "\n".join([found.ref, found.status, found.public_score]) if found else ""


def _find_push(options: argparse.Namespace) -> str:
    found = recovery.find_push(options.owner, options.slug, options.stamp)
    return "" if found is None else f"version {found}"


def _mask(options: argparse.Namespace) -> None:
    """Goes on after Ctrl-C: the client's last words come after it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    masking.mask(sys.stdin.buffer, sys.stdout.buffer, masking.secrets(os.environ))


def _get(options: argparse.Namespace) -> str:
    return record.read_state(options.files[0]).get(options.key, "")


def _set(options: argparse.Namespace) -> None:
    record.write_state(options.files[0], {**record.read_state(options.files[0]), **dict(options.set)})


def _stdin() -> str:
    return sys.stdin.read()


ACTIONS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "stage-wheels": _stage_wheels,
    "stage-weights": _stage_weights,
    "stage-kernel": _stage_kernel,
    "injected": lambda options: "\n".join(staging.injected(options.files[0], _settings(options))),
    "find-weights": _find_weights,
    "metadata": _metadata,
    "sent-content": _sent_content,
    "package-sha256": lambda options: manifest.package_sha256(options.files[0]),
    "failure": lambda options: replies.failure(_stdin()),
    "reason": lambda options: replies.reason(_stdin()),
    "dataset-status": lambda options: "\n".join(map(str, replies.dataset_status(_stdin()))),
    "check-upload": lambda options: replies.check_upload(_stdin()),
    "check-files": _files_there,
    "pushed-version": lambda options: replies.pushed_version(_stdin()),
    "find-push": _find_push,
    "kernel-state": lambda options: "\n".join(replies.kernel_state(_stdin())),
    "submission": _submission,
    "submission-limits": lambda options: "\n".join(map(str, replies.submission_limits(_stdin()))),
    "check-accepted": lambda options: replies.check_accepted(_stdin()),
    "attached": lambda options: "\n".join(attached.describe_inputs(options.kernels, options.datasets, options.older)),
    "secrets": lambda options: "\n".join(masking.secrets(os.environ)),
    "mask": _mask,
    "log-tail": lambda options: outputs.log_tail(options.files[0]),
    "check-wheel": lambda options: outputs.check_wheel(options.files[0], options.key, options.sha256),
    "check-sample": lambda options: outputs.check_against_sample(*options.files),
    "get": _get,
    "set": _set,
    "add-line": lambda options: record.add_line(options.files[0], dict(options.set)),
}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m birdkit.sending")
    parser.add_argument("action", choices=sorted(ACTIONS))
    parser.add_argument("files", nargs="*")
    for name in ("folder", "owner", "slug", "commit", "competition", "accelerator", "stamp", "key", "sha256"):
        parser.add_argument(f"--{name}", default="")
    for name in ("datasets", "kernels"):
        parser.add_argument(f"--{name}", nargs="*", default=[])
    for name in ("internet", "older"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--set", type=_pair, nargs="*", default=[])
    return parser


def _pair(text: str) -> tuple[str, str]:
    """ "FOLD=[0, 1]" as ("FOLD", "[0, 1]")."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _value(text: str) -> Any:
    """JSON as what it means; anything else is text, as for `birdkit train --set`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    raise SystemExit(main())
