"""Turn any network's layers into ours."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from cnnexp import ops
from cnnexp.nn.activation import GELU, Dropout, LeakyReLU, ReLU, Tanh
from cnnexp.nn.conv import Conv2d
from cnnexp.nn.fuse import fuse_blocks, split_blocks
from cnnexp.nn.layer import Layer
from cnnexp.nn.linear import CrossEntropyLoss, Linear
from cnnexp.nn.norm import BatchNorm2d
from cnnexp.nn.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d

__all__ = ["REPLACEMENTS", "replace_layers"]

Module = TypeVar("Module", bound=nn.Module)

REPLACEMENTS: dict[type[nn.Module], type[Layer]] = {
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.Conv2d: Conv2d,
    nn.CrossEntropyLoss: CrossEntropyLoss,
    nn.Dropout: Dropout,
    nn.GELU: GELU,
    nn.LeakyReLU: LeakyReLU,
    nn.Linear: Linear,
    nn.MaxPool2d: MaxPool2d,
    nn.ReLU: ReLU,
    nn.Tanh: Tanh,
}


def replace_layers(module: Module, algorithm: str = "direct") -> Module:
    """Make every layer of ``module`` that has a twin in ``cnnexp.nn`` compute with ``algorithm``.

    In place: parameters, buffers, hooks, names and layers that are used twice stay what they are; a
    layer only changes its class to ours, which subclasses its own. Layers of exactly the classes in
    ``REPLACEMENTS`` are converted, and ours switched to ``algorithm``; subclasses made by others
    are left alone, since they may compute something else. An op that does not have ``algorithm``
    takes ``direct``. With ``fused`` and ``auto``, convolutions followed by a ReLU and a pooling in
    an ``nn.Sequential`` become one ``ConvReLUPool``, see ``cnnexp.nn.fuse_blocks``.

    Args:
        module: The network, or one layer.
        algorithm: A name that some op has registered, or ``"auto"``.

    Returns:
        ``module``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered; nothing has been changed then.
    """
    for twin in REPLACEMENTS.values():
        ops.resolve_algorithm(twin.op, algorithm)
    split_blocks(module)
    for layer in module.modules():
        if type(layer) in REPLACEMENTS:
            layer.__class__ = REPLACEMENTS[type(layer)]
    if algorithm in ("fused", ops.AUTO):
        fuse_blocks(module)
    for layer in module.modules():
        if isinstance(layer, Layer):
            layer.algorithm = ops.resolve_algorithm(layer.op, algorithm)
    return module
