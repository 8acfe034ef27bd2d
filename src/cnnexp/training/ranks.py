"""The processes that train one network together: ranks, and what they tell each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from cnnexp.environment import variable
from cnnexp.runs import process_rank
from cnnexp.training.stopping import TrainingStopped

_FAILED = "cnnexp/failed/"
_LOST = ("gloo", "Gloo", "NCCL", "onnection", "peer")  # in the messages of collectives


@dataclass(frozen=True)
class Parallelism:
    """How several processes train one network.

    Attributes:
        strategy: Makes Lightning's strategy, a new one for each Trainer.
        devices: Processes on each machine.
        nodes: Machines.
        backend: Of the process group, see ``torch.distributed.init_process_group``.
    """

    strategy: Callable[[], Strategy]
    devices: int
    nodes: int = 1
    backend: str = "gloo"

    @property
    def ranks(self) -> int:
        """How many processes there are."""
        return self.devices * self.nodes


class RankFailedError(RuntimeError):
    """Another process of the training failed, so that this one cannot continue."""


@dataclass
class Ranks:
    """This process's place among those of the training, and the ways to agree.

    Each method but :meth:`stop` must be called by all ranks, in the same order; with one rank it does
    nothing.

    Attributes:
        rank: From 0; the first writes the run folder.
        count: How many there are.
        store: Where they leave word for each other; None for one rank.
    """

    rank: int = 0
    count: int = 1
    store: dist.Store | None = field(default=None, repr=False)
    _posted: tuple[Any, Tensor] | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def gather(self, thing: Any) -> list[Any]:
        """The ``thing`` of each rank, by rank."""
        if self.count == 1:
            return [thing]
        things: list[Any] = [None] * self.count
        dist.all_gather_object(things, thing)
        return things

    def from_first(self, thing: Any) -> Any:
        """The first rank's ``thing``."""
        if self.count == 1:
            return thing
        things = [thing]
        dist.broadcast_object_list(things, src=0)
        return things[0]

    def all_true(self, flags: Tensor) -> Tensor:
        """Whether each of the bool ``flags`` is true on all ranks."""
        if self.count == 1:
            return flags
        least = flags.to(torch.int32)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return least.bool()

    def total(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over the ranks."""
        if self.count == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    def of_first(self, value: Tensor) -> Tensor:
        """The first rank's ``value``, whose shape and dtype are the same on all."""
        if self.count > 1:
            dist.broadcast(value, src=0)
        return value

    def whole(self, part: Tensor, start: int, size: int) -> Tensor:
        """(n, …) of each rank, at ``start`` of the whole → (``size``, …) of all."""
        if self.count == 1:
            return part
        whole = part.new_zeros(size, *part.shape[1:])
        whole[start : start + part.size(0)] = part
        dist.all_reduce(whole)
        return whole

    def stop(self, request: TrainingStopped | None) -> TrainingStopped | None:
        """What all ranks are to stop for, once one of them was asked to; to be called between steps.

        The question travels while the next step is computed, and the answer is read at the next call:
        neither a device nor another rank is waited for.
        """
        if self.count == 1:
            return request
        agreed = None
        if self._posted is not None:
            work, codes = self._posted
            work.wait()
            code = int(codes)
            agreed = request if request and request.code == code else None
            agreed = agreed or (TrainingStopped(code) if code else None)
        codes = torch.tensor(request.code if request else 0)
        self._posted = dist.all_reduce(codes, dist.ReduceOp.MAX, async_op=True), codes
        return agreed

    def part(self) -> None:
        """Leave the others, once all is done."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()

    def tell_failure(self, reason: str) -> None:
        """Leave word that this rank fails, before it does."""
        leave_failure(self.store, self.rank, reason)

    def failure_elsewhere(
        self, error: BaseException, patience: float = 5.0
    ) -> RankFailedError | None:
        """Why another rank failed, if ``error`` says no more than that one is gone."""
        lost = any(word in str(error) for word in _LOST)
        if self.store is None or not lost:
            return None
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for rank in range(self.count):
                key = f"{_FAILED}{rank}"
                try:
                    if rank != self.rank and self.store.check([key]):
                        return RankFailedError(f"rank {rank}: {self.store.get(key).decode()}")
                except RuntimeError:  # the store went with the rank that had it
                    return None
            time.sleep(0.05)
        return None


ALONE = Ranks()


def leave_failure(store: dist.Store | None, rank: int, reason: str) -> None:
    """Leave word in ``store`` that ``rank`` failed; the first reason counts."""
    if store is None:
        return
    with suppress(RuntimeError):  # nobody is left to read it
        store.compare_set(f"{_FAILED}{rank}", "", reason)


def connect_ranks(parallel: Parallelism | None) -> Ranks:
    """Join the other processes of this training, which torchrun, srun or cnnexp itself has started.

    Args:
        parallel: None for a training by one process.

    Raises:
        RuntimeError: The others do not come.
    """
    if parallel is None or parallel.ranks == 1:
        return Ranks()
    here = process_rank()
    assert here is not None
    assert here.ranks == parallel.ranks
    if not dist.is_initialized():
        if variable("RANK") is None:  # SLURM says where the first one is in words of its own
            cluster = SLURMEnvironment(auto_requeue=False)
            os.environ["MASTER_ADDR"] = cluster.main_address
            os.environ["MASTER_PORT"] = str(cluster.main_port)
        if "nccl" in parallel.backend:
            torch.cuda.set_device(here.local_rank)
        dist.init_process_group(parallel.backend, rank=here.rank, world_size=here.ranks)
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    return Ranks(here.rank, here.ranks, store)
