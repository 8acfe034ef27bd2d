"""Networks of torchvision × habits × ways, against plain torch in float64.

    python -m benchmarks.torchvision_matrix                    everything; writes the table
    python -m benchmarks.torchvision_matrix --networks tiny_vgg --habits fx --ways im2col auto

Writes benchmarks/results/torchvision_matrix.csv after each habit. Exit code 1 where a cell is a miss.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import torch
import torchvision

import cnnexp
from cnnexp.ops.choices import processor_name
from tests.nn.matrix.cells import WAYS, made_up_times, run_cells, ways_of
from tests.nn.matrix.habits import HABITS
from tests.nn.matrix.networks import NETWORKS

FILE = Path(__file__).parent / "results" / "torchvision_matrix.csv"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--habits", nargs="+", default=list(HABITS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--csv", type=Path, default=FILE)
    arguments = parser.parse_args()
    conditions = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor_name(),
        "cnnexp": cnnexp.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    misses = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        made_up_times(Path(folder)),
        open(arguments.csv, "w", newline="") as file,
    ):
        writer = None
        for network in arguments.networks:
            ways = tuple(way for way in ways_of(network) if way in arguments.ways)
            for habit in arguments.habits:
                for cell in run_cells(network, habit, ways):
                    row = cell._asdict() | conditions
                    if writer is None:
                        writer = csv.DictWriter(file, list(row))
                        writer.writeheader()
                    row["error"] = f"{cell.error:.1e}"
                    row["seconds"] = f"{cell.seconds:.2f}"
                    writer.writerow(row)
                    misses += cell.miss
                    if cell.miss:
                        print(*cell[:4], flush=True)
                file.flush()
    print(f"{misses} misses")
    return 1 if misses else 0


if __name__ == "__main__":
    raise SystemExit(main())
