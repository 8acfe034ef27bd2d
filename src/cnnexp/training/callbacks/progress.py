"""Callbacks that tell people and programs where the training stands."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from tqdm.contrib.logging import logging_redirect_tqdm

from cnnexp.kernels.compilation import clock
from cnnexp.runs import RunFolder
from cnnexp.training.epochs import epoch_of

log = logging.getLogger(__name__)


class EpochHistory(Callback):
    """Keep the metrics of each validation and epoch, and print a line an epoch, kept in train.log.

    Args:
        sparse: Print epochs 1, 2, 5, 10, 20, 50 … alone, where an epoch is a step.

    Attributes:
        validations: The metrics of each validation, with the epoch (from 1) as ``"epoch"``.
        last: The metrics at the end of the last epoch, likewise; {} before.
    """

    def __init__(self, *, sparse: bool = False) -> None:
        self._sparse = sparse
        self.validations: list[dict[str, float]] = []
        self.last: dict[str, float] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what the choice of the best weights is made from, at the moment it is made."""
        if not trainer.sanity_checking:
            self.validations.append(_metrics(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print; runs after the epoch's validation."""
        self.last = _metrics(trainer)
        epoch = epoch_of(trainer)
        if self._sparse and str(epoch).rstrip("0") not in ("1", "2", "5"):
            return
        parts = [f"{name} {_figure(name, self.last[name])}" for name in self._shown()]
        log.info("epoch %d/%s  %s", epoch, trainer.max_epochs, "  ".join(parts))

    def _shown(self) -> list[str]:
        """The names of an epoch's figures, in the order in which they are printed."""
        first = ("train/loss", "train/acc", "train/mae", "val/loss", "val/acc", "val/mae")
        names = [name for name in first if name in self.last]
        names += [name for name in self.last if name.startswith("val/") and name not in first]
        return [*names, *(n for n in ("perf/images_per_second",) if n in self.last)]

    def state_dict(self) -> dict[str, Any]:
        """The metrics so far."""
        return {"validations": self.validations, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.validations, self.last = list(state_dict["validations"]), state_dict["last"]

    def best(self, monitor: str, mode: str) -> dict[str, float]:
        """The first validation with the best ``monitor``; the last epoch if that never was a number."""
        known = [each for each in self.validations if math.isfinite(each[monitor])]
        if not known:
            return self.last
        return (max if mode == "max" else min)(known, key=lambda v: v[monitor])


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with the loss, and without the version number of a logger."""

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What the bar shows beside its length."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def lines_above_bar(progress_bar: bool) -> AbstractContextManager[None]:
    """Within it, log lines for the terminal appear above the bar instead of in it."""
    return logging_redirect_tqdm() if progress_bar else nullcontext()


class RunStatus(Callback):
    """Keep status.json current after each epoch: epoch of how many, step, seconds so far, val/acc.

    The seconds of a resumed run are those that its epochs would have taken at the present pace.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._began, self._first = folder, 0.0, 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the epochs and steps that are done."""
        done, seconds = epoch_of(trainer), clock() - self._began
        accuracy = trainer.callback_metrics.get("val/acc")
        self._folder.write_status(
            "running",
            epoch=done,
            epochs=trainer.max_epochs,
            step=trainer.global_step,
            seconds=round(seconds * done / (done - self._first), 1),
            **({} if accuracy is None else {"val/acc": round(float(accuracy), 6)}),
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._began, self._first = clock(), trainer.current_epoch


def _metrics(trainer: L.Trainer) -> dict[str, float]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"epoch": epoch_of(trainer), **metrics}


def _figure(name: str, value: float) -> str:
    if name.endswith("/acc"):
        return f"{value:.2%}"
    return f"{value:,.0f}" if name.startswith("perf/") else f"{value:.4f}"
