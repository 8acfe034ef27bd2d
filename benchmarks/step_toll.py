"""What a training step costs beyond forward, loss, backward and the optimiser's update.

    python benchmarks/step_toll.py --csv benchmarks/results/step_toll.csv

The recipe ``experiment=article`` on real MNIST with all that a run has by default (guard, diagnostics, logs,
TensorBoard), and the same network, batches and optimiser in a plain loop, in blocks that take turns in one
process by one thread. What is counted is the processor time of that thread, so that other programs disturb
less. A step of the run is the time from the start of one batch to that of the next; validations and
checkpoints lie between epochs and are not counted. A ratio is of a block and the one before it; the median
over the blocks counts.
"""

from __future__ import annotations

import argparse
import csv
import logging
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.nn import functional as F

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder
from cnnexp.speed.result import conditions
from cnnexp.training import Classifier, run_training


class Turns(Callback):
    """Time blocks of steps of the run, and as many of the plain loop after each.

    Attributes:
        of_run, of_loop: Milliseconds a step, one figure a block.
    """

    def __init__(self, block: int) -> None:
        self.of_run: list[float] = []
        self.of_loop: list[float] = []
        self._block, self._began = block, 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Close a block; the plain loop has batches of the same sizes."""
        size = len(batch[1])
        if batch_idx and batch_idx % self._block == 0:
            spent = time.thread_time() - self._began
            self.of_run.append(1e3 * spent / self._block)
            assert isinstance(pl_module, Classifier)
            self.of_loop.append(self._loop(trainer, pl_module, size))
        if batch_idx % self._block == 0:
            self._began = time.thread_time()

    def _loop(self, trainer: L.Trainer, module: Classifier, size: int) -> float:
        """Milliseconds a step; the run's weights stay as they are."""
        kept = {name: value.clone() for name, value in module.network.state_dict().items()}
        kind: Any = type(trainer.optimizers[0])
        optimizer = kind(module.network.parameters())
        images, labels = trainer.datamodule.train.batch(torch.arange(size * self._block))  # pyright: ignore
        parts = zip(images.split(size), labels.split(size), strict=True)
        inputs = [(module.normalise(each.float() / 255), targets) for each, targets in parts]
        start = time.thread_time()
        for each, targets in inputs:
            optimizer.zero_grad()
            F.cross_entropy(module.network(each), targets).backward()
            optimizer.step()
        spent = time.thread_time() - start
        module.network.load_state_dict(kept)
        return 1e3 * spent / self._block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--block", type=int, default=20, help="steps")
    parser.add_argument("--csv", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    images = 128 * (options.block * options.blocks + 1)
    overrides = ["experiment=article", "backward=fused", "accelerator=cpu", "data.fallback=error"]
    overrides += ["trainer.max_epochs=1", "test=false", f"data.train_size={images}"]
    job = build_job(plain_config(Composer("train").compose(overrides)))
    turns = Turns(options.block)
    with tempfile.TemporaryDirectory() as scratch:
        run_training(replace(job, callbacks=lambda: [turns]), RunFolder(Path(scratch)))
    ratios = [a / b for a, b in zip(turns.of_run, turns.of_loop, strict=True)][
        1:
    ]  # the first compiles
    row: dict[str, Any] = {
        "steps": options.block * len(ratios),
        "milliseconds_run": round(statistics.median(turns.of_run[1:]), 2),
        "milliseconds_loop": round(statistics.median(turns.of_loop[1:]), 2),
        "ratio": round(statistics.median(ratios), 3),
    } | conditions(torch.device("cpu"))
    for name, value in row.items():
        print(f"{name:22} {value}")
    if options.csv is not None:
        with options.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
