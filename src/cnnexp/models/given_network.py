"""A network that a program gives as an object, for configs that can name no class for it."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["given_network", "key_of_network", "name_of_network", "offered_network"]

_OFFERED: dict[str, Callable[..., nn.Module]] = {}


def key_of_network(model: nn.Module | Callable[..., nn.Module]) -> str:
    """A key of 12 characters: of a Module its class, and names and shapes of its tensors; else the name."""
    text = name_of_network(model)
    if isinstance(model, nn.Module):
        shapes = [f"{name} {getattr(v, 'shape', '')}" for name, v in model.state_dict().items()]
        text = "\n".join([text, *shapes])
    return hashlib.md5(text.encode()).hexdigest()[:12]


def name_of_network(model: nn.Module | Callable[..., nn.Module]) -> str:
    """The class of a Module, or the name of a class or function that makes one."""
    named = type(model) if isinstance(model, nn.Module) else model
    return getattr(named, "__qualname__", type(model).__name__).rpartition(".")[2].strip("<>")


@contextmanager
def offered_network(model: nn.Module | Callable[..., nn.Module], key: str) -> Iterator[None]:
    """Within it :func:`given_network` with ``key`` gives copies of ``model``, or what it makes."""
    before = _OFFERED.get(key)
    _OFFERED[key] = _copier(model) if isinstance(model, nn.Module) else model
    try:
        yield
    finally:
        del _OFFERED[key]
        if before is not None:
            _OFFERED[key] = before


def _copier(model: nn.Module) -> Callable[[], nn.Module]:
    def copied() -> nn.Module:
        made = copy.deepcopy(model)
        on_meta = torch.empty(0).device.type == "meta"  # shapes alone are asked for
        return made.to("meta") if on_meta else made

    return copied


def given_network(
    name: str,
    key: str,
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: tuple[int, int] = (28, 28),
) -> nn.Module:
    """The network that the program offers under ``key``; see :func:`offered_network`.

    Args:
        name: Of its class or function, for messages.
        key: See :func:`key_of_network`.
        in_channels, num_classes, image_size: Of the data; a class or function gets those that it takes.

    Raises:
        ValueError: This program offers no such network.
    """
    if key not in _OFFERED:
        raise ValueError(
            f"the network '{name}' was given as an object, which no config can name; load the run by "
            f"cnnexp.load_run(folder, model={name}) or resume it by cnnexp.fit({name}, …, resume=folder)"
        )
    make, from_data = _OFFERED[key], locals()
    taken = inspect.signature(make).parameters
    data: dict[str, Any] = {
        each: from_data[each]
        for each in ("in_channels", "num_classes", "image_size")
        if each in taken
    }
    return make(**data)
