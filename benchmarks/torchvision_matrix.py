"""Networks of torchvision × habits of their users × ways, against plain torch in float64.

    python -m benchmarks.torchvision_matrix                      every cell; hours
    python -m benchmarks.torchvision_matrix --choose covering    the cells of the test suite; minutes
    python -m benchmarks.torchvision_matrix --choose rotating    each network in each habit, ways in turn
    python -m benchmarks.torchvision_matrix --networks tiny_vgg --habits fx --ways im2col auto

Adds the cells to benchmarks/results/torchvision_matrix.csv, in which those that are there already are not
run again (``--again`` runs them). Exit code 1 where a cell in the file is a miss.
"""

from __future__ import annotations

import argparse
import csv
import platform
import tempfile
import time
from itertools import groupby
from pathlib import Path

import torch
import torchvision
from tests.nn.matrix.cells import (
    WAYS,
    Cell,
    affordable,
    made_up_times,
    quick,
    run_cells,
    ways_of,
)
from tests.nn.matrix.cover import Triple, covering, rotating
from tests.nn.matrix.habits import HABITS
from tests.nn.matrix.networks import NETWORKS, SMALL

import cnnexp
from cnnexp.machine import processor_name

FILE = Path(__file__).parent / "results" / "torchvision_matrix.csv"
Rows = dict[Triple, dict[str, str]]


def chosen(arguments: argparse.Namespace) -> list[Triple]:
    """The cells that the command line asks for."""
    networks, habits = arguments.networks, arguments.habits
    if arguments.choose == "covering":
        small = [name for name in networks if name in SMALL]
        cells = covering(small, habits, ways_of, quick)
    elif arguments.choose == "rotating":
        cells = rotating(networks, habits, ways_of, affordable)
    else:
        cells = [
            (network, habit, way)
            for network in networks
            for habit in habits
            for way in ways_of(network)
            if affordable(network, habit, way)
        ]
    return [cell for cell in cells if cell[2] in arguments.ways]


def read(file: Path) -> Rows:
    """The rows of the table, by cell."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as text:
        return {(r["network"], r["habit"], r["way"]): r for r in csv.DictReader(text)}


def write(file: Path, rows: Rows) -> None:
    """The table, in the order of networks, habits and ways."""
    order = [list(NETWORKS), list(HABITS), list(WAYS)]
    known = [cell for cell in rows if all(n in names for n, names in zip(cell, order, strict=True))]
    known.sort(key=lambda c: [names.index(n) for n, names in zip(c, order, strict=True)])
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, list(rows[known[0]]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[cell] for cell in known)


def row(cell: Cell) -> dict[str, str]:
    """A cell and its conditions, as the table has them."""
    return {
        **{k: str(v) for k, v in cell._asdict().items()},
        "error": f"{cell.error:.1e}",
        "seconds": f"{cell.seconds:.2f}",  # of the processor
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor_name(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "cnnexp": cnnexp.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--habits", nargs="+", default=list(HABITS), choices=list(HABITS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--choose", choices=("all", "covering", "rotating"), default="all")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--csv", type=Path, default=FILE)
    arguments = parser.parse_args()
    rows = read(arguments.csv)
    with tempfile.TemporaryDirectory() as folder, made_up_times(Path(folder)):
        cells = [cell for cell in chosen(arguments) if arguments.again or cell not in rows]
        for (network, habit), group in groupby(sorted(cells), key=lambda cell: cell[:2]):
            for cell in run_cells(network, habit, tuple(way for *_, way in group)):
                rows[cell[:3]] = row(cell)
                if cell.miss:
                    print(*cell[:4], flush=True)
            write(arguments.csv, rows)
    misses = sum(
        r["result"] != "ok" and not r["result"].startswith("torch refuses") for r in rows.values()
    )
    print(f"{len(rows)} cells, {misses} misses")
    return 1 if misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
