"""Callbacks that tell people and programs where the training stands."""

from __future__ import annotations

import logging

import lightning as L
from lightning.pytorch.callbacks import Callback

from cnnexp.runs import RunFolder

__all__ = ["EpochHistory", "RunStatus"]

log = logging.getLogger(__name__)


class EpochHistory(Callback):
    """Keep each epoch's metrics and print them as one line, which train.log keeps, too.

    Attributes:
        epochs: One dict of metrics an epoch, with its number (from 1) as ``"epoch"``.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Runs after the epoch's validation."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs.append({"epoch": trainer.current_epoch + 1, **metrics})
        parts = [
            f"{name} {_figure(name, metrics[name])}"
            for name in ("train/loss", "train/acc", "val/loss", "val/acc", "perf/images_per_second")
            if name in metrics
        ]
        log.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, "  ".join(parts))

    def best(self, monitor: str, mode: str) -> dict[str, float]:
        """The first epoch with the best ``monitor``; the last epoch if none has it; {} before any."""
        rated = [epoch for epoch in self.epochs if monitor in epoch]
        if not rated:
            return self.epochs[-1] if self.epochs else {}
        return (max if mode == "max" else min)(rated, key=lambda epoch: epoch[monitor])


class RunStatus(Callback):
    """Keep status.json current: epoch and step, after each epoch.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the epochs and steps that are done."""
        if trainer.is_global_zero:
            done = trainer.current_epoch + 1
            self._folder.write_status("running", epoch=done, step=trainer.global_step)


def _figure(name: str, value: float) -> str:
    if name.endswith("/acc"):
        return f"{value:.2%}"
    return f"{value:,.0f}" if name.startswith("perf/") else f"{value:.4f}"
