"""Many trainings, and trainings by many processes: jobs, the ledger, launchers."""

from cnnexp.sweeps.job import Job, log_to, run_job
from cnnexp.sweeps.ledger import Entry, Ledger

__all__ = ["Entry", "Job", "Ledger", "log_to", "run_job"]
