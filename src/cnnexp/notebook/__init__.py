"""Runs from a program or a notebook: ``fit`` trains by the configs and leaves a run folder."""

from cnnexp.notebook.fitting import fit
from cnnexp.notebook.run import Run

__all__ = ["Run", "fit"]
