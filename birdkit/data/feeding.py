"""Batches ahead of the step that uses them: made by worker processes, or by a thread while the step runs."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

K = TypeVar("K")
AHEAD = 2  # batches that the thread, or each worker process, may be ahead

Parts = dict[str, Any]  # tensors by name, or such dicts in turn


def feed(make: Callable[[K], Parts], keys: Iterable[K], *, workers: int = 0, pin: bool = False) -> Generator[Parts]:
    """What `make` makes of each key, in the order of the keys, whoever makes it.

    make     a batch from its key; it runs in `workers` forked processes, or with 0 in one thread beside the caller:
             decoding and numpy let go of Python's lock, so it uses a second core while the step uses the first
    keys     are drawn a few ahead, never all at once
    pin      True puts the tensors into page-locked memory, from which a GPU fetches them without waiting

    What `make` raises is raised here, in its place in the order, and ends the generator. Closing the generator, or
    dropping it, ends its thread or processes; use contextlib.closing where an exception may keep it alive.
    """
    return _from_processes(make, keys, workers, pin) if workers else _from_thread(make, keys, pin)


def _from_thread(make: Callable[[K], Parts], keys: Iterable[K], pin: bool) -> Generator[Parts]:
    """One thread, `AHEAD` batches ahead."""
    def work(key: K) -> Parts:
        return _pinned(make(key)) if pin else make(key)

    waiting: deque[Future[Parts]] = deque()
    coming = iter(keys)
    with ThreadPoolExecutor(1, thread_name_prefix="birdkit-feed") as pool:
        try:
            waiting.extend(pool.submit(work, key) for key in islice(coming, AHEAD))
            while waiting:
                parts = waiting.popleft().result()
                waiting.extend(pool.submit(work, key) for key in islice(coming, 1))
                yield parts
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # then the pool waits for the batch in hand alone


def _from_processes(make: Callable[[K], Parts], keys: Iterable[K], workers: int, pin: bool) -> Generator[Parts]:
    """Worker processes, kept for all keys, each `AHEAD` batches ahead."""
    # A generator of its own: a loader draws from torch's global state when it starts, which a restarted run would not
    # have done at the same place.
    loader: DataLoader[Any] = DataLoader(
        _Made(make), batch_size=None, sampler=_Keys(keys), num_workers=workers, collate_fn=_unchanged,
        prefetch_factor=AHEAD, pin_memory=pin, generator=torch.Generator(), multiprocessing_context="fork")
    for parts in loader:  # no name is given to its iterator, so that its processes end with this loop, however it ends
        if isinstance(parts, Exception):
            raise parts
        yield parts


class _Made(Dataset, Generic[K]):
    """Batches by key, with a fault of a file as a value: a loader would raise it as another type, without its name."""

    def __init__(self, make: Callable[[K], Parts]) -> None:
        self.make = make

    def __getitem__(self, key: K) -> Parts | Exception:
        try:
            return self.make(key)
        except (ValueError, OSError) as error:
            return error


class _Keys(Generic[K]):
    """Keys as the sampler of a loader, which wants an iterable rather than an iterator."""

    def __init__(self, keys: Iterable[K]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[K]:
        return iter(self.keys)


def _unchanged(parts: Any) -> Any:
    """The loader's collation: nothing, `make` has made the whole batch."""
    return parts


def _pinned(parts: Parts) -> Parts:
    return {name: value.pin_memory() if isinstance(value, Tensor) else _pinned(value) for name, value in parts.items()}
