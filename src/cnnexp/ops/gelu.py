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

from cnnexp.ops.pointwise import make_pointwise
from cnnexp.ops.precision import widened
from cnnexp.ops.registry import Algorithm, get_algorithm, register

__all__ = ["forward", "gelu", "grad_input"]


_CUBIC = 0.044715


def forward(input: Tensor, approximate: str) -> Tensor:
    """Y from x, of any shape."""
    return F.gelu(input, approximate=approximate)


def grad_input(grad_output: Tensor, input: Tensor, approximate: str) -> Tensor:
    """∂L/∂x from ∂L/∂y and x."""
    x, grad = widened(input), widened(grad_output)
    if approximate == "tanh":
        scale = math.sqrt(2 / math.pi)
        t = (scale * (x + _CUBIC * x**3)).tanh()
        inner = scale * (1 + 3 * _CUBIC * x * x)
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner
    else:
        distribution = 0.5 * (1 + (x * math.sqrt(0.5)).erf())
        slope = distribution + x * (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)
    return (grad * slope).to(grad_output.dtype)


_pointwise = make_pointwise(forward, grad_input, keeps="input")


def _direct(input: Tensor, approximate: str = "none") -> Tensor:
    return _pointwise(input, approximate)


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
    return get_algorithm("gelu", algorithm)(input, approximate=approximate)


register(
    Algorithm(
        op="gelu",
        name="direct",
        function=_direct,
        summary="the derivative Φ(x) + x·φ(x) from the input",
    )
)
register(
    Algorithm(
        op="gelu",
        name="native",
        function=F.gelu,
        summary="torch.nn.functional.gelu and torch's autograd, the baseline",
        dtypes=(),
    )
)
