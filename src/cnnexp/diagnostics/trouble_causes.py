"""Causes that the verdicts in the course of a training name, where its end alone does not show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnexp.diagnostics.causes import CAUSES, Finding
from cnnexp.diagnostics.evidence import Evidence
from cnnexp.diagnostics.outcome import Outcome

_RATES = {"dead": 0.1, "oscillating": 0.1, "lr too high": 0.1, "lr too low": 10.0}
_REGULARISE = ("regularization=[l2,dropout,random_shift]",)


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
            found.append(Finding(cause, 0.5, str(trouble["evidence"]), advice, _REGULARISE))
        elif outcome.kind == "learned":
            advice = str(trouble["suggestion"]).removeprefix("try ")
            text = f"{trouble['evidence']} since step {trouble['since']}"
            rate = evidence.facts.get("lr")
            factor = _RATES.get(cause)
            more = (f"optimizer.lr={rate * factor:.1g}",) if rate and factor else ()
            found.append(Finding(cause, 0.3, text, advice, more, str(trouble["layer"])))
    return found
