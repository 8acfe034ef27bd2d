"""What tells of a run of cnnexp the lines that the other programs say themselves: a callback of its own."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback
from mnist import say
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook


class Lines(Callback):
    """Say how far the training is.

    The first step is seen by the optimiser's hook, since a hook of the training loop would keep several
    steps from being one call.
    """

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the first step."""

        def said(optimizer: Optimizer, *_: object) -> None:
            if any(group["params"] for group in optimizer.param_groups):
                say("first step")
                handle.remove()

        handle = register_optimizer_step_post_hook(said)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Say the accuracy on the images that were held out."""
        if not trainer.sanity_checking:
            epoch = trainer.current_epoch + 1
            say("epoch", epoch, float(trainer.callback_metrics["val/acc"]))

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Say the accuracy on the test images."""
        say("test", float(trainer.callback_metrics["test/acc"]))
