"""What a training step costs beyond forward, loss, backward and the optimiser's update.

    python benchmarks/step_toll.py --csv benchmarks/results/step_toll.csv

The recipe ``experiment=article`` on real MNIST, or a small network on the bundled digits (``--small``), with
all that a run has by default (guard, diagnostics, logs, TensorBoard), by 1, 10 and 50 steps in a turn of
Lightning's loop (``accelerator.steps_per_call``); and the same network and optimiser in a plain loop, whose
batches are gathered and normalised beforehand.
After each block of steps of a run follows one of the plain loop, in the same process and by the same threads.
A step of the run is the time from the start of one batch to that of the next; validations and checkpoints lie
between epochs and are not counted, nor are the first steps of a block, which find the caches full of other
things. A ratio is of a block and the plain loop's after it; the median over the blocks counts.
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
from cnnexp.training import Classifier, TrainingJob, run_training

CALLS = (1, 10, 50)  # steps in a turn of Lightning's loop
WARM = 5  # steps at the beginning of a block that are not counted
_SMALL = ("data=digits", "model=tiny", "data.batch_size=8", "data.val_size=100")


class Turns(Callback):
    """Time blocks of steps of the run, and as many of the plain loop after each.

    Attributes:
        of_run, of_loop: Milliseconds a step, one figure a block.
    """

    at_each_step = True

    def __init__(self, block: int) -> None:
        self.of_run: list[float] = []
        self.of_loop: list[float] = []
        self._block, self._began = block, 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Close a block; the plain loop has batches of the same sizes."""
        if batch_idx and batch_idx % self._block == 0:
            spent = time.perf_counter() - self._began
            self.of_run.append(1e3 * spent / (self._block - WARM))
            assert isinstance(pl_module, Classifier)
            self.of_loop.append(self._loop(trainer, pl_module, len(batch[1])))
        if batch_idx % self._block == WARM:
            self._began = time.perf_counter()

    def _loop(self, trainer: L.Trainer, module: Classifier, size: int) -> float:
        """Milliseconds a step; the run's weights stay as they are."""
        kept = {name: value.clone() for name, value in module.network.state_dict().items()}
        of_run = trainer.optimizers[0]
        kind: Any = type(of_run)
        optimizer = kind(module.network.parameters(), fused=of_run.defaults["fused"])
        train = trainer.datamodule.train  # pyright: ignore
        images, labels = train.batch(torch.arange(size * self._block) % len(train))
        parts = zip(images.split(size), labels.split(size), strict=True)
        inputs = [(module.normalise(each.float() / 255), targets) for each, targets in parts]
        start = 0.0
        for number, (each, targets) in enumerate(inputs):
            if number == WARM:
                start = time.perf_counter()
            optimizer.zero_grad()
            F.cross_entropy(module.network(each), targets).backward()
            optimizer.step()
        spent = time.perf_counter() - start
        module.network.load_state_dict(kept)
        return 1e3 * spent / (self._block - WARM)


def _job(options: argparse.Namespace, steps: int) -> TrainingJob:
    size = 8 if options.small else 128
    overrides = list(_SMALL) if options.small else ["experiment=article", "data.fallback=error"]
    if not options.small:
        overrides += [f"data.train_size={size * (options.block * options.blocks + 1)}"]
    overrides += ["backward=fused", "accelerator=cpu", "trainer.max_epochs=1", "test=false"]
    overrides += [f"accelerator.steps_per_call={steps}"]
    return build_job(plain_config(Composer("train").compose(overrides)))


def _train(job: TrainingJob, turns: Turns) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run_training(replace(job, callbacks=lambda: [turns]), RunFolder(Path(scratch)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20, help="of 55,000 images at most 20 of 20")
    parser.add_argument("--block", type=int, default=20, help="steps")
    parser.add_argument("--small", action="store_true", help="a small network on digits")
    parser.add_argument("--csv", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    turns = [Turns(options.block) for _ in CALLS]
    for steps, each in zip(CALLS, turns, strict=True):
        _train(_job(options, steps), each)
    rows: list[dict[str, Any]] = []
    for steps, each in zip(CALLS, turns, strict=True):
        ratios = [a / b for a, b in zip(each.of_run, each.of_loop, strict=True)]
        kept = slice(1, None) if len(ratios) > 1 else slice(None)  # the first compiles
        rows.append(
            {
                "network": "tiny" if options.small else "article",
                "steps_per_call": steps,
                "steps": options.block * len(ratios[kept]),
                "milliseconds_run": round(statistics.median(each.of_run[kept]), 3),
                "milliseconds_loop": round(statistics.median(each.of_loop[kept]), 3),
                "ratio": round(statistics.median(ratios[kept]), 3),
            }
            | conditions(torch.device("cpu"))
        )
    for row in rows:
        print("  ".join(f"{name} {row[name]}" for name in list(row)[:6]))
    print("  ".join(f"{name} {value}" for name, value in list(rows[0].items())[6:]))
    if options.csv is not None:
        with options.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
