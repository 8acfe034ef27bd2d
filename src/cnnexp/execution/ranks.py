"""Start the ranks of one training on this machine, and supervise them until all have ended."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType

import torch.distributed as dist

from cnnexp.environment import variable
from cnnexp.execution.job import Job
from cnnexp.execution.processes import handling, how_it_ended, open_worker
from cnnexp.execution.slots import cores, thread_caps
from cnnexp.runs import RunFolder
from cnnexp.runs.signals import STOPPING, stop_code
from cnnexp.training import Parallelism, leave_failure
from cnnexp.training.stopping import TrainingStopped

log = logging.getLogger(__name__)

_POLL = 0.05  # seconds between two checks of the processes
_GRACE = 10.0  # seconds for the first rank to record how it ended, once another is gone


def run_ranks(job: Job, parallel: Parallelism) -> None:
    """Run ``job`` in ``parallel.devices`` processes of this machine, and return when all have ended.

    They connect as ranks started by torchrun do. Signals that ask for a stop are passed on to them. When
    one rank fails or is killed, the others are ended, too.

    Raises:
        TrainingStopped: A signal stopped it.
        RuntimeError: A rank was killed before it could report why it failed.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks: list[subprocess.Popen[str]] = []
    handed: list[int] = []  # signals
    reached: set[int] = set()  # the processes that have got one
    try:

        def hand_on(number: int, _frame: FrameType | None) -> None:
            handed.append(number)
            for process in ranks:
                if process.poll() is None:
                    process.send_signal(number)
                    reached.add(process.pid)

        with handling(STOPPING, hand_on):
            for rank in range(parallel.devices):
                process = open_worker(job, _environment(rank, parallel.devices, store.port))
                ranks.append(process)
                if handed and process.pid not in reached:  # it came while this one was started
                    process.send_signal(handed[0])
            _see_through(ranks, store, handed)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
    codes = [process.returncode for process in ranks]
    stop = next((code for code in codes if code in (130, 143)), None)
    if stop is None and handed and any(codes):  # they ended before they listened
        stop = stop_code(handed[0])
    if stop is not None and RunFolder(job.folder).read_status().get("state") != "failed":
        raise TrainingStopped(stop)
    killed = [(rank, code) for rank, code in enumerate(codes) if code < 0]
    folder = RunFolder(job.folder)
    if killed and folder.read_status().get("state") == "running":
        rank, code = killed[0]
        reason = f"rank {rank}: {how_it_ended(code)}"
        folder.end_status("failed", reason)
        raise RuntimeError(reason)


def _environment(rank: int, count: int, port: int) -> Mapping[str, str]:
    caps = {k: variable(k) or v for k, v in thread_caps(max(1, cores() // count)).items()}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": f"cnnexp-{os.getpid()}",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        **caps,
    }


def _see_through(
    ranks: list[subprocess.Popen[str]], store: dist.Store, handed: Sequence[int]
) -> None:
    deadline = None
    told = set[int]()
    while any(process.poll() is None for process in ranks):
        for rank, process in enumerate(ranks):
            code = process.poll()
            if code is not None and code < 0 and -code not in handed and rank not in told:
                told.add(rank)
                leave_failure(store, rank, how_it_ended(code))
        if deadline is None and any(process.poll() for process in ranks):
            deadline = time.monotonic() + _GRACE
        if deadline is not None and (time.monotonic() > deadline or ranks[0].poll() is not None):
            return  # the others only wait for those that are gone
        time.sleep(_POLL)
