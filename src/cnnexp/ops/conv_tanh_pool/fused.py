"""Convolution of few channels, bias, tanh and average-pooling as one Function.

    z = x ∗ w + b        a = tanh(z)        y[n, o, r, s] = Σ_{u,v} a[window] / D[r, s]

tanh' = 1 − tanh², so what the backward needs of all between x and y is a alone:

    ∂L/∂z[n, o, place(r, s, k)] = (1 − a²) · Σ g[n, o, r, s] / D[r, s]       over the windows on that place
    ∂L/∂w, ∂L/∂b, ∂L/∂x                                                        those of the convolution

The kernels (``kernels.cpu.narrow_kernels``) take an image from x to y, and from ∂L/∂y and a to its part of
∂L/∂w, to ∂L/∂x, while the caches hold it: neither z, nor ∂L/∂a, nor ∂L/∂z is ever written to memory. The
gradient of the gradient, which few need, takes the formulas through z.

Source: LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998),
section II.B, for the layers; docs/derivation.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry_of
from cnnexp.geometry.described import Described, described, remembered
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import narrow, narrow_blocks
from cnnexp.ops.autocast import cast_for_autocast
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.avg_pool2d.direct import grad_input as spread
from cnnexp.ops.avg_pool2d.function import divisors
from cnnexp.ops.conv2d import direct
from cnnexp.ops.conv2d.function import grad_bias as dense_grad_bias
from cnnexp.ops.conv_tanh_pool.parts import compose
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to
from cnnexp.ops.layout import laid_out
from cnnexp.ops.precision import widened
from cnnexp.ops.registry import Algorithm, register
from cnnexp.ops.tanh import grad_input as through_tanh

__all__ = ["Plan", "conv_tanh_pool"]


class Plan(NamedTuple):
    """What the Function knows of its arguments beside the tensors."""

    conv: Conv2dGeometry
    pool: WindowGeometry  # of one pixel a window where nothing is pooled
    divisor: Tensor | None  # D; None where nothing is pooled


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan
) -> tuple[Tensor, Tensor]:
    """Y and a from x: (N, C_in, H, W), w and b."""
    tensors = (input, weight) if bias is None else (input, weight, bias)
    image = plan.conv.add_extra(input)
    return way_to(narrow_blocks.tanh_forward, *tensors)(image, weight, bias, *plan)


def grad_image(
    grad_output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan
) -> Tensor | None:
    """With ``create_graph`` ∂L/∂z by the formulas, which can be differentiated again; else None."""
    if not torch.is_grad_enabled():
        return None
    image = direct.forward(plan.conv.add_extra(input), weight, bias, plan.conv)
    grad = widened(grad_output)
    if plan.divisor is not None:
        grad = spread(grad, plan.pool, plan.divisor)
    return through_tanh(grad, widened(image).tanh()).to(image.dtype)


def grad_input(
    grad_output: Tensor, grad_image: Tensor | None, kept: Tensor, weight: Tensor, plan: Plan
) -> Tensor:
    """∂L/∂x from ∂L/∂z, else from ∂L/∂y and a, and w → (N, C_in, H, W)."""
    if grad_image is not None:
        return plan.conv.drop_extra(direct.grad_input(grad_image, weight, plan.conv))
    call = way_to(narrow_blocks.tanh_grad_input, grad_output, weight)
    return plan.conv.drop_extra(call(grad_output, kept, weight, *plan))


def grad_parameters(
    grad_output: Tensor, grad_image: Tensor | None, kept: Tensor, input: Tensor, plan: Plan
) -> tuple[Tensor, Tensor]:
    """∂L/∂w (C_out, C_in, K_h, K_w) and ∂L/∂b (C_out,) from ∂L/∂z, else from ∂L/∂y and a, and x."""
    image = plan.conv.add_extra(input)
    if grad_image is not None:
        grad = direct.grad_weight(grad_image, image, plan.conv)
        return grad, dense_grad_bias(grad_image)
    call = way_to(narrow_blocks.tanh_grad_weight, grad_output, image)
    return call(grad_output, kept, image, *plan)


_block = differentiable(
    forward,
    input=grad_input,
    weight=lambda of_weight: of_weight,
    bias=lambda of_bias: of_bias,
    outputs=("output", "kept"),
    shared={"grad_image": grad_image, ("of_weight", "of_bias"): grad_parameters},
)


def conv_tanh_pool(input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
    """The fused block where there are kernels for it, else its parts one by one."""
    cast = input, weight, bias = cast_for_autocast(input, weight, bias)
    plan = _plan_of(*cast, *arguments)
    if plan is None or in_forward_mode():
        return compose("direct")(input, weight, bias, *arguments)
    alone, pool = input.dim() == 3, arguments[-1]
    if pool is not None:
        counts = pool.count_include_pad, pool.divisor_override
        plan = plan._replace(divisor=divisors(plan.pool, *counts, input))
    output, _ = _block(input.unsqueeze(0) if alone else input, weight, bias, plan)
    output = laid_out(output, input.unsqueeze(0) if alone else input, weight)
    return output.squeeze(0) if alone else output


def _plan_of(input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Plan | None:
    tensors = described(input), described(weight), None if bias is None else described(bias)
    return remembered(_plan, tensors, *arguments)


def _plan(
    input: Described, weight: Described, bias: Described | None, *arguments: Any
) -> Plan | None:
    """The plan without a divisor; None where there are no kernels for such a block."""
    *window, pool = arguments
    conv = conv2d_geometry_of(input, weight, bias, *window)
    if pool is None:
        windows = WindowGeometry(conv.output_size, (1, 1))
    else:
        image = Described((*input.shape[:-2], *conv.output_size), input.dtype, input.device)
        windows = pool.geometry(image)
        if pool.kind != "avg" or pool.divisor_override == 0:
            return None
    if not narrow.takes(input, conv, input.shape[-3], weight.shape[0]):
        return None
    return Plan(conv, windows, None)


def serves(input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> bool:
    """Whether the kernels take such a call of ``conv_tanh_pool``, whose arguments these are."""
    return _plan_of(*cast_for_autocast(input, weight, bias), *arguments) is not None


register(
    Algorithm(
        op="conv_tanh_pool",
        name="fused",
        function=conv_tanh_pool,
        summary="few channels: an image stays in the cache from x to y, and in the backward; tanh(z) is kept",
        serves=serves,
    )
)
