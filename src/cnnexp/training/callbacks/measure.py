"""Callbacks that log how the training itself goes."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from cnnexp.kernels.compilation import clock
from cnnexp.optim import NO_DECAY
from cnnexp.training.lightning_loop import is_logged


class LearningRate(Callback):
    """Log the learning rate each step was made with: ``train/lr``, or ``train/lr/<layer>``.

    Parameter groups that differ only in their weight decay have one rate; a group's ``name`` says of
    which layer it is.
    """

    at_each_step = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log it with the step's other scalars."""
        if not is_logged(pl_module):
            return
        rates: dict[str, float] = {}
        for optimizer in trainer.optimizers:
            for i, group in enumerate(optimizer.param_groups):
                layer = group.get("name", str(i)).removesuffix(NO_DECAY)
                rates.setdefault(layer, group["lr"] * getattr(pl_module, "lr_factor", 1.0))
        for layer, rate in rates.items():
            name = "train/lr" if len(rates) == 1 else f"train/lr/{layer}"
            pl_module.log(name, float(rate), on_step=True, on_epoch=False, batch_size=1)


class Throughput(Callback):
    """Log ``perf/images_per_second`` once an epoch, and with each validation ``perf/train_seconds`` so far.

    Both are of training only: the clock stands still from the start of a validation until the next
    batch, and while something is compiled. A GPU is waited for only where it stops.

    Attributes:
        images_per_second: Of each epoch so far.
    """

    at_each_step = True

    def __init__(self) -> None:
        self.images_per_second: list[float] = []
        self._seconds = 0.0  # of the epochs before, and of this one until the clock was stopped
        self._began: float | None = None  # None while it stands still
        self._images, self._epoch_began_at = 0, 0.0  # images since the last figure

    @property
    def train_seconds(self) -> float:
        """How long the training has taken, what came before a resumption included."""
        return self._seconds + (0.0 if self._began is None else clock() - self._began)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of an epoch that a resumed training continues within."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._images = 0
        self._stop(pl_module)
        self._epoch_began_at = self._seconds
        self._began = clock()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock again after a validation in the middle of an epoch."""
        if self._began is None:
            self._began = clock()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: tuple[torch.Tensor, torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Count, and stop the clock at the last batch."""
        self._images += batch[1].size(0) * trainer.world_size
        if trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches:
            self._close_epoch(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the clock stand still."""
        self._stop(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the seconds that led to this validation."""
        if not trainer.sanity_checking:
            pl_module.log("perf/train_seconds", self._seconds, batch_size=1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's figure, that of an epoch which ended before its last batch as well."""
        if self._images:
            self._close_epoch(pl_module)
        if self.images_per_second:
            pl_module.log("perf/images_per_second", self.images_per_second[-1], batch_size=1)

    def _close_epoch(self, pl_module: L.LightningModule) -> None:
        self._stop(pl_module)
        self.images_per_second.append(self._images / (self._seconds - self._epoch_began_at))
        self._images = 0

    def _stop(self, pl_module: L.LightningModule) -> None:
        if self._began is None:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._seconds, self._began = self.train_seconds, None

    def state_dict(self) -> dict[str, Any]:
        """The figures so far."""
        return {"images_per_second": self.images_per_second, "train_seconds": self.train_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.images_per_second = list(state_dict["images_per_second"])
        self._seconds, self._began = state_dict.get("train_seconds", 0.0), None
