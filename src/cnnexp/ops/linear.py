"""The linear layer.

    y[n, o] = b[o] + Σ_k x[n, k] · w[o, k]                      Y = X·Wᵀ + b
    ∂L/∂x[n, k] = Σ_o ∂L/∂y[n, o] · w[o, k]                     ∂L/∂X = G·W
    ∂L/∂w[o, k] = Σ_n ∂L/∂y[n, o] · x[n, k]                     ∂L/∂W = Gᵀ·X
    ∂L/∂b[o] = Σ_n ∂L/∂y[n, o]

Where x has more dimensions, (N, …, C_in), n runs over all but the last. ``direct`` leaves the three
products to the library; ``fused`` takes them by kernels of ours (``fused_linear``).

Source: docs/derivation.md; Goodfellow, "Efficient Per-Example Gradient Computations" (2015), for
``per_sample``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autocast import cast_again_for_autocast, cast_for_autocast
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.registry import declare, get_algorithm


def forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output y from x: (N, …, C_in), w: (C_out, C_in), b: (C_out,) → (N, …, C_out)."""
    return F.linear(input, weight, bias)


def grad_input(grad_output: Tensor, weight: Tensor) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, …, C_out) and w → (N, …, C_in)."""
    return grad_output @ weight


def grad_weight(grad_output: Tensor, input: Tensor, per_sample: bool = False) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, …, C_out) and x → (C_out, C_in).

    With ``per_sample`` the sum over the first dimension is kept out: (N, C_out, C_in).
    """
    lead = input.shape[:1] if per_sample else ()
    rows = math.prod(input.shape[len(lead) : -1])
    grads = grad_output.reshape(*lead, rows, grad_output.size(-1))
    return grads.transpose(-1, -2) @ input.reshape(*lead, rows, input.size(-1))


def grad_bias(grad_output: Tensor, per_sample: bool = False) -> Tensor:
    """∂L/∂b from ∂L/∂y: (N, …, C_out) → (C_out,), with ``per_sample`` (N, C_out)."""
    summed = tuple(range(1 if per_sample else 0, grad_output.dim() - 1))
    return grad_output.sum(summed) if summed else grad_output.clone()


_linear = differentiable(
    forward, input=grad_input, weight=grad_weight, bias=grad_bias, tangent="linear"
)


def direct(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The op by the library's products."""
    input, weight, bias = cast_for_autocast(input, weight, bias)
    return of_matrices(_linear, input, weight, bias)


def of_matrices(
    function: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """``function``, which takes matrices, of what torch takes, once it is checked."""
    check(input, weight, bias)
    if weight.dim() == 1:  # as torch: one output, whose dimension is left out
        return function(input, weight.unsqueeze(0), None).squeeze(-1)
    return function(input, weight, None if bias is None else bias.expand(weight.size(0)))


def unkept(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`linear` by ``direct``, whose backward casts the weight again where autocast has cast it."""
    input, weight, bias = cast_again_for_autocast(input, weight, bias)
    check(input, weight, bias)
    return _linear(input, weight, bias)


def check(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise what torch does where shapes or dtypes do not fit together."""
    if weight.dim() not in (1, 2) or input.dim() == 0 or input.size(-1) != weight.size(-1):
        raise RuntimeError(
            f"linear needs input (…, C_in) and weight (C_out, C_in) or (C_in,), but got "
            f"{list(input.shape)} and {list(weight.shape)}"
        )
    if bias is not None and (
        weight.dim() == 1 or list(bias.shape) not in ([], [1], [weight.size(0)])
    ):
        raise RuntimeError(
            f"bias must have one element for each row of weight, but got {list(bias.shape)} for "
            f"weight {list(weight.shape)}"
        )
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype != input.dtype:
            raise RuntimeError(
                f"Input type ({input.dtype}) and {name} type ({other.dtype}) should be the same"
            )


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, algorithm: str = "direct"
) -> Tensor:
    """``torch.nn.functional.linear`` with the backward of ``algorithm``.

    Args:
        input: (N, …, C_in).
        weight: (C_out, C_in), or (C_in,) for one output.
        bias: (C_out,) or None.
        algorithm: A name from ``cnnexp.ops.algorithm_names("linear")``. ``fused`` computes as ``direct``
            what it has no kernel for: other devices than the CPU, float16, and bfloat16 of less than eight
            rows or 32 numbers, of an odd number, or on a processor that does not multiply its pairs.

    Returns:
        (N, …, C_out).

    Raises:
        RuntimeError: Shapes or dtypes do not fit together (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> y = ops.linear(x, w)
        >>> y.tolist()
        [[11.0]]
        >>> y.sum().backward()
        >>> w.grad.tolist()
        [[1.0, 2.0]]
    """
    return get_algorithm("linear", algorithm)(input, weight, bias)


declare(
    linear,
    native=F.linear,
    direct=direct,
    summary="gradients as two matrix products and a sum",
)
