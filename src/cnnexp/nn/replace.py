"""Turn any network's layers into ours."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from cnnexp import ops
from cnnexp.nn.conv import Conv2d
from cnnexp.nn.pool import AvgPool2d, MaxPool2d

__all__ = ["REPLACEMENTS", "replace_layers"]

Module = TypeVar("Module", bound=nn.Module)

REPLACEMENTS: dict[type[nn.Module], tuple[type[nn.Module], str]] = {
    nn.Conv2d: (Conv2d, "conv2d"),
    nn.MaxPool2d: (MaxPool2d, "max_pool2d"),
    nn.AvgPool2d: (AvgPool2d, "avg_pool2d"),
}
_OURS = dict(REPLACEMENTS.values())


def replace_layers(module: Module, algorithm: str = "direct") -> Module:
    """Make every convolution and pooling layer of ``module`` compute with ``algorithm``, in place.

    Parameters, buffers, hooks, names and layers that are used twice stay what they are: a layer
    only changes its class to ours, which subclasses its own. Layers of exactly the classes in
    ``REPLACEMENTS`` are converted, and ours switched to ``algorithm``; subclasses made by others
    are left alone, since they may compute something else.

    Args:
        module: The network, or one layer.
        algorithm: A name that every op of ``REPLACEMENTS`` has registered.

    Returns:
        ``module``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered; nothing has been changed then.
    """
    for op in _OURS.values():
        ops.get_algorithm(op, algorithm)
    for layer in module.modules():
        if type(layer) in REPLACEMENTS:
            layer.__class__ = REPLACEMENTS[type(layer)][0]
        if type(layer) in _OURS:
            layer.algorithm = algorithm  # pyright: ignore[reportArgumentType]
    return module
