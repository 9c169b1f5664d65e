"""A run that dies, is stopped, or is moved to another machine ends as if nothing had happened."""
import io
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_run import (
    Killed,
    assert_same_history,
    assert_same_weights,
    killed_at,
    make_batch,
    make_trainer,
    run,
    tiny_config,
    weights,
    write_tones,
)

from birdkit import training
from birdkit.batch import Batch
from birdkit.settings import replace
from birdkit.training import fitting, run_files
from birdkit.training.trainer import Trainer

# Three epochs of four steps: there is a middle of an epoch.
STEPS = {"data__samples_per_epoch": 32, "train__epochs": 3, "train__average": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, pd.DataFrame, training.FitResult]:
    """A folder with recordings, and a run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("resume")
    table = write_tones(folder)
    return folder, table, run(tiny_config(**STEPS), table, folder, "whole")


def assert_as_uninterrupted(result: training.FitResult, whole: training.FitResult) -> None:
    for name in ("last", "best", "average"):
        assert_same_weights(getattr(result, name), getattr(whole, name))
    assert_same_history(result.history, whole.history)
    assert result.finished


# The two runs are children of one process, which has loaded torch once and trained nothing.
PARENT = """
import json, os, signal, sys
sys.path.insert(0, {tests!r})
import pandas as pd, torch
from pathlib import Path
from tiny_run import run, tiny_config
from birdkit.training import run_files
from birdkit.training.trainer import Trainer

torch.set_num_threads(1)
folder = Path({folder!r})
real_step, real_replace = Trainer.train_step, os.replace

def step(trainer, batch):
    if trainer.step == 6:  # in the middle of the second epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return real_step(trainer, batch)

def replace(source, target):
    if str(target).endswith("state.pt") and (folder / "save" / "last.safetensors").exists():  # after the first epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return real_replace(source, target)

statuses = {{}}
for name in ("step", "save"):
    child = os.fork()
    if not child:
        Trainer.train_step, os.replace = (step, real_replace) if name == "step" else (real_step, replace)
        run(tiny_config(train__save_every_s=0.0, **{steps!r}), pd.read_pickle(folder / "table.pkl"), folder, name)
        os._exit(0)
    statuses[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def killed(world) -> dict[str, int]:
    """The exit statuses of two runs that were killed, by the name of their folder."""
    folder, table, _ = world
    table.to_pickle(folder / "table.pkl")
    code = PARENT.format(tests=str(Path(__file__).parent), folder=str(folder), steps=STEPS)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True,
                          stdout=subprocess.PIPE)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "first"), [("step", 6), ("save", 3)])
def test_a_killed_process_goes_on_to_the_same_weights(world, killed, name: str, first: int) -> None:
    """SIGKILL in the middle of an epoch, and while the first epoch's state is written: weights, scores and losses are
    those of the run that lived, bit by bit.

    A state is saved after each step; the one that was being written is lost, and its step is done again.
    """
    folder, table, whole = world
    assert killed[name] == -signal.SIGKILL
    done = []
    real = Trainer.train_step

    def counting(self: Trainer, batch: Batch) -> float:
        done.append(self.step)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", counting)
        result = run(tiny_config(**STEPS), table, folder, name)
    assert done == list(range(first, 12))
    assert_as_uninterrupted(result, whole)


def test_stochastic_weight_averages_go_on_too(tmp_path, monkeypatch) -> None:
    """Their members are the ends of epochs of before and after the restart."""
    table = write_tones(tmp_path)
    config = tiny_config(train__ema_decay=0.0, train__swa_start=0.1, train__epochs=3, train__validate_every=0)
    whole = run(config, table, tmp_path, "whole")
    with killed_at(monkeypatch, 5):
        run(replace(config, train__save_every_s=0.0), table, tmp_path, "cut")
    result = run(config, table, tmp_path, "cut")
    assert_same_weights(result.last, whole.last)


def test_the_scale_of_half_precision_goes_on() -> None:
    """A scaler that begins anew skips steps which the uninterrupted run did not skip."""
    trainer, other = (make_trainer(tiny_config()) for _ in range(2))
    for one in (trainer, other):
        one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)
    batch = make_batch(torch.rand(64_000).numpy())
    trainer.train_step(batch)
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.scaler.get_scale() == trainer.scaler.get_scale() == 4.0
    assert other.train_step(batch) == trainer.train_step(batch)
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer.model).values(), weights(other.model).values(),
                                                 strict=True))


class Clock:
    """Time that passes when a step is done, or a validation."""

    def __init__(self, monkeypatch, *, step_s: float, validation_s: float = 0.0) -> None:
        self.now_s = 0.0
        real_step, real_score = Trainer.train_step, fitting.Validation.predict

        def step(trainer: Trainer, batch: Batch) -> float:
            self.now_s += step_s
            return real_step(trainer, batch)

        def predict(validation, *arguments):
            self.now_s += validation_s * len(validation.waves) / 6
            return real_score(validation, *arguments)

        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(Trainer, "train_step", step)
        monkeypatch.setattr(fitting.Validation, "predict", predict)


def sessions(config, table, folder: Path, clock: Clock) -> list[float]:
    """Start the run again until it has finished: the length of each session."""
    found: list[float] = []
    for _ in range(20):
        began_s = clock.now_s
        result = run(config, table, folder, "sessions")
        found.append(clock.now_s - began_s)
        if result.finished:
            return found
    raise AssertionError("the run never ends")


def test_a_session_ends_in_time_and_the_next_goes_on(world, monkeypatch, caplog) -> None:
    """Kaggle takes everything when it ends a session: steps, validations and saving must fit in; the result is that
    of one long session."""
    folder, table, whole = world
    clock = Clock(monkeypatch, step_s=10.0, validation_s=25.0)
    config = tiny_config(train__session_s=100.0, **STEPS)
    with caplog.at_level(logging.WARNING):
        lengths_s = sessions(config, table, folder, clock)
    assert len(lengths_s) > 1 and max(lengths_s) <= 100.0
    assert "start the notebook again with this output attached" in caplog.text
    result = run(config, table, folder, "sessions")
    assert_as_uninterrupted(result, whole)


def test_a_session_that_is_too_short_for_a_validation_says_so(tmp_path, monkeypatch) -> None:
    """Else it would be started again for ever, and stop each time before the same validation."""
    clock = Clock(monkeypatch, step_s=1.0, validation_s=200.0)
    with pytest.raises(ValueError, match=r"session_s = 100 is too short for this run: a validation takes about 200"):
        sessions(tiny_config(train__session_s=100.0), write_tones(tmp_path), tmp_path, clock)


def test_before_the_first_validation_its_time_is_estimated(tmp_path, monkeypatch) -> None:
    """The first epoch ends 40 s before the limit: a validation of 60 s, never yet seen, must not be begun."""
    clock = Clock(monkeypatch, step_s=30.0, validation_s=60.0)
    config = tiny_config(train__session_s=150.0, train__epochs=1, train__save_every_s=0.0)
    result = run(config, write_tones(tmp_path), tmp_path, "run")
    assert not result.finished and len(result.history) == 0 and list(result.history) == list(run_files.COLUMNS)
    assert not result.best.exists() and clock.now_s < 150.0
    clock.now_s = 0.0
    result = run(config, write_tones(tmp_path), tmp_path, "run")
    assert result.finished and len(result.history) == 1


def read_only(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(stat.S_IREAD | (stat.S_IEXEC if path.is_dir() else 0))


def test_a_run_goes_on_from_an_attached_output(world, monkeypatch) -> None:
    """On Kaggle the output of the session before is read-only, and the new session's folder is empty."""
    folder, table, whole = world
    config = tiny_config(**STEPS)
    with killed_at(monkeypatch, 9):
        run(config, table, folder, "first")
    read_only(folder / "first")
    result = run(config, table, folder, "second", resume_from=folder / "first")
    assert_as_uninterrupted(result, whole)
    assert all(path.stat().st_mode & stat.S_IWRITE for path in (folder / "second").iterdir())
    # Attached once more, the new folder's own state is the one that counts.
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
    assert run(config, table, folder, "second", resume_from=folder / "first").finished
    with pytest.raises(FileNotFoundError, match=r"holds no state\.pt"):
        run(config, table, folder, "third", resume_from=folder / "absent")


def test_a_copy_that_was_interrupted_begins_again(world, monkeypatch) -> None:
    """The state is copied last: before it is there, the new folder is a new one. With the state but without a
    checkpoint, a run that has finished would have nothing to deploy."""
    folder, table, whole = world
    real = run_files._copy

    def dying(source: Path, target: Path) -> None:
        if target.name == "last.safetensors":
            raise Killed
        real(source, target)

    monkeypatch.setattr(run_files, "_copy", dying)
    with pytest.raises(Killed):
        run(tiny_config(**STEPS), table, folder, "copied", resume_from=folder / "whole")
    monkeypatch.setattr(run_files, "_copy", real)
    assert_as_uninterrupted(run(tiny_config(**STEPS), table, folder, "copied", resume_from=folder / "whole"), whole)


def test_a_finished_run_is_not_trained_again(world, monkeypatch) -> None:
    """The pipeline calls it again after a stop elsewhere; its state keeps no weights, which the checkpoints have."""
    folder, table, whole = world
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(fitting.Validation, "prepare", lambda *_, **__: pytest.fail("prepared again"))
    again = run(tiny_config(**STEPS), table, folder, "whole")
    assert_same_history(again.history, whole.history)
    assert again.finished and again.average == whole.average
    assert (folder / "whole" / "state.pt").stat().st_size < 0.1 * whole.last.stat().st_size


@pytest.mark.parametrize(("changes", "what"), [({"train__peak_lr": 1e-2}, "config"), ({}, "training table")])
def test_a_folder_of_another_run_is_refused(world, changes: dict, what: str) -> None:
    """Going on with other settings or other recordings would be neither of the two experiments."""
    folder, table, _ = world
    if not changes:
        table = table.assign(label=table["label"].map({"high": "low", "low": "high"}))
    with pytest.raises(ValueError, match=f"belongs to a run with another {what}; choose another folder"):
        run(tiny_config(**STEPS, **changes), table, folder, "whole")


def test_other_pseudo_labels_are_another_run(tmp_path) -> None:
    """A student whose teacher was trained again must not be taken for the one that there is already."""
    table = write_tones(tmp_path)
    labels = pd.DataFrame({"file": ["1.wav"], "start_s": [0.0], "end_s": [2.0], "high": [1.0], "low": [0.0]})
    config = tiny_config(round=1, split=-1, train__epochs=1)
    run(config, table, tmp_path, "run", pseudo_labels=labels)
    assert run(config, table, tmp_path, "run", pseudo_labels=labels.assign(teacher="another name")).finished
    with pytest.raises(ValueError, match="another pseudo-labels"):
        run(config, table, tmp_path, "run", pseudo_labels=labels.assign(low=0.9))


def test_settings_that_change_no_weight_may_change(world, monkeypatch) -> None:
    """The next session may be shorter, or on a machine with more cores."""
    folder, table, whole = world
    with killed_at(monkeypatch, 9):
        run(tiny_config(**STEPS), table, folder, "moved")
    moved = tiny_config(train__session_s=1e6, train__save_every_s=1.0, train__workers=1, **STEPS)
    result = run(moved, table, folder, "moved")
    assert_same_weights(result.last, whole.last)


def test_the_state_holds_no_code(world, monkeypatch) -> None:
    """A pickle runs what it likes when it is opened; an attached output may be anyone's."""
    folder, table, _ = world
    with killed_at(monkeypatch, 5):
        run(tiny_config(**STEPS), table, folder, "safe")
    state = torch.load(folder / "safe" / "state.pt", weights_only=True)
    assert set(state) == {"progress", "trainer", "origin"} and state["trainer"]["step"] == 4


def test_a_run_leaves_torchs_random_state_as_it_was(world) -> None:
    """A notebook that seeds torch and then trains gets from its next draw what it would have got without."""
    folder, table, _ = world
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tiny_config(train__epochs=1), table, folder, "state")
    assert torch.equal(torch.rand(3), expected)
