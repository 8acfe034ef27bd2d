"""What an optimiser asks of the training around it.

A class declares it by an attribute, as a user's own may; for those of torch it is known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["asks_again", "needs_whole_weights", "one_group", "steps_by_all_images"]


def asks_again(optimizer: object) -> bool:
    """Whether it calls its closure more than once a step: ``asks_again = True`` of its class."""
    return _declared(optimizer, "asks_again", _is_lbfgs(optimizer))


def needs_whole_weights(optimizer: object) -> bool:
    """Whether it looks at each weight as a whole: ``whole_weights = True`` of its class."""
    return _declared(optimizer, "whole_weights", _is_lbfgs(optimizer))


def one_group(make: Callable[..., Any]) -> bool:
    """Whether the class ``make`` takes one group of parameters only: its ``one_group = True``."""
    return _declared(make, "one_group", _is_lbfgs(make))


def steps_by_all_images(make: Callable[..., Any]) -> bool:
    """Whether the class ``make`` steps once an epoch, by all training images: its ``full_batch = True``."""
    return _declared(make, "full_batch", False)


def _is_lbfgs(thing: object) -> bool:
    """Whether ``thing`` is torch's LBFGS, or one of it."""
    kind = thing if isinstance(thing, type) else type(thing)
    return issubclass(kind, torch.optim.LBFGS)


def _declared(thing: object, name: str, otherwise: bool) -> bool:
    return bool(getattr(thing, name, otherwise))
