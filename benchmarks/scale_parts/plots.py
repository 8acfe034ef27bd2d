"""The plots of docs/performance.md, from the rows of benchmarks/results/scale.csv.

Each file says in its text ``Source`` of which figures it is drawn, see :func:`digest`: a test compares that
with the committed file, since other versions of matplotlib draw other bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scale_parts.tables import HELD, MAPPED, TORCH, of_axis

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
NAMES = ("scale_data.png", "scale_steps.png", "roofline.png")
COLOURS = ("#4269d0", "#ef7f3b", "#3ca951")
SHAPES = {"forward": "o", "∂L/∂x": "^", "∂L/∂w": "s"}
TITLES = {
    "batch": "images a step",
    "width": "channels of the first block",
    "depth": "convolutions",
    "size": "height and width of the images",
}
Row = Mapping[str, str]


def digest(file: Path) -> str:
    """The md5 of the figures that the plots are drawn from."""
    return hashlib.md5(file.read_bytes()).hexdigest()


def draw(rows: Sequence[Row], source: Path, folder: Path = PICTURES) -> list[Path]:
    """Draw all plots from ``rows``, which are those of ``source``, into ``folder``; return their files."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    files = []
    for name, make in zip(NAMES, (_data, _steps, _roofline), strict=True):
        figure = make(plt, [row for row in rows if not row["note"]])
        files.append(folder / name)
        told = {"Source": digest(source), "Software": None}
        figure.savefig(files[-1], dpi=110, metadata=told, bbox_inches="tight")
        plt.close(figure)
    return files


def _line(axes: Any, rows: Sequence[Row], way: str, column: str, colour: str) -> None:
    own = [row for row in rows if row["way"] == way and row[column]]
    x, y = ([float(row[key]) for row in own] for key in ("value", column))
    axes.loglog(x, y, "o-", color=colour, label=way, markersize=4)


def _named(axes: Any, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")
    axes.legend(frameon=False)


def _data(plt: Any, rows: Sequence[Row]) -> Any:
    own = of_axis(rows, "data")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for way, colour in zip((HELD, MAPPED), COLOURS, strict=False):
        _line(left, own, way, "images_per_second", colour)
        _line(right, own, way, "own_mb", colour)
    sizes = sorted({float(row["value"]) for row in own})
    megabytes = [size * 784 / 1e6 for size in sizes]
    right.loglog(sizes, megabytes, "--", color="#888888", label="the images alone")
    left.set_ylim(bottom=1e3)
    _named(left, "Batches of 128", "images in the set", "images a second")
    _named(right, "Memory of the process", "images in the set", "MB")
    figure.tight_layout()
    return figure


def _steps(plt: Any, rows: Sequence[Row]) -> Any:
    figure, grid = plt.subplots(2, 4, figsize=(13, 5.6))
    for column, (axis, title) in enumerate(TITLES.items()):
        own = of_axis(rows, axis)
        ways = dict.fromkeys(row["way"] for row in own)
        for way, colour in zip(ways, COLOURS, strict=False):
            _line(grid[0][column], own, way, "full_ms", colour)
            _line(grid[1][column], own, way, "peak_mb", colour)
        values = sorted({int(row["value"]) for row in own})
        for axes in grid[:, column]:
            axes.set_xticks(values, labels=[str(value) for value in values])
            axes.tick_params(which="minor", labelbottom=False)
        _named(grid[0][column], f"A step, by {axis}", title, "ms")
        _named(grid[1][column], f"Its peak memory, by {axis}", title, "MB")
    figure.tight_layout()
    return figure


def _roofline(plt: Any, rows: Sequence[Row]) -> Any:
    figure, axes = plt.subplots(figsize=(7.5, 4.4))
    rates = of_axis(rows, "machine")
    (bandwidth,) = (float(row["gb_s"]) for row in rates if row["gb_s"])
    intensities = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]
    for dtype, dash in (("float32", "-"), ("float64", "--"), ("bfloat16", ":")):
        peak = max(float(row["gflops"]) for row in rates if row["what"].endswith(dtype))
        points = sorted([*intensities, peak / bandwidth])
        roof = [min(peak, point * bandwidth) for point in points]
        axes.loglog(points, roof, dash, color="#555555", label=f"roof, {dtype}")
    for way, colour in zip((TORCH, "cnnexp fused"), COLOURS, strict=False):
        for part, shape in SHAPES.items():
            own = [row for row in of_axis(rows, "roofline") if row["way"] == way]
            own = [row for row in own if row["what"].endswith(part)]
            x = [1e3 * float(row["gflop"]) / float(row["mb"]) for row in own]
            y = [float(row["gflops"]) for row in own]
            axes.loglog(x, y, shape, color=colour, label=f"{way}, {part}")
    _named(axes, "The article's layers", "operations a byte", "GFLOP/s")
    axes.legend(frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return figure
