"""The hyperbolic tangent.

    y = tanh x        ∂L/∂x = ∂L/∂y · (1 − y²)

since tanh' = 1 − tanh²: the output is all that the derivative needs.

Source: LeCun, Bottou, Orr & Müller, "Efficient BackProp" (1998), section 4.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.ops.autograd import differentiable
from cnnexp.ops.registry import declare, get_algorithm


def forward(input: Tensor) -> Tensor:
    """The output y from x, of any shape."""
    return input.tanh()


def grad_input(grad_output: Tensor, output: Tensor) -> Tensor:
    """∂L/∂x from ∂L/∂y and y."""
    return grad_output * (1 - output * output)


def tanh(input: Tensor, *, algorithm: str = "direct") -> Tensor:
    """``torch.tanh`` with the backward of ``algorithm``.

    Args:
        input: Any shape.
        algorithm: A name from ``cnnexp.ops.algorithm_names("tanh")``.

    Returns:
        The shape of ``input``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([0.0, 50.0], requires_grad=True)
        >>> ops.tanh(x).sum().backward()
        >>> x.grad.tolist()
        [1.0, 0.0]
    """
    return get_algorithm("tanh", algorithm)(input)


declare(
    tanh,
    native=torch.tanh,
    direct=differentiable(forward, input=grad_input, tangent="diagonal", widens="gradients"),
    summary="the derivative 1 − y² from the output",
)
