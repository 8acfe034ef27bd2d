"""Many trainings: the ledger of their jobs, launchers, searches, comparisons."""

from cnnexp.sweeps.ledger import Entry, Ledger

__all__ = ["Entry", "Ledger"]
