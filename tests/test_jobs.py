"""Several commands at once: as many as there are places, each with its environment and log, and none that stays."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from birdkit.runs.jobs import Job, JobsError, Outcome, check_outcomes, run_jobs, tail

PATIENCE_S = 20.0


def job(folder: Path, name: str, code: str) -> Job:
    """A Python process that runs `code`."""
    return Job(name, [sys.executable, "-S", "-c", code], folder / "logs" / f"{name}.log")


def meet(folder: Path, own: str, other: str) -> str:
    """Code that ends well only if two jobs run at the same time."""
    return (f"import pathlib, time\npathlib.Path({str(folder / own)!r}).touch()\n"
            f"until = time.monotonic() + 3\nwhile not pathlib.Path({str(folder / other)!r}).exists():\n"
            "    assert time.monotonic() < until, 'nobody came'\n    time.sleep(0.02)\n")


def test_what_a_job_says_is_in_its_log_and_outcomes_come_in_order(tmp_path: Path) -> None:
    """The first may end last; who reads the outcomes pairs them with the jobs."""
    jobs = [job(tmp_path, "slow", "import time; time.sleep(0.5); print('out')"),
            job(tmp_path, "quick", "import sys; print('err', file=sys.stderr)")]
    outcomes = run_jobs(jobs, [{}, {}], progress=False)
    assert [outcome.job.name for outcome in outcomes] == ["slow", "quick"]
    assert [outcome.status for outcome in outcomes] == [0, 0]
    assert outcomes[0].seconds >= 0.5 and [tail(one.log, 1) for one in jobs] == ["out", "err"]
    check_outcomes(outcomes)


def test_as_many_run_at_once_as_there_are_places(tmp_path: Path) -> None:
    """Two GPUs are both busy; with one place the same two jobs wait for each other in vain."""
    jobs = [job(tmp_path, name, meet(tmp_path, name, other)) for name, other in (("a", "b"), ("b", "a"))]
    assert [outcome.status for outcome in run_jobs(jobs, [{}, {}], progress=False)] == [0, 0]
    for name in "ab":
        (tmp_path / name).unlink()
    alone = run_jobs(jobs, progress=False)
    assert alone[0].status == 1 and "nobody came" in tail(jobs[0].log, 1)


def test_never_more_run_at_once_than_there_are_places(tmp_path: Path) -> None:
    """Two trainings on one card run out of its memory."""
    taken = str(tmp_path / "taken")
    code = f"import os, time\nos.mkdir({taken!r})\ntime.sleep(0.15)\nos.rmdir({taken!r})"
    outcomes = run_jobs([job(tmp_path, str(number), code) for number in range(4)], progress=False)
    assert [outcome.status for outcome in outcomes] == [0] * 4


def test_a_job_gets_the_environment_of_its_place_and_all_others_keep_theirs(tmp_path: Path) -> None:
    """One card each; a place is used again as soon as it is free, and the rest of the environment is this process's."""
    before = dict(os.environ)
    code = "import os, time; time.sleep(0.3); print(os.environ['CARD'], os.environ['PATH'])"
    jobs = [job(tmp_path, str(number), code) for number in range(4)]
    run_jobs(jobs, [{"CARD": "first"}, {"CARD": "second"}], progress=False)
    said = [tail(one.log, 1).split(" ", 1) for one in jobs]
    assert sorted(card for card, _ in said) == ["first", "first", "second", "second"]
    assert {card for card, _ in said[:2]} == {"first", "second"} and all(path == os.environ["PATH"] for _, path in said)
    assert dict(os.environ) == before


def test_a_failure_stops_no_other_and_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    """Hours of training on the second card must not be lost to the first one's mistake, nor its reason be searched."""
    jobs = [job(tmp_path, "broken", "print('loading'); raise SystemExit('no such file: birds.csv')"),
            job(tmp_path, "whole", "import time; time.sleep(0.4); print('done')")]
    outcomes = run_jobs(jobs, [{}, {}], progress=False)
    assert [outcome.status for outcome in outcomes] == [1, 0] and tail(jobs[1].log, 1) == "done"
    with pytest.raises(JobsError, match=r"(?s)1 of 2 failed.*broken.*exit status 1.*no such file: birds.csv"):
        check_outcomes(outcomes)


def test_without_a_place_or_a_program_nothing_hangs(tmp_path: Path) -> None:
    """Both are mistakes that would otherwise wait for ever; what runs already is ended."""
    with pytest.raises(ValueError, match="no place for 1 jobs"):
        run_jobs([job(tmp_path, "a", "")], [], progress=False)
    sleeper = job(tmp_path, "sleeper", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    with pytest.raises(FileNotFoundError, match="no_such_program"):
        run_jobs([sleeper, Job("b", ["no_such_program"], tmp_path / "b.log")], [{}, {}], progress=False)
    assert not sleeper.log.read_text() or not is_alive(int(sleeper.log.read_text()))
    assert run_jobs([], progress=False) == []


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be counted does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, {1, -signal.SIGINT}), (signal.SIGTERM, {143})])
def test_nothing_is_left_when_this_process_is_stopped(tmp_path: Path, number: signal.Signals, status: set[int]) -> None:
    """Ctrl-C in a terminal, a stopped notebook, `kill`: a training that goes on unseen holds the card and the folder.

    The job has a child that ignores being asked to end, like a worker that decodes.
    """
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    code = ("import os, subprocess, sys, time\n"
            f"child = subprocess.Popen([sys.executable, '-S', '-c', {child!r}], stdout=subprocess.PIPE)\n"
            "child.stdout.readline()\nprint(os.getpid(), child.pid, flush=True)\ntime.sleep(60)")
    script, log = tmp_path / "parent.py", tmp_path / "a.log"
    # Where the tests run in a shell's background, that ignores Ctrl-C, and so would this process.
    script.write_text("import signal, sys\nfrom pathlib import Path\nfrom birdkit.runs.jobs import Job, run_jobs\n"
                      "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
                      f"run_jobs([Job('a', [sys.executable, '-S', '-c', {code!r}], Path({str(log)!r}))])")
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    until_s = time.monotonic() + PATIENCE_S
    while not (log.is_file() and log.read_text().endswith("\n")):
        assert time.monotonic() < until_s and parent.poll() is None, "the job did not start"
        time.sleep(0.05)
    pids = [int(pid) for pid in log.read_text().split()]
    assert all(is_alive(pid) for pid in pids)
    parent.send_signal(number)
    assert parent.wait(PATIENCE_S) in status
    time.sleep(0.1)
    assert not [pid for pid in pids if is_alive(pid)]


def test_the_end_of_a_log_is_what_stands_on_the_screen(tmp_path: Path) -> None:
    """A progress bar draws a thousand times in one line; only the last is of use."""
    path = tmp_path / "log"
    path.write_bytes(b"start\n" + b"\r".join(b"%d%%" % share for share in range(101)) + b"\nValueError: no\n")
    assert tail(path, 2) == "100%\nValueError: no" and tail(path, 9) == "start\n100%\nValueError: no"
    path.write_bytes(b"x" * 100_000 + b"\nlast\xff\n")
    assert tail(path, 1) == "last\N{REPLACEMENT CHARACTER}"
    assert tail(tmp_path / "nothing", 3) == "(no log)"


def test_the_bar_says_how_far_the_jobs_are(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Of trainings that take hours, "0 of 2" is all that would be seen for hours."""
    monkeypatch.setattr("birdkit.runs.jobs.SHOWN_S", 0.1)
    run_jobs([job(tmp_path, "split 0", "import sys, time; sys.stderr.write('training:  45%|####|'); sys.stderr.flush();"
                                       " time.sleep(1)")], label="round 0")
    said = capsys.readouterr().err
    assert "round 0" in said and "split 0 45%" in said and "1/1" in said


def test_a_failed_outcome_says_what_and_why(tmp_path: Path) -> None:
    """The message stands alone in a notebook's error."""
    path = tmp_path / "train.log"
    path.write_text("one\ntwo\nthree\n")
    assert Outcome(Job("split 1", [], path), -9, 1.0).message(lines=2) == (
        f"split 1 failed (exit status -9); the end of {path}:\ntwo\nthree")
