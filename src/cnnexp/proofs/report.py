"""What a check found: a verdict for each thing that it looks at."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ASPECTS", "TWIN", "Report", "Verdict"]

TWIN = "agreement with the twin"
# What is looked at, and the option of ``check`` that leaves it out.
ASPECTS = {
    "dtype and shape": "dtype_and_shape",
    "first derivative": "first_derivative",
    "second derivative": "second_derivative",
    "batched (vmap)": "batched",
    "determinism": "deterministic",
    "inputs written to": "inputs_unchanged",
}
_LONGEST = 400


@dataclass
class Verdict:
    """What was found about one aspect.

    Attributes:
        wrong: One sentence for each thing that is wrong.
        missing: One sentence for each thing that is not offered: it raises, or is cut from the graph.
        looked_at: Whether the aspect was looked at.
        left_out: Whether the caller wanted it left out.
    """

    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    looked_at: bool = False
    left_out: bool = False

    @property
    def state(self) -> str:
        """``right``, ``wrong``, ``not offered``, ``left out`` or ``not reached``."""
        if self.wrong:
            return "wrong"
        if self.missing:
            return "not offered"
        if self.looked_at:
            return "right"
        return "left out" if self.left_out else "not reached"

    def note(self, sentences: list[str], message: str) -> None:
        """Keep ``message`` among ``sentences``, in one line and once, whatever the call's shapes."""
        line = " ".join(message.split())
        line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
        if line not in sentences:
            sentences.append(line)


@dataclass
class Report:
    """The outcome of ``check``: true if nothing is wrong.

    Attributes:
        name: What was checked: the function's, the autograd Function's or the Module's own name.
        cases: How many calls were looked at.
        verdicts: For each aspect (see ``ASPECTS``) what was found.
        differences: Largest error of the gradients against finite differences.
        torch: Largest error of values and gradients against the twin in torch, in float64.
        low_precision: In lower precision, the typical error divided by torch's own, both against
            float64; None if not looked at.
        refused: How many calls the twin refused, which were to be refused with the same exception.
        failures: One line for each thing that is wrong.
        notes: What a reader has to know beside the verdicts.
    """

    name: str
    cases: int = 0
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    differences: float | None = None
    torch: float | None = None
    low_precision: float | None = None
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.failures

    def verdict(self, aspect: str) -> Verdict:
        """What was found about ``aspect``, to be added to."""
        found = self.verdicts.setdefault(aspect, Verdict())
        found.looked_at = True
        return found

    def wrong(self, aspect: str, message: str) -> None:
        """Note that something about ``aspect`` is wrong."""
        verdict = self.verdict(aspect)
        before = len(verdict.wrong)
        verdict.note(verdict.wrong, message)
        self.failures += [f"{aspect}: {line}" for line in verdict.wrong[before:]]

    def missing(self, aspect: str, message: str) -> None:
        """Note that something about ``aspect`` is not offered."""
        verdict = self.verdict(aspect)
        verdict.note(verdict.missing, message)

    def fail(self, message: object) -> None:
        """Note a failure that belongs to no aspect, in one line."""
        line = " ".join(str(message).split())[:_LONGEST]
        if line not in self.failures:
            self.failures.append(line)

    def note(self, message: str) -> None:
        """Say ``message`` beside the verdicts, once."""
        if message not in self.notes:
            self.notes.append(message)

    def worst(self, measure: str, value: float) -> float:
        """Keep the larger of ``value`` and what the attribute ``measure`` holds; return ``value``."""
        setattr(self, measure, max(getattr(self, measure) or 0.0, value))
        return value

    def __str__(self) -> str:
        parts = [f"{self.name}: {'ok' if self else 'WRONG'}, {self.cases} cases"]
        for text, value in (("differences", self.differences), ("torch", self.torch)):
            if value is not None:
                parts.append(f"largest error against {text} {value:.1e}")
        lines = [", ".join(parts)]
        spoken = set()
        for aspect, verdict in self.verdicts.items():
            option = f"{ASPECTS[aspect]}=False" if aspect in ASPECTS else "no twin"
            if verdict.state == "left out":
                lines.append(f"{aspect}: left out ({option})")
            elif verdict.state in ("right", "not reached"):
                lines.append(f"{aspect}: {verdict.state}")
            for state, found in (("wrong", verdict.wrong), ("not offered", verdict.missing)):
                lines += [f"{aspect}: {state}: {each}" for each in found]
                spoken.update(f"{aspect}: {each}" for each in found)
            if verdict.state in ("wrong", "not offered"):
                lines[-1] += f" ({option} leaves this out)"
        lines += [line for line in self.failures if line not in spoken]
        return "\n  ".join([*lines, *(f"note: {note}" for note in self.notes)])
