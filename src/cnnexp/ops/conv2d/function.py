"""Wire an algorithm's plain functions into a ``torch.autograd.Function``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.convolution import conv2d_geometry
from cnnexp.geometry.windows import IntPair
from cnnexp.ops.autocast import cast_for_autocast
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.layout import laid_out
from cnnexp.ops.ownership import owned, owned_gradients

__all__ = ["grad_bias", "make_conv2d"]


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
    """An op with the signature of ``torch.nn.functional.conv2d`` out of an algorithm's functions.

    Args:
        forward: (input, weight, bias, geometry) → output.
        grad_input: (grad_output, weight, geometry) → ∂L/∂input.
        grad_weight: (grad_output, input, geometry) → ∂L/∂weight.
    """

    class Conv2dFunction(torch.autograd.Function):
        generate_vmap_rule = True  # everything below is pure torch

        @staticmethod
        def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Any) -> Tensor:
            return owned(forward(geometry.add_extra(input), weight, bias, geometry))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            input, weight, _, ctx.geometry = inputs
            needs_input, needs_weight, *_ = ctx.needs_input_grad
            ctx.save_for_backward(input if needs_weight else None, weight if needs_input else None)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
            input, weight = ctx.saved_tensors
            geometry = ctx.geometry
            needs_input, needs_weight, needs_bias, _ = ctx.needs_input_grad
            grads: list[Tensor | None] = [None, None, None, None]
            if needs_input:
                grads[0] = geometry.drop_extra(grad_input(grad_output, weight, geometry))
            if needs_weight:
                grads[1] = grad_weight(grad_output, geometry.add_extra(input), geometry)
            if needs_bias:
                grads[2] = grad_bias(grad_output)
            return owned_gradients(grads)

    class WithTangents(Conv2dFunction):
        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            Conv2dFunction.setup_context(ctx, inputs, output)
            ctx.save_for_forward(*inputs[:2])

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
            """Linear in each argument: the product rule."""
            (input, weight), geometry = ctx.saved_tensors, ctx.geometry
            parts = []
            if tangents[0] is not None:
                parts.append(forward(geometry.add_extra(tangents[0]), weight, None, geometry))
            if tangents[1] is not None:
                parts.append(forward(geometry.add_extra(input), tangents[1], None, geometry))
            if tangents[2] is not None:
                size = (input.size(0), weight.size(0), *geometry.output_size)
                parts.append(tangents[2].reshape(-1, 1, 1).expand(size))
            return sum(parts[1:], parts[0])

    def conv2d(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: IntPair = 1,
        padding: IntPair | str = 0,
        dilation: IntPair = 1,
        groups: int = 1,
    ) -> Tensor:
        input, weight, bias = cast_for_autocast(input, weight, bias)
        geometry = conv2d_geometry(input, weight, bias, stride, padding, dilation, groups)
        if input.size(-3) == 0:  # no channel, no product: an empty result of torch's own shape
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        function = WithTangents if in_forward_mode() else Conv2dFunction
        output = laid_out(function.apply(batch, weight, bias, geometry), batch, weight)
        return output if input.dim() == 4 else output.squeeze(0)

    return conv2d
