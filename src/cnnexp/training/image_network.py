"""The LightningModule of a network that takes plain pixels, and of how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cnnexp.ops.layout import in_layout
from cnnexp.optim import keep_frozen
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.schedule_free import ScheduleFreeModule
from cnnexp.training.scores import counted, judged, score_metric, score_name

_Own = TypeVar("_Own", bound="ImageNetwork")


class ImageNetwork(ScheduleFreeModule):
    """Normalise pixels, classify them by ``network``, and log ``val/…`` and ``test/…`` loss and accuracy.

    Args:
        network: Maps normalised images (N, C, H, W) to logits (N, num_classes).
        num_classes: Number of classes.
        mean, std: Of the training pixels, one number a channel; kept in the checkpoint.
        loss: The mean loss of logits (N, num_classes) and the targets.
        targets: What these are: ``classes`` (N,), of which ``acc`` is the share that is right; ``labels``
            (N, num_classes) of 0 and 1, several an image, ``acc`` likewise; ``numbers``
            (N, num_classes), whose ``mae`` is the mean absolute error.
        metrics: What else is logged, by name; they get what ``cnnexp.training.scores.judged`` gives.
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
        targets: str = "classes",
        metrics: Mapping[str, Metric] | None = None,
        channels_last: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.num_classes, self.loss, self._ranks = num_classes, loss, ranks
        self.targets, extra = targets, dict(metrics or {})
        self.val_acc = score_metric(targets)
        self.test_acc = score_metric(targets)
        self.val_metrics = nn.ModuleDict(extra)
        self.test_metrics = nn.ModuleDict({name: each.clone() for name, each in extra.items()})

    @property
    def backbone(self) -> nn.ModuleList:
        """The network's parts before the last that has parameters: what Lightning's finetuning freezes."""
        parts = [part for part in self.network.children() if any(True for _ in part.parameters())]
        return nn.ModuleList(parts[:-1])

    def train(self: _Own, mode: bool = True) -> _Own:
        """Training mode, but for normalisations that are frozen with their statistics."""
        super().train(mode)
        keep_frozen(self.network)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0…1 → logits (N, num_classes)."""
        return self.network(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0…1 → what the network gets, in its memory layout."""
        normalised = (images - self.mean).div_(self.std)
        return in_layout(normalised, self._layout)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of one validation batch."""
        self._evaluate("val", self.val_acc, self.val_metrics, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log loss and accuracy of one test batch; returns the logits (N, num_classes)."""
        return self._evaluate("test", self.test_acc, self.test_metrics, batch)

    def _evaluate(
        self, part: str, score: Metric, metrics: nn.ModuleDict, batch: tuple[Tensor, Tensor]
    ) -> Tensor:
        images, labels = batch
        size = labels.size(0)
        if size == 0:  # a small batch had none for this rank
            return images.new_zeros(0, self.num_classes)
        logits = self(images)
        given = (
            (logits, labels) if self.targets == "classes" else judged(logits, labels, self.targets)
        )
        score.update(*given)
        loss, ranks = self.loss(logits, labels), self._ranks.count
        # Lightning divides the number of images by that of ranks in whole numbers: 40 by 3 would be 13
        counts, among = counted(self.loss, labels), ranks > 1
        whole: Any = counts * ranks  # which weights of classes make no whole number
        loss = loss if counts else torch.zeros_like(loss)
        self.log(
            f"{part}/loss", loss, on_step=False, on_epoch=True, batch_size=whole, sync_dist=among
        )
        named = {score_name(self.targets): score}
        # what is tried out before the training are too few images for some metrics
        tried = part == "val" and self.trainer.sanity_checking
        for name, metric in () if tried else metrics.items():
            assert isinstance(metric, Metric)
            metric.update(*judged(logits, labels, self.targets))
            named[name] = metric
        for name, metric in named.items():
            self.log(f"{part}/{name}", metric, on_step=False, on_epoch=True, batch_size=size)
        return logits
