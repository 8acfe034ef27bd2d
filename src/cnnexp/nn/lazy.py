"""Layers whose input channels are set at the first forward pass; then they become our usual layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from cnnexp.nn.conv import Conv2d
from cnnexp.nn.linear import Linear
from cnnexp.nn.norm import BatchNorm2d
from cnnexp.nn.twins import replaces


@replaces(nn.LazyConv2d)
class LazyConv2d(Conv2d, nn.LazyConv2d):
    """``torch.nn.LazyConv2d``, which becomes ``cnnexp.nn.Conv2d``."""

    cls_to_become = Conv2d  # pyright: ignore[reportAssignmentType]


@replaces(nn.LazyBatchNorm2d)
class LazyBatchNorm2d(BatchNorm2d, nn.LazyBatchNorm2d):  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    """``torch.nn.LazyBatchNorm2d``, which becomes ``cnnexp.nn.BatchNorm2d``."""

    cls_to_become = BatchNorm2d  # pyright: ignore[reportAssignmentType]


@replaces(nn.LazyLinear)
class LazyLinear(Linear, nn.LazyLinear):
    """``torch.nn.LazyLinear``, which becomes ``cnnexp.nn.Linear``."""

    cls_to_become = Linear  # pyright: ignore[reportAssignmentType]


@torch.no_grad()
def initialise_lazy(network: nn.Module, *inputs: Any) -> None:
    """Give the lazy layers of ``network``, if any, their shapes by a forward pass of ``inputs``.

    The pass runs in evaluation mode, so that no statistics change; the modes are restored. Layers that
    such a pass does not call stay lazy.
    """
    if not any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        return
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()(*inputs)
    finally:
        for module, training in modes:
            module.training = training
