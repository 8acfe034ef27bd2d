"""The Huber loss: squared where the error is small, linear beyond δ, so that outliers pull no harder.

    d = x − t        L = d²/2 where |d| ≤ δ, else δ·(|d| − δ/2)        ∂L/∂x = min(max(d, −δ), δ) = −∂L/∂t

Source: Huber, "Robust Estimation of a Location Parameter" (1964).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autograd import differentiable
from cnnexp.ops.reduction import as_one_shape, named_reduction, reduced, weighted
from cnnexp.ops.registry import declare, get_algorithm


def forward(input: Tensor, target: Tensor, delta: float) -> Tensor:
    """The losses L from x and t, of one shape."""
    distance = (input - target).abs()
    return torch.where(distance <= delta, 0.5 * distance.square(), delta * (distance - 0.5 * delta))


def grad_input(grad_output: Tensor, input: Tensor, target: Tensor, delta: float) -> Tensor:
    """∂L/∂x from the gradient of each L, x and t."""
    return grad_output * (input - target).clamp(-delta, delta)


def grad_target(grad_output: Tensor, input: Tensor, target: Tensor, delta: float) -> Tensor:
    """∂L/∂t from the gradient of each L, x and t."""
    return grad_output * (target - input).clamp(-delta, delta)


_losses = differentiable(forward, input=grad_input, target=grad_target, tangent="diagonal")


def _direct(
    input: Tensor, target: Tensor, reduction: str, delta: float, weight: Tensor | None
) -> Tensor:
    reduction = named_reduction(None, None, reduction)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")  # as torch
    x, t, dtype = as_one_shape(input, target)
    if weight is None:
        return reduced(_losses(x, t, delta), reduction).to(dtype)
    return reduced(weighted(_losses(x, t, delta), weight), reduction).to(dtype)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
    *,
    algorithm: str = "direct",
) -> Tensor:
    """``torch.nn.functional.huber_loss`` with the backward of ``algorithm``.

    Args:
        input: Any shape.
        target: The same shape.
        reduction: ``"mean"`` over all elements, ``"sum"`` or ``"none"``.
        delta: δ > 0, the error up to which the loss is squared.
        weight: Of each element, the same shape, or None for 1.
        algorithm: A name from ``cnnexp.ops.algorithm_names("huber_loss")``.

    Returns:
        A scalar; the shape of ``input`` with ``reduction="none"``.

    Raises:
        RuntimeError: ``delta`` is not positive, or the shapes cannot be broadcast (as torch).
        ValueError: ``reduction`` is something else (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([0.5, 4.0], requires_grad=True)
        >>> ops.huber_loss(x, torch.zeros(2), reduction="sum").backward()
        >>> x.grad.tolist()  # the error, but no more than 1
        [0.5, 1.0]
    """
    return get_algorithm("huber_loss", algorithm)(input, target, reduction, delta, weight)


declare(
    huber_loss,
    native=F.huber_loss,
    direct=_direct,
    summary="the difference of input and target, clamped to ±δ",
)
