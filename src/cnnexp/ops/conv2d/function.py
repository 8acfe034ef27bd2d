"""What all algorithms of the convolution have in common: ∂L/∂b, and how they become the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.ops.autocast import cast_for_autocast
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


def make_conv2d(
    forward: Callable[..., Tensor],
    grad_input: Callable[..., Tensor],
    grad_weight: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """The function of an algorithm of ``conv2d``, out of its plain functions.

    Args:
        forward: (input, weight, bias, geometry) → output.
        grad_input: (grad_output, weight, geometry) → ∂L/∂input.
        grad_weight: (grad_output, input, geometry) → ∂L/∂weight.
    """

    def padded(
        input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry
    ) -> Tensor:
        return forward(geometry.add_extra(input), weight, bias, geometry)

    def cropped(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
        return geometry.drop_extra(grad_input(grad_output, weight, geometry))

    def of_padded(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
        return grad_weight(grad_output, geometry.add_extra(input), geometry)

    convolution = differentiable(
        padded, input=cropped, weight=of_padded, bias=grad_bias, tangent="linear"
    )

    def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> Tensor:
        input, weight, bias = cast_for_autocast(input, weight, bias)
        geometry = conv2d_geometry(input, weight, bias, *window)
        if input.size(-3) == 0:  # no channel, no product: an empty result of torch's own shape
            return F.conv2d(input, weight, bias, *window)
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        output = laid_out(convolution(batch, weight, bias, geometry), batch, weight)
        return output if input.dim() == 4 else output.squeeze(0)

    return conv2d


def register_conv2d(
    name: str,
    forward: Callable[..., Tensor],
    grad_input: Callable[..., Tensor],
    grad_weight: Callable[..., Tensor],
    *,
    summary: str,
    serves: Callable[..., bool] | None = None,
) -> None:
    """Enter the algorithm ``name`` of ``conv2d``, of plain functions; see :func:`make_conv2d`."""
    function = make_conv2d(forward, grad_input, grad_weight)
    register(Algorithm("conv2d", name, function, summary, grad_weight=grad_weight, serves=serves))
