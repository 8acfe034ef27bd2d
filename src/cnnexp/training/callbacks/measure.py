"""Callbacks that log how the training itself goes."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from cnnexp.optim import NO_DECAY

__all__ = ["LearningRate", "Throughput"]


class LearningRate(Callback):
    """Log the learning rate each step was made with: ``train/lr``, or ``train/lr/<layer>``.

    Parameter groups that differ only in their weight decay have one rate; a group's ``name`` says of
    which layer it is.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log it with the step's other scalars."""
        rates: dict[str, float] = {}
        for optimizer in trainer.optimizers:
            for i, group in enumerate(optimizer.param_groups):
                layer = group.get("name", str(i)).removesuffix(NO_DECAY)
                rates.setdefault(layer, group["lr"] * getattr(pl_module, "lr_factor", 1.0))
        for layer, rate in rates.items():
            name = "train/lr" if len(rates) == 1 else f"train/lr/{layer}"
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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of an epoch that a resumed training goes on within."""
        self.on_train_epoch_start(trainer, pl_module)

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
        self._images += batch[1].size(0) * trainer.world_size
        if trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches:
            self.images_per_second.append(self._images / (_now(pl_module) - self._start))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's figure."""
        if self.images_per_second:
            pl_module.log("perf/images_per_second", self.images_per_second[-1], batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """The figures so far."""
        return {"images_per_second": self.images_per_second}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self.images_per_second = list(state_dict["images_per_second"])


def _now(pl_module: L.LightningModule) -> float:
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()
