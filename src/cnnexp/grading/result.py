"""What a grade says: what is right, what is wrong and how it is called, the smallest call that shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

DERIVATION = "docs/derivation.md"


@dataclass(frozen=True)
class Finding:
    """One mistake.

    Attributes:
        name: What it is called.
        parts: The output ("y") and the gradients that show it, as the derivation writes them.
        variant: What is more exact than the name; may be empty.
        meaning: What the program does.
        remedy: What it should do; empty if the mistake is none of the known ones.
        formulas: The right formulas of the parts.
        link: The place in the derivation.
        named: Whether it is a known mistake, not a description of what is wrong.
        kin: Names of other mistakes that would give the same numbers in all calls.
    """

    name: str
    parts: tuple[str, ...]
    meaning: str
    variant: str = ""
    remedy: str = ""
    formulas: tuple[str, ...] = ()
    link: str = ""
    named: bool = True
    kin: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name with the variant behind it."""
        return f"{self.name} ({self.variant})" if self.variant else self.name


@dataclass(frozen=True)
class Example:
    """The smallest call that shows a mistake, with the arrays as nested lists of numbers.

    Attributes:
        part: What is wrong in it.
        call: Shapes and settings in one line.
        given: The tensors and g by name.
        found: What the work gave; None if it gave nothing.
        right: What is right.
    """

    part: str
    call: str
    given: dict[str, Any]
    found: Any
    right: Any


@dataclass
class Verdict:
    """What was found about one piece of work; true if everything is right.

    Attributes:
        op: The op.
        work: The name of the file or functions.
        verdict: "right", "wrong", or "failed" where the work never gave an answer.
        parts: Output and gradients: True if right, False if wrong, None if it gave no answer.
        findings: The mistakes.
        notes: What is no mistake but good to know.
        example: The smallest call that shows the first mistake.
        calls: How many calls were judged.
        seconds: How long it took.
        cost: Milliseconds and bytes of a middling call, of the work and of cnnexp's own op.
        isolated: Whether the work ran in a process of its own, with limits.
    """

    op: str
    work: str
    verdict: str
    parts: dict[str, bool | None]
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    example: Example | None = None
    calls: int = 0
    seconds: float = 0.0
    cost: dict[str, float] = field(default_factory=dict)
    isolated: bool = True

    def __bool__(self) -> bool:
        return self.verdict == "right"

    def as_dict(self) -> dict[str, Any]:
        """Everything as what JSON knows."""
        return asdict(self)
