"""The squared error of numbers.

    L = (x − t)²        ∂L/∂x = 2 · (x − t)        ∂L/∂t = −∂L/∂x

'mean' divides by the number of all elements, as torch does, not by that of the images.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autograd import differentiable
from cnnexp.ops.reduction import as_one_shape, named_reduction, reduced, weighted
from cnnexp.ops.registry import declare, get_algorithm


def forward(input: Tensor, target: Tensor) -> Tensor:
    """The losses L from x and t, of one shape."""
    return (input - target).square()


def grad_input(grad_output: Tensor, input: Tensor, target: Tensor) -> Tensor:
    """∂L/∂x from the gradient of each L, x and t."""
    return grad_output * 2 * (input - target)


def grad_target(grad_output: Tensor, input: Tensor, target: Tensor) -> Tensor:
    """∂L/∂t from the gradient of each L, x and t."""
    return grad_output * 2 * (target - input)


_losses = differentiable(forward, input=grad_input, target=grad_target, tangent="diagonal")


def _direct(
    input: Tensor,
    target: Tensor,
    size_average: bool | None,
    reduce: bool | None,
    reduction: str,
    weight: Tensor | None,
) -> Tensor:
    reduction = named_reduction(size_average, reduce, reduction)
    x, t, dtype = as_one_shape(input, target)
    if weight is None:
        return reduced(_losses(x, t), reduction).to(dtype)
    losses = weighted(_losses(x, t), weight)
    if reduction == "mean":  # as torch: by the sum of the weights
        return (losses.sum() / weight.sum()).to(dtype)
    return reduced(losses, reduction).to(dtype)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    algorithm: str = "direct",
) -> Tensor:
    """``torch.nn.functional.mse_loss`` with the backward of ``algorithm``.

    Args:
        input: Any shape.
        target: The same shape.
        size_average, reduce: The old names of ``reduction``.
        reduction: ``"mean"`` over all elements, ``"sum"`` or ``"none"``.
        weight: Of each element, the same shape, or None for 1.
        algorithm: A name from ``cnnexp.ops.algorithm_names("mse_loss")``.

    Returns:
        A scalar; the shape of ``input`` with ``reduction="none"``.

    Raises:
        ValueError: ``reduction`` is something else (as torch).
        RuntimeError: The shapes cannot be broadcast (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([1.0, 4.0], requires_grad=True)
        >>> loss = ops.mse_loss(x, torch.tensor([1.0, 2.0]))
        >>> loss.backward()
        >>> loss.item(), x.grad.tolist()
        (2.0, [0.0, 2.0])
    """
    arguments = input, target, size_average, reduce, reduction, weight
    return get_algorithm("mse_loss", algorithm)(*arguments)


declare(
    mse_loss,
    native=F.mse_loss,
    direct=_direct,
    summary="twice the difference of input and target",
)
