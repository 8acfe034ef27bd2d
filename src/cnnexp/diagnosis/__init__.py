"""The verdict on a run, afterwards: read from its folder, tried out, and shown as text, JSON and a page."""

from cnnexp.diagnosis.of_run import RunDiagnosis, diagnose_run
from cnnexp.diagnosis.trial import Trial, try_suggestion

__all__ = ["RunDiagnosis", "Trial", "diagnose_run", "try_suggestion"]
