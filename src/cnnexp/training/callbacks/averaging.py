"""Validate, test and keep an average of the weights instead of the last ones: EMA and SWA."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

__all__ = ["ExponentialAverage", "StochasticWeightAverage", "WeightAverage"]


class WeightAverage(Callback):
    """Keep an average of parameters and floating-point buffers beside the training.

    Validation sees the average, and so does the choice of the best epoch; a checkpoint's
    ``state_dict`` is the average, what training goes on with stands under ``training_weights``.
    Until the first update the average is the weights themselves.
    """

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
        """Update, if it is time."""
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
            else:
                kept.lerp_(value, share)
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
        """Go on with the weights trained on; a test keeps the average."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        trained = checkpoint["training_weights"]
        self._average = {name: checkpoint["state_dict"][name].clone() for name in trained}
        pl_module.load_state_dict(trained, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """How many updates the average is of."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self.updates = state_dict["updates"]

    @torch.no_grad()
    def _swap(self, module: L.LightningModule) -> None:
        values = _averaged(module)
        for name, kept in self._average.items():
            present = values[name].clone()
            values[name].copy_(kept)
            kept.copy_(present)


class ExponentialAverage(WeightAverage):
    """After each step of the optimiser: average ← d·average + (1 − d)·weights.

    d grows from a small number to ``decay`` as min(decay, (1 + t)/(10 + t)), so that the first
    weights are soon forgotten.

    Args:
        decay: In (0, 1).

    Raises:
        ValueError: ``decay`` is out of range.

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992);
    Tarvainen & Valpola, "Mean teachers are better role models" (2017).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"regularization.ema.decay must be between 0 and 1, but got {decay}")
        self.decay, self._step = decay, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from the step that a resumed training goes on from."""
        self._step = trainer.global_step

    def share(self) -> float:
        """1 − d."""
        return 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    def due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """After each step of the optimiser."""
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        return stepped


class StochasticWeightAverage(WeightAverage):
    """From ``start`` of the training on, the mean of the weights at the ends of the epochs.

    Statistics of batch normalisation are averaged as well, not computed anew. Use it with a
    learning rate that stays up to the end, such as ``scheduler=none``.

    Args:
        start: Share of the epochs before the first that counts, in [0, 1).

    Raises:
        ValueError: ``start`` is out of range.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization"
    (2018).
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        if not 0 <= start < 1:
            raise ValueError(f"regularization.swa.start must be in [0, 1), but got {start}")
        self.start = start

    def share(self) -> float:
        """1/n for the n-th epoch that counts: their mean."""
        return 1 / (self.updates + 1)

    def due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """After the last step of an epoch that counts, so that its validation sees the average."""
        first = round(self.start * (trainer.max_epochs or 1))
        last = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        return last and trainer.current_epoch >= first


def _averaged(module: L.LightningModule) -> dict[str, Tensor]:
    """What is averaged: of the network alone, by its name in the checkpoint."""
    return {
        name: value
        for name, value in module.state_dict(keep_vars=True).items()
        if name.startswith("network.") and isinstance(value, Tensor) and value.is_floating_point()
    }
