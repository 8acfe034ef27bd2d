"""Does the learning-rate range test suggest a good rate? Its suggestion beside a sweep, for three networks.

    python benchmarks/lr_find.py --csv benchmarks/results/lr_find.csv
    python benchmarks/lr_find.py --csv … --suggest        # only the range tests

Real MNIST, 4,000 images, batches of 128, 3 epochs at a constant rate. The sweep trains with each rate of a
grid of factors of two, on four seeds; the best rate has the least mean validation loss (2,000 images). The
range test is that of ``python -m cnnexp.lr_find`` with its defaults, on the same seeds. Nothing is timed.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from published import read_rows, write_rows

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.hydra_settings import for_all
from cnnexp.config.resolvers import register_resolvers
from cnnexp.lr_range import Ramp, run_range_test, suggest
from cnnexp.runs import RunFolder
from cnnexp.speed.result import conditions
from cnnexp.training import TrainingJob, run_training

RESULTS = Path(__file__).parent / "results" / "lr_find.csv"

EPOCHS, SEEDS, POINTS = 3, (0, 1, 2, 3), 7
CASES: dict[str, tuple[Sequence[str], float]] = {  # settings, and the least rate of the grid
    "LeNet-5, SGD": (("model=lenet5", "optimizer=sgd"), 0.02),
    "tiny, AdamW": (("model=tiny", "optimizer=adamw"), 2e-3),
    "seed_cnn, Adam": (("model=seed_cnn", "optimizer=adam"), 2.5e-4),
}
COMMON = (
    *("data=mnist", "data.fallback=error", "data.train_size=4000", "data.val_size=2000"),
    *(
        f"trainer.max_epochs={EPOCHS}",
        f"+trainer.check_val_every_n_epoch={EPOCHS}",
        "accelerator=cpu",
        "backward=fused",
        "logger=csv",
    ),
    *("diagnostics=off", "test=false", "data.split_seed=0"),
)


def job_of(settings: Sequence[str], seed: int) -> TrainingJob:
    """The training that ``settings`` describe."""
    overrides = [*for_all(), *COMMON, *settings, f"seed={seed}"]
    return build_job(plain_config(Composer("train").compose(overrides)))


def trained(settings: Sequence[str], rate: float, seed: int) -> dict[str, Any]:
    """The result of one training; a loss of infinity where it fails."""
    with tempfile.TemporaryDirectory() as place:
        try:
            job = job_of([*settings, f"optimizer.lr={rate}"], seed)
            return run_training(job, RunFolder(Path(place)))
        except RuntimeError:  # it diverged to NaN
            return {"val/loss": math.inf, "val/acc": 0.0}


def swept(name: str) -> list[dict[str, Any]]:
    """A row for each rate of the sweep."""
    register_resolvers()
    logging.getLogger("cnnexp").setLevel(logging.ERROR)
    settings, least = CASES[name]
    rows = []
    for k in range(POINTS):
        rate = float(f"{least * 2**k:.3g}")
        results = [trained(settings, rate, seed) for seed in SEEDS]
        rows.append(_row(name, "sweep", rate, results))
        print(rows[-1], flush=True)
    return rows


def suggested(name: str, sweep: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for the suggestions of each seed, beside the best rate of ``sweep``."""
    register_resolvers()
    logging.getLogger("cnnexp").setLevel(logging.ERROR)
    settings, _ = CASES[name]
    best, rows = min(sweep, key=lambda row: float(row["val_loss"])), []
    for seed in SEEDS:
        found = suggest(run_range_test(job_of(settings, seed), Ramp()))
        assert found is not None, name
        kinds = {
            "suggested": found.rate,
            "minimum / 10": found.minimum / 10,
            "steepest descent": found.steepest,
        }
        for kind, rate in kinds.items():
            row = {"network": name, "what": kind, "seed": seed, "rate": float(f"{rate:.3g}")}
            rows.append({**row, "by_best": round(rate / float(best["rate"]), 2)})
            print(rows[-1], flush=True)
    return rows


def _row(name: str, what: str, rate: float, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "network": name,
        "what": what,
        "rate": rate,
        "val_loss": round(statistics.mean(r["val/loss"] for r in results), 4),
        "val_acc": round(statistics.mean(r["val/acc"] for r in results), 4),
        "runs": len(results),
    }


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file, such as the committed one."""
    return read_rows(path)


def table(rows: Sequence[dict[str, str]]) -> str:
    """The rows as a table for the documents: a line a network."""
    lines = [
        "| network | best of the sweep | tried | steepest descent | minimum / 10 | suggested | by the best |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        sweep = [row for row in own if row["what"] == "sweep"]
        best = min(sweep, key=lambda row: float(row["val_loss"]))
        cells = (
            name,
            f"{float(best['rate']):.2g}",
            f"{float(sweep[0]['rate']):.2g} … {float(sweep[-1]['rate']):.2g}",
            *(
                _both(own, kind, "rate")
                for kind in ("steepest descent", "minimum / 10", "suggested")
            ),
            _both(own, "suggested", "by_best"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _both(rows: Sequence[dict[str, str]], what: str, field: str) -> str:
    """The figures of all seeds."""
    return ", ".join(f"{float(row[field]):.2g}" for row in rows if row["what"] == what)


def main() -> None:
    parser = argparse.ArgumentParser(description="Is the suggested learning rate a good one?")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--table", action="store_true", help="print the committed rows as a table")
    parser.add_argument("--suggest", action="store_true", help="keep the sweeps of --csv's FILE")
    options = parser.parse_args()
    if options.table:
        print(table(read(RESULTS)))
        return
    if options.suggest and options.csv is None:
        parser.error("--suggest keeps the sweeps of a file: name it by --csv FILE")
    about = {**conditions(torch.device("cpu")), "date": date.today().isoformat()}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        if options.suggest:
            known = [row for row in read(options.csv) if row["what"] == "sweep"]
            sweeps = [[row for row in known if row["network"] == name] for name in CASES]
        else:
            sweeps = [[{**row, **about} for row in rows] for rows in pool.map(swept, CASES)]
        tests = [[{**row, **about} for row in rows] for rows in pool.map(suggested, CASES, sweeps)]
    rows = [row for pair in zip(sweeps, tests, strict=True) for part in pair for row in part]
    if options.csv:
        fields = ["network", "what", "seed", "rate", "val_loss", "val_acc", "runs", "by_best"]
        write_rows(options.csv, rows, [*fields, *about])


if __name__ == "__main__":
    main()
