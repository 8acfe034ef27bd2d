"""The part ``loss`` of a config → the loss that a training minimises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.config.errors import ConfigError
from cnnexp.config.schema import TrainConfig
from cnnexp.config.targets import check_target, instance_of, make
from cnnexp.data import ImageDataModule
from cnnexp.nn import CrossEntropyLoss, Layer
from cnnexp.ops import AUTO, NATIVE
from cnnexp.regularization import taking_part
from cnnexp.training import LossFactory, TrainingJob

__all__ = ["check_loss", "loss_of"]

_FOR = {
    "classes": "cross_entropy or focal",
    "labels": "binary_cross_entropy",
    "numbers": "mse or huber",
}
_WORDS = {
    "classes": "one class an image",
    "labels": "several labels an image",
    "numbers": "numbers",
}
_OF_NUMBERS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def loss_of(typed: TrainConfig, extra: Sequence[str] = ()) -> LossFactory | None:
    """What makes the loss of a training on its data; None for the softmax cross-entropy.

    Raises:
        ConfigError: It is not allowed, does not take its arguments, or cannot work with the rest.
    """
    weights = typed.loss.get("class_weights")
    node = {key: value for key, value in typed.loss.items() if key != "class_weights"}
    if not node:
        return None
    function = check_target("loss", node, ("weight", "pos_weight"), extra, ["class_weights"]).func
    plain = set(node) == {"_target_"} and function is CrossEntropyLoss and weights is None
    if node.get("label_smoothing") and function is CrossEntropyLoss:
        raise ConfigError(
            "loss.label_smoothing: is regularization=label_smoothing, "
            "regularization.label_smoothing.epsilon"
        )
    if plain:
        return None
    if typed.privacy.private:
        raise ConfigError(
            "loss: a private training has the plain softmax cross-entropy, each image of which counts the "
            "same; set loss=cross_entropy"
        )
    several = typed.accelerator.devices not in (1, "1") or typed.accelerator.num_nodes != 1
    if weights is not None and several:
        raise ConfigError(
            "loss.class_weights: the weighted mean of a batch is not that of its slices; set "
            "accelerator.devices=1 and accelerator.num_nodes=1"
        )
    return partial(_loss, node, weights, typed.backward.name, tuple(extra))


def _loss(
    node: Mapping[str, Any],
    weights: str | Sequence[float] | None,
    backward: str,
    extra: Sequence[str],
    data: ImageDataModule,
) -> nn.Module:
    name = "pos_weight" if data.images.targets == "labels" else "weight"
    given = {} if weights is None else {name: class_weights(weights, data)}
    made = instance_of("loss", make("loss", node, extra, **given), nn.Module)
    if given and not any(made_of is not None for made_of in map(partial(_buffer, made), given)):
        raise ConfigError(
            f"loss.class_weights: {node['_target_']} takes none; set loss.class_weights=null"
        )
    for module in made.modules():  # of a run, not of its network: no part of a checkpoint
        for name, value in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, value, persistent=False)
    if any(True for _ in made.parameters()):
        raise ConfigError(f"loss: {node['_target_']} has parameters, which no optimizer trains")
    if isinstance(made, Layer):
        made.algorithm = NATIVE if backward == AUTO else made.way_by(backward)
    return made


def _buffer(loss: nn.Module, name: str) -> Tensor | None:
    value = getattr(loss, name, None)
    return value if isinstance(value, Tensor) else None


def class_weights(weights: str | Sequence[float], data: ImageDataModule) -> Tensor:
    """The weight of each class, (classes,), or of each label's being there.

    Args:
        weights: One for each; or ``"balanced"``: as often as a class is among the training images, N /
            (classes · its images), and for labels those without it by those with it.
        data: The images.

    Raises:
        ConfigError: There are more or fewer, one is negative, or a class has no image.
    """
    names, targets = data.images.classes, data.images.targets
    if weights != "balanced":
        if isinstance(weights, str) or len(weights) != len(names):
            raise ConfigError(
                f"loss.class_weights={weights}: must be balanced, or a number for each of {len(names)}: "
                f"{', '.join(names)}"
            )
        if not all(math.isfinite(each) and each >= 0 for each in weights) or not any(weights):
            raise ConfigError(
                f"loss.class_weights={weights}: must be at least 0 and finite, not all 0"
            )
        return torch.tensor([float(each) for each in weights])
    labels = data.train.labels
    if targets == "numbers":
        raise ConfigError(
            "loss.class_weights: numbers have no classes; set loss.class_weights=null"
        )
    if targets == "labels":
        there = labels.sum(0)
        counts, other = there, len(labels) - there
    else:
        counts = torch.bincount(labels, minlength=len(names)).float()
        other = torch.full_like(counts, len(labels) / len(names))
    if not bool((counts > 0).all()):
        missing = ", ".join(n for n, count in zip(names, counts.tolist(), strict=True) if not count)
        raise ConfigError(f"loss.class_weights=balanced: no training image is of {missing}")
    return other / counts


def targets_of(loss: nn.Module) -> str:
    """Which targets ``loss`` is of: its attribute ``targets``, or as torch's own losses are."""
    named = getattr(loss, "targets", None)
    if named is not None:
        return str(named)
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return "labels"
    return "numbers" if isinstance(loss, _OF_NUMBERS) else "classes"


def check_loss(job: TrainingJob) -> nn.Module:
    """Make the loss of ``job``, whose data is loaded, once, and see whether it goes with these targets.

    Raises:
        ConfigError: It does not, or with a regulariser.
    """
    loss = CrossEntropyLoss() if job.loss is None else job.loss(job.data)
    images, targets = job.data.images, targets_of(loss)
    if targets not in _FOR:
        raise ConfigError(f"loss.targets={targets}: must be one of {', '.join(_FOR)}")
    if targets != images.targets:
        raise ConfigError(
            f"loss: {type(loss).__name__} is of {_WORDS[targets]}, but {images.name} has "
            f"{_WORDS[images.targets]}; set loss={_FOR[images.targets]}"
        )
    for each in taking_part(job.regularizers, "mix"):
        if not isinstance(loss, nn.CrossEntropyLoss):
            raise ConfigError(
                f"regularization.{each.name}: blends labels into distributions, which "
                f"{type(loss).__name__} does not take; leave it out, or set loss=cross_entropy"
            )
    trained = loss
    for each in taking_part(job.regularizers, "loss"):
        try:
            trained = each.loss(trained)
        except TypeError as error:
            raise ConfigError(str(error)) from error
    _check_scalar(trained, images.targets, len(images.classes))
    return loss


def _check_scalar(loss: nn.Module, targets: str, outputs: int) -> None:
    wanted = torch.zeros(2, dtype=torch.int64) if targets == "classes" else torch.zeros(2, outputs)
    try:
        value = loss(torch.zeros(2, outputs), wanted)
    except Exception as error:  # whatever a user's loss raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"loss: {type(loss).__name__} cannot be computed: {reason}") from error
    if not isinstance(value, Tensor) or value.dim():
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(
            f"loss: {type(loss).__name__} must give one number for a batch, its mean, but gives {shape}"
        )
