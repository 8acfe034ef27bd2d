"""Dropout.

    y = x · m / (1 − p)        ∂L/∂x = ∂L/∂y · m / (1 − p)

with m drawn as 1 with probability 1 − p, else 0, independently for each element: the expectation of
y is x. Not in training y = x. The mask is kept as one byte an element. On CPU it is torch's own draw:
the same seed drops the same elements.

Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, "Dropout: A Simple Way to Prevent
Neural Networks from Overfitting" (2014), section 4; scaled in training, as is usual today.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.forward_mode import in_forward_mode, transformed
from cnnexp.ops.ownership import owned, owned_gradients
from cnnexp.ops.registry import Algorithm, get_algorithm, register
from cnnexp.ops.torch_internals import in_torch_func

__all__ = ["dropout", "forward", "grad_input", "write"]


def forward(input: Tensor, mask: Tensor, p: float) -> Tensor:
    """Y from x and the mask, of the same shape, bool."""
    if p == 1:
        return input * 0  # as torch, a NaN stays
    return input * (mask.to(input.dtype) / (1 - p))


def write(input: Tensor, mask: Tensor, p: float) -> Tensor:
    """:func:`forward` in place."""
    return input.mul_(0 if p == 1 else mask.to(input.dtype) / (1 - p))


def grad_input(grad_output: Tensor, mask: Tensor, p: float) -> Tensor:
    """∂L/∂x from ∂L/∂y and the mask."""
    return forward(grad_output, mask, p)


class _DropoutFunction(torch.autograd.Function):
    generate_vmap_rule = True  # everything below is pure torch

    @staticmethod
    def forward(input: Tensor, mask: Tensor, p: float) -> Tensor:
        return owned(forward(input, mask, p))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, mask, ctx.p = inputs
        ctx.save_for_backward(mask)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not ctx.needs_input_grad[0]:
            return None, None, None
        (mask,) = ctx.saved_tensors
        return owned_gradients([grad_input(grad_output, mask, ctx.p), None, None])


class _InplaceDropoutFunction(_DropoutFunction):
    @staticmethod
    def forward(input: Tensor, mask: Tensor, p: float) -> Tensor:
        return write(input, mask, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _DropoutFunction.setup_context(ctx, inputs, output)
        ctx.mark_dirty(inputs[0])


class _DropoutWithTangents(_DropoutFunction):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _DropoutFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (mask,) = ctx.saved_tensors
        return forward(tangents[0], mask, ctx.p)


def _direct(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0 or input.numel() == 0:
        return input  # itself (as torch)
    mask = _mask(input, p)
    if inplace and not transformed():
        if not (torch.is_grad_enabled() and input.requires_grad):
            return write(input, mask, p)
        return _InplaceDropoutFunction.apply(input, mask, p)
    function = _DropoutWithTangents if in_forward_mode() else _DropoutFunction
    output = function.apply(input, mask, p)
    return input.copy_(output) if inplace else output


def _mask(input: Tensor, p: float) -> Tensor:
    """Drawn outside of the Function, where ``vmap(randomness=…)`` applies to it."""
    if p == 1:
        return torch.zeros_like(input, dtype=torch.bool)
    if in_torch_func():  # whose in-place draws ask for a mapped tensor
        return torch.native_dropout(torch.ones_like(input), p, True)[1]
    return torch.empty_like(input, dtype=torch.bool).bernoulli_(1 - p)


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    algorithm: str = "direct",
) -> Tensor:
    """``torch.nn.functional.dropout`` with the backward of ``algorithm``.

    Args:
        input: Any shape.
        p: Probability of an element to be dropped, 0…1.
        training: Whether to drop at all.
        inplace: Leave y in ``input`` and return that.
        algorithm: A name from ``cnnexp.ops.algorithm_names("dropout")``.

    Returns:
        The shape of ``input``; ``input`` itself where nothing can be dropped.

    Raises:
        ValueError: ``p`` is out of range (as torch).
        RuntimeError: ``inplace`` on a leaf that requires a gradient (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """
    return get_algorithm("dropout", algorithm)(input, p, training, inplace)


register(
    Algorithm(
        op="dropout",
        name="direct",
        function=_direct,
        summary="the gradient through the mask, one byte an element kept",
    )
)
register(
    Algorithm(
        op="dropout",
        name="native",
        function=F.dropout,
        summary="torch.nn.functional.dropout and torch's autograd, the baseline",
        dtypes=(),
    )
)
