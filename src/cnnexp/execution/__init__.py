"""One job in a process: its record for other processes, the run itself, its ranks, its slots."""

from cnnexp.execution.job import Job
from cnnexp.execution.log import log_to
from cnnexp.execution.run import run_job

__all__ = ["Job", "log_to", "run_job"]
