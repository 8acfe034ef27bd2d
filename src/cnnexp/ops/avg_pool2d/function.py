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
from cnnexp.ops.precision import widened

__all__ = ["divisors", "make_avg_pool2d"]


def divisors(
    geometry: WindowGeometry, count_include_pad: bool, divisor_override: int | None, like: Tensor
) -> Tensor:
    """(P, Q): what the sum of each window is divided by, in the dtype and on the device of ``like``.

    ``divisor_override`` where given; else the number of the window's elements on the image, with
    ``count_include_pad`` on the padded image (what ``ceil_mode`` lets hang over never counts).
    """
    rows, columns = geometry.output_size
    if divisor_override is not None:
        return like.new_full((rows, columns), divisor_override)
    counts = []
    for axis, positions in enumerate((rows, columns)):
        size, padding = geometry.input_size[axis], geometry.padding[axis]
        first, past = (-padding, size + padding) if count_include_pad else (0, size)
        start = torch.arange(positions, device=like.device) * geometry.stride[axis] - padding
        end = start + geometry.kernel_size[axis]
        counts.append(end.clamp(max=past) - start.clamp(min=first))
    return torch.outer(*counts).to(like.dtype)


def make_avg_pool2d(
    forward: Callable[..., Tensor], grad_input: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """An op with the signature of ``torch.nn.functional.avg_pool2d`` out of an algorithm's functions.

    Args:
        forward: (input, geometry, divisor (P, Q)) → output.
        grad_input: (grad_output, geometry, divisor (P, Q)) → ∂L/∂input.
    """

    class AvgPool2dFunction(torch.autograd.Function):
        generate_vmap_rule = True  # everything below is pure torch

        @staticmethod
        def forward(input: Tensor, geometry: WindowGeometry, divisor: Tensor) -> Tensor:
            return owned(forward(widened(input), geometry, divisor).to(input.dtype))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            _, ctx.geometry, divisor = inputs
            ctx.save_for_backward(divisor)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
            if not ctx.needs_input_grad[0]:
                return None, None, None
            (divisor,) = ctx.saved_tensors
            grad = grad_input(widened(grad_output), ctx.geometry, divisor)
            return owned_gradients([grad.to(grad_output.dtype), None, None])

    class WithTangents(AvgPool2dFunction):
        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            AvgPool2dFunction.setup_context(ctx, inputs, output)
            ctx.save_for_forward(inputs[2])

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Tensor:
            (divisor,), tangent = ctx.saved_tensors, tangents[0]
            return forward(widened(tangent), ctx.geometry, divisor).to(tangent.dtype)

    def avg_pool2d(
        input: Tensor,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        if divisor_override == 0:
            raise RuntimeError("divisor must be not zero")
        geometry = pool_geometry(input, "avg_pool2d", kernel_size, stride, padding, 1, ceil_mode)
        divisor = divisors(geometry, count_include_pad, divisor_override, widened(input))
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        function = WithTangents if in_forward_mode() else AvgPool2dFunction
        output = laid_out(function.apply(batch, geometry, divisor), batch)
        return output if input.dim() == 4 else output.squeeze(0)

    return avg_pool2d
