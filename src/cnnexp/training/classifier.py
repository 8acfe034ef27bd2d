"""The LightningModule: a network that learns to classify images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric

from cnnexp.data import BatchSlice
from cnnexp.ops.torch_internals import has_hooks
from cnnexp.regularization import Regularizer
from cnnexp.training.epoch_means import EpochMeans
from cnnexp.training.events import StepEvents
from cnnexp.training.image_network import ImageNetwork
from cnnexp.training.lightning_internals import may_stop_early
from cnnexp.training.lightning_loop import is_logged
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.scores import batch_score, score_name
from cnnexp.tuning import compiled

__all__ = ["Classifier"]

OptimizerFactory = Callable[[nn.Module], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler | ReduceLROnPlateau]


# the compiled network, and the modules whose hooks were there when it was compiled
_Compiled = tuple[Callable[[Tensor], Tensor], set[nn.Module]]


class Classifier(ImageNetwork):
    """Train ``network`` by the softmax cross-entropy of its logits, as its regularisers have it.

    Logs ``train/loss_step`` by step; ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc`` by
    epoch, averaged over the images; ``test/loss``, ``test/acc``; and the penalties' part of the
    training loss as ``train/penalty/<name>``. The losses are the cross-entropy alone.

    Attributes:
        reads_old_gradients: Whether ``training_step`` looks at the gradients of the step before; where it
            does not, short turns (``cnnexp.training.lightning_turn``) clear them before it.

    Args:
        network: Maps normalised images (N, C, H, W) to logits (N, num_classes).
        num_classes: Number of classes.
        mean, std: Of the training pixels, one number a channel; kept in the checkpoint, so that a
            trained classifier takes plain pixels in 0…1.
        optimizer: Makes the optimiser of the network.
        scheduler: Makes the schedule from the optimiser and the number of optimiser steps of the
            whole training; stepped after each of them, or with ``ReduceLROnPlateau`` after each
            validation. None for a constant learning rate.
        regularizers: Methods that take part in the events of a step, in this order where two take part
            in the same one; their callbacks are the Trainer's affair.
        loss: The mean loss of logits (N, num_classes) and targets; the softmax cross-entropy of labels
            (N,), torch's own, if None.
        targets, metrics: See :class:`ImageNetwork`.
        seed: Of random changes to images and labels, which are functions of (seed, epoch, batch).
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
        compile_facts: What is to be told of ``compile_network``; empty where it was not called.
        step_loss: The cross-entropy of the last training batch, a scalar on the device; with several
            ranks, a part of it whose mean over these it is. None before the first.
        step_penalties: The terms that were added to it, by the methods' names.
    """

    reads_old_gradients = False

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        regularizers: Sequence[Regularizer] = (),
        loss: nn.Module | None = None,
        targets: str = "classes",
        metrics: Mapping[str, Metric] | None = None,
        seed: int = 0,
        monitor: str = "val/acc",
        images_per_step: int | None = None,
        channels_last: bool = False,
        share: Callable[[int], BatchSlice] | None = None,
        ranks: Ranks = ALONE,
        leave_out_non_finite: bool = False,
    ) -> None:
        super().__init__(
            network,
            num_classes=num_classes,
            mean=mean,
            std=std,
            loss=loss or nn.CrossEntropyLoss(),
            targets=targets,
            metrics=metrics,
            channels_last=channels_last,
            ranks=ranks,
        )
        self._events = StepEvents(regularizers, classes=num_classes, seed=seed, ranks=ranks)
        self.train_loss = self._events.loss(self.loss)
        self._share_of, self._leave_out_non_finite = share, leave_out_non_finite
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self._monitor, self._images_per_step = monitor, images_per_step
        self._passes = 0  # forward passes of the present step of the optimiser
        self._means = EpochMeans()
        self.lr_factor = 1.0
        self.step_loss: Tensor | None = None
        self.step_penalties: dict[str, Tensor] = {}
        self._compiled: _Compiled | None = None
        self.compile_facts: dict[str, bool] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch, penalties included."""
        images, labels = batch
        images, targets = self.vary(images, labels, batch_idx)
        logits = _training_logits(self, self._compiled, images)
        share = self.share(batch_idx, labels)
        weight = share.weight(self._ranks.count)
        loss = self.train_loss(logits, targets)
        terms = self._events.penalties(self.network)
        if self._passes == 0:  # further ones, of L-BFGS or SAM, are of other weights
            self._log_training(logits.detach(), labels, loss, terms, share)
        self._passes += 1
        # ranks with unequal parts of the batch count by these in the mean over the ranks' gradients
        total = sum(terms.values(), loss if weight == 1 else loss * weight)
        if self._images_per_step is None:
            return total
        return total * (share.of * self.trainer.accumulate_grad_batches / self._images_per_step)

    def compile_network(self) -> None:
        """Let torch.compile compute the training passes of the network, as it is now.

        Its parameters, its state dict, validation and test are as before. A step at which somebody watches
        the layers, as a measurement of diagnostics does, computes the network as it is written: the compiled
        one would not call the hooks.
        """
        hooked = {module for module in self.network.modules() if has_hooks(module)}
        self._compiled = compiled(self.network), hooked  # in a tuple it is no part of this module
        self.compile_facts = {"compiled": True}

    def objective(self, images: Tensor, targets: Tensor) -> Tensor:
        """What the training minimises: the mean loss of images as ``vary`` gives them, and the penalties."""
        terms = self._events.penalties(self.network)
        return sum(terms.values(), self.train_loss(self(images), targets))

    def share(self, batch_idx: int, labels: Tensor) -> BatchSlice:
        """Which part of a training batch the images with ``labels`` are, which this rank has."""
        if self._share_of is None or self._ranks.count == 1:
            return BatchSlice.of_rank(labels.size(0), 0, 1)
        return self._share_of(batch_idx)

    def vary(self, images: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """The batch as it is trained on, with targets that are labels or distributions."""
        return self._events.batch(
            images,
            labels,
            epoch=self.current_epoch,
            batch_idx=batch_idx,
            share=self.share(batch_idx, labels),
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Let the regularisers change the gradients, and clip them as the Trainer's arguments say.

        Raises:
            RuntimeError: The gradients that the optimiser sees are others, which it scales in its step.
        """
        if self._events.change_gradients:
            _refuse_scaled(self.trainer.precision_plugin, optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self._events.gradients(parameters)
        if not (gradient_clip_val or self.trainer.gradient_clip_val):
            return  # which Lightning finds out at some length
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            # in bfloat16 nothing is scaled; yet Lightning would refuse each optimiser with a kernel for all
            # weights, which could take a scale off
            named = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0, named)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """One step, then what the regularisers make of the weights."""
        with _scaled_rates(self.trainer.optimizers[0], self.lr_factor):
            super().optimizer_step(*arguments, **options)
        self._events.weights(self.network)

    def _log_training(
        self,
        logits: Tensor,
        labels: Tensor,
        loss: Tensor,
        terms: dict[str, Tensor],
        share: BatchSlice,
    ) -> None:
        size, count = labels.size(0), self._ranks.count
        score = {score_name(self.targets): batch_score(logits, labels, self.targets)}
        if not self._leave_out_non_finite or bool(loss.isfinite()):
            self._means.add(share.own, loss=loss, **score)
        else:
            self._means.add(0, loss=torch.zeros_like(loss), **score)
        of_all = loss if count == 1 else loss.detach() * share.weight(count)
        self.step_loss = of_all.detach()
        self.step_penalties = {name: torch.as_tensor(term).detach() for name, term in terms.items()}
        if not is_logged(self):
            return
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
        self._means.load_state_dict(kept)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the epoch's last batch, log its means: callbacks at the epoch's end look for them."""
        trainer = self.trainer
        last = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        stopped = trainer.should_stop and may_stop_early(trainer)  # as by a Timer
        if last or stopped or trainer.global_step == trainer.max_steps:
            for name, mean in self._means.means(self._ranks).items():
                self.log(f"train/{name}", mean, on_step=False, on_epoch=True, batch_size=1)

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


def _refuse_scaled(precision: object, optimizer: Optimizer) -> None:
    """Refuse gradients that are still scaled for float16, as Lightning's own clipping does."""
    if getattr(precision, "scaler", None) is not None and optimizer.defaults.get("fused"):
        raise RuntimeError(
            f"{type(optimizer).__name__} with fused=true takes the scale of precision 16-mixed off the "
            f"gradients within its step, after regularization would change them; leave optimizer.fused out"
        )


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


def _training_logits(classifier: Classifier, compiled: _Compiled | None, images: Tensor) -> Tensor:
    """The logits of a training pass, by the compiled network unless somebody watches the layers."""
    if compiled is None:
        return classifier(images)
    network, hooked = compiled
    if any(has_hooks(each) and each not in hooked for each in classifier.network.modules()):
        return classifier(images)
    return network(classifier.normalise(images))
