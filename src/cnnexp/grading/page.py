"""A grade as one HTML page that needs no other file, no server and no network."""

from __future__ import annotations

import html
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnexp.grading.agreement import wrong_places
from cnnexp.grading.result import DERIVATION, Example, Finding, Verdict
from cnnexp.grading.show import cost_rows, number, spent
from cnnexp.runs.files import write_text
from cnnexp.version import __version__

_STYLE = """<style>
.grade h3 { margin-bottom: .2rem; } .grade .right { color: #1a7f37; } .grade .wrong { color: #c62828; }
.grade table { border-collapse: collapse; display: inline-table; margin: .4rem 1.4rem .4rem 0; }
.grade caption { text-align: left; white-space: nowrap; font-weight: 600; }
.grade td { border: 1px solid #8886; padding: .1rem .5rem; text-align: right; }
.grade td.bad { background: #d3222266; font-weight: 700; }
.grade code { white-space: pre-wrap; }
</style>"""


_DERIVATION = Path(__file__).resolve().parents[3] / DERIVATION


def write_page(grade: Verdict, file: Path, command: str) -> None:
    """Write the page of a grade to ``file``, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    template = (Path(__file__).parent / "web" / "grade.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": _text(f"{grade.op}: {grade.verdict}"),
        "BODY": body_of(grade),
        "FOOTER": f"cnnexp {__version__}, {time.strftime('%Y-%m-%d %H:%M')}<br><code>{_text(command)}</code>",
    }
    # in one pass: a value may hold the name of another part
    page = re.sub("|".join(parts), lambda found: parts[found[0]], template)
    if _DERIVATION.is_file():  # in a checkout, of which a wheel has no documents
        there = Path(os.path.relpath(_DERIVATION, file.resolve().parent)).as_posix()
        page = page.replace(f'href="{DERIVATION}#', f'href="{_text(there)}#')
    write_text(file, page)


def body_of(grade: Verdict) -> str:
    """The grade as HTML without a page around it, as a notebook shows it."""
    return "\n".join(['<div class="grade">', _STYLE, *_lines(grade), "</div>"])


def _text(value: object) -> str:
    return html.escape(str(value))


def _lines(grade: Verdict) -> Iterator[str]:
    kind = "right" if grade else "wrong"
    yield f'<h2>{_text(grade.op)}: <span class="{kind}">{_text(grade.verdict)}</span></h2>'
    yield f"<p>{_text(grade.work)}</p><ul>"
    for part, right in grade.parts.items():
        word = {True: "right", False: "wrong", None: "no answer"}[right]
        yield f'<li>{_text(part)}: <span class="{"right" if right else "wrong"}">{word}</span>'
    yield "</ul>"
    for position, finding in enumerate(grade.findings, 1):
        yield from _finding(position, finding)
    if grade.example is not None:
        yield f"<h3>The smallest call that shows it</h3><p>{_text(grade.example.call)}</p>"
        yield from _example(grade.example)
    for note in [*grade.notes, *cost_rows(grade)]:
        yield f"<p>{_text(note)}</p>"
    yield f"<p>{_text(spent(grade))}.</p>"


def _finding(position: int, finding: Finding) -> Iterator[str]:
    where = f" in {', '.join(finding.parts)}" if finding.parts else ""
    yield f"<h3>{position}. {_text(finding.title + where)}</h3>"
    yield f"<p>{_text(finding.meaning)}</p>"
    if finding.remedy:
        yield f"<p>{_text(finding.remedy)}</p>"
    for formula in finding.formulas:
        yield f"<p><code>{_text(formula)}</code></p>"
    if finding.kin:
        yield f"<p>The same numbers would come from: {_text('; '.join(finding.kin))}.</p>"
    if finding.link:
        yield f'<p>Derived in <a href="{_text(finding.link)}">{_text(finding.link)}</a></p>'


def _example(example: Example) -> Iterator[str]:
    yield "<div>"
    for name, value in example.given.items():
        yield from _tables(name, value)
    yield "</div><div>"
    right = np.asarray(example.right, dtype=float)
    if example.found is None:
        yield f"<p>your {_text(example.part)}: nothing</p>"
    else:
        found = np.asarray(example.found, dtype=float)
        same = found.shape == right.shape
        yield from _tables(
            f"your {example.part}", found, wrong_places(found, right) if same else None
        )
        if not same:
            yield f"<p>shape {found.shape} where {right.shape} is meant</p>"
    yield "</div><div>"
    yield from _tables(f"right {example.part}", right)
    yield "</div>"


def _tables(name: str, value: Any, mask: Any = None) -> Iterator[str]:
    array = np.atleast_2d(np.asarray(value, dtype=float))
    marks = np.zeros(array.shape, bool) if mask is None else np.atleast_2d(mask)
    several = len(array.shape) > 2 and int(np.prod(array.shape[:-2])) > 1
    for place in np.ndindex(array.shape[:-2]):
        rows = "".join(
            "<tr>" + "".join(_cell(v, bool(m)) for v, m in zip(row, mark, strict=True))
            for row, mark in zip(array[place], marks[place], strict=True)
        )
        title = f"{name} {list(place)}" if several else name
        yield f"<table><caption>{_text(title)}</caption>{rows}</table>"


def _cell(value: float, wrong: bool) -> str:
    return f"<td{' class=bad' if wrong else ''}>{_text(number(value).strip())}</td>"
