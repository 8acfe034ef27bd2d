"""The article's network and settings on real MNIST: three seeds of each backward.

    python benchmarks/article.py            train what is missing, then write the file and the table
    python benchmarks/article.py --table    only these two, from the runs that are done

Runs ``python -m cnnexp.train -m name=article backward=… seed=…`` (Adam 1e-3, batch 128, 10 epochs,
no augmentation, no schedule; the epoch is chosen on 5,000 validation images) and collects every
job's result.json and provenance.json into benchmarks/results/article.csv. Jobs that are done
already are not run again.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path

from cnnexp.runs import RunFolder

RESULTS = Path(__file__).parent / "results" / "article.csv"
SWEEP = "article"
FIGURES = (
    "backward",
    "seed",
    "dataset",
    "test/acc",
    "test/loss",
    "val/acc",
    "best_epoch",
    "epochs",
    "steps",
    "parameters",
    "seconds_fit",
    "images_per_second",
    "config_hash",
)


def train(backwards: list[str], seeds: list[int]) -> None:
    command = [sys.executable, "-m", "cnnexp.train", "-m", f"name={SWEEP}", "data.fallback=error"]
    command += [f"seed={','.join(map(str, seeds))}", f"backward={','.join(backwards)}"]
    subprocess.run(command, check=True)


def table(root: Path) -> None:
    rows = []
    for path in root.glob("*/result.json"):
        run = RunFolder(path.parent)
        result = run.read_result()
        origin = run.read_provenance()
        rows.append(
            {name: result[name] for name in FIGURES}
            | {"date": origin["time"][:10], "commit": (origin["git"] or {}).get("commit", "")[:12]}
            | {"processor": origin["processor"], "threads": origin["threads"]}
            | {name: origin["versions"][name] for name in ("cnnexp", "torch", "lightning")}
            | {"python": origin["python"]}
        )
    rows.sort(key=lambda row: (row["backward"], row["seed"]))
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print("| backward | test accuracy | seeds | parameters |\n| --- | --- | --- | --- |")
    for backward in dict.fromkeys(row["backward"] for row in rows):
        accuracies = [100 * row["test/acc"] for row in rows if row["backward"] == backward]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        each = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        size = f"{rows[0]['parameters']:,}"
        print(f"| `{backward}` | {statistics.mean(accuracies):.2f}{spread} % | {each} | {size} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the article's settings, three seeds each")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--backward", default="native,direct,im2col", help="comma-separated")
    parser.add_argument("--seed", default="0,1,2", help="comma-separated")
    options = parser.parse_args()
    if not options.table:
        train(options.backward.split(","), [int(seed) for seed in options.seed.split(",")])
    table(Path("outputs/sweeps") / SWEEP)
