"""What it costs that runs survive: resuming a run, and a checkpoint an epoch.

    python benchmarks/survival.py --csv benchmarks/results/survival.csv

Resume: from the call of run_training to the end of the first step, of a new run and of one that is resumed
within its second epoch, in turn, in one process; their difference is what resuming adds to a start.
Checkpoints: what the writing of last.ckpt and best.ckpt takes of the training, one of each an epoch. Both
of the recipe ``experiment=article`` on real MNIST.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder, collect_provenance
from cnnexp.training import TrainingJob, TrainingStopped, run_training
from cnnexp.training.callbacks import Checkpoints


class StopAfter(Callback):
    """Stops the training after so many steps, without a checkpoint."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_train_batch_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise TrainingStopped(143)


def job(*settings: str, stop_after: int | None = None) -> TrainingJob:
    overrides = ["experiment=article", "backward=fused", "data.fallback=error", *settings]
    made = build_job(plain_config(Composer("train").compose(overrides)))
    if stop_after is not None:
        made.callbacks = lambda: [StopAfter(stop_after)]
    return made


def until_first_step(folder: RunFolder, *, resume: bool) -> float:
    start = time.perf_counter()
    try:
        run_training(job("data.train_size=10000", stop_after=1), folder, resume=resume)
    except TrainingStopped:
        return time.perf_counter() - start
    raise AssertionError("the training ended by itself")


def starts(place: Path, rounds: int) -> list[dict[str, Any]]:
    stopped = RunFolder(place / "stopped")
    stopped.path.mkdir()
    with contextlib.suppress(TrainingStopped):
        run_training(
            job("data.train_size=10000", "checkpoint.every_n_steps=25", stop_after=120), stopped
        )
    rows = []
    for number in range(rounds + 1):
        for kind in ("new", "resumed"):
            folder = RunFolder(place / f"{kind}-{number}")
            if kind == "new":
                folder.path.mkdir()
            else:
                shutil.copytree(stopped.path, folder.path)
            seconds = until_first_step(folder, resume=kind == "resumed")
            if number:  # the first of each compiles and reads
                rows.append({"what": f"start {kind}", "round": number, "seconds": seconds})
    return rows


def shares(place: Path, rounds: int) -> list[dict[str, Any]]:
    written: list[float] = []
    write = Checkpoints._write

    def timed(self: Checkpoints, trainer: L.Trainer, file: Path) -> None:
        start = time.perf_counter()
        write(self, trainer, file)
        written.append(time.perf_counter() - start)

    Checkpoints._write = timed
    rows = []
    try:
        for number in range(1, rounds + 1):
            folder = RunFolder(place / f"whole-{number}")
            folder.path.mkdir()
            written.clear()
            result = run_training(job("trainer.max_epochs=2"), folder)
            rows.append({"what": "checkpoints of a run", "round": number, "seconds": sum(written)})
            rows.append({"what": "its training", "round": number, "seconds": result["seconds_fit"]})
    finally:
        Checkpoints._write = write
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    def seconds(what: str) -> list[float]:
        return [float(row["seconds"]) for row in rows if row["what"] == what]

    new, resumed = seconds("start new"), seconds("start resumed")
    more = [b - a for a, b in zip(new, resumed, strict=True)]
    parts = [
        100 * a / b
        for a, b in zip(seconds("checkpoints of a run"), seconds("its training"), strict=True)
    ]
    return (
        f"start of a new run {statistics.median(new):.2f} s, of one that is resumed "
        f"{statistics.median(resumed):.2f} s: {statistics.median(more):+.2f} s "
        f"({min(more):+.2f} to {max(more):+.2f}, n = {len(more)}); checkpoints take "
        f"{statistics.median(parts):.2f} % of the training ({min(parts):.2f} to {max(parts):.2f} %, "
        f"n = {len(parts)})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="what it costs that runs survive")
    parser.add_argument("--rounds", type=int, default=9, help="starts of each kind (default: 9)")
    parser.add_argument("--runs", type=int, default=3, help="trainings of 2 epochs (default: 3)")
    parser.add_argument("--csv", type=Path, help="write every time to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = starts(Path(place), options.rounds) + shares(Path(place), options.runs)
    if options.csv:
        origin = collect_provenance()
        conditions = {
            "date": origin["time"][:10],
            "commit": (origin["git"] or {}).get("commit", ""),
            "processor": origin["processor"],
            "threads": torch.get_num_threads(),
            "python": origin["python"],
            **{name: origin["versions"][name] for name in ("cnnexp", "torch", "lightning")},
        }
        with options.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [*rows[0], *conditions])
            writer.writeheader()
            writer.writerows({**row, **conditions} for row in rows)
    print(summary(rows))


if __name__ == "__main__":
    main()
