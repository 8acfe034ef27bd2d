"""The leaky rectified linear unit.

    y = x if x > 0 else a·x        ∂L/∂x = ∂L/∂y · (1 if x > 0 else a)

with the slope a, 0.01 by default. At the kink x = 0 the derivative is taken as a, as torch does.

Source: Maas, Hannun & Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models" (2013).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autograd import differentiable, in_place
from cnnexp.ops.registry import declare, get_algorithm


def forward(input: Tensor, negative_slope: float) -> Tensor:
    """The output y from x, of any shape."""
    return torch.where(input > 0, input, input * negative_slope)


def write(input: Tensor, negative_slope: float) -> Tensor:
    """Compute :func:`forward` in place."""
    return F.leaky_relu_(input, negative_slope)


def grad_input(grad_output: Tensor, input: Tensor, negative_slope: float) -> Tensor:
    """∂L/∂x from ∂L/∂y and x."""
    return torch.where(input > 0, grad_output, grad_output * negative_slope)


def grad_input_from_output(grad_output: Tensor, output: Tensor, negative_slope: float) -> Tensor:
    """∂L/∂x from ∂L/∂y and y, which has the sign of x for a ≥ 0 alone."""
    if negative_slope < 0:
        raise RuntimeError(
            f"leaky_relu in place has no gradient for negative_slope={negative_slope}: the output "
            f"does not tell the sign of the input; use a slope of at least 0, or inplace=False"
        )
    return grad_input(grad_output, output, negative_slope)


_apart = differentiable(forward, input=grad_input, tangent="diagonal")
_within = in_place(
    write,
    differentiable(forward, input=grad_input_from_output, tangent="diagonal"),
    input=grad_input_from_output,
)


def _direct(input: Tensor, negative_slope: float, inplace: bool) -> Tensor:
    return (_within if inplace else _apart)(input, negative_slope)


def leaky_relu(
    input: Tensor, negative_slope: float = 0.01, inplace: bool = False, *, algorithm: str = "direct"
) -> Tensor:
    """``torch.nn.functional.leaky_relu`` with the backward of ``algorithm``.

    Args:
        input: Any shape.
        negative_slope: a, any number.
        inplace: Leave y in ``input`` and return that.
        algorithm: A name from ``cnnexp.ops.algorithm_names("leaky_relu")``.

    Returns:
        The shape of ``input``.

    Raises:
        RuntimeError: ``inplace`` on a leaf that requires a gradient, or, in the backward, with a
            negative slope (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> ops.leaky_relu(x, 0.25).sum().backward()
        >>> x.grad.tolist()
        [0.25, 1.0]
    """
    return get_algorithm("leaky_relu", algorithm)(input, negative_slope, inplace)


declare(
    leaky_relu,
    native=F.leaky_relu,
    direct=_direct,
    summary="the gradient, times the slope where the input is negative",
)
