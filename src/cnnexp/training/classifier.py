"""The LightningModule: a network that learns to classify images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics.classification import MulticlassAccuracy

from cnnexp.data import Augmentation, Draws, Share, seeded_generator
from cnnexp.ops.layout import in_layout
from cnnexp.regularization import CutMix, MixUp, Penalty, mix
from cnnexp.training.averages import AveragingModule
from cnnexp.training.lightning_internals import may_stop_early
from cnnexp.training.means import EpochMeans
from cnnexp.training.ranks import ALONE, Ranks

__all__ = ["Classifier"]

OptimizerFactory = Callable[[nn.Module], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler | ReduceLROnPlateau]


class Classifier(AveragingModule):
    """Train ``network`` by the softmax cross-entropy of its logits, plus penalties.

    Logs ``train/loss_step`` by step; ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc`` by
    epoch, averaged over the images; ``test/loss``, ``test/acc``; and the penalties' part of the
    training loss as ``train/penalty/<name>``. The losses are the cross-entropy alone.

    Args:
        network: Maps normalised images (N, C, H, W) to logits (N, num_classes).
        num_classes: Number of classes.
        mean, std: Of the training pixels, one number a channel; kept in the checkpoint, so that a
            trained classifier takes plain pixels in 0…1.
        optimizer: Makes the optimiser of the network.
        scheduler: Makes the schedule from the optimiser and the number of optimiser steps of the
            whole training; stepped after each of them, or with ``ReduceLROnPlateau`` after each
            validation. None for a constant learning rate.
        penalties: Terms added to the training loss.
        constraints: Called with the network after each step of the optimiser.
        clip: Called with the network before each step, once its gradients are there; None leaves
            clipping to the Trainer's arguments.
        augmentations: Random changes to training images, in order.
        mixers: Ways to mix training images, one of which is drawn for each batch.
        loss: The mean softmax cross-entropy of logits (N, num_classes) and labels (N,); torch's own
            if None.
        train_loss: The same for training, where targets may be distributions (N, num_classes);
            ``loss`` if None.
        seed: Of augmentations and mixtures, which are functions of (seed, epoch, batch).
        monitor: The validation metric that ``ReduceLROnPlateau`` looks at.
        images_per_step: How many images a step of the optimiser is by, where accumulated batches
            shall count by their sizes; None where each counts the same.
        channels_last: Keep images and kernels in channels_last memory, which is the faster layout
            for convolutions on most devices; changes no result beyond rounding.
        share: Batch of an epoch, from 0 → which part of it this process has; None for all.
        ranks: The processes that share the batches.
        leave_out_non_finite: Leave batches whose loss is infinite or NaN out of the epoch's means.

    Attributes:
        lr_factor: What the learning rates of the optimiser and its schedule are multiplied by at
            each step; 1 unless ``on_nan=lower_lr`` lowered it. Kept in the checkpoint.
        step_loss: The cross-entropy of the last training batch, a scalar on the device; with several
            ranks, a part of it whose mean over these it is. None before the first.
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
        constraints: Sequence[Callable[[nn.Module], None]] = (),
        clip: Callable[[nn.Module], None] | None = None,
        augmentations: Sequence[Augmentation] = (),
        mixers: Sequence[MixUp | CutMix] = (),
        loss: nn.Module | None = None,
        train_loss: nn.Module | None = None,
        seed: int = 0,
        monitor: str = "val/acc",
        images_per_step: int | None = None,
        channels_last: bool = False,
        share: Callable[[int], Share] | None = None,
        ranks: Ranks = ALONE,
        leave_out_non_finite: bool = False,
    ) -> None:
        super().__init__()
        self._share_of, self._ranks = share, ranks
        self.lr_factor = 1.0
        self.step_loss: Tensor | None = None
        self._leave_out_non_finite = leave_out_non_finite
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self._monitor, self._images_per_step = monitor, images_per_step
        self._passes = 0  # forward passes of the present step of the optimiser
        self.penalties, self.constraints = tuple(penalties), tuple(constraints)
        self.augmentations, self.mixers = tuple(augmentations), tuple(mixers)
        self._clip, self._seed, self.num_classes = clip, seed, num_classes
        self.loss = loss or nn.CrossEntropyLoss()
        self.train_loss = train_loss or self.loss
        self._means = EpochMeans()
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

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
        normalised = (images - self.mean) / self.std
        return in_layout(normalised, self._layout)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch, penalties included."""
        images, labels = batch
        images, targets = self.vary(images, labels, batch_idx)
        logits = self(images)
        share = self.share(batch_idx, labels)
        weight = share.weight(self._ranks.count)
        loss = self.train_loss(logits, targets)
        terms = self._penalty_terms()
        if self._passes == 0:  # further ones, of L-BFGS or SAM, are of other weights
            self._log_training(logits.detach(), labels, loss, terms, share)
        self._passes += 1
        # ranks with unequal parts of the batch count by these in the mean over the ranks' gradients
        total = sum(terms.values(), loss if weight == 1 else loss * weight)
        if self._images_per_step is None:
            return total
        return total * (share.of * self.trainer.accumulate_grad_batches / self._images_per_step)

    def objective(self, images: Tensor, targets: Tensor) -> Tensor:
        """What the training minimises: the mean loss of images as ``vary`` gives them, and the penalties."""
        return sum(self._penalty_terms().values(), self.train_loss(self(images), targets))

    def _penalty_terms(self) -> dict[str, Tensor]:
        return {penalty.name: penalty(self.network) for penalty in self.penalties}

    def share(self, batch_idx: int, labels: Tensor) -> Share:
        """Which part of a training batch the images with ``labels`` are, which this rank has."""
        if self._share_of is None or self._ranks.count == 1:
            return Share.of_rank(labels.size(0), 0, 1)
        return self._share_of(batch_idx)

    def vary(self, images: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """The batch as it is trained on, with targets that are labels or distributions."""
        if not self.augmentations and not self.mixers:
            return images, labels
        share = self.share(batch_idx, labels)
        generator = seeded_generator(self._seed, self.current_epoch, batch_idx)
        draws = Draws(generator, share.of, share)
        for augmentation in self.augmentations:
            images = augmentation(images, draws)
        if not self.mixers:
            return images, labels
        whole = [self._ranks.whole(x[: share.own], share.start, share.of) for x in (images, labels)]
        return mix(self.mixers, images, labels, self.num_classes, draws, (whole[0], whole[1]))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by ``clip``, or as the Trainer's arguments say."""
        if self._clip is not None:
            self._clip(self.network)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """One step, then the constraints."""
        with _scaled_rates(self.trainer.optimizers[0], self.lr_factor):
            super().optimizer_step(*arguments, **options)
        for constraint in self.constraints:
            constraint(self.network)

    def _log_training(
        self,
        logits: Tensor,
        labels: Tensor,
        loss: Tensor,
        terms: dict[str, Tensor],
        share: Share,
    ) -> None:
        size, count = labels.size(0), self._ranks.count
        accuracy = (logits.argmax(1) == labels).float().mean()
        if not self._leave_out_non_finite or bool(loss.isfinite()):
            self._means.add(share.own, loss=loss, acc=accuracy)
        else:
            self._means.add(0, loss=torch.zeros_like(loss), acc=accuracy)
        of_all = loss if count == 1 else loss.detach() * share.weight(count)
        self.step_loss = of_all.detach()
        self.log("train/loss_step", of_all, prog_bar=True, batch_size=size, sync_dist=count > 1)
        for name, term in terms.items():
            self.log(f"train/penalty/{name}", term, batch_size=size)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """A new batch: its first forward pass is the one to log."""
        self._passes = 0

    def on_train_epoch_start(self) -> None:
        """A new epoch: its means begin."""
        self._means.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the means of the epoch so far, and the factor of the learning rates."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lr_factor"] = self.lr_factor
        checkpoint["epoch_means"] = self._ranks.gather(self._means.state_dict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the means of the epoch so far, and the factor unless a lower one is set."""
        super().on_load_checkpoint(checkpoint)
        self.lr_factor = min(self.lr_factor, checkpoint.get("lr_factor", 1.0))
        kept = checkpoint.get("epoch_means") or [{"images": 0}]
        if len(kept) == self._ranks.count:
            kept = [kept[self._ranks.rank]]
        elif not self._ranks.first:  # of another number of ranks: the first takes all
            kept = [dict.fromkeys(kept[0], 0.0)]
        self._means.load_state_dict(kept, self.device)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the epoch's last batch, log its means: callbacks at the epoch's end look for them."""
        trainer = self.trainer
        last = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        stopped = trainer.should_stop and may_stop_early(trainer)  # as by a Timer
        if last or stopped or trainer.global_step == trainer.max_steps:
            for name, mean in self._means.means(self._ranks).items():
                self.log(f"train/{name}", mean, on_step=False, on_epoch=True, batch_size=1)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of one validation batch."""
        self._evaluate("val", self.val_acc, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss and accuracy of one test batch; returns the logits (N, num_classes)."""
        return self._evaluate("test", self.test_acc, batch)

    def _evaluate(
        self, part: str, accuracy: MulticlassAccuracy, batch: tuple[Tensor, Tensor]
    ) -> Tensor:
        images, labels = batch
        size = labels.size(0)
        if size == 0:  # a small batch had none for this rank
            return images.new_zeros(0, self.num_classes)
        logits = self(images)
        accuracy.update(logits, labels)
        loss = self.loss(logits, labels)
        among = self._ranks.count > 1
        self.log(
            f"{part}/loss", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=among
        )
        self.log(f"{part}/acc", accuracy, on_step=False, on_epoch=True, batch_size=size)
        return logits

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule stepped with it."""
        optimizer = self._make_optimizer(self.network)
        if self._make_scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self._make_scheduler(optimizer, steps)
        when: dict[str, Any] = {"interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            every = self.trainer.check_val_every_n_epoch or 1
            when = {"interval": "epoch", "monitor": self._monitor, "frequency": every}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **when}}


@contextmanager
def _scaled_rates(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Within it the learning rates are ``factor`` times those of the schedule."""
    if factor == 1.0:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
