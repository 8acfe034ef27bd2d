"""A grade as text for a terminal: what is right, what is wrong, the smallest call that shows it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnexp.grading.agreement import wrong_places
from cnnexp.grading.result import Example, Finding, Verdict

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 96
_MOST_PLANES = 6  # of one tensor that are drawn


def as_text(grade: Verdict, *, colour: bool = False) -> str:
    """The grade as text; with ``colour`` for a terminal that has some."""
    import io

    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, force_terminal=colour, highlight=False)
    show(grade, console)
    return stream.getvalue().rstrip("\n")


def show(grade: Verdict, console: Console) -> None:
    """Print the grade on a rich ``console``."""
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        indent = len(text) - len(text.lstrip())
        rows = textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent) or [text]
        console.print(Text("\n".join(rows), style))

    style = "bold green" if grade else "bold red"
    line(f"{grade.op}  {grade.work}: {grade.verdict.upper()}", style)
    for part, right in grade.parts.items():
        word = {True: "right", False: "wrong", None: "no answer"}[right]
        line(f"  {part:8} {word}", "green" if right else "red")
    for number, finding in enumerate(grade.findings, 1):
        line("")
        _show_finding(number, finding, line)
    if grade.example is not None:
        line("")
        line(f"The smallest call that shows it: {grade.example.call}", "bold")
        for row in picture(grade.example):
            console.print(Text(f"  {row}".rstrip()))
    for note in grade.notes:
        line(f"note: {note}", "yellow")
    for row in cost_rows(grade):
        line(row)
    line(spent(grade), "dim")


def spent(grade: Verdict) -> str:
    """How many calls were judged in what time, and where the work ran."""
    where = "in a process of its own" if grade.isolated else "in this process, without limits"
    return f"{grade.calls} calls, {grade.seconds:.1f} s; the work ran {where}"


def _show_finding(number: int, finding: Finding, line: Any) -> None:
    where = f" in {', '.join(finding.parts)}" if finding.parts else ""
    line(f"{number}. {finding.title}{where}", "bold")
    line(f"   {finding.meaning}")
    if finding.remedy:
        line(f"   {finding.remedy}")
    for formula in finding.formulas:
        line(f"   right:  {formula}", "cyan")
    if finding.kin:
        line(f"   The same numbers would come from: {'; '.join(finding.kin)}.")
    if finding.link:
        line(f"   {finding.link}", "dim")


def cost_rows(grade: Verdict) -> Iterator[str]:
    """Time and memory of a middling call beside those of cnnexp's own op, in words."""
    cost = grade.cost
    if "ms" in cost and "our_ms" in cost:
        ratio = cost["ms"] / cost["our_ms"]
        yield (
            f"time of a middling call, forward and backward: {cost['ms']:.3g} ms, cnnexp's "
            f"{cost['our_ms']:.3g} ms ({ratio:.3g} times as long)"
        )
    if "bytes" in cost and "our_bytes" in cost:
        yield (
            f"memory at most: {cost['bytes'] / 2**20:.3g} MiB of arrays, cnnexp's "
            f"{cost['our_bytes'] / 2**20:.3g} MiB of the process"
        )


def picture(example: Example) -> Iterator[str]:
    """The tensors of an example as rows of text, side by side; wrong numbers stand in [brackets]."""
    blocks = [block for name, value in example.given.items() for block in drawn(name, value)]
    yield from _beside(blocks)
    yield ""
    right = np.asarray(example.right, dtype=float)
    if example.found is None:
        yield from _beside(list(drawn(f"right {example.part}", right)))
        yield f"your {example.part}: nothing"
        return
    found = np.asarray(example.found, dtype=float)
    mask = wrong_places(found, right) if found.shape == right.shape else np.zeros(found.shape, bool)
    yield from _beside(list(drawn(f"your {example.part}", found, mask)))
    yield ""
    yield from _beside(list(drawn(f"right {example.part}", right)))
    if found.shape != right.shape:
        yield f"shape {found.shape} where {right.shape} is meant"


def drawn(name: str, value: Any, mask: Any = None) -> Iterator[list[str]]:
    """The matrices of a tensor, each a list of rows of text with the name above."""
    array = np.asarray(value, dtype=float)
    marks = np.zeros(array.shape, bool) if mask is None else np.asarray(mask)
    shaped, marked = np.atleast_2d(array), np.atleast_2d(marks)
    places = list(np.ndindex(shaped.shape[:-2]))
    for place in places[:_MOST_PLANES]:
        title = name if len(places) == 1 else f"{name} {list(place)}"
        cells = [
            [number(v, wrong=bool(m)) for v, m in zip(row, marks_of_row, strict=True)]
            for row, marks_of_row in zip(shaped[place], marked[place], strict=True)
        ]
        width = max((len(cell) for row in cells for cell in row), default=1)
        yield [title, *(" ".join(cell.rjust(width) for cell in row) for row in cells)]
    if len(places) > _MOST_PLANES:
        yield [f"… {len(places) - _MOST_PLANES} more"]


def number(value: float, *, wrong: bool = False) -> str:
    """A number as short as it can be; in brackets if it is wrong."""
    text = f"{value:.4g}".replace("-", "−")
    return f"[{text}]" if wrong else f" {text} "


def _beside(blocks: list[list[str]]) -> Iterator[str]:
    """Blocks side by side, in as many lines of blocks as the width asks for."""
    group: list[list[str]] = []
    used = 0
    for block in [*blocks, []]:
        width = max((len(row) for row in block), default=0) + 4
        if group and (not block or used + width > _WIDTH - 4):
            yield from _joined(group)
            group, used = [], 0
        group, used = [*group, block], used + width


def _joined(group: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row) for row in block) + 4 for block in group]
    for number_ in range(max(len(block) for block in group)):
        cells = [block[number_] if number_ < len(block) else "" for block in group]
        yield "".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()
