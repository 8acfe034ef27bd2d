"""The LightningModule: a network that learns to classify images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from cnnexp.regularization import Penalty

__all__ = ["Classifier"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]


class Classifier(L.LightningModule):
    """Train ``network`` by the softmax cross-entropy of its logits, plus penalties.

    Logs ``train/loss_step`` by step; ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc`` by
    epoch, averaged over the images; ``test/loss``, ``test/acc``; and the penalties' part of the
    training loss as ``train/penalty/<name>``. The losses are the cross-entropy alone.

    Args:
        network: Maps normalised images (N, C, H, W) to logits (N, num_classes).
        num_classes: Number of classes.
        mean, std: Of the training pixels, one number a channel; kept in the checkpoint, so that a
            trained classifier takes plain pixels in 0…1.
        optimizer: Makes the optimiser from the parameters.
        scheduler: Makes the schedule from the optimiser and the number of optimiser steps of the
            whole training; stepped after each of them. None for a constant learning rate.
        penalties: Terms added to the training loss.
        loss: The mean softmax cross-entropy of logits (N, num_classes) and labels (N,); torch's own
            if None.
        channels_last: Keep images and kernels in channels_last memory, which is the faster layout
            for convolutions on most devices; changes no result beyond rounding.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        penalties: Sequence[Penalty] = (),
        loss: nn.Module | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self.penalties = tuple(penalties)
        self.loss = loss or nn.CrossEntropyLoss()
        self.train_acc = MulticlassAccuracy(num_classes, average="micro")
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0…1 → logits (N, num_classes)."""
        return self.network(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0…1 → what the network gets, in its memory layout."""
        normalised = (images - self.mean) / self.std
        return normalised.contiguous(memory_format=self._layout)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch, penalties included."""
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self.train_acc.update(logits.detach(), labels)
        size = labels.size(0)
        self.log("train/loss_step", loss, prog_bar=True, batch_size=size)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=size)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, batch_size=size)
        total = loss
        for penalty in self.penalties:
            term = penalty(self.network)
            self.log(f"train/penalty/{penalty.name}", term, batch_size=size)
            total = total + term
        return total

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of one validation batch."""
        self._evaluate("val", self.val_acc, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss and accuracy of one test batch; returns the predicted classes (N,)."""
        return self._evaluate("test", self.test_acc, batch)

    def _evaluate(
        self, part: str, accuracy: MulticlassAccuracy, batch: tuple[Tensor, Tensor]
    ) -> Tensor:
        images, labels = batch
        logits = self(images)
        accuracy.update(logits, labels)
        loss = self.loss(logits, labels)
        size = labels.size(0)
        self.log(f"{part}/loss", loss, on_step=False, on_epoch=True, batch_size=size)
        self.log(f"{part}/acc", accuracy, on_step=False, on_epoch=True, batch_size=size)
        return logits.argmax(1)

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule stepped with it."""
        optimizer = self._make_optimizer(self.network.parameters())
        if self._make_scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self._make_scheduler(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
