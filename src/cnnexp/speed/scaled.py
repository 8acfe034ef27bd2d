"""Figures of how cost grows: one at each value of an axis, and the lines that show them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cnnexp.speed.result import Measured

__all__ = ["Scaled", "head_of", "line_of", "scaled"]

_BESIDE = "torch channels_last"


@dataclass
class Scaled(Measured):
    """The measurement of one way at one value of an axis.

    Attributes:
        axis: What grows, for example ``"batch"``.
        value: How large it is there.
        images: How many images the full time is for; 0 if it is for none.
        figures: Further figures, by names that have their units: ``"data_mb"``.
    """

    axis: str = ""
    value: float = 0
    images: int = 0
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float | None:
        """How many images are computed in a second; None if there is no time, or none of images."""
        milliseconds = self.milliseconds.get("full")
        return 1e3 * self.images / milliseconds if self.images and milliseconds else None

    def flat(self) -> dict[str, Any]:
        """One row for a CSV file, see ``Measured.flat``."""
        row = {"axis": self.axis, "value": self.value, **super().flat()}
        if self.images_per_second is not None:
            row["images_per_second"] = round(self.images_per_second, 1)
        return row | {name: float(f"{number:.5g}") for name, number in self.figures.items()}


def scaled(row: Measured, axis: str, value: float, images: int) -> Scaled:
    """``row``, measured with ``images`` images at ``value`` of ``axis``."""
    return Scaled(**vars(replace(row)), axis=axis, value=value, images=images)


def head_of(row: Scaled) -> str:
    """The line above the lines of rows like ``row``: its axis, and the names of the columns."""
    columns = f"{'ms':>10}{'quartiles':>18}{'images/s':>11}{'peak MB':>9}{'/ torch':>8}"
    names = "".join(f"{name:>{_width(name)}}" for name in row.figures)
    return f"\n{row.axis:48}{'':22}{columns}{names}"


def line_of(row: Scaled) -> str:
    """``row`` in one line for the terminal."""
    start = f"  {row.what:46}{row.way:22}"
    if row.note:
        return f"{start}{row.note}"
    quartiles = f"{row.low:.3f}–{row.high:.3f}"
    cells = [
        f"{row.milliseconds['full']:10.3f}{quartiles:>18}",
        _cell(row.images_per_second, 11, 0),
        _cell(row.peak_megabytes, 9, 1),
        _cell(row.ratios.get(_BESIDE), 8, 2),
        *(_cell(number, _width(name), 3) for name, number in row.figures.items()),
    ]
    return start + "".join(cells)


def _width(name: str) -> int:
    return max(10, len(name) + 2)


def _cell(number: float | None, width: int, digits: int) -> str:
    return f"{'–':>{width}}" if number is None else f"{number:{width},.{digits}f}"
