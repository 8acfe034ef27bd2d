"""Optimisers that train on other weights than they give: schedule-free ones.

They have methods ``train`` and ``eval`` that exchange the two in place (as the ``schedulefree``
package's do).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer


class ScheduleFreeModule(L.LightningModule):
    """Makes sure that validation, test and checkpoints get the weights that the optimiser gives."""

    def on_train_start(self) -> None:
        """Exchange for the weights trained on."""
        _exchange(self._averaging(), "train")

    def on_validation_model_eval(self) -> None:
        """Exchange for the weights given, before validation and the checkpoint after it."""
        super().on_validation_model_eval()
        _exchange(self._averaging(), "eval")

    def on_validation_model_train(self) -> None:
        """Exchange for the weights trained on again, after validation."""
        super().on_validation_model_train()
        if self.trainer.training or self.trainer.validating:
            _exchange(self._averaging(), "train")

    def on_test_model_eval(self) -> None:
        """Exchange for the weights given."""
        super().on_test_model_eval()
        _exchange(self._averaging(), "eval")

    def on_train_end(self) -> None:
        """Exchange for the weights given: what comes now is a test."""
        _exchange(self._averaging(), "eval")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the weights given into a checkpoint made in the middle of training.

        What training continues with stands under ``training_weights``; it stays as it is to the bit,
        which exchanging there and back would not leave it.
        """
        optimizers = self._averaging()
        if not optimizers or not any(g["train_mode"] for o in optimizers for g in o.param_groups):
            return
        trained = _copied(self.state_dict())
        _exchange(optimizers, "eval")
        checkpoint["state_dict"] = _copied(self.state_dict())
        checkpoint["training_weights"] = trained
        with torch.no_grad():
            for name, value in self.state_dict(keep_vars=True).items():
                if isinstance(value, Tensor):  # else the extra state of somebody's layer
                    value.copy_(trained[name])
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["train_mode"] = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the weights trained on; a test keeps those given."""
        try:
            fitting = self.trainer.state.fn == TrainerFn.FITTING
        except RuntimeError:  # it has no trainer
            return
        if not fitting:
            return
        modes = [
            g.get("train_mode") for o in checkpoint["optimizer_states"] for g in o["param_groups"]
        ]
        if any(modes):
            checkpoint["state_dict"] = checkpoint["training_weights"]

    def _averaging(self) -> list[Optimizer]:
        return [o for o in self.trainer.optimizers if hasattr(o, "train") and hasattr(o, "eval")]


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def _exchange(optimizers: list[Optimizer], mode: str) -> None:
    for optimizer in optimizers:
        getattr(optimizer, mode)()
