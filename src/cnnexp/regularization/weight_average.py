"""Validate, test and keep an average of the weights instead of the last ones: what EMA and SWA share."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


class WeightAverage(Callback):
    """Keep an average of parameters and floating-point buffers beside the training.

    Validation sees the average, and so does the choice of the best epoch; a checkpoint's
    ``state_dict`` is the average, what training continues with stands under ``training_weights``.
    Until the first update the average is the weights themselves.
    """

    at_each_step = True

    def __init__(self) -> None:
        self.updates = 0
        self._average: dict[str, Tensor] = {}

    def share(self) -> float:
        """How much the next update moves the average towards the present weights, in (0, 1]."""
        raise NotImplementedError

    def due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """Whether to update after this batch."""
        raise NotImplementedError

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the weights into the average, if it is time."""
        if self.due(trainer, batch_idx):
            self.update(pl_module)

    @torch.no_grad()
    def update(self, module: L.LightningModule) -> None:
        """Take the present weights into the average."""
        share = 1.0 if self.updates == 0 else self.share()
        for name, value in _averaged(module).items():
            kept = self._average.get(name)
            if kept is None:
                self._average[name] = value.clone()
            else:  # a checkpoint is read on the CPU, before the network goes to its device
                self._average[name] = kept.to(value.device).lerp_(value, share)
        self.updates += 1

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average into the network."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the weights trained on back."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap(pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make the average the checkpoint's network."""
        state = checkpoint["state_dict"]
        checkpoint["training_weights"] = {name: state[name].clone() for name in self._average}
        checkpoint["state_dict"] = {**state, **{k: v.clone() for k, v in self._average.items()}}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue with the weights trained on; a test keeps the average."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        trained = checkpoint["training_weights"]
        self._average = {name: checkpoint["state_dict"][name].clone() for name in trained}
        pl_module.load_state_dict(trained, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates that the average is of."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.updates = state_dict["updates"]

    @torch.no_grad()
    def _swap(self, module: L.LightningModule) -> None:
        values = _averaged(module)
        for name, kept in self._average.items():
            present = values[name].clone()
            values[name].copy_(kept)
            kept.copy_(present)


def _averaged(module: L.LightningModule) -> dict[str, Tensor]:
    """What is averaged: of the network alone, by its name in the checkpoint."""
    return {
        name: value
        for name, value in module.state_dict(keep_vars=True).items()
        if name.startswith("network.") and isinstance(value, Tensor) and value.is_floating_point()
    }
