"""Several processes that train one model together, as torchrun starts them; or this one alone.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m birdkit train ...

Each process takes its part of every batch. Their gradients are those of one process with the whole batch, whatever the
loss and the weights, but for batch norms: on GPUs their statistics are shared, on CPUs each process has its own.
"""
from __future__ import annotations

import atexit
import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(days=1)  # all others wait while the first process validates
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes that train together.

    rank  number of this process, from 0 on; the first one validates, writes and logs
    size  how many there are; where it is 1, nothing here does anything
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that validates, writes and logs."""
        return self.rank == 0

    def share_batch_norms(self, model: nn.Module, device: str) -> bool:
        """Make batch norms take their statistics over all processes, in place; False where they do not.

        torch can do so on GPUs only.
        """
        shared = self.size > 1 and device != "cpu"
        if shared:
            convert_sync_batchnorm(model)
        return shared

    def parallel(self, network: nn.Module, device: str) -> nn.Module:
        """The network with gradients that are the mean over processes, from equal weights on."""
        if self.size == 1:
            return network
        # Kernels of 1 x 1 have the same layout in both memory formats, but other strides, and torch warns of these.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(network, device_ids=None if device == "cpu" else [torch.cuda.current_device()])

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, (B, ...) of each -> (size * B, ...); gradients reach one's own rows only."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, rows.detach().contiguous())
        parts[self.rank] = rows
        return torch.cat(parts)

    def agree(self, flag: bool) -> bool:
        """Whether any process says so; all wait for each other here."""
        if self.size == 1:
            return flag
        said = torch.tensor(int(flag))
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said)

    def share(self, value: T) -> T:
        """What the first process has, in all of them."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


@contextlib.contextmanager
def join_world() -> Iterator[World]:
    """Join the processes that torchrun has started, over NCCL on GPUs and gloo on CPUs; alone without torchrun.

    A process uses the GPU of its local rank. Raises ValueError where there are fewer GPUs than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(f"process {local} of this machine has no GPU of its own: there are "
                             f"{torch.cuda.device_count()}; start as many processes as GPUs")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"  # flags and objects go over the CPU, where no kernel has to be waited for
    started = not dist.is_initialized()
    if started:
        dist.init_process_group(backend, timeout=PATIENCE)
    world = World(dist.get_rank(), size)
    if not world.first:
        logging.getLogger("birdkit").setLevel(logging.ERROR)
    yield world
    # Only at the end of the process, since a group cannot be started twice; and not where an exception ends it before:
    # leaving would wait for the others, whom torchrun ends only after this one.
    if started:
        atexit.register(dist.destroy_process_group)
