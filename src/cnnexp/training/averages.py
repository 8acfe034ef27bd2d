"""Optimisers that train on other weights than they give: schedule-free ones.

They have methods ``train`` and ``eval`` that exchange the two in place (as the ``schedulefree``
package's do).
"""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.optim import Optimizer

__all__ = ["AveragingModule"]


class AveragingModule(L.LightningModule):
    """Sees to it that validation, test and checkpoints get the weights that the optimiser gives."""

    def on_train_start(self) -> None:
        """Exchange for the weights trained on."""
        _exchange(self._averaging(), "train")

    def on_validation_model_eval(self) -> None:
        """Exchange for the weights given, before validation and the checkpoint after it."""
        super().on_validation_model_eval()
        _exchange(self._averaging(), "eval")

    def on_validation_model_train(self) -> None:
        """And back."""
        super().on_validation_model_train()
        if self.trainer.training or self.trainer.validating:
            _exchange(self._averaging(), "train")

    def on_test_model_eval(self) -> None:
        """Exchange for the weights given."""
        super().on_test_model_eval()
        _exchange(self._averaging(), "eval")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the weights given into a checkpoint made in the middle of training."""
        optimizers = self._averaging()
        if not optimizers or not any(g["train_mode"] for o in optimizers for g in o.param_groups):
            return
        _exchange(optimizers, "eval")
        checkpoint["state_dict"] = {k: v.clone() for k, v in self.state_dict().items()}
        for state in checkpoint.get("optimizer_states", ()):
            for group in state["param_groups"]:
                group["train_mode"] = False
        _exchange(optimizers, "train")

    def _averaging(self) -> list[Optimizer]:
        return [o for o in self.trainer.optimizers if hasattr(o, "train") and hasattr(o, "eval")]


def _exchange(optimizers: list[Optimizer], mode: str) -> None:
    for optimizer in optimizers:
        getattr(optimizer, mode)()
