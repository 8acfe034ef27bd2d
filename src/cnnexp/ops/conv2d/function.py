"""What all algorithms of the convolution have in common: ∂L/∂b, and how they become the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.ops.autocast import cast_dtype, described_for_autocast
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.layout import laid_out
from cnnexp.ops.registry import Algorithm, register


def grad_bias(grad_output: Tensor, per_sample: bool = False) -> Tensor:
    """∂L/∂b[o] = Σ_{n,p,q} grad_output[n, o, p, q]: one formula for every algorithm.

    Args:
        grad_output: (N, C_out, P, Q).
        per_sample: Keep the sum over n out.

    Returns:
        (C_out,), or (N, C_out) with ``per_sample``.
    """
    return grad_output.sum((2, 3) if per_sample else (0, 2, 3))


class WideWeights(NamedTuple):
    """How an algorithm multiplies images of bfloat16 by weights of float32, that autocast need not cast.

    Its ``forward`` and ``grad_input`` take both kinds of weights.

    Attributes:
        takes: (image in bfloat16, geometry, C_in, C_out) → whether it does that for such a call.
        grad_weight: As that of the algorithm, but ∂L/∂weight is float32.
    """

    takes: Callable[..., bool]
    grad_weight: Callable[..., Tensor]


def make_conv2d(
    forward: Callable[..., Tensor],
    grad_input: Callable[..., Tensor],
    grad_weight: Callable[..., Tensor],
    wide: WideWeights | None = None,
) -> Callable[..., Tensor]:
    """The function of an algorithm of ``conv2d``, out of its plain functions.

    Args:
        forward: (input, weight, bias, geometry) → output.
        grad_input: (grad_output, weight, geometry) → ∂L/∂input.
        grad_weight: (grad_output, input, geometry) → ∂L/∂weight.
        wide: How it takes weights that are float32, where autocast makes the image bfloat16. None: it does
            not.
    """
    convolution = _differentiable(forward, grad_input, grad_weight)
    mixed = convolution if wide is None else _differentiable(forward, grad_input, wide.grad_weight)

    def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> Tensor:
        dtype = cast_dtype(input)
        input, kernel, bias = described_for_autocast(input, weight, bias, dtype)
        geometry = conv2d_geometry(input, kernel, bias, *window)
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        function = convolution
        if dtype is not None and weight.dtype != dtype:
            # of one that is computed anew each time the backward would keep more than a cast of it
            own = weight.is_leaf and is_wide(weight, dtype)
            if wide and own and wide.takes(batch, geometry, batch.size(1), weight.size(0)):
                function = mixed
            else:
                weight = weight.to(dtype)
        if input.size(-3) == 0:  # no channel, no product: an empty result of torch's own shape
            return F.conv2d(input, weight, bias, *window)
        output = laid_out(function(batch, weight, bias, geometry), batch, weight)
        return output if input.dim() == 4 else output.squeeze(0)

    return conv2d


def is_wide(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``weight`` is float32 where the image's ``dtype`` is bfloat16."""
    return weight.dtype == torch.float32 and dtype == torch.bfloat16


def _differentiable(
    forward: Callable[..., Tensor],
    grad_input: Callable[..., Tensor],
    grad_weight: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """The Function of such plain functions; 'same' may have to add a row or column to the image first."""

    def padded(
        input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry
    ) -> Tensor:
        return forward(geometry.add_extra(input), weight, bias, geometry)

    def cropped(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
        return geometry.drop_extra(grad_input(grad_output, weight, geometry))

    def of_padded(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
        return grad_weight(grad_output, geometry.add_extra(input), geometry)

    return differentiable(padded, input=cropped, weight=of_padded, bias=grad_bias, tangent="linear")


def register_conv2d(
    name: str,
    forward: Callable[..., Tensor],
    grad_input: Callable[..., Tensor],
    grad_weight: Callable[..., Tensor],
    *,
    summary: str,
    serves: Callable[..., bool] | None = None,
    wide: WideWeights | None = None,
) -> None:
    """Enter the algorithm ``name`` of ``conv2d``, of plain functions; see :func:`make_conv2d`."""
    function = make_conv2d(forward, grad_input, grad_weight, wide)
    register(Algorithm("conv2d", name, function, summary, grad_weight=grad_weight, serves=serves))
