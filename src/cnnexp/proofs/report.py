"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Report"]


@dataclass
class Report:
    """The outcome of ``check``: true if nothing failed.

    Attributes:
        name: What was checked.
        cases: How many calls were looked at.
        differences: Largest error of the gradients against finite differences, in float64.
        torch: Largest error of values and gradients against the twin in torch, in float64.
        low_precision: In lower precision, the typical error divided by torch's own, both against
            float64; None if not looked at.
        refused: How many calls the twin refused, which were to be refused with the same exception.
        failures: One line for each thing that is wrong.
    """

    name: str
    cases: int = 0
    differences: float | None = None
    torch: float | None = None
    low_precision: float | None = None
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.failures

    def fail(self, message: object) -> None:
        """Note a failure, in one line."""
        self.failures.append(" ".join(str(message).split())[:300])

    def worst(self, measure: str, value: float) -> float:
        """Keep the larger of ``value`` and what the attribute ``measure`` holds; return ``value``."""
        setattr(self, measure, max(getattr(self, measure) or 0.0, value))
        return value

    def __str__(self) -> str:
        parts = [f"{self.name}: {'ok' if self else 'WRONG'}, {self.cases} cases"]
        for text, value in (("differences", self.differences), ("torch", self.torch)):
            if value is not None:
                parts.append(f"largest error against {text} {value:.1e}")
        return "\n  ".join([", ".join(parts), *self.failures])
