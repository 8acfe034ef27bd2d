"""The article's network and settings in PyTorch Lightning, fed by torchvision's MNIST and a DataLoader."""

from __future__ import annotations

import logging
import tempfile
import warnings
from typing import Any

import lightning as L
import torch
from mnist import DEVIATION, HELD_OUT, MEAN, asked, say
from plain_torch import BATCH, network
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor


class Module(L.LightningModule):
    """As the documentation of Lightning writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()
        self.said = False

    def _loss(self, batch: tuple[Tensor, Tensor], part: str) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.log(f"{part}_loss", loss)
        self.log(f"{part}_acc", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        return self._loss(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Log what the batch has of the loss and the accuracy."""
        self._loss(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Log what the batch has of the loss and the accuracy."""
        self._loss(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with its defaults."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Say once that the first step is done."""
        if not self.said:
            say("first step")
            self.said = True

    def on_train_epoch_end(self) -> None:
        """Say the accuracy on the images that were held out."""
        say("epoch", self.current_epoch + 1, float(self.trainer.callback_metrics["val_acc"]))


def main() -> None:
    """Train, validate after each epoch, test at the end."""
    task = asked()
    warnings.filterwarnings(
        "ignore"
    )  # Lightning's advice to take more workers: slower on two cores
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    L.seed_everything(task.seed, verbose=False)
    transform = Compose([ToTensor(), Normalize((MEAN,), (DEVIATION,))])
    known = MNIST(str(task.data), train=True, transform=transform)
    few = len(known) // HELD_OUT
    train, held_out = random_split(known, [len(known) - few, few])
    test = MNIST(str(task.data), train=False, transform=transform)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=task.epochs,
            accelerator="cpu",
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Module()
        loaders = [DataLoader(part, batch_size=BATCH) for part in (held_out, test)]
        trainer.fit(module, DataLoader(train, batch_size=BATCH, shuffle=True), loaders[0])
        (found,) = trainer.test(module, loaders[1], verbose=False)
    say("test", found["test_acc"])


if __name__ == "__main__":
    main()
