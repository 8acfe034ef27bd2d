"""Trainings by several processes: real ones, that talk over gloo."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cnnexp.execution.processes import take_signals
from cnnexp.runs import RunFolder
from cnnexp.training import Parallelism, TrainingJob, TrainingStopped, connect_ranks, run_training


def _strategy() -> Any:
    from lightning.pytorch.strategies import DDPStrategy

    return DDPStrategy(process_group_backend="gloo")


def by_ranks(job: TrainingJob, count: int) -> TrainingJob:
    job.parallel = Parallelism(_strategy, count) if count > 1 else None
    return job


def _work(
    make: Callable[[int], TrainingJob], rank: int, count: int, port: int, folder: str, resume: bool
) -> None:
    take_signals()  # which a server that a sweep has started holds back
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    import torch

    torch.set_num_threads(1)
    job = by_ranks(make(rank), count)
    ranks = connect_ranks(job.parallel)
    try:
        run_training(job, RunFolder(folder), resume=resume, ranks=ranks)
        ranks.part()
    except TrainingStopped as stop:
        sys.stdout.flush()
        os._exit(stop.code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def train(
    make: Callable[[int], TrainingJob], folder: RunFolder, count: int = 2, resume: bool = False
) -> list[int]:
    """The exit codes of ``count`` processes, each of which trains ``make(rank)``."""
    context = multiprocessing.get_context("forkserver")  # imports torch once for all of them
    context.set_forkserver_preload(["cnnexp.execution.warm"])
    folder.path.mkdir(exist_ok=True)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    work = [
        context.Process(target=_work, args=(make, r, count, store.port, str(folder.path), resume))
        for r in range(count)
    ]
    for process in work:
        process.start()
    for process in work:
        process.join(300)  # not so long, but on machines that others use as well
        process.kill()
    return [process.exitcode or 0 for process in work]


__all__ = ["Path", "by_ranks", "partial", "train"]
