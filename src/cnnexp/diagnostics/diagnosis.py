"""The verdict on a training: whether it learned, and if not, why, the strongest cause first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnnexp.diagnostics import data_causes, setup_causes, step_causes
from cnnexp.diagnostics.causes import REGULARISE, Finding, rate_times
from cnnexp.diagnostics.evidence import Evidence
from cnnexp.diagnostics.outcome import Outcome, outcome_of
from cnnexp.diagnostics.trouble_causes import of_troubles

_RULES = (*data_causes.RULES, *setup_causes.RULES, *step_causes.RULES)
_WORDS = {
    "failed": "this did not learn",
    "guessing": "this did not learn",
    "unmoved": "this did not learn",
    "lost": "this learned, and lost it",
    "by heart": "this learned its training images by heart",
    "stopped": "this stopped learning early",
    "slow": "this learns slowly",
    "learned": "this learned",
    "too early": "it is too early to tell",
}
_SYMPTOMS = {  # findings that are told as consequences where one of these is named before
    "dead": (
        "penalty too strong",
        "lr too high",
        "vanishing",
        "exploding",
        "images not normalised",
    ),
    "saturated": ("lr too high", "images not normalised", "exploding"),
    "vanishing": ("penalty too strong", "saturated", "dead", "weights constant", "frozen"),
    "exploding": ("images not normalised", "penalty too strong"),
    "lr too low": (
        "vanishing",
        "penalty too strong",
        "clipped",
        "saturated",
        "dead",
        "frozen",
        "dropout",
    ),
    "lr too high": ("penalty too strong", "images not normalised", "exploding"),
    "too short": ("*",),
    "overfitting": ("labels do not fit", "label noise", "tiny batch", "random in evaluation"),
}
# those that are told as consequences; others are left out
_SHOWN = ("dead", "saturated", "vanishing", "exploding", "overfitting")


@dataclass(frozen=True)
class Diagnosis:
    """What is to be said of a training.

    Attributes:
        outcome: What it came to.
        findings: The causes that the evidence speaks for, the first named first; empty if it learned and
            nothing is wrong with data and network.
    """

    outcome: Outcome
    findings: tuple[Finding, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to say."""
        return not self.findings and not self.outcome.bad

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        return f"{_WORDS[self.outcome.kind]}: {self.outcome.text}"

    def lines(self) -> list[str]:
        """The verdict as lines of text: the headline, and the causes with what to try."""
        lines = [self.headline]
        return [*lines, *(f"{number}. {one}" for number, one in enumerate(self.findings, 1))]

    def as_dict(self) -> dict[str, Any]:
        """Everything for JSON."""
        return {
            "verdict": self.headline,
            "outcome": self.outcome.as_dict(),
            "healthy": self.healthy,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def diagnose(evidence: Evidence, troubles: Sequence[Mapping[str, Any]] = ()) -> Diagnosis:
    """The verdict on a training so far.

    Args:
        evidence: Of the training.
        troubles: Verdicts of :class:`Health` as dictionaries.
    """
    outcome = outcome_of(evidence)
    found = [finding for rule in _RULES if (finding := rule(evidence, outcome)) is not None]
    if outcome.kind == "too early":
        found = [finding for finding in found if finding.known.always]
    if outcome.kind == "by heart":  # what keeps a network from learning did not keep this one
        found = [
            f for f in found if f.known.always or f.cause in ("tiny batch", "random in evaluation")
        ]
    named = {finding.cause for finding in found}
    found += [f for f in of_troubles(troubles, evidence, outcome) if f.cause not in named]
    found.sort(key=lambda finding: (finding.rank, -finding.strength))
    if outcome.bad and not any(
        not finding.known.always or finding.known.rank == 0 for finding in found
    ):
        found = [*found, *_unexplained(evidence, outcome, found)]
    found = [replace(f, overrides=possible(f.overrides, evidence.facts)) for f in found]
    return Diagnosis(outcome, _with_consequences(found))


def possible(overrides: Sequence[str], facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of ``overrides`` that the training's network and optimiser can take."""
    keys = facts.get("keys")
    if keys is None:
        return tuple(overrides)
    needs = {"regularization=batch_norm": "model.norm"}
    kept = []
    for override in overrides:
        key = needs.get(override, override.partition("=")[0])
        if override == REGULARISE and "model.dropout" not in keys:
            override = "regularization=[l2,random_shift]"
        if not key.startswith(("model.", "optimizer.", "regularization.")) or key in keys:
            kept.append(override)
    return tuple(kept)


def explanation(evidence: Evidence) -> Finding | None:
    """The cause in data, network or settings that would explain any trouble of a training that does not
    learn; None if there is none.
    """
    failed = Outcome("unmoved", "")
    rules = (*data_causes.RULES, *setup_causes.RULES)
    found = [finding for rule in rules if (finding := rule(evidence, failed)) is not None]
    found = [f for f in found if f.cause not in ("duplicates", "classes missing", "frozen")]
    first = min(found, key=lambda one: (one.rank, -one.strength), default=None)
    return first and replace(first, overrides=possible(first.overrides, evidence.facts))


def _unexplained(evidence: Evidence, outcome: Outcome, found: Sequence[Finding]) -> list[Finding]:
    if outcome.kind == "by heart" or any(f.cause in ("label noise", "overfitting") for f in found):
        return []
    text = f"the loss stands at {evidence.curve.last:.3g}; {evidence.said_of_chance}"
    advice = "try another learning rate, and look at the labels"
    return [Finding("stuck", 0.1, text, advice, rate_times(evidence, 0.1))]


def _with_consequences(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings with those that follow from an earlier one told as its consequence."""
    kept: list[Finding] = []
    for finding in found:
        causes = _SYMPTOMS.get(finding.cause, ())
        at = next((i for i, one in enumerate(kept) if one.cause in causes or "*" in causes), None)
        if at is None:
            kept.append(finding)
        elif finding.cause in _SHOWN:
            told = (*kept[at].consequences, f"{finding.cause}: {finding.evidence}")
            kept[at] = replace(kept[at], consequences=told)
    return tuple(kept)
