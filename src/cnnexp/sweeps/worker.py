"""``python -m cnnexp.sweeps.worker``: the process of one rank; a job comes in by its standard input."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

from cnnexp.runs import place
from cnnexp.sweeps.job import Job, log_to, run_job

__all__: list[str] = []


def _end_with_the_parent() -> None:
    sys.stdin.read()  # returns when the other end is closed, however that came about
    os._exit(1)


def _main() -> int:
    job = Job.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    sys.orig_argv[:] = job.command
    logging.raiseExceptions = False
    here = place()
    first = here is None or here.rank == 0
    log_to(Path(job.folder) if first else None)
    value = run_job(job, progress_bar=sys.stderr.isatty())
    return 0 if value is not None or not _failed(job) else 1


def _failed(job: Job) -> bool:
    from cnnexp.runs import RunFolder

    return RunFolder(job.folder).read_status().get("state") == "failed"


if __name__ == "__main__":
    code = _main()
    sys.stdout.flush()
    sys.exit(code)
