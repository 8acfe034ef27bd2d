"""The verdict on a run, afterwards: read from its folder, tried out, and shown as text, JSON and a page."""

from cnnexp.diagnosis.of_run import RunDiagnosis, diagnose_run
from cnnexp.diagnosis.tryout import Tryout, try_suggestion

__all__ = ["RunDiagnosis", "Tryout", "diagnose_run", "try_suggestion"]
