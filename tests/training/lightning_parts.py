"""A trainer of Lightning's that says nothing, for tests of the adapters."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from cnnexp.training import quiet_lightning


def quiet_trainer(*callbacks: Callback, **settings: Any) -> L.Trainer:
    """One epoch of three batches on a CPU, without validation."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_train_batches": 3,
        "limit_val_batches": 0,
        "max_epochs": 1,
    }
    return L.Trainer(callbacks=list(callbacks), **quiet | settings)


def fit(trainer: L.Trainer, model: L.LightningModule | None = None, **options: Any) -> None:
    """Train a linear layer, or ``model``, on 32 random numbers an example."""
    data = BoringModel().train_dataloader()
    with quiet_lightning():
        trainer.fit(model or BoringModel(), data, **options)
