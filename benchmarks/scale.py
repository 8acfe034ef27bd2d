"""How cost grows, and how far each layer is from the roofline: the figures, the tables and the plots.

    python benchmarks/scale.py                     all, on a quiet machine; about 8 minutes on two cores
    python benchmarks/scale.py --axis data,batch   these alone; rows of other axes stay
    python benchmarks/scale.py --csv               only tables and plots, from the committed file

Measures by ``python -m cnnexp.bench scale`` with a cache of its own, so that no choice of ``auto`` is taken
that was made while others used the machine. Writes benchmarks/results/scale.csv, the tables between
``<!-- scale-… -->`` and ``<!-- end -->`` of the documents, and docs/pictures/scale_….png and roofline.png.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from published import place, read_rows, write_rows
from scale_parts import plots, tables

RESULTS = Path(__file__).resolve().parent / "results" / "scale.csv"
ORDER = ("data", "batch", "width", "depth", "size", "threads", "machine", "roofline")
Row = Mapping[str, str]


def measure(arguments: Sequence[str], threads: int) -> list[dict[str, str]]:
    """The rows that the command writes with these arguments."""
    most = str(
        os.cpu_count() or 1
    )  # for the axis of threads; the others have as many as are asked for
    with tempfile.TemporaryDirectory(prefix="cnnexp-scale-") as folder:
        own = {"CNNEXP_CACHE": folder, "OMP_NUM_THREADS": most, "NUMBA_NUM_THREADS": most}
        file = Path(folder) / "scale.csv"
        command = [sys.executable, "-m", "cnnexp.bench", "scale", *arguments]
        command += ["--threads", str(threads), "--csv", str(file)]
        subprocess.run(command, check=True, env={**os.environ, **own})
        return read(file)


def merged(known: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """``known`` with the axes of ``new`` replaced, in the order of the axes."""
    axes = {row["axis"] for row in new}
    rows = [row for row in known if row["axis"] not in axes]
    return sorted([*rows, *new], key=lambda row: ORDER.index(row["axis"]))


def read(file: Path = RESULTS) -> list[dict[str, str]]:
    """The rows of the file; none where there is no such file yet."""
    return read_rows(file)


def write(rows: Sequence[Row], file: Path = RESULTS) -> None:
    """Write the rows; a figure that one of them does not have stays empty."""
    write_rows(file, rows)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--axis", help="measure these alone, comma-separated")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=8.0, help="seconds of one value's rounds")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--csv", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.csv:
        arguments = ["--rounds", str(options.rounds), "--limit", str(options.limit)]
        arguments += [] if options.axis is None else ["--axis", options.axis]
        write(merged(read(), measure(arguments, options.threads)))
    rows = read()
    for name, table in tables.TABLES.items():
        place(f"scale-{name}", table(rows))
    for file in plots.draw(rows, RESULTS):
        print(file)


if __name__ == "__main__":
    main()
