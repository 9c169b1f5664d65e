"""A work folder that is too small is said before the work, by the notebooks that write most."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_run import CLASSES, run, tiny_config, write_tones

from birdkit import preprocess, synthesis
from birdkit.kaggle import DiskSpaceError
from birdkit.kaggle.disk import SPARE, free_bytes, require_room
from birdkit.models import build_model
from birdkit.preprocess import auditing
from birdkit.training.run_files import RunFiles


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk whose free bytes a test sets."""
    disk = SimpleNamespace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    return disk


def test_a_folder_that_is_not_there_yet_is_on_the_disk_above_it(tmp_path: Path) -> None:
    """A run's folder is made after the question."""
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.01)


def test_the_message_has_the_numbers(tmp_path: Path, free: SimpleNamespace) -> None:
    """A person must see at once how much is missing and what takes it."""
    free.free = 2**30 + SPARE - 1
    with pytest.raises(DiskSpaceError, match=r"training may write 1 GiB \(state 1 GiB\); .* 1\.03 GiB is free\. Make"):
        require_room(tmp_path, {"state": 2**30}, what="training")
    free.free += 1
    require_room(tmp_path, {"state": 2**30}, what="training")


def test_what_an_earlier_run_has_left_is_not_asked_for_again(tmp_path: Path, free: SimpleNamespace) -> None:
    """A run that goes on needs no room for the files that it replaces."""
    free.free = 2**29 + SPARE
    with pytest.raises(DiskSpaceError):
        require_room(tmp_path, {"state": 2**30}, what="training")
    require_room(tmp_path, {"state": 2**30}, what="training", there=2**29)


@pytest.mark.parametrize("changes", [{}, {"train__ema_decay": 0.0, "train__average": 2}], ids=["ema", "average"])
def test_a_training_run_stays_below_what_it_asked_for(tmp_path: Path, changes: dict) -> None:
    """An estimate that is too small is found out in the last epoch."""
    config, folder = tiny_config(**changes), tmp_path / "run"
    run(config, write_tones(tmp_path), tmp_path, "run")
    model = build_model(config.model, config.frontend, len(CLASSES))
    room = RunFiles(folder, config, classes=CLASSES, table_hash="", seen=()).room(model)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < sum(room.values())
    for name in ("best", "last"):
        assert (folder / f"{name}.safetensors").stat().st_size <= room["checkpoints"] / 3
    assert ("epochs to average" in room) == ("train__average" in changes)


def test_training_without_room_has_not_begun(tmp_path: Path, free: SimpleNamespace) -> None:
    """Nine hours of training end in "No space left on device" otherwise, with half a checkpoint."""
    table = write_tones(tmp_path)
    with pytest.raises(DiskSpaceError, match=r"training split 0 may write .*checkpoints .*state"):
        run(tiny_config(), table, tmp_path, "run")
    assert not list((tmp_path / "run").iterdir())


def test_an_audit_stays_below_what_it_asked_for(tmp_path: Path, free: SimpleNamespace) -> None:
    """Notebook 01 keeps what it found of every file; it asks for that by the size of the audio."""
    competition, work = tmp_path / "competition", tmp_path / "work"
    synthesis.generate(competition, **synthesis.TINY, progress=False)
    with pytest.raises(DiskSpaceError, match=r"auditing 22 files may write .*tables .*fingerprints"):
        preprocess.audit(competition, work)
    assert not list(work.iterdir())
    free.free = 2**40
    preprocess.audit(competition, work)
    audio = sum(path.stat().st_size for path in competition.rglob("*.ogg"))
    lines = (work / "fingerprints.jsonl").read_text(encoding="utf-8").splitlines()
    prints = sum(len(json.loads(line)[-1]) for line in lines if line.startswith("["))
    assert 0 < prints < auditing.PRINT_SHARE * audio
    assert sum(path.stat().st_size for path in work.iterdir()) - prints < 22 * auditing.ROW_BYTES
