"""The part ``data`` of a config → the data module."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from typing import Any

import torch

from cnnexp.config.errors import ConfigError
from cnnexp.config.schema import AcceleratorConfig, DataConfig
from cnnexp.config.targets import arguments_of, check_target, instance_of
from cnnexp.data import DataFileError, DataUnavailableError, ImageDataModule, ImageSet

__all__ = ["data_module"]


def data_module(
    config: DataConfig, seed: int, accelerator: AcceleratorConfig, extra: Sequence[str] = ()
) -> ImageDataModule:
    """The data module; no file is read yet.

    Args:
        config: The typed part ``data``.
        seed: Of the order of the batches.
        accelerator: Where the batches go.
        extra: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Raises:
        ConfigError: The loader is not allowed or does not take its arguments.
    """
    return ImageDataModule(
        _loader(config.load, extra),
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        val_size=config.val_size,
        train_size=config.train_size,
        classes=config.classes,
        split_seed=config.split_seed,
        shuffle_seed=seed,
        num_workers=config.num_workers,
        pin_memory=accelerator.name != "cpu" and torch.cuda.is_available(),
    )


def _loader(node: Mapping[str, Any], extra: Sequence[str]) -> Callable[[], ImageSet]:
    ours = [field.name for field in fields(DataConfig) if field.name != "load"]
    function = check_target("data", node, extra=extra, beside=ours)
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    return partial(_once, function, json.dumps(arguments, sort_keys=True), tuple(extra))


@lru_cache(maxsize=2)  # checked first, then run, then the next job of a sweep: read once
def _once(load: Callable[..., ImageSet], arguments: str, extra: Sequence[str]) -> ImageSet:
    try:
        images = load(**arguments_of("data", json.loads(arguments), load, extra))
    except (ConfigError, DataFileError, DataUnavailableError):
        raise
    except Exception as error:  # whatever a user's loader raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"data: {reason}") from error
    return instance_of("data", images, ImageSet)
