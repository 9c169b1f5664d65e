"""Several commands at once: each with an environment and a log of its own, all of them ended when this process is."""
from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tqdm import tqdm

log = logging.getLogger(__name__)

POLL_S = 0.1
SHOWN_S = 10.0  # between looks at how far the jobs are
GRACE_S = 10.0  # from being asked to end to being ended
TAIL_BYTES = 16_384  # of a log that are read for its last lines


class JobsError(RuntimeError):
    """Some commands failed, after all others have ended; the message carries the end of their logs."""


@dataclass(frozen=True)
class Job:
    """A command to run.

    name     what it is called in messages
    command  the program and its arguments
    log      the file that its stdout and stderr are appended to
    """

    name: str
    command: Sequence[str]
    log: Path


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its exit status, negative where a signal ended it, and how long it took."""

    job: Job
    status: int
    seconds: float

    def message(self, *, lines: int = 8) -> str:
        """What failed, and the last lines of its log."""
        return (f"{self.job.name} failed (exit status {self.status}); the end of {self.job.log}:\n"
                f"{tail(self.job.log, lines)}")


def run_jobs(jobs: Sequence[Job], places: Sequence[Mapping[str, str]] = ({},), *, label: str = "jobs",
             progress: bool = True) -> list[Outcome]:
    """Run commands, as many at once as there are places, and return how they ended, in the order of `jobs`.

    The bar shows how far each job is, by the last progress bar in its log. A job that fails does not stop the others;
    that is logged when it happens. When this process is interrupted or asked
    to terminate, every job is ended with all that it has started.

    places  the environment variables that a job gets in addition while it has this place, such as the number of a GPU

    Raises ValueError without places, FileNotFoundError where there is no such program.
    """
    if not places:
        raise ValueError(f"there is no place for {len(jobs)} jobs")
    waiting, free = list(reversed(jobs)), list(reversed(range(len(places))))
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    outcomes: dict[int, Outcome] = {}
    shown_s = -SHOWN_S
    try:
        with _ending_on_term(), tqdm(total=len(jobs), desc=label, unit="job", disable=not progress) as bar:
            while waiting or running:
                while waiting and free:
                    place, job = free.pop(), waiting.pop()
                    running[place] = (job, _start(job, places[place]), time.monotonic())
                    shown_s = -SHOWN_S
                if time.monotonic() - shown_s >= SHOWN_S:
                    bar.set_postfix_str(", ".join(f"{job.name}{_share(job.log)}" for job, _, _ in running.values()))
                    shown_s = time.monotonic()
                time.sleep(POLL_S)
                for place, (job, process, started_s) in list(running.items()):
                    status = process.poll()
                    if status is None:
                        continue
                    del running[place]
                    free.append(place)
                    outcome = Outcome(job, status, time.monotonic() - started_s)
                    outcomes[id(job)] = outcome
                    if status:
                        log.error("%s failed after %.0f s: %s", job.name, outcome.seconds, job.log)
                    bar.update()
    finally:
        _end([process for _, process, _ in running.values()])
    return [outcomes[id(job)] for job in jobs]


def check_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Raise JobsError if any job failed."""
    failed = [outcome for outcome in outcomes if outcome.status]
    if failed:
        raise JobsError(f"{len(failed)} of {len(outcomes)} failed.\n" + "\n".join(one.message() for one in failed))


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file; of a progress bar that was redrawn in one line, what was drawn last."""
    if not path.is_file():
        return "(no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip().split("\n")]
    return "\n".join(shown[-lines:]) or "(empty)"


def _share(path: Path) -> str:
    """The last percentage in the last line of a log, " 45%", "" where there is none."""
    found = re.findall(r"\d+%", tail(path, 1))
    return f" {found[-1]}" if found else ""


def _start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a job in a session of its own, so that all it starts can be ended with it."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as file:
        return subprocess.Popen(list(job.command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                env={**os.environ, **environment}, start_new_session=True)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes and all they started to end, and after GRACE_S end them."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline_s = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process %d did not end by itself", process.pid)
        # What a process has started may outlive it.
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _ending_on_term() -> Iterator[None]:
    """Make a request to terminate an exception, so that whoever waits here can end what it has started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
