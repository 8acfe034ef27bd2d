"""The part ``data`` of a config → the data module."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from typing import Any

import torch

from cnnexp.config.errors import ConfigError
from cnnexp.config.schema import DataConfig, TrainConfig
from cnnexp.config.targets import check_target, instance_of
from cnnexp.data import DataFileError, DataUnavailableError, ImageDataModule, ImageSet


def data_module(typed: TrainConfig, extra: Sequence[str] = ()) -> ImageDataModule:
    """The data module; no file is read yet.

    Args:
        typed: The whole config. A private training draws its batches at random, as its ε has it.
        extra: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Raises:
        ConfigError: The loader is not allowed or does not take its arguments.
    """
    ours = ("load", "batch_size", "chosen_batch_size")
    settings = {name: value for name, value in vars(typed.data).items() if name not in ours}
    privacy = typed.privacy
    return ImageDataModule(
        _loader(typed.data.load, extra),
        **settings,
        batch_size=typed.data.images_per_batch,
        shuffle_seed=typed.seed,
        pin_memory=typed.accelerator.name != "cpu" and torch.cuda.is_available(),
        sampling="poisson" if privacy.private else "shuffle",
        secret=privacy.private and privacy.secure_noise,
    )


def _loader(node: Mapping[str, Any], extra: Sequence[str]) -> Callable[[], ImageSet]:
    ours = [field.name for field in fields(DataConfig) if field.name != "load"]
    function = check_target("data", node, extra=extra, beside=ours).func
    return partial(_once, function, json.dumps(node, sort_keys=True), tuple(extra))


def forget_images() -> None:
    """Read the files of the next image set anew: they may have changed since the last run began."""
    _once.cache_clear()


@lru_cache(maxsize=2)  # checked first, then run, then the next job of a sweep: read once
def _once(load: Callable[..., ImageSet], node: str, extra: Sequence[str]) -> ImageSet:
    arguments = check_target("data", json.loads(node), extra=extra).keywords
    try:
        images = load(**arguments)
    except (ConfigError, DataFileError, DataUnavailableError):
        raise
    except Exception as error:  # whatever a user's loader raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"data: {reason}") from error
    return instance_of("data", images, ImageSet)
