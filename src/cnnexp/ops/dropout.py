"""Dropout.

    y = x · m / (1 − p)        ∂L/∂x = ∂L/∂y · m / (1 − p)

with m drawn as 1 with probability 1 − p, else 0, independently for each element: the expectation of
y is x. Not in training y = x. The mask is kept as one byte an element. On CPU it is torch's own draw:
the same seed drops the same elements.

Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, "Dropout: A Simple Way to Prevent
Neural Networks from Overfitting" (2014), section 4; scaled in training, as is usual today.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autograd import differentiable, in_place
from cnnexp.ops.registry import declare, get_algorithm
from cnnexp.ops.torch_internals import in_torch_func


def forward(input: Tensor, mask: Tensor, p: float) -> Tensor:
    """The output y from x and the mask, of the same shape, bool."""
    if p == 1:
        return input * 0  # as torch, a NaN stays
    return input * (mask.to(input.dtype) / (1 - p))


def write(input: Tensor, mask: Tensor, p: float) -> Tensor:
    """Compute :func:`forward` in place."""
    return input.mul_(0 if p == 1 else mask.to(input.dtype) / (1 - p))


def grad_input(grad_output: Tensor, mask: Tensor, p: float) -> Tensor:
    """∂L/∂x from ∂L/∂y and the mask."""
    return forward(grad_output, mask, p)


_apart = differentiable(forward, input=grad_input, tangent="linear")
_within = in_place(write, _apart, input=grad_input)


def _direct(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0 or input.numel() == 0:
        return input  # itself (as torch)
    return (_within if inplace else _apart)(input, _mask(input, p), p)


def _mask(input: Tensor, p: float) -> Tensor:
    """Drawn outside of the Function, where ``vmap(randomness=…)`` applies to it."""
    if p == 1:
        return torch.zeros_like(input, dtype=torch.bool)
    # whose in-place draws ask for a mapped tensor, and where torch draws row by row
    if in_torch_func():
        ones = torch.ones_like(input, memory_format=torch.contiguous_format)
        return torch.native_dropout(ones, p, True)[1]
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

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.ones(1000, requires_grad=True)
        >>> y = ops.dropout(x, 0.5)
        >>> sorted(set(y.tolist()))  # what is kept is scaled, so that the mean stays
        [0.0, 2.0]
        >>> y.sum().backward()
        >>> torch.equal(x.grad, y)
        True
    """
    return get_algorithm("dropout", algorithm)(input, p, training, inplace)


declare(
    dropout,
    native=F.dropout,
    direct=_direct,
    summary="the gradient through the mask, one byte an element kept",
)
