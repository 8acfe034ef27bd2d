"""The Gaussian error linear unit.

    y = x·Φ(x)        ∂L/∂x = ∂L/∂y · (Φ(x) + x·φ(x))

with Φ the distribution function of the standard normal distribution, Φ(x) = ½(1 + erf(x/√2)), and
φ = Φ' its density, φ(x) = exp(−x²/2)/√(2π). The approximation 'tanh' puts in Φ's place

    Φ(x) ≈ ½(1 + t),   t = tanh(√(2/π)·(x + 0.044715·x³))
    ∂L/∂x = ∂L/∂y · (½(1 + t) + ½x·(1 − t²)·√(2/π)·(1 + 3·0.044715·x²))

Source: Hendrycks & Gimpel, "Gaussian Error Linear Units" (2016).
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autograd import differentiable
from cnnexp.ops.registry import declare, get_algorithm

_CUBIC = 0.044715


def forward(input: Tensor, approximate: str) -> Tensor:
    """The output y from x, of any shape."""
    return F.gelu(input, approximate=approximate)


def grad_input(grad_output: Tensor, input: Tensor, approximate: str) -> Tensor:
    """∂L/∂x from ∂L/∂y and x."""
    x = input
    if approximate == "tanh":
        scale = math.sqrt(2 / math.pi)
        t = (scale * (x + _CUBIC * x**3)).tanh()
        inner = scale * (1 + 3 * _CUBIC * x * x)
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner
    else:
        distribution = 0.5 * (1 + (x * math.sqrt(0.5)).erf())
        slope = distribution + x * (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)
    return grad_output * slope


def _native(input: Tensor, approximate: str = "none") -> Tensor:
    return F.gelu(input, approximate=approximate)  # which takes it by keyword alone


def gelu(input: Tensor, approximate: str = "none", *, algorithm: str = "direct") -> Tensor:
    """``torch.nn.functional.gelu`` with the backward of ``algorithm``.

    Args:
        input: Any shape.
        approximate: ``"none"``, or ``"tanh"`` for the approximation.
        algorithm: A name from ``cnnexp.ops.algorithm_names("gelu")``.

    Returns:
        The shape of ``input``.

    Raises:
        RuntimeError: ``approximate`` is something else (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([0.0, 10.0], requires_grad=True)
        >>> ops.gelu(x).sum().backward()
        >>> x.grad.tolist()
        [0.5, 1.0]
    """
    return get_algorithm("gelu", algorithm)(input, approximate)


declare(
    gelu,
    native=_native,
    direct=differentiable(forward, input=grad_input, tangent="diagonal", widens="gradients"),
    summary="the derivative Φ(x) + x·φ(x) from the input",
)
