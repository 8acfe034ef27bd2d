"""The tables of docs/performance.md, from the rows of benchmarks/results/scale.csv."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

Row = Mapping[str, str]
TORCH = "torch channels_last"
HELD, MAPPED = "in memory", "mapped file"


def of_axis(rows: Sequence[Row], axis: str) -> list[Row]:
    """The rows of ``axis``, in their order."""
    return [row for row in rows if row["axis"] == axis]


def conditions(rows: Sequence[Row], axis: str) -> str:
    """The line below a table: the command, and under which conditions it ran."""
    if not rows:
        return f"Not measured yet: `python benchmarks/scale.py --axis {axis}`."
    rounds = sorted({int(row["rounds"]) for row in rows if not row["note"]})
    most = f"{rounds[0]} to {rounds[-1]}" if rounds[0] != rounds[-1] else str(rounds[0])
    of = rows[0]
    threads = "" if axis == "threads" else f", {_threads(of['threads'])}"
    return (
        f"Made by `python benchmarks/scale.py --axis {axis}`: medians (quartiles) of {most} interleaved "
        f"rounds; {of['date']}; {of['processor']}{threads}; cnnexp {of['cnnexp']}, torch {of['torch']}, "
        f"Python {of['python']}."
    )


def _threads(count: str) -> str:
    return f"{count} thread" + ("" if count == "1" else "s")


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def _ms(row: Row) -> str:
    return f"{_number(row['full_ms'])} ({_number(row['low_ms'])}–{_number(row['high_ms'])})"


def _number(text: str) -> str:
    """Three digits, and at most as many as there are before the point where these are more."""
    if not text:
        return "–"
    value = float(text)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def data(rows: Sequence[Row]) -> str:
    """Batches from memory and from a mapped file, by the number of images."""
    own = of_axis(rows, "data")
    head = ("images", "where", "data, MB", "memory of the process, MB", "batch of 128, ms")
    head += ("images a second", "first batch, ms", "epoch, s")
    lines = []
    for row in own:
        start = [f"{int(row['value']):,}", row["way"]]
        if row["note"]:
            lines.append([*start, row["note"], *[""] * 5])
            continue
        names = ("start_ms", "epoch_s")
        lines.append(
            [
                *start,
                *(_number(row.get(name, "")) for name in ("data_mb", "own_mb")),
                _ms(row),
                f"{float(row['images_per_second']):,.0f}",
                *(_number(row[name]) for name in names),
            ]
        )
    return f"{_markdown(head, lines)}\n\n{conditions(own, 'data')}"


def steps(axis: str, named: str, rows: Sequence[Row]) -> str:
    """Steps of torch and ours side by side, by the values of ``axis``, which the head calls ``named``."""
    own = of_axis(rows, axis)
    ours = next((row["way"] for row in own if row["way"] not in (TORCH, "")), "cnnexp auto")
    head = (named, f"{TORCH}, ms", f"{ours}, ms", "ratio", "images a second, torch", "ours")
    head += ("peak MB, torch", "ours")
    lines = []
    for value in dict.fromkeys(row["value"] for row in own):
        at = {row["way"]: row for row in own if row["value"] == value}
        theirs = at[TORCH]
        if theirs["note"]:
            lines.append([value, theirs["note"], *[""] * 6])
            continue
        pair = (theirs, at[ours])
        lines.append(
            [
                value,
                *map(_ms, pair),
                f"{float(at[ours][f'vs {TORCH}']):.2f}",
                *(f"{float(row['images_per_second']):,.0f}" for row in pair),
                *(_number(row["peak_mb"]) for row in pair),
            ]
        )
    return f"{_markdown(head, lines)}\n\n{conditions(own, axis)}"


def machine(rows: Sequence[Row]) -> str:
    """The machine's rates by dtype, and its bandwidth."""
    own = of_axis(rows, "machine")
    lines = []
    for row in own:
        rate = (
            f"{_number(row['gflops'])} GFLOP/s" if row["gflops"] else f"{_number(row['gb_s'])} GB/s"
        )
        lines.append([row["what"], _ms(row), rate])
    return f"{_markdown(('what', 'ms', 'rate'), lines)}\n\n{conditions(own, 'roofline')}"


def roofline(rows: Sequence[Row]) -> str:
    """Each layer's operations, bytes, times and distance from the roofline."""
    own = of_axis(rows, "roofline")
    head = ("layer", "way", "GFLOP", "MB", "ms", "GFLOP/s", "attainable", "share")
    lines = [
        [
            row["what"],
            row["way"],
            *(_number(row[name]) for name in ("gflop", "mb")),
            _ms(row),
            *(_number(row[name]) for name in ("gflops", "attainable_gflops")),
            f"{100 * float(row['share']):.0f} %",
        ]
        for row in own
    ]
    return f"{_markdown(head, lines)}\n\n{conditions(own, 'roofline')}"


TABLES: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "data": data,
    "batch": partial(steps, "batch", "images a step"),
    "width": partial(steps, "width", "channels of the first block"),
    "depth": partial(steps, "depth", "convolutions"),
    "size": partial(steps, "size", "height and width"),
    "threads": partial(steps, "threads", "threads"),
    "machine": machine,
    "roofline": roofline,
}
