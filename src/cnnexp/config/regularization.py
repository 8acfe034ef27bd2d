"""Turn the config group ``regularization`` into objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from lightning.pytorch.callbacks import Callback, EarlyStopping

from cnnexp.config.errors import ConfigError
from cnnexp.config.regularizers import RegularizationConfig
from cnnexp.data import (
    Augmentation,
    RandomElastic,
    RandomErasing,
    RandomRotation,
    RandomShift,
)
from cnnexp.regularization import (
    L1,
    L2,
    AdaptiveClip,
    CutMix,
    ElasticNet,
    MaxNorm,
    MixUp,
    Penalty,
)
from cnnexp.training.callbacks import ExponentialAverage, StochasticWeightAverage

__all__ = [
    "augmentations",
    "clipping",
    "constraints",
    "mixers",
    "penalties",
    "regularizing_callbacks",
]


def penalties(config: RegularizationConfig) -> list[Penalty]:
    """Terms of the loss."""
    return _made(config, l1=L1, l2=L2, elastic_net=ElasticNet)


def constraints(config: RegularizationConfig) -> list[MaxNorm]:
    """What holds the weights after each step."""
    return _made(config, max_norm=MaxNorm)


def mixers(config: RegularizationConfig) -> list[MixUp | CutMix]:
    """Ways to mix images."""
    return _made(config, mixup=MixUp, cutmix=CutMix)


def augmentations(config: RegularizationConfig) -> list[Augmentation]:
    """Random changes to training images, in the order in which they are made."""
    return _made(
        config,
        random_elastic=RandomElastic,
        random_rotation=RandomRotation,
        random_shift=RandomShift,
        random_erasing=RandomErasing,
    )


def clipping(
    config: RegularizationConfig, trainer: dict[str, Any]
) -> tuple[dict[str, Any], AdaptiveClip | None]:
    """Arguments of Lightning's Trainer that clip gradients, or what clips them instead.

    Raises:
        ConfigError: ``trainer`` has such arguments of its own.
    """
    clip = config.clip
    if clip is None:
        return {}, None
    for key in ("gradient_clip_val", "gradient_clip_algorithm"):
        if key in trainer:
            raise ConfigError(f"trainer.{key}: regularization.clip clips the gradients already")
    if clip.adaptive is not None:
        return {}, AdaptiveClip(clip.adaptive)
    algorithm = "norm" if clip.norm is not None else "value"
    return {
        "gradient_clip_val": getattr(clip, algorithm),
        "gradient_clip_algorithm": algorithm,
    }, None


def regularizing_callbacks(config: RegularizationConfig, monitor: str, mode: str) -> list[Callback]:
    """Callbacks that stop early or average the weights."""
    made: list[Callback] = _made(config, ema=ExponentialAverage, swa=StochasticWeightAverage)
    early = config.early_stopping
    if early is not None:
        made.append(
            EarlyStopping(monitor, early.min_delta, early.patience, mode=mode, check_finite=False)
        )
    return made


def _made(config: RegularizationConfig, **kinds: Callable[..., Any]) -> list[Any]:
    """An object of each kind that is in use, from its config's fields."""
    made = []
    for name, kind in kinds.items():
        part = getattr(config, name)
        if part is not None:
            try:
                made.append(kind(**{f.name: getattr(part, f.name) for f in fields(part)}))
            except ValueError as error:
                text = str(error)
                where = "" if text.startswith("regularization.") else "regularization."
                raise ConfigError(f"{where}{text}") from error
    return made
