"""Say how much privacy is spent, and stop before the budget is exceeded."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from cnnexp.training.privacy_account import PrivacyAccount

__all__ = ["PrivacyLog"]

log = logging.getLogger(__name__)


class PrivacyLog(Callback):
    """Log ``privacy/epsilon`` and ``privacy/epsilon_rdp`` after each epoch, and end with the budget.

    Args:
        account: Of the run.
    """

    at_each_step = True

    def __init__(self, account: PrivacyAccount) -> None:
        self._account = account

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Let this step be the last if one more would exceed the budget."""
        planned = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        if self._account.left < 1 and trainer.global_step < planned and not trainer.should_stop:
            log.warning(
                "privacy: the budget of ε = %g is spent after %d steps, so the training ends here",
                self._account.settings.epsilon,
                self._account.steps,
            )
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log both figures of ε so far."""
        # every rank counts the same
        known: dict[str, Any] = {"batch_size": 1, "rank_zero_only": True}
        pl_module.log("privacy/epsilon", float(self._account.epsilon()), prog_bar=True, **known)
        pl_module.log("privacy/epsilon_rdp", float(self._account.epsilon("rdp")), **known)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have the account on the disk before the weights are."""
        self._account.sync()
