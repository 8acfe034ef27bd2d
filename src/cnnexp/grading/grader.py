"""Grade a file, or functions and classes at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnexp.commandline import Misuse
from cnnexp.grading.cases import Case, cases_of
from cnnexp.grading.contract import CONTRACTS
from cnnexp.grading.process import Limits, Outcome, run_file
from cnnexp.grading.shown import Grade
from cnnexp.suggestions import did_you_mean

_SOLVED: dict[str, list[Case]] = {}


def grade_file(op: str, file: Path | str, *, limits: Limits | None = None) -> Grade:
    """Grade the work in ``file``, which runs in a process of its own with limits.

    Args:
        op: What it is a backward of: a name in :data:`cnnexp.grading.CONTRACTS`.
        file: A Python file with ``forward`` and ``backward``, an autograd Function or a Module.
        limits: Of time and memory; by default 30 seconds and 1 GiB.

    Raises:
        Misuse: There is no such op or file, or nothing in it that could be graded.
    """
    file = Path(file)
    check_op(op)
    if not file.is_file():
        raise Misuse(f"{file}: there is no such file")
    return _graded(op, str(file), lambda cases: run_file(file, op, cases, limits or Limits()))


def grade(
    op: str,
    work: Any = None,
    *,
    forward: Callable[..., Any] | None = None,
    backward: Callable[..., Any] | None = None,
    limits: Limits | None = None,
) -> Grade:
    """Grade functions or a class, as in a notebook.

    They run in a fork of this process, with limits, where the system has forks, else in this process.

    Args:
        op: What it is a backward of.
        work: An autograd Function, a Module, a class with forward and backward, or the path of a file.
        forward: The forward function, in place of ``work``.
        backward: The backward function, with ``forward``.
        limits: Of time and memory.

    Returns:
        The grade; a notebook shows it as a picture, a terminal as text.

    Raises:
        Misuse: There is no such op, or nothing was given that could be graded.

    >>> print(grade("relu", forward=lambda x: x.clip(0), backward=lambda g, x: g * (x > 0)).verdict)
    right
    """
    check_op(op)
    if isinstance(work, (str, Path)):
        return grade_file(op, work, limits=limits)
    from cnnexp.grading.in_process import run_at_hand

    names = {"forward": forward, "backward": backward} if work is None else {"work": work}
    if None in names.values():
        raise Misuse(f"{op}: give forward= and backward=, or a Function, a Module, a class, a file")
    title = getattr(work or forward, "__name__", op)
    return _graded(op, title, lambda cases: run_at_hand(names, op, cases, limits or Limits()))


def check_op(op: str) -> None:
    """Make sure that ``op`` can be graded.

    Raises:
        Misuse: It cannot.
    """
    if op not in CONTRACTS:
        raise Misuse(
            f"{op}: no op that can be graded; known: {', '.join(CONTRACTS)}.{did_you_mean(op, CONTRACTS)}"
        )


def _graded(op: str, work: str, run: Callable[[list[Case]], Outcome]) -> Grade:
    begun = time.perf_counter()
    from cnnexp.grading.cost import cost_of_ours
    from cnnexp.grading.judge import judge
    from cnnexp.grading.right import solve

    cases = solve(cases_of(op))
    outcome = run(cases)
    made = judge(op, work, cases, outcome)
    cost = outcome.about.get("cost", {})
    if made and cost:
        made.cost = cost | cost_of_ours(op, frozenset(outcome.about["takes"]))
    made.seconds = round(time.perf_counter() - begun, 2)
    return made
