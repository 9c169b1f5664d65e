"""Feeding: the same batches in the same order whoever makes them, nothing left running, faults by name."""
import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from birdkit.audio import AudioError
from birdkit.data.feeding import AHEAD, feed


def make(key: int) -> dict:
    """A batch that says which key, process and thread it is from."""
    return {"key": torch.tensor([key]), "process": torch.tensor([os.getpid()]),
            "sources": {"noise": {"thread": torch.tensor([threading.get_ident()])}}}


def broken(key: int) -> dict:
    if key == 3:
        raise AudioError("folder/third.ogg", "the file is empty (0 bytes)")
    return make(key)


def left_running() -> list[str]:
    """Threads and processes that feeding started and that are still there, after a moment's patience."""
    for _ in range(50):
        found = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()
                 and (thread.name.startswith("birdkit") or "Queue" in thread.name or "pin" in thread.name)]
        found += [process.name for process in multiprocessing.active_children()]
        if not found:
            break
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order_and_nothing_stays_behind(workers: int) -> None:
    """The number of workers is a matter of speed; a notebook that trains five splits must not end with ten workers."""
    batches = list(feed(make, range(10), workers=workers))
    assert [int(batch["key"]) for batch in batches] == list(range(10))
    elsewhere = {int(batch["process"]) for batch in batches} - {os.getpid()}
    assert len(elsewhere) == workers
    if not workers:
        assert threading.get_ident() not in {int(batch["sources"]["noise"]["thread"]) for batch in batches}
    assert left_running() == []
    assert list(feed(make, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_early_ends_what_was_started(workers: int) -> None:
    """A run that stops for the session's limit must end, not hang on its workers."""
    with contextlib.closing(feed(make, range(1000), workers=workers)) as batches:
        next(batches)
        assert left_running() != []
    assert left_running() == []
    dropped = feed(make, range(1000), workers=workers)
    next(dropped)
    del dropped
    assert left_running() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_is_raised_in_its_place_with_the_name_of_the_file(workers: int) -> None:
    """"RuntimeError in DataLoader worker process 1" helps nobody to find the file."""
    batches = feed(broken, range(10), workers=workers)
    assert [int(next(batches)["key"]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(AudioError, match=r"folder/third\.ogg: the file is empty") as error:
        next(batches)
    assert error.value.reason == "the file is empty (0 bytes)"
    assert left_running() == []
    assert list(batches) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_in_the_loop_leaves_nothing_running(workers: int) -> None:
    """Its traceback keeps the caller's variables alive; `closing` ends the feeding all the same."""
    def loop() -> None:
        with contextlib.closing(feed(make, range(1000), workers=workers)) as batches:
            for batch in batches:
                if int(batch["key"]) == 2:
                    raise FloatingPointError("the loss is not finite")

    with pytest.raises(FloatingPointError) as error:
        loop()
    assert left_running() == [], error


def test_the_thread_works_ahead_but_not_far() -> None:
    """While a step runs the next batches are made; a run's worth of them would not fit into memory."""
    made, asked = [], []

    def keys() -> Iterator[int]:
        for key in range(100):
            asked.append(key)
            yield key

    def slow(key: int) -> dict:
        made.append(key)
        return make(key)

    with contextlib.closing(feed(slow, keys())) as batches:
        next(batches)
        for _ in range(100):
            if len(made) == 1 + AHEAD:
                break
            time.sleep(0.02)
        time.sleep(0.1)
        assert made == asked == list(range(1 + AHEAD))


def test_making_and_using_overlap() -> None:
    """Ten batches of 50 ms beside ten steps of 50 ms take little more than ten times 50 ms."""
    def waiting(key: int) -> dict:
        time.sleep(0.05)
        return make(key)

    began_s = time.perf_counter()
    for _ in feed(waiting, range(10)):
        time.sleep(0.05)
    assert time.perf_counter() - began_s < 0.85


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_a_gpu_are_pinned(workers: int) -> None:
    """From ordinary memory every copy to the GPU waits for the one before it."""
    for batch in feed(make, range(4), workers=workers, pin=True):
        assert batch["key"].is_pinned() and batch["sources"]["noise"]["thread"].is_pinned()


def test_torchs_random_state_is_not_touched() -> None:
    """A run that goes on must draw what the uninterrupted one drew, and that one started its workers earlier."""
    before = torch.get_rng_state()
    list(feed(make, range(3), workers=1))
    assert torch.equal(before, torch.get_rng_state())
