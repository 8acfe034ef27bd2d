"""The cross-entropy of labels that are each there or not, such as several on one picture.

For a logit x, s = σ(x) = 1 / (1 + exp(−x)), a target t in [0, 1] and the weight p of what is there,

    L = −p·t·log s − (1 − t)·log(1 − s) = (1 − t)·x + (1 + (p − 1)·t) · log(1 + exp(−x))
    ∂L/∂x = (1 + (p − 1)·t)·s − p·t        which is s − t for p = 1
    ∂L/∂t = −x + (p − 1)·log(1 + exp(−x))

The sigmoid and the logarithm together have this short derivative; a sigmoid before the loss would
flatten it, and lose the digits of log(1 − s) where s is near 1.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autograd import differentiable
from cnnexp.ops.reduction import as_one_shape, named_reduction, reduced, weighted
from cnnexp.ops.registry import declare, get_algorithm


def forward(input: Tensor, target: Tensor, pos_weight: Tensor | None) -> Tensor:
    """The losses L from x and t, of one shape, and p, which is broadcast to it."""
    # log(1 + exp(−x)) without an overflow: the larger of −x and 0 stands apart
    softplus = (-input.abs()).exp().log1p() + (-input).clamp_min(0)
    return (1 - target) * input + _of_label(target, pos_weight) * softplus


def grad_input(
    grad_output: Tensor, input: Tensor, target: Tensor, pos_weight: Tensor | None
) -> Tensor:
    """∂L/∂x from the gradient of each L, x, t and p."""
    there = target if pos_weight is None else pos_weight * target
    return grad_output * (_of_label(target, pos_weight) * input.sigmoid() - there)


def grad_target(grad_output: Tensor, input: Tensor, pos_weight: Tensor | None) -> Tensor:
    """∂L/∂t from the gradient of each L, x and p."""
    if pos_weight is None:
        return -grad_output * input
    softplus = (-input.abs()).exp().log1p() + (-input).clamp_min(0)
    return grad_output * ((pos_weight - 1) * softplus - input)


def _of_label(target: Tensor, pos_weight: Tensor | None) -> Tensor | float:
    return 1.0 if pos_weight is None else 1 + (pos_weight - 1) * target


_losses = differentiable(forward, input=grad_input, target=grad_target, tangent="diagonal")


def _direct(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    size_average: bool | None,
    reduce: bool | None,
    reduction: str,
    pos_weight: Tensor | None,
) -> Tensor:
    reduction = named_reduction(size_average, reduce, reduction)
    if target.shape != input.shape:
        raise ValueError(
            f"Target size ({target.size()}) must be the same as input size ({input.size()})"
        )
    x, t, dtype = as_one_shape(input, target)
    p = None if pos_weight is None else pos_weight.detach().to(x.dtype).expand(x.shape)
    losses = weighted(_losses(x, t, p), weight)
    return reduced(losses, reduction).to(dtype)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    algorithm: str = "direct",
) -> Tensor:
    """``torch.nn.functional.binary_cross_entropy_with_logits`` with the backward of ``algorithm``.

    Args:
        input: Logits of any shape, such as (N, labels).
        target: The same shape, in [0, 1]: 1 where the label is there.
        weight: Of each element, broadcast to the shape, or None for 1.
        size_average, reduce: The old names of ``reduction``.
        reduction: ``"mean"`` over all elements, ``"sum"`` or ``"none"``.
        pos_weight: Of the labels that are there, broadcast to the shape, or None for 1.
        algorithm: A name from ``cnnexp.ops.algorithm_names("binary_cross_entropy_with_logits")``.

    Returns:
        A scalar; the shape of ``input`` with ``reduction="none"``.

    Raises:
        ValueError: The shapes differ, or ``reduction`` is something else (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> target = torch.tensor([[1.0, 0.0]])
        >>> ops.binary_cross_entropy_with_logits(x, target, reduction="sum").backward()
        >>> x.grad.tolist()  # σ(x) − t
        [[-0.5, 0.5]]
    """
    return get_algorithm("binary_cross_entropy_with_logits", algorithm)(
        input, target, weight, size_average, reduce, reduction, pos_weight
    )


declare(
    binary_cross_entropy_with_logits,
    native=F.binary_cross_entropy_with_logits,
    direct=_direct,
    summary="sigmoid and logarithm together: sigmoid minus target",
)
