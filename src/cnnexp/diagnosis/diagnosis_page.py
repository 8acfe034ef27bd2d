"""A diagnosis as one HTML page that needs no other file, no server and no network."""

from __future__ import annotations

import html
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnexp.diagnosis.of_run import RunDiagnosis
from cnnexp.diagnosis.terminal import GLOSSARY, style_of
from cnnexp.diagnosis.tryout import Tryout
from cnnexp.diagnostics import Evidence, Finding
from cnnexp.runs.files import write_text
from cnnexp.version import __version__

_ROOT = Path(__file__).resolve().parents[3]
_WIDTH, _HEIGHT, _LEFT, _BELOW = 640, 220, 52, 26  # of the curve


def write_diagnosis_page(
    found: RunDiagnosis, tryout: Tryout | None, file: Path, command: str
) -> None:
    """Write the page to ``file``, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    template = (Path(__file__).parent / "web" / "diagnosis.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": _text(f"Verdict on {found.folder.path.name}"),
        "BODY": "\n".join(_body(found, tryout)),
        "FOOTER": f"cnnexp {__version__}, {time.strftime('%Y-%m-%d %H:%M')}<br><code>{_text(command)}</code>",
    }
    # in one pass: a value may hold the name of another part
    page = re.sub("|".join(parts), lambda found: parts[found[0]], template)
    if (_ROOT / "docs").is_dir():  # in a checkout, of which a wheel has no documents
        there = Path(os.path.relpath(_ROOT, file.resolve().parent)).as_posix()
        page = page.replace('href="docs/', f'href="{_text(there)}/docs/')
    write_text(file, page)


def _text(value: object) -> str:
    return html.escape(str(value))


def _body(found: RunDiagnosis, tryout: Tryout | None) -> Iterator[str]:
    colour = style_of(found).removeprefix("bold ")
    yield f'<p class="run"><code>{_text(found.folder)}</code>, {_text(found.state)}</p>'
    yield f'<h1 class="{colour}">{_text(found.diagnosis.headline)}</h1>'
    for number, finding in enumerate(found.diagnosis.findings, 1):
        yield from _finding(number, finding)
    if found.diagnosis.healthy:
        yield "<p>Nothing conspicuous.</p>"
    if tryout is not None:
        yield f'<p class="{"green" if tryout.learned else "yellow"}">{_text(tryout)}</p>'
    if found.note:
        yield f"<p>Note: {_text(found.note)}</p>"
    yield from _curve(found.evidence)
    yield from _layers(found.evidence)
    yield f'<p><a href="{GLOSSARY}">What the words mean</a></p>'


def _finding(number: int, finding: Finding) -> Iterator[str]:
    yield f"<section><h2>{number}. {_text(finding.cause)}</h2>"
    yield f"<p><b>{_text(finding.evidence)}.</b> {_text(finding.known.meaning)}</p>"
    for consequence in finding.consequences:
        yield f"<p>Hence {_text(consequence)}.</p>"
    yield f"<p>Try: {_text(finding.suggestion)}</p>"
    if finding.overrides:
        yield f"<pre>python -m cnnexp.train … {_text(shlex.join(finding.overrides))}</pre>"
    if finding.known.section:
        link = f"docs/derivation.md#{finding.known.section}"
        yield f'<p>Derived in <a href="{link}">{link}</a></p>'
    yield "</section>"


def _curve(evidence: Evidence) -> Iterator[str]:
    """The loss by step, and the loss of a guess, as a drawing."""
    bins, chance = evidence.curve.bins, evidence.chance
    if len(bins) < 2:
        return
    highest = 1.15 * max(min(max(bins), 5 * max(chance, bins[-1])), chance)
    width, height = _WIDTH - _LEFT, _HEIGHT - _BELOW

    def y(loss: float) -> float:
        return height * (1 - min(max(loss, 0.0), highest) / highest)

    points = " ".join(
        f"{_LEFT + width * (i + 0.5) / len(bins):.1f},{y(loss):.1f}" for i, loss in enumerate(bins)
    )
    yield "<h2>Loss by step</h2>"
    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="loss by step">'
    yield f'<path d="M{_LEFT} 0V{height}H{_WIDTH}" class="axis"/>'
    yield f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y(chance):.1f}" y2="{y(chance):.1f}" class="guess"/>'
    yield f'<text x="{_WIDTH}" y="{y(chance) - 4:.1f}" text-anchor="end">guessing: {chance:.3g}</text>'
    yield f'<polyline points="{points}"/>'
    for loss in (0.0, highest / 2, highest):
        place = f'x="{_LEFT - 6}" y="{y(loss) + (10 if loss == highest else 4):.1f}"'
        yield f'<text {place} text-anchor="end">{loss:.2g}</text>'
    yield f'<text x="{_LEFT}" y="{_HEIGHT - 8}">1</text>'
    yield f'<text x="{_WIDTH}" y="{_HEIGHT - 8}" text-anchor="end">step {evidence.steps:,}</text></svg>'


def _layers(evidence: Evidence) -> Iterator[str]:
    if not evidence.first:
        return
    yield "<h2>Layers at the first and the last measurement</h2><table><tr><th>layer"
    for title in ("‖∂L/∂a‖", "‖W‖", "‖ΔW‖/‖W‖", "dead", "saturated"):
        yield f"<th>{title}"
    for name, layer in evidence.first.items():
        last = evidence.last.get(name, layer)
        pairs = [(_figure(layer, key), _figure(last, key)) for key in _COLUMNS]
        cells = "".join(f"<td>{_pair(*pair)}" for pair in pairs)
        yield f"<tr><td>{_text(layer['label'])}{cells}"
    yield "</table>"


_COLUMNS = ("gradient", "weight", "ratio", "dead", "saturated")


def _figure(layer: Mapping[str, Any], key: str) -> float | None:
    if key == "ratio":
        return layer["update"] / layer["weight"] if layer["weight"] else None
    return layer[key]


def _pair(first: float | None, last: float | None) -> str:
    return " → ".join("–" if value is None else f"{value:.2g}" for value in (first, last))
