"""Callbacks that log how the training itself goes."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

__all__ = ["LearningRate", "Throughput"]


class LearningRate(Callback):
    """Log the learning rate each step was made with: ``train/lr``, or ``train/lr/<n>`` by group."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log it with the step's other scalars."""
        rates = [group["lr"] for o in trainer.optimizers for group in o.param_groups]
        names = ["train/lr"] if len(rates) == 1 else [f"train/lr/{i}" for i in range(len(rates))]
        for name, rate in zip(names, rates, strict=True):
            pl_module.log(name, float(rate), on_step=True, on_epoch=False, batch_size=1)


class Throughput(Callback):
    """Log ``perf/images_per_second``, training only, once an epoch.

    The clock runs from the first batch of an epoch to its last, before the validation at its end (one
    in the middle counts); a GPU is waited for at the two ends only.

    Attributes:
        images_per_second: Of each epoch so far.
    """

    def __init__(self) -> None:
        self.images_per_second: list[float] = []
        self._start = 0.0
        self._images = 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._images = 0
        self._start = _now(pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: tuple[torch.Tensor, torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Count, and stop the clock at the last batch: validation comes after it."""
        self._images += batch[1].size(0)
        if trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches:
            self.images_per_second.append(self._images / (_now(pl_module) - self._start))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's figure."""
        if self.images_per_second:
            pl_module.log("perf/images_per_second", self.images_per_second[-1], batch_size=1)


def _now(pl_module: L.LightningModule) -> float:
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()
