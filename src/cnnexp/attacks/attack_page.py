"""An attack as one HTML page that needs no other file, no server and no network."""

from __future__ import annotations

import html
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cnnexp.runs.files import write_text
from cnnexp.version import __version__

_SIZE, _MARGIN = 480, 56  # of the square of the curve, and around it, in pixels
_MOST_DECADES = 5


def write_attack_page(
    content: Mapping[str, Any], rows: Sequence[tuple[str, str]], file: Path
) -> None:
    """Write the HTML of :func:`attack_page` to ``file``, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(file, attack_page(content, rows))


def attack_page(content: Mapping[str, Any], rows: Sequence[tuple[str, str]]) -> str:
    """The page's HTML.

    Args:
        content: The content of attack.json.
        rows: The figures as (name, value), as the terminal shows them.
    """
    template = (Path(__file__).parent / "web" / "attack.html").read_text(encoding="utf-8")
    members = "canaries trained on" if content["method"] == "audit" else "members"
    claim = content["claim"]
    caption = f"Share of the {members} that are found, against false alarms; both axes logarithmic."
    if claim:
        caption += (
            f" Above the dashed bound no attack can be, if ε = {claim['epsilon']:.3g} at "
            f"δ = {claim['delta']:g} is true."
        )
    table = "\n".join(f"<tr><th>{_text(name)}<td>{_text(value)}" for name, value in rows)
    parts = {
        "TITLE": f"Attack on {_text(content['run'])}",
        "HEADING": f"Attack by {_text(content['method'])} on {_text(content['run'])}",
        "VERDICT": _text(content["verdict"]),
        "CURVE": _curve(content["curve"], claim),
        "CAPTION": _text(caption),
        "ROWS": table,
        "FOOTER": f"cnnexp {__version__}, {time.strftime('%Y-%m-%d %H:%M')}<br>"
        f"<code>{_text(content['command'])}</code>",
    }
    # in one pass: a value may hold the name of another part
    return re.sub("|".join(parts), lambda found: parts[found[0]], template)


def _text(value: object) -> str:
    return html.escape(str(value))


def _curve(curve: Mapping[str, Any], claim: Mapping[str, float]) -> str:
    """The curve on log-log axes as SVG."""
    members, others = curve["members"], curve["non_members"]
    decades = min(_MOST_DECADES, max(2, math.ceil(math.log10(max(members, others)))))
    scale = _Scale(decades)
    pairs = zip(curve["false_positives"], curve["true_positives"], strict=True)
    points = [(false / others, true / members) for false, true in pairs]
    shapes = [*_axes(scale), scale.path([(10.0**-decades, 10.0**-decades), (1.0, 1.0)], "chance")]
    if claim:
        shapes.append(scale.path(list(_allowed(claim, decades)), "claim"))
    shapes.append(scale.path(_steps(points), "roc"))
    for rate in curve["tpr_at_fpr"]:
        x, y = scale.place(rate["at"], rate["value"])
        said = f"TPR {rate['value']:.2%} at FPR {rate['at']:.1%}"
        shapes.append(
            f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{said}</title></circle>'
        )
    side = _SIZE + 2 * _MARGIN
    return f'<svg viewBox="0 0 {side} {side}" role="img">' + "\n".join(shapes) + "</svg>"


class _Scale:
    """Rates between 10^−``decades`` and 1 → pixels; what is below is drawn at the axis."""

    def __init__(self, decades: int) -> None:
        self.decades = decades

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a false-positive rate and a true-positive rate."""
        across, up = (
            1 + math.log10(max(value, 10.0**-self.decades)) / self.decades for value in (x, y)
        )
        return _MARGIN + across * _SIZE, _MARGIN + (1 - up) * _SIZE

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        """A line through ``points``."""
        placed = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in dict.fromkeys(self.place(*p) for p in points)
        )
        return f'<polyline class="{kind}" points="{placed}"/>'


def _axes(scale: _Scale) -> Iterator[str]:
    low, high = _MARGIN, _MARGIN + _SIZE
    for decade in range(-scale.decades, 1):
        x, y = scale.place(10.0**decade, 10.0**decade)
        name = f"{10.0**decade:.0%}" if decade >= -2 else f"{10.0**decade:.{-decade - 2}%}"
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{low}" y2="{high}"/>'
        yield f'<line class="grid" x1="{low}" x2="{high}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{x:.1f}" y="{high + 18}" text-anchor="middle">{name}</text>'
        yield f'<text x="{low - 6}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
    middle = low + _SIZE / 2
    yield f'<text x="{middle}" y="{high + 40}" text-anchor="middle">false-positive rate</text>'
    yield (
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"true-positive rate</text>"
    )


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points between ``points`` as well: a straight line is none on logarithmic axes."""
    made = list(points[:1])
    for (x0, y0), (x1, y1) in pairwise(points):
        parts = 1 if x0 == x1 or y0 == y1 else 16
        made += [
            (x0 + (x1 - x0) * i / parts, y0 + (y1 - y0) * i / parts) for i in range(1, parts + 1)
        ]
    return made


def _allowed(claim: Mapping[str, float], decades: int) -> Iterator[tuple[float, float]]:
    """The most that (ε, δ)-privacy allows: TPR ≤ e^ε FPR + δ, and FNR ≥ e^−ε (1 − FPR − δ)."""
    factor, delta = math.exp(min(claim["epsilon"], 700.0)), claim["delta"]
    for i in range(101):
        x = 10.0 ** (-decades * (1 - i / 100))
        yield x, min(1.0, factor * x + delta, 1 - (1 - x - delta) / factor)
