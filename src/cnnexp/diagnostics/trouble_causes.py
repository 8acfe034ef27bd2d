"""Causes that the verdicts in the course of a training name, where its end alone does not show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnexp.diagnostics.causes import CAUSES, REGULARISE, Finding, rate_times
from cnnexp.diagnostics.evidence import Evidence
from cnnexp.diagnostics.outcome import Outcome

# by how much the learning rate is to change
_RATES = {"dead": 0.1, "oscillating": 0.1, "lr too high": 0.1, "lr too low": 10.0}


def of_troubles(
    troubles: Sequence[Mapping[str, Any]], evidence: Evidence, outcome: Outcome
) -> list[Finding]:
    """A finding for each kind of trouble that was there at the end.

    Overfitting always is one. Any other is if the training learned: of one that did not, the rules that look
    at its evidence tell the cause, of which the trouble may be a consequence.

    Args:
        troubles: Verdicts of :class:`~cnnexp.diagnostics.health.Health` as dictionaries.
        evidence, outcome: Of the training.
    """
    open_now = {t["trouble"]: t for t in reversed(troubles) if t.get("until") is None}
    found = []
    for cause, trouble in open_now.items():
        if cause not in CAUSES:
            continue
        if cause == "overfitting":
            advice = "regularise, or take more images"
            found.append(Finding(cause, 0.5, str(trouble["evidence"]), advice, (REGULARISE,)))
        elif outcome.kind == "learned":
            advice = str(trouble["suggestion"]).removeprefix("try ")
            text = f"{trouble['evidence']} since step {trouble['since']}"
            more = rate_times(evidence, _RATES[cause]) if cause in _RATES else ()
            found.append(Finding(cause, 0.3, text, advice, more, str(trouble["layer"])))
    return found
