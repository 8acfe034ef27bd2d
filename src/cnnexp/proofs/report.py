"""The outcome of a check: a verdict for each aspect."""

from __future__ import annotations

from dataclasses import dataclass, field

TWIN = "agreement with the twin"
# The aspects, and the option of ``check`` that leaves each out.
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
    """The findings about one aspect.

    Attributes:
        wrong: One sentence for each thing that is wrong.
        missing: One sentence for each thing that is not offered: it raises, or is cut from the graph.
        looked_at: Whether the aspect was checked.
        left_out: Whether the caller left it out.
    """

    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    looked_at: bool = False
    left_out: bool = False

    @property
    def state(self) -> str:
        """The verdict's state: ``right``, ``wrong``, ``not offered``, ``left out`` or ``not reached``."""
        if self.wrong:
            return "wrong"
        if self.missing:
            return "not offered"
        if self.looked_at:
            return "right"
        return "left out" if self.left_out else "not reached"

    def note(self, sentences: list[str], message: str) -> None:
        """Add ``message`` to ``sentences`` as one line, unless it is there already."""
        line = " ".join(message.split())
        line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
        if line not in sentences:
            sentences.append(line)


@dataclass
class Report:
    """The outcome of ``check``: true if nothing is wrong.

    Attributes:
        name: The name of what was checked: the function's, the autograd Function's or the Module's own.
        cases: How many calls were checked.
        verdicts: The findings for each aspect (see ``ASPECTS``).
        differences: Largest error of the gradients against finite differences.
        torch: Largest error of values and gradients against the twin in torch, in float64.
        low_precision: In lower precision, the typical error divided by torch's own, both against
            float64; None if not checked.
        refused: How many calls the twin refused, which had to be refused with the same exception.
        failures: One line for each thing that is wrong.
        notes: What a reader has to know besides the verdicts.
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
        """The verdict on ``aspect``, which counts as checked from now on, for adding to."""
        found = self.verdicts.setdefault(aspect, Verdict())
        found.looked_at = True
        return found

    def wrong(self, aspect: str, message: str) -> None:
        """Record that something about ``aspect`` is wrong."""
        verdict = self.verdict(aspect)
        before = len(verdict.wrong)
        verdict.note(verdict.wrong, message)
        self.failures += [f"{aspect}: {line}" for line in verdict.wrong[before:]]

    def missing(self, aspect: str, message: str) -> None:
        """Record that something about ``aspect`` is not offered."""
        verdict = self.verdict(aspect)
        verdict.note(verdict.missing, message)

    def fail(self, message: object) -> None:
        """Record a failure that belongs to no aspect, in one line."""
        line = " ".join(str(message).split())[:_LONGEST]
        if line not in self.failures:
            self.failures.append(line)

    def note(self, message: str) -> None:
        """Add ``message`` to the notes, once."""
        if message not in self.notes:
            self.notes.append(message)

    def worst(self, measure: str, value: float) -> float:
        """Raise the attribute ``measure`` to ``value`` if that is larger; return ``value``."""
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
