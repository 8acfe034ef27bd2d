"""The demands of an optimiser on the training around it.

A class declares them by attributes, and so may a user's own class; for torch's classes they are known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def asks_again(optimizer: object) -> bool:
    """Whether ``optimizer`` calls its closure more than once per step, as its class says by
    ``asks_again = True``.
    """
    return _declared(optimizer, "asks_again", _is_lbfgs(optimizer))


def needs_whole_weights(optimizer: object) -> bool:
    """Whether ``optimizer`` needs each weight as a whole, as its class says by ``whole_weights = True``."""
    return _declared(optimizer, "whole_weights", _is_lbfgs(optimizer))


def one_group(make: Callable[..., Any]) -> bool:
    """Whether the class ``make`` takes only one group of parameters, as it says by ``one_group = True``."""
    return _declared(make, "one_group", _is_lbfgs(make))


def steps_by_all_images(make: Callable[..., Any]) -> bool:
    """Whether ``make`` takes one step per epoch, by all training images, as it says by ``full_batch
    = True``.
    """
    return _declared(make, "full_batch", False)


def _is_lbfgs(thing: object) -> bool:
    """Whether ``thing`` is torch's LBFGS, or one of it."""
    kind = thing if isinstance(thing, type) else type(thing)
    return issubclass(kind, torch.optim.LBFGS)


def _declared(thing: object, name: str, otherwise: bool) -> bool:
    return bool(getattr(thing, name, otherwise))
