"""The part ``privacy`` of a config: what cannot keep its promise is refused, with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cnnexp.config.accelerator import known_precision
from cnnexp.config.errors import ConfigError
from cnnexp.config.schema import TrainConfig
from cnnexp.optim import asks_again, steps_by_all_images
from cnnexp.privacy import PrivacyError, PrivacyExtraError
from cnnexp.regularization import Regularizer, taking_part
from cnnexp.runs import SpentSteps
from cnnexp.training import TrainingJob, privacy_account
from cnnexp.training.private import private_gradient

__all__ = ["check_account", "check_private", "check_private_network"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_private(
    typed: TrainConfig, optimizer: Callable[..., Any], regularizing: Sequence[Regularizer]
) -> None:
    """See whether all that takes part in a private training leaves its promise whole.

    Args:
        typed: The whole config.
        optimizer: What makes the optimiser, or its class.
        regularizing: The regularisers.

    Raises:
        ConfigError: Something would spend more privacy than is counted.
    """
    if not typed.privacy.private:
        return
    for refusal in _refusals(typed, optimizer, regularizing):
        raise ConfigError(refusal)


def _refusals(
    typed: TrainConfig, optimizer: Callable[..., Any], regularizing: Sequence[Regularizer]
) -> list[str]:
    name = getattr(optimizer, "__name__", "it")
    found = [
        f"regularization.{each.name}: it blends images, so that a gradient is of two of them and clipping it "
        f"bounds neither; leave it out with privacy"
        for each in taking_part(regularizing, "mix")
    ]
    if steps_by_all_images(optimizer):
        found.append(
            "optimizer: full-batch gradient descent takes all images for each step, and ε is counted for "
            "batches drawn at random; use optimizer=sgd with privacy"
        )
    elif isinstance(optimizer, type) and asks_again(optimizer):
        found.append(
            f"optimizer: {name} computes the gradient more than once a step, each of which would spend "
            f"privacy; use optimizer=sgd or adam with privacy"
        )
    trainer = typed.trainer
    if trainer.get("accumulate_grad_batches", 1) != 1:
        found.append(
            "trainer.accumulate_grad_batches: noise would be added to each part of a step; raise "
            "data.batch_size instead"
        )
    if trainer.get("overfit_batches"):
        found.append(
            "trainer.overfit_batches: the same batches would come again, and ε is counted for batches "
            "drawn anew; leave it out with privacy"
        )
    if typed.accelerator.name == "fsdp":
        found.append(
            "accelerator=fsdp: no process has all of a layer's weights, by which each image's gradient is "
            "clipped; use accelerator=ddp with privacy"
        )
    precision = known_precision(typed.accelerator)  # which auto leaves at 32-true
    if precision not in ("32-true", "64-true"):
        found.append(
            f"accelerator.precision={precision}: norms of gradients in half precision can "
            f"be too small by rounding, and then too little is clipped; use 32-true with privacy"
        )
    if typed.diagnostics.name == "full":
        found.append(
            "diagnostics=full: it publishes values of single training images and gradients without noise; "
            "use diagnostics=basic or off with privacy"
        )
    if typed.on_nan != "stop":
        found.append(
            f"on_nan={typed.on_nan}: whether a step is left out or made again would depend on single images; "
            f"use on_nan=stop with privacy"
        )
    if typed.model.get("init") == "lsuv":
        found.append(
            "model.init=lsuv: it sets the weights by training images, without noise; use another init with "
            "privacy"
        )
    return found


def check_account(job: TrainingJob) -> None:
    """See whether noise can be chosen, and a step made, for ``job``; loads the data.

    Raises:
        ConfigError: A package is missing, or no noise keeps the budget.
    """
    try:
        job.data.train_dataloader()
        account = privacy_account(job, SpentSteps(Path(os.devnull)))
        account.epsilon("rdp")
        private_gradient(job, account)  # the noise has packages of its own
    except (PrivacyError, PrivacyExtraError, ValueError) as error:
        raise ConfigError(str(error)) from error


def check_private_network(network: nn.Module) -> None:
    """See whether each image's gradient in ``network`` is its own.

    Raises:
        ConfigError: A layer computes with the other images of the batch.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, _BATCH_NORMS):
            raise ConfigError(
                f"model: {name} ({type(layer).__name__}) computes with the mean of the batch, so that one "
                f"image changes the gradients of all, and keeps statistics of the images; use group "
                f"normalisation with privacy (model.norm=group, or torch.nn.GroupNorm)"
            )
