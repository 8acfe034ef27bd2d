"""torch's own convolution of an input that is not kept.

Forward and backward are those of ``torch.nn.functional.conv2d``, to the bit; but the input, if it has a
recipe (``cnnexp.ops.recomputed``), is computed again in the backward, and so is what autocast makes of the
weight. torch's own Function would keep both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.ops.autocast import cast_again_for_autocast
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.conv2d.direct import forward as by_torch

__all__ = ["conv2d"]


def _forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry
) -> Tensor:
    return by_torch(geometry.add_extra(input), weight, bias, geometry)


def _gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Conv2dGeometry,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """∂L/∂x, ∂L/∂w and ∂L/∂b in one call, as torch's backward makes it."""
    g = geometry
    sizes = None if bias is None else list(bias.shape)
    window = g.stride, g.padding, g.dilation, False, (0, 0), g.groups
    of_input, of_weight, of_bias = torch.ops.aten.convolution_backward(
        grad_output, g.add_extra(input), weight, sizes, *window, (True, True, bias is not None)
    )
    return g.drop_extra(of_input), of_weight, of_bias


_convolution = differentiable(
    _forward,
    input=lambda of_input: of_input,
    weight=lambda of_weight: of_weight,
    bias=lambda of_bias: of_bias,
    shared={("of_input", "of_weight", "of_bias"): _gradients},
)


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> Tensor:
    """``torch.nn.functional.conv2d`` of an input (N, C, H, W) and a weight that both have gradients."""
    input, weight, bias = cast_again_for_autocast(input, weight, bias)
    return _convolution(input, weight, bias, conv2d_geometry(input, weight, bias, *window))
