"""What a training step costs beyond forward, loss, backward and the optimiser's update.

    python benchmarks/step_toll.py --csv benchmarks/results/step_toll.csv      some 3 minutes

The recipe ``experiment=article`` on real MNIST, or a small network on the bundled digits (``--small``), with
all that a run has by default (guard, diagnostics, logs, TensorBoard), by 1, 10 and 50 steps in a turn of
Lightning's loop (``accelerator.steps_per_call``); and the same network, loss and optimiser in a plain loop,
whose batches are gathered and normalised beforehand.
In one process and by the same threads a run and the plain loop take turns, of some steps that are not
counted, since they find the caches full of other things, and of 100 that are: in each such hundred the run
logs, measures and ends its calls as often as in any other. Validations and checkpoints lie between epochs
and are not counted. A ratio is of a hundred steps and the plain loop's after them; the median counts.
"""

from __future__ import annotations

import argparse
import copy
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
from torch import nn

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder
from cnnexp.speed.result import conditions
from cnnexp.training import Classifier, TrainingJob, run_training

CALLS = (1, 10, 50)  # steps in a turn of Lightning's loop
WARM, COUNTED = 20, 100  # steps of a block: rows, readings and calls have periods of 10, 20 and 50
_SMALL = ("data=digits", "model=tiny", "data.batch_size=8", "data.val_size=100")


class Turns(Callback):
    """Time blocks of steps of the run, and as many of the plain loop after each.

    Attributes:
        of_run, of_loop: Milliseconds a step, one figure a block.
    """

    at_each_step = True

    def __init__(self) -> None:
        self.of_run: list[float] = []
        self.of_loop: list[float] = []
        self._began = 0.0
        self._network: nn.Module | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Keep the network as it is before anything hangs on it."""
        assert isinstance(pl_module, Classifier)
        self._network = copy.deepcopy(pl_module.network)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Close a block; the plain loop has batches of the same sizes."""
        step = batch_idx % (WARM + COUNTED)
        if batch_idx and step == 0:
            self.of_run.append(1e3 * (time.perf_counter() - self._began) / COUNTED)
            assert isinstance(pl_module, Classifier)
            self.of_loop.append(self._loop(trainer, pl_module, len(batch[1])))
        if step == WARM:
            self._began = time.perf_counter()

    def _loop(self, trainer: L.Trainer, module: Classifier, size: int) -> float:
        """Milliseconds a step, from the weights that the run has now."""
        assert self._network is not None
        network, of_run = self._network, trainer.optimizers[0]
        network.load_state_dict(module.network.state_dict())
        kind: Any = type(of_run)
        optimizer = kind(network.parameters(), **of_run.defaults)
        train = trainer.datamodule.train  # pyright: ignore
        images, labels = train.batch(torch.arange(size * (WARM + COUNTED)) % len(train))
        parts = zip(images.split(size), labels.split(size), strict=True)
        inputs = [(module.normalise(each.float() / 255), targets) for each, targets in parts]
        start = 0.0
        for number, (each, targets) in enumerate(inputs):
            if number == WARM:
                start = time.perf_counter()
            optimizer.zero_grad()
            module.loss(network(each), targets).backward()
            optimizer.step()
        return 1e3 * (time.perf_counter() - start) / COUNTED


def _job(options: argparse.Namespace, steps: int) -> TrainingJob:
    overrides = list(_SMALL) if options.small else ["experiment=article", "data.fallback=error"]
    overrides += [
        "backward=fused",
        "accelerator=cpu",
        f"trainer.max_epochs={options.epochs}",
        "test=false",
    ]
    overrides += [f"accelerator.steps_per_call={steps}"]
    return build_job(plain_config(Composer("train").compose(overrides)))


def _train(job: TrainingJob, turns: Turns) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run_training(replace(job, callbacks=lambda: [turns]), RunFolder(Path(scratch)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a small network on digits")
    parser.add_argument("--csv", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    turns = [Turns() for _ in CALLS]
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
                "steps": COUNTED * len(ratios[kept]),
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
