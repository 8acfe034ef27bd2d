"""The config group ``regularization``: its schema is made of the regularisers, and its values become them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from itertools import combinations
from typing import Any

from cnnexp.config.errors import ConfigError
from cnnexp.config.targets import instance_of, make
from cnnexp.regularization import REGULARIZERS, Clip, Regularizer


@dataclass
class RegularizationConfig:
    """The regularisers in use, each under its own name; null leaves one out.

    The fields are those of :func:`regularization_schema`.

    Attributes:
        own: Parts that name a class of the user's by ``_target_``, which is checked against that class.
    """

    def __post_init__(self) -> None:
        self.own: Mapping[str, Mapping[str, Any]] = {}


@cache
def regularization_schema() -> type[RegularizationConfig]:
    """A :class:`RegularizationConfig` with a field for each of cnnexp's regularisers, null by default."""
    fields = [
        (name, kind | None, field(default=None)) for name, kind in sorted(REGULARIZERS.items())
    ]
    return make_dataclass("RegularizationConfig", fields, bases=(RegularizationConfig,))


def with_targets(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parts of ``node``, the group's plain values, that name a class by ``_target_``."""
    return {
        name: part
        for name, part in node.items()
        if isinstance(part, Mapping) and "_target_" in part
    }


def regularizers(config: RegularizationConfig, extra: Sequence[str] = ()) -> list[Regularizer]:
    """The regularisers that ``config`` asks for, in the order in which they take part in an event.

    Args:
        config: The typed part ``regularization``.
        extra: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Raises:
        ConfigError: A class of the user's is not allowed, refuses its arguments, or is no regulariser; two
            regularisers cannot be used together.
    """
    ours = [getattr(config, name) for name in REGULARIZERS]
    made = [each for each in ours if each is not None]
    for name, node in config.own.items():
        part = f"regularization.{name}"
        own = instance_of(part, make(part, node, extra), Regularizer)
        own.name = name
        made.append(own)
    made.sort(key=lambda each: (each.order, each.name))
    for one, other in combinations(made, 2):
        if one.sole and one.sole == other.sole:
            raise ConfigError(
                f"regularization: {one.name} and {other.name} both {one.sole}; leave one out"
            )
    return made


def check_clipping(regularizing: Sequence[Regularizer], trainer: Mapping[str, Any]) -> None:
    """Make sure that gradients are clipped by ``regularization.clip`` or by Lightning's Trainer, not by both.

    Raises:
        ConfigError: Both would.
    """
    if not any(isinstance(each, Clip) for each in regularizing):
        return
    for key in ("gradient_clip_val", "gradient_clip_algorithm"):
        if key in trainer:
            raise ConfigError(f"trainer.{key}: regularization.clip clips the gradients already")
