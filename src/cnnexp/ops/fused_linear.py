"""The linear layer by kernels whose sums have an order of their own: its way ``fused``.

The bits of output and gradients depend neither on the number of threads nor on the processor. The formulas
are those of ``linear``. The kernels of several layers (``linear_act``), of which this is one without an
activation, take what they can; what is left is taken by products (``product``), and then by ``direct``.
"""

from __future__ import annotations

from torch import Tensor

from cnnexp.kernels.cpu import linear_act as kernels
from cnnexp.ops.autocast import cast_for_autocast
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.linear import direct, grad_bias, of_matrices
from cnnexp.ops.linear import grad_weight as by_library
from cnnexp.ops.linear_act.fused import by_kernels
from cnnexp.ops.product import by_kernel, product, takes
from cnnexp.ops.registry import Algorithm, register


def forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output y from x: (N, …, C_in), w: (C_out, C_in), b: (C_out,) → (N, …, C_out)."""
    output = by_kernel(_rows(input), weight.t(), bias)
    return output.view(*input.shape[:-1], weight.size(0))


def grad_input(grad_output: Tensor, weight: Tensor) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, …, C_out) and w → (N, …, C_in)."""
    grad = product(_rows(grad_output), weight)
    return grad.view(*grad_output.shape[:-1], weight.size(1))


def grad_weight(grad_output: Tensor, input: Tensor) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, …, C_out) and x → (C_out, C_in)."""
    return product(_rows(grad_output).t(), _rows(input))


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.size(-1))


_by_products = differentiable(
    forward, input=grad_input, weight=grad_weight, bias=grad_bias, tangent="linear"
)


def of_parameters(grad_output: Tensor, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """∂L/∂w and ∂L/∂b from ∂L/∂y: (N, …, C_out) and x, to the bits of this way's own backward."""
    g, x = _rows(grad_output), _rows(input.to(grad_output.dtype))
    if not kernels.takes(x, (weight,), (None,), ("none",)):
        of_weight = (grad_weight if takes(g, x) else by_library)(g, x)
        return of_weight.to(weight.dtype), grad_bias(g).to(weight.dtype)
    layers = kernels.Layers((x.size(1), g.size(1)), ("none",), weight.dtype)
    needs = False, (True,), (True,)
    made = kernels.backward(g, None, None, x.contiguous(), (None,), layers, needs)
    of_weight, of_bias = made.weights[0], made.biases[0]
    assert of_weight is not None and of_bias is not None  # noqa: PT018 (no test)
    return of_weight, of_bias


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The op by the first kernels that take it."""
    output = by_kernels(input, (weight, bias, None, None, None, None), ("none",))
    if output is not None:
        return output
    cast = cast_for_autocast(input, weight, bias)
    return of_matrices(_by_products, *cast) if takes(*cast) else direct(input, weight, bias)


register(
    Algorithm(
        "linear",
        "fused",
        linear,
        "products and bias by a CPU kernel whose sums have one order, whatever the threads and the processor",
    )
)
