"""The main function of a process that runs a job, or one of its ranks.

``python -m cnnexp.execution.worker`` gets the job as one line of JSON on its standard input, and ends when
that is closed, because then the process that started it is gone. A process forked from a warm server gets
both through a pipe.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from cnnexp.environment import variable
from cnnexp.execution.job import Job
from cnnexp.execution.log import log_to
from cnnexp.execution.processes import OWN_LOG, take_ctrl_c, take_signals
from cnnexp.execution.run import run_job
from cnnexp.execution.slots import thread_caps
from cnnexp.kept_memory import keep_freed_memory
from cnnexp.runs import RunFolder, process_rank


def forked(line: str, lifeline: Connection, environment: Mapping[str, str], threads: int) -> None:
    """Run a job in this process, which was forked from a warm server, with a log of its own."""
    os.setsid()
    take_signals()
    os.environ.update({**thread_caps(threads), **environment})
    job = Job.from_json(line)
    _write_to(RunFolder(job.folder).log)

    import numba
    import torch

    torch.set_num_threads(threads)
    numba.config.reload_config()  # numba has read the server's environment
    sys.exit(_run(job, lambda: lifeline.poll(None), terminal=False))


def _write_to(log: Path) -> None:
    """Redirect everything that this process prints, including the messages of a crash, to ``log``."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _run(job: Job, parent_is_gone: Callable[[], object], *, terminal: bool) -> int:
    def watch() -> None:
        parent_is_gone()  # returns when the other end is closed, for whatever reason
        os._exit(1)

    keep_freed_memory()
    threading.Thread(target=watch, daemon=True).start()
    sys.orig_argv[:] = job.command
    logging.raiseExceptions = False
    here = process_rank()
    first = here is None or here.rank == 0
    log_to(Path(job.folder) if first else None, terminal=terminal)
    run_job(job, progress_bar=terminal and sys.stderr.isatty())
    return 1 if RunFolder(job.folder).read_status().get("state") == "failed" else 0


def _main() -> int:
    try:
        take_ctrl_c()
        return _run_given()
    except KeyboardInterrupt:
        # before a training takes it; the process that started this one says so
        return 130


def _run_given() -> int:
    job = Job.from_json(sys.stdin.readline())
    own_log = variable(OWN_LOG) is not None
    if own_log:
        _write_to(RunFolder(job.folder).log)
    return _run(job, sys.stdin.read, terminal=not own_log)


if __name__ == "__main__":
    code = _main()
    sys.stdout.flush()
    sys.exit(code)
