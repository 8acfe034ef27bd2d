"""Diagnose a run from its folder: done, stopped, failed, or killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnnexp.config.errors import ConfigError
from cnnexp.diagnostics import Diagnosis, Evidence, diagnose
from cnnexp.diagnostics.from_metrics import evidence_from
from cnnexp.runs import RunFolder
from cnnexp.runs.files import RunFolderError


@dataclass(frozen=True)
class RunDiagnosis:
    """The verdict on a run.

    Attributes:
        folder: The run.
        state: What status.json says of it; ``"unknown"`` without one.
        diagnosis: The verdict.
        evidence: What it is based on.
        note: What is missing of the evidence; "" if nothing is.
    """

    folder: RunFolder
    state: str
    diagnosis: Diagnosis
    evidence: Evidence
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON."""
        return {
            "run": str(self.folder),
            "state": self.state,
            "note": self.note,
            **self.diagnosis.as_dict(),
            "evidence": self.evidence.as_dict(),
        }


def diagnose_run(folder: RunFolder) -> RunDiagnosis:
    """The verdict on the run in ``folder``.

    A run that could not write its evidence (killed, or ``diagnostics=off``, or of an earlier version) is
    judged by metrics.csv; what that does not tell is named in the note.

    Raises:
        ConfigError: The run has not measured anything yet.
        RunFolderError: One of its files is damaged.
    """
    status, result = folder.read_status(), folder.read_result()
    state, note = str(status.get("state", "unknown")), ""
    evidence = _evidence(folder)
    if evidence is None:
        evidence = evidence_from(folder.read_metrics(), _classes(folder))
        measured = bool(evidence.early)
        note = "from metrics.csv alone: nothing is known of data, network and settings"
        note += "" if measured else ", nor of gradients and updates (diagnostics=off?)"
        config = folder.read_config()
        rate = config.get("optimizer", {}).get("lr")
        if isinstance(rate, (int, float)):
            evidence.facts["lr"] = float(rate)
        if evidence.steps == 0 and state != "failed":
            raise ConfigError(
                f"run={folder}: has logged no training step yet; let it train, or choose another run"
            )
    finding = folder.read_non_finite() if state == "failed" and not evidence.non_finite else {}
    if finding:
        evidence.non_finite = {
            "step": finding.get("step", 0),
            "layer": finding.get("layer", ""),
            "evidence": f"the {finding.get('what', 'loss')} is infinite or not a number",
        }
    troubles = result.get("health", status.get("health", []))
    if state == "failed" and not evidence.non_finite:
        note = "; ".join(
            filter(None, [f"it failed: {status.get('error', 'no reason is known')}", note])
        )
    return RunDiagnosis(folder, state, diagnose(evidence, troubles), evidence, note)


def _evidence(folder: RunFolder) -> Evidence | None:
    content = folder.read_evidence()
    if not content:
        return None
    try:
        return Evidence.of(content)
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{folder.evidence}: is not evidence of this version: {error}"
        ) from error


def _classes(folder: RunFolder) -> int:
    dataset = folder.read_provenance().get("dataset", {})
    classes = dataset.get("classes")
    if dataset.get("targets", "classes") != "classes":
        return 1  # labels and numbers are no choice among classes
    if not classes:
        raise ConfigError(
            f"run={folder}: ended before it had its data; there is nothing to diagnose"
        )
    return len(classes)
