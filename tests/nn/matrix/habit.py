"""One habit, and the table into which each is entered by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from tests.nn.matrix.steps import Case, Results

__all__ = ["HABITS", "Habit", "habit"]


@dataclass(frozen=True)
class Habit:
    """One habit.

    Attributes:
        run: Case → tensors by name.
        prepare: Done to the network of torch's layers, before it is converted.
        low_precision: Whether errors are compared with torch's own, from the truth in float64.
        measured: Whether ``auto`` measures within it, instead of knowing what to choose.
        traced: Whether Python is turned into a graph, which takes seconds.
        slow: Whether it takes many seconds: in the suite with ``auto`` alone.
    """

    run: Callable[[Case], Results]
    prepare: Callable[[nn.Module], None] | None = None
    low_precision: bool = False
    measured: bool = False
    traced: bool = False
    slow: bool = False


HABITS: dict[str, Habit] = {}


def habit(name: str, **options: Any) -> Callable[[Callable[[Case], Results]], Any]:
    def enter(run: Callable[[Case], Results]) -> Callable[[Case], Results]:
        HABITS[name] = Habit(run, **options)
        return run

    return enter
