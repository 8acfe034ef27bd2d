"""``debug=overfit``: whether the training can learn one batch by heart.

What cannot learn a few images, with all parameters for them alone, has a mistake or a wrong learning rate; it
is a cheap test before a long training (Karpathy, "A Recipe for Training Neural Networks", 2019).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import lightning as L
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)

ENOUGH = 0.01  # nats: the right class gets a probability of 99 % on average


class OverfitCheck(Callback):
    """End the training once its loss is below 0.01, and say whether it got there.

    Args:
        hindrances: What the training does that keeps the loss from 0, for the message.

    Attributes:
        first, last: The loss of the first and of the last step, in nats; None before.
    """

    name = "overfit"

    def __init__(self, hindrances: Sequence[str] = ()) -> None:
        self._hindrances = list(hindrances)
        self.first: float | None = None
        self.last: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the loss went to 0."""
        return self.last is not None and self.last < ENOUGH

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the loss, and end the training where it is enough."""
        self.last = float(trainer.callback_metrics["train/loss"])
        if self.first is None:
            self.first = self.last
        trainer.should_stop = trainer.should_stop or self.passed

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it."""
        if self.first is None or self.last is None:
            return
        steps = f"{trainer.global_step} steps"
        went = f"the loss of one batch went from {self.first:.4g} to {self.last:.4g} in {steps}"
        if self.passed:
            log.info("debug=overfit: %s: it is learnt by heart", went)
            return
        other = ""
        if self._hindrances:
            other = f"; {', '.join(self._hindrances)} may keep it from there: try without"
        log.warning(
            "debug=overfit: %s, not below %g: a layer or its gradient may be wrong, or optimizer.lr, for "
            "which python -m cnnexp.lr_find suggests a value%s",
            went,
            ENOUGH,
            other,
        )

    def result(self) -> dict[str, object]:
        """What result.json says of it."""
        return {"name": self.name, "passed": self.passed, "first": self.first, "last": self.last}
