"""What docs/ shows of gpu.csv: torch's training step and ours on a GPU, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["table"]

_PRECISIONS = ("float32", "TF32", "bfloat16")
_HOWS = {"one by one": "", "CUDA graph": "CUDA graph", "compiled, CUDA graph": "compile CUDA graph"}
_LAYOUTS = ("NCHW", "channels_last")


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The Markdown table of the steps: for each way to train the faster layout, of torch and of ``fused``."""
    ms = _by_way(rows, "step, batch ", "value")
    peaks = _by_way(rows, "first 5 steps, batch ", "peak_mb")
    lines = [
        "| steps | batch | precision | torch, ms | `fused`, ms | `fused` / torch | torch, MB | `fused`, MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for how, suffix in _HOWS.items():
        for batch in ("128", "1024"):
            for precision in _PRECISIONS:
                cells = []
                for backward in ("torch", "fused"):
                    ways = [
                        f"{backward} {precision} {layout} {suffix}".rstrip() for layout in _LAYOUTS
                    ]
                    time, way = min((ms[batch, w], w) for w in ways if (batch, w) in ms)
                    cells.append((time, peaks[batch, way]))
                (theirs, their_mb), (ours, our_mb) = cells
                lines.append(
                    f"| {how} | {int(batch):,} | {precision} | {theirs:.2f} | {ours:.2f} | "
                    f"{ours / theirs:.2f} | {their_mb:,.0f} | {our_mb:,.0f} |"
                )
    return "\n".join([*lines, "", _conditions(rows)])


def _by_way(
    rows: Sequence[Mapping[str, str]], what: str, column: str
) -> dict[tuple[str, str], float]:
    """The numbers of ``column`` by batch size and way.

    The part of the compiled steps has torch's plain one once more, as its own yardstick: left out here.
    """
    return {
        (row["what"].removeprefix(what), row["way"]): float(row[column])
        for row in rows
        if row["what"].startswith(what)
        and row[column]
        and (row["part"] == "compile") == ("compile" in row["way"])
    }


def _conditions(rows: Sequence[Mapping[str, str]]) -> str:
    of = {row["what"]: row["note"] for row in rows if row["part"] == "facts"}
    one = next(row for row in rows if row["device"])
    states = [row["state"] for row in rows]
    return (
        f"Made by `python benchmarks/gpu.py`, whose {len(rows):,} rows are in benchmarks/results/gpu.csv "
        f"({states.count('ok'):,} ok, {len(rows) - states.count('ok'):,} not): one {one['device']}, one run, "
        f"the compiled steps another, medians of 8 rounds of 10 steps; {one['date']}; "
        f"Python {of['python']}, torch {one['torch']}, Triton {of['triton']}, "
        f"cuDNN {of['cuDNN']}."
    )
