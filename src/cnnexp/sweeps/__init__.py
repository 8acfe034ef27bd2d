"""Many trainings: the ledger of their jobs, launchers, searches, comparisons."""

from cnnexp.sweeps.ledger import JobStatus, Ledger

__all__ = ["JobStatus", "Ledger"]
