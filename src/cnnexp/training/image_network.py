"""The LightningModule of a network that takes plain pixels, and of how good it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cnnexp.ops.layout import in_layout
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.schedule_free import ScheduleFreeModule


class Accuracy(Metric):
    """The share of images whose greatest logit is that of their label.

    ``torchmetrics.classification`` has the same, and imports a hundred metrics and three libraries with it.
    """

    right: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for count in ("right", "images"):
            self.add_state(count, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of logits (N, num_classes) and labels (N,)."""
        self.right += (logits.argmax(1) == labels).sum()
        self.images += labels.size(0)

    def compute(self) -> Tensor:
        """In [0, 1]; NaN before the first image."""
        return self.right.float() / self.images


class ImageNetwork(ScheduleFreeModule):
    """Normalise pixels, classify them by ``network``, and log ``val/…`` and ``test/…`` loss and accuracy.

    Args:
        network: Maps normalised images (N, C, H, W) to logits (N, num_classes).
        num_classes: Number of classes.
        mean, std: Of the training pixels, one number a channel; kept in the checkpoint.
        loss: The mean softmax cross-entropy of logits (N, num_classes) and labels (N,).
        channels_last: Keep images and kernels in channels_last memory.
        ranks: The processes that share the batches.
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
        loss: nn.Module,
        channels_last: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.num_classes, self.loss, self._ranks = num_classes, loss, ranks
        self.val_acc = Accuracy()
        self.test_acc = Accuracy()

    @property
    def backbone(self) -> nn.ModuleList:
        """The network's parts before the last that has parameters: what Lightning's finetuning freezes."""
        parts = [part for part in self.network.children() if any(True for _ in part.parameters())]
        return nn.ModuleList(parts[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0…1 → logits (N, num_classes)."""
        return self.network(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0…1 → what the network gets, in its memory layout."""
        normalised = (images - self.mean).div_(self.std)
        return in_layout(normalised, self._layout)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of one validation batch."""
        self._evaluate("val", self.val_acc, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log loss and accuracy of one test batch; returns the logits (N, num_classes)."""
        return self._evaluate("test", self.test_acc, batch)

    def _evaluate(self, part: str, accuracy: Accuracy, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        size = labels.size(0)
        if size == 0:  # a small batch had none for this rank
            return images.new_zeros(0, self.num_classes)
        logits = self(images)
        accuracy.update(logits, labels)
        loss, ranks = self.loss(logits, labels), self._ranks.count
        # Lightning divides the number of images by that of ranks in whole numbers: 40 by 3 would be 13
        whole, among = size * ranks, ranks > 1
        self.log(
            f"{part}/loss", loss, on_step=False, on_epoch=True, batch_size=whole, sync_dist=among
        )
        self.log(f"{part}/acc", accuracy, on_step=False, on_epoch=True, batch_size=size)
        return logits
