"""The LightningModule of a private training: DP-SGD in the place of the plain gradient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnexp.data import BatchSlice
from cnnexp.privacy import PrivateGradient, SecureNoise, SeededNoise
from cnnexp.training.classifier import Classifier
from cnnexp.training.privacy_account import PrivacyAccount
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.training_job import TrainingJob

__all__ = ["PrivateClassifier", "private_gradient"]


class PrivateClassifier(Classifier):
    """A :class:`Classifier` whose gradients are clipped by sample and made noisy.

    A penalty is a function of the weights alone, so its gradient is added as it is.

    Args:
        network: As of :class:`Classifier`, as are the other options.
        gradient: Makes the gradients private.
        spend: Called before each step gets its gradient, so that none goes uncounted.
        copies: How many copies of each image a step is by, each varied anew; their mean gradient is
            clipped (De et al., "Unlocking High-Accuracy Differentially Private Image Classification
            through Scale", 2022, section 3.3).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        gradient: PrivateGradient,
        spend: Callable[[], None],
        copies: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self._gradient, self._spend, self._copies = gradient, spend, copies
        self._penalty: Tensor | None = None
        self._alone = ExitStack()

    def on_train_start(self) -> None:
        """Keep DDP from adding up gradients: the clipped sums are added up instead."""
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            self._alone.enter_context(model.no_sync())

    def on_train_end(self) -> None:
        """Let DDP have its way again."""
        self._alone.close()

    def share(self, batch_idx: int, labels: Tensor) -> BatchSlice:
        """Which part of a training batch, its copies included, this rank has."""
        share = super().share(batch_idx, labels)
        return share if self._ranks.count == 1 else share.times(self._copies)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch as DP-SGD has it: the sum over its images by how many are expected."""
        images, labels = (each.repeat_interleave(self._copies, 0) for each in batch)
        count, terms = batch[1].size(0), self._events.penalties(self.network)
        share = self.share(batch_idx, labels)
        self._penalty = torch.stack([*terms.values()]).sum() if terms else None
        self._gradient.begin(self.network, count, self._copies)
        if count == 0:  # Poisson sampling drew none, whose mean is no number: noise alone
            loss = torch.zeros((), device=self.device, requires_grad=True)
            if self._ranks.count > 1:  # the others log together, and wait for this rank
                logits, label = images.new_zeros(1, 1), labels.new_zeros(1)
                self._log_training(logits, label, loss.detach(), terms, share)
            return loss
        images, targets = self.vary(images, labels, batch_idx)
        try:
            logits = self(images)
            loss = self.train_loss(logits, targets)
        except BaseException:
            self._gradient.end()
            raise
        self._log_training(logits.detach(), labels, loss, terms, share)
        return self._gradient.scaled(loss, count)

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        """The backward pass, and from what it leaves at the layers the private gradient."""
        try:
            super().backward(loss, *arguments, **options)
            self._spend()
            self._gradient.finish(self.network, self.trainer.global_step)
        finally:
            self._gradient.end()
        if self._penalty is not None and self._penalty.requires_grad:
            self._penalty.backward()
        self._penalty = None


def private_gradient(
    job: TrainingJob, account: PrivacyAccount, ranks: Ranks = ALONE
) -> PrivateGradient:
    """What makes the gradients of ``job`` private, with the noise that ``account`` has, once for all
    ``ranks``.
    """
    settings = job.privacy
    return PrivateGradient(
        settings.limit,
        noise_multiplier=account.mechanism.noise_multiplier,
        expected=account.mechanism.sampling_rate * len(job.data.train),
        noise=SecureNoise() if settings.secure_noise else SeededNoise(job.seed),
        processes=ranks,
    )
