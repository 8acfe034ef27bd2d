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
    return _declared(optimizer, "asks_again", isinstance(optimizer, torch.optim.LBFGS))


def needs_whole_weights(optimizer: object) -> bool:
    """Whether it looks at each weight as a whole: ``whole_weights = True`` of its class."""
    return _declared(optimizer, "whole_weights", isinstance(optimizer, torch.optim.LBFGS))


def one_group(make: Callable[..., Any]) -> bool:
    """Whether the class ``make`` takes one group of parameters only: its ``one_group = True``."""
    lbfgs = isinstance(make, type) and issubclass(make, torch.optim.LBFGS)
    return _declared(make, "one_group", lbfgs)


def steps_by_all_images(make: Callable[..., Any]) -> bool:
    """Whether the class ``make`` steps once an epoch, by all training images: its ``full_batch = True``."""
    return _declared(make, "full_batch", False)


def _declared(thing: object, name: str, otherwise: bool) -> bool:
    return bool(getattr(thing, name, otherwise))
