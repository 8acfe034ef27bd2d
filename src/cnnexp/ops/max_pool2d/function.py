"""Wire an algorithm's plain functions into a ``torch.autograd.Function``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnexp.geometry.pooling import pool_geometry
from cnnexp.geometry.windows import IntPair, WindowGeometry
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.layout import laid_out
from cnnexp.ops.ownership import owned, owned_gradients

__all__ = ["make_max_pool2d"]


def make_max_pool2d(
    forward: Callable[..., tuple[Tensor, Tensor]], grad_input: Callable[..., Tensor]
) -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    """An op with the signature of ``torch.nn.functional.max_pool2d`` out of an algorithm's functions.

    Args:
        forward: (input, geometry) → output and the winners' indices i·W + j.
        grad_input: (grad_output, indices, geometry) → ∂L/∂input.
    """

    class MaxPool2dFunction(torch.autograd.Function):
        generate_vmap_rule = True  # everything below is pure torch

        @staticmethod
        def forward(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
            output, indices = forward(input, geometry)
            return owned(output), owned(indices)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
            _, ctx.geometry = inputs
            _, indices = output
            ctx.mark_non_differentiable(indices)
            ctx.save_for_backward(indices)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
            if not ctx.needs_input_grad[0]:
                return None, None
            (indices,) = ctx.saved_tensors
            return owned_gradients([grad_input(grad_output, indices, ctx.geometry), None])

    class WithTangents(MaxPool2dFunction):
        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
            MaxPool2dFunction.setup_context(ctx, inputs, output)
            ctx.save_for_forward(output[1])

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
            (indices,), tangent = ctx.saved_tensors, tangents[0]  # y's is that of the winner
            return tangent.flatten(2).gather(2, indices.flatten(2)).view_as(indices), None

    def max_pool2d(
        input: Tensor,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        geometry = pool_geometry(
            input, "max_pool2d", kernel_size, stride, padding, dilation, ceil_mode
        )
        if geometry.blind_windows():
            # torch accepts this, and its backward then writes outside the gradient's memory
            raise RuntimeError(
                f"max_pool2d has no maximum where a window reads only padding: input "
                f"{geometry.input_size}, kernel_size {geometry.kernel_size}, padding "
                f"{geometry.padding}, dilation {geometry.dilation}; lower the padding or dilation"
            )
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        function = WithTangents if in_forward_mode() else MaxPool2dFunction
        output, indices = (laid_out(t, batch) for t in function.apply(batch, geometry))
        if input.dim() == 3:
            output, indices = output.squeeze(0), indices.squeeze(0)
        return (output, indices) if return_indices else output

    return max_pool2d
