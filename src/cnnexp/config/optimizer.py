"""The part ``optimizer`` of a config: what makes the optimiser, and what it goes with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cnnexp.config.accelerator import check_sharded
from cnnexp.config.errors import ConfigError
from cnnexp.config.privacy import check_private
from cnnexp.config.schema import TrainConfig
from cnnexp.config.targets import check_target, instance_of, make
from cnnexp.config.trainer import limits_batches
from cnnexp.optim import (
    asks_again,
    has_gaps,
    keep_layouts,
    one_group,
    param_groups,
    steps_by_all_images,
    with_less_python,
)
from cnnexp.regularization import Regularizer, takes_part


def check_kind(
    typed: TrainConfig, kind: Callable[..., Any], regularizing: Sequence[Regularizer]
) -> None:
    """See whether an optimiser of ``kind``, which may be a function that makes one, goes with the rest."""
    accumulated = typed.trainer.get("accumulate_grad_batches", 1) != 1
    if steps_by_all_images(kind) and (accumulated or limits_batches(typed.trainer)):
        raise ConfigError(
            "optimizer: full-batch gradient descent takes all batches of an epoch for one step; leave "
            "trainer.accumulate_grad_batches and limit_train_batches out (data.train_size limits images)"
        )
    if not isinstance(kind, type):
        return
    check_sharded(typed.accelerator, kind, regularizing)
    averaging = [each.name for each in regularizing if each.sole == "replace the weights"]
    if averaging and hasattr(kind, "train") and hasattr(kind, "eval"):
        raise ConfigError(
            f"optimizer: {kind.__name__} gives averages of the weights itself, and "
            f"regularization={averaging[0]} replaces them by others; leave one out"
        )
    if not asks_again(kind):
        return
    if accumulated:
        raise ConfigError(
            f"trainer.accumulate_grad_batches: {kind.__name__} computes the gradient more "
            f"than once a step, of one batch; raise data.batch_size instead"
        )
    if typed.on_nan == "skip":
        raise ConfigError(
            f"on_nan=skip: {kind.__name__} computes the gradient more than once a step, so that a "
            f"step cannot be left out; use on_nan=stop or lower_lr"
        )
    if typed.accelerator.precision == "16-mixed":
        raise ConfigError(
            f"accelerator.precision=16-mixed: {kind.__name__} computes the gradient more than "
            f"once a step, which loss scaling cannot; use bf16-mixed"
        )


def make_optimizer(
    typed: TrainConfig,
    regularizing: Sequence[Regularizer],
    extra: Sequence[str],
    network: nn.Module,
) -> Optimizer:
    """The optimiser of all parameters, in groups where its class takes more than one.

    A training makes two: the check one of a network without memory, then itself one of its own.

    Raises:
        ConfigError: The optimiser refuses its arguments, or does not go with the rest.
    """
    config, parameters = typed.optimizer, typed.parameters
    function = check_target("optimizer", config, ("params",), extra).func
    if one_group(function):
        if parameters.lr_scale:
            name = getattr(function, "__name__", "it")
            raise ConfigError(
                f"parameters.lr_scale: {name} has one learning rate for all parameters"
            )
        groups: Any = [p for p in network.parameters() if p.requires_grad]
    else:
        defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()}
        try:
            groups = param_groups(
                network,
                lr=config.get("lr", defaults.get("lr")),
                lr_scale=parameters.lr_scale,
                decay_all=parameters.decay_all,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if _takes_one_kernel(typed, function, network):
        config = {**config, "fused": True}
    made = instance_of("optimizer", make("optimizer", config, extra, params=groups), Optimizer)
    if "fused" in made.defaults:
        try:
            made = with_less_python(made)
            keep_layouts(made)
        except ValueError as error:
            raise ConfigError(f"optimizer: {error}") from error
    check_kind(typed, type(made), regularizing)
    _check_scaled(typed, made, regularizing)
    check_private(typed, type(made), regularizing)
    return made


def _check_scaled(typed: TrainConfig, made: Optimizer, regularizing: Sequence[Regularizer]) -> None:
    """Refuse a kernel that takes the scale off the gradients in its step, after they would be changed."""
    changing = [each.name for each in regularizing if takes_part(each, "gradients")]
    scaled = typed.accelerator.precision == "16-mixed"
    if scaled and changing and made.defaults.get("fused"):
        raise ConfigError(
            f"optimizer.fused=true takes the scale of accelerator.precision=16-mixed off the gradients "
            f"within its step, after regularization.{changing[0]} would change them; leave optimizer.fused "
            f"out"
        )


def _takes_one_kernel(typed: TrainConfig, function: Callable[..., Any], network: nn.Module) -> bool:
    """Whether torch's optimiser is to go over all weights by one kernel, where the config does not say.

    On a CPU its default is a loop over the weights, several times as slow; on a GPU it is fast. With loss
    scaling such a kernel takes the scale off the gradients itself, after they may have been clipped.
    """
    config = typed.optimizer
    torchs = getattr(function, "__module__", "").startswith("torch.optim.")
    ours = getattr(function, "keeps_layouts", False)  # of ``cnnexp.optim``
    if not (torchs or ours) or "fused" not in inspect.signature(function).parameters:
        return False
    if config.get("fused") is not None or config.get("foreach") or config.get("differentiable"):
        return False
    weights = [each for each in network.parameters() if each.requires_grad]
    plain = all(each.device.type == "cpu" and each.is_floating_point() for each in weights)
    scaled = typed.accelerator.precision == "16-mixed"
    return plain and not scaled and not any(map(has_gaps, weights))
