"""Wire an activation's plain functions into a ``torch.autograd.Function``, and one that writes into x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from cnnexp.ops.forward_mode import in_forward_mode, transformed
from cnnexp.ops.ownership import owned, owned_gradients

__all__ = ["make_inplace", "make_pointwise"]


def make_pointwise(
    forward: Callable[..., Tensor],
    grad_input: Callable[..., Tensor],
    keeps: Literal["input", "output"],
) -> Callable[..., Tensor]:
    """A function of (input, *options) out of an activation's formulas.

    Each output depends on one input alone, so the Jacobian is diagonal: it is its own transpose, and
    ``grad_input`` carries gradients backward and tangents forward.

    Args:
        forward: (input, *options) → output.
        grad_input: (grad_output, kept, *options) → ∂L/∂input.
        keeps: What the derivative is computed from: the one of the two that is alive anyway.
    """

    class PointwiseFunction(torch.autograd.Function):
        generate_vmap_rule = True  # everything below is pure torch

        @staticmethod
        def forward(input: Tensor, *options: Any) -> Tensor:
            return owned(forward(input, *options))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.options = inputs[1:]
            ctx.save_for_backward(inputs[0] if keeps == "input" else output)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
            rest = [None] * len(ctx.options)
            if not ctx.needs_input_grad[0]:
                return None, *rest
            return owned_gradients(
                [grad_input(grad_output, *ctx.saved_tensors, *ctx.options), *rest]
            )

    class WithTangents(PointwiseFunction):
        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            PointwiseFunction.setup_context(ctx, inputs, output)
            ctx.save_for_forward(inputs[0] if keeps == "input" else output)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Tensor:
            return grad_input(tangents[0], *ctx.saved_tensors, *ctx.options)

    def pointwise(input: Tensor, *options: Any) -> Tensor:
        function = WithTangents if in_forward_mode() else PointwiseFunction
        return function.apply(input, *options)

    return pointwise


def make_inplace(
    forward: Callable[..., Tensor],
    write: Callable[..., Tensor],
    grad_input: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """A function of (input, *options) that leaves its output in ``input`` and returns that.

    Args:
        forward: (input, *options) → output.
        write: The same, in place.
        grad_input: (grad_output, output, *options) → ∂L/∂input: the input is gone.
    """
    pointwise = make_pointwise(forward, grad_input, keeps="output")

    class InplaceFunction(torch.autograd.Function):
        @staticmethod
        def forward(input: Tensor, *options: Any) -> Tensor:
            return write(input, *options)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.options = inputs[1:]
            ctx.mark_dirty(inputs[0])
            ctx.save_for_backward(output)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
            grad = grad_input(grad_output, *ctx.saved_tensors, *ctx.options)
            return owned_gradients([grad, *[None] * len(ctx.options)])

    def inplace(input: Tensor, *options: Any) -> Tensor:
        if transformed():  # these know no Function that writes into its input
            return input.copy_(pointwise(input, *options))
        if not (torch.is_grad_enabled() and input.requires_grad):
            return write(input, *options)
        return InplaceFunction.apply(input, *options)

    return inplace
