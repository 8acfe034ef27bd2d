"""Many trainings, and trainings by many processes: jobs, the ledger, launchers."""

from cnnexp.sweeps.job import Job, log_to, run_job

__all__ = ["Job", "log_to", "run_job"]
