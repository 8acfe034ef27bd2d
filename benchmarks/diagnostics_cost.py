"""What it costs to look at a training: diagnostics=basic and full against off.

    python benchmarks/diagnostics_cost.py --csv benchmarks/results/diagnostics_cost.csv

The recipe ``experiment=article`` on real MNIST for some epochs, with each level in turn, in one process,
round after round, in an order that turns. The whole fit is compared: steps, validations, checkpoints and
all that is written and drawn. A ratio is of the runs of one round; the median over the rounds counts.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

import torch

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder, collect_provenance
from cnnexp.training import run_training

LEVELS = ("off", "basic", "full")


def fit(level: str, epochs: int, folder: Path) -> float:
    """Seconds of one fit."""
    folder.mkdir()
    overrides = ["experiment=article", "backward=fused", "data.fallback=error", "test=false"]
    overrides += [f"diagnostics={level}", f"trainer.max_epochs={epochs}"]
    job = build_job(plain_config(Composer("train").compose(overrides)))
    return float(run_training(job, RunFolder(folder))["seconds_fit"])


def main() -> None:
    parser = argparse.ArgumentParser(description="what it costs to look at a training")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--levels", default=",".join(LEVELS), help="off and others")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    levels = options.levels.split(",")
    seconds: dict[str, list[float]] = {level: [] for level in levels}
    with tempfile.TemporaryDirectory() as scratch:
        fit("off", 1, Path(scratch) / "warm")  # compiles the kernels
        for i in range(options.rounds):
            for level in levels[i % len(levels) :] + levels[: i % len(levels)]:
                seconds[level].append(fit(level, options.epochs, Path(scratch) / f"{level}{i}"))
                print(f"round {i + 1}: {level} {seconds[level][-1]:.2f} s", flush=True)
    origin = collect_provenance(
        seed=0, device="cpu", threads=torch.get_num_threads(), dataset={"name": "mnist"}
    )
    rows = []
    for level in levels:
        ratios = [a / b for a, b in zip(seconds[level], seconds["off"], strict=True)]
        row = {
            "diagnostics": level,
            "seconds_fit": f"{statistics.median(seconds[level]):.2f}",
            "cost_percent": f"{100 * (statistics.median(ratios) - 1):.2f}",
            "least": f"{100 * (min(ratios) - 1):.2f}",
            "greatest": f"{100 * (max(ratios) - 1):.2f}",
            "rounds": options.rounds,
            "epochs": options.epochs,
            "processor": origin["processor"],
            "threads": origin["threads"],
            "torch": origin["versions"]["torch"],
            "date": origin["time"][:10],
        }
        rows.append(row)
        print(
            f"{level}: median {row['seconds_fit']} s, {row['cost_percent']} % over off "
            f"({row['least']} to {row['greatest']} in {options.rounds} rounds)"
        )
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
