"""Convolution, bias, ReLU and pooling as one Function that keeps one byte a pooled element.

    z = x ∗ w                    a[n, o, i, j] = relu(z[n, o, i, j] + b[o])
    max:  y[n, o, p, q] = max_{u,v} a[window]        avg:  y[n, o, p, q] = Σ_{u,v} a[window] / D[p, q]

What is usually kept for the backward are z, a, y's int64 indices and x. But ∂L/∂z needs of all that
only which element of each window has a say: for max-pooling the winner's offset k*, or that the ReLU
stopped it; for average-pooling one bit an element. One byte, called the code, holds either:

    max:  ∂L/∂z[n, o, place(p, q, k)] += g[n, o, p, q] · [k = k*]
    avg:  ∂L/∂z[n, o, place(p, q, k)] += g[n, o, p, q] / D[p, q] · [bit k]

and z is dropped as soon as y is known. ∂L/∂x and ∂L/∂w are those of the convolution. With
max-pooling, ∂L/∂z is zero in all but one element a window, and the CPU kernels multiply only those
(``sparse``); so an infinite x that had no say leaves ∂L/∂w finite, where a dense sum has 0·∞. Where there
are few channels, they go through the block an image at a time, densely (``narrow_blocks``). The
gradient of the gradient, which few need, takes the dense way through ∂L/∂z. So does the GPU, where
cuDNN's dense products are the faster ones.

Source: docs/derivation.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry_of
from cnnexp.geometry.described import Described, described, remembered
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.cpu import narrow_blocks
from cnnexp.kernels.cpu.bfloat16 import has_windows
from cnnexp.kernels.cpu.narrow import takes as takes_narrow
from cnnexp.kernels.cpu.winograd import forward_winograd, has_tiles
from cnnexp.kernels.gpu import conv_relu_pool as gpu
from cnnexp.kernels.limits import pool_refusal
from cnnexp.ops.autocast import cast_for_autocast
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.avg_pool2d.function import divisors
from cnnexp.ops.conv2d import direct, library
from cnnexp.ops.conv2d.function import grad_bias as dense_grad_bias
from cnnexp.ops.conv_relu_pool.parts import compose
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to
from cnnexp.ops.layout import laid_out
from cnnexp.ops.registry import Algorithm, register

__all__ = [
    "Plan",
    "conv_relu_pool",
    "grad_image",
    "grad_parameters",
    "grad_weight",
    "with_code",
]


class Plan(NamedTuple):
    """What the Function knows of its arguments beside the tensors."""

    conv: Conv2dGeometry
    pool: WindowGeometry
    on_gpu: bool
    sparse: bool  # whether the gradients multiply the winners only
    narrow: bool  # whether the kernels of few channels take it
    divisor: Tensor | None  # D of an average


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan
) -> tuple[Tensor, Tensor]:
    """Y and the code from x: (N, C_in, H, W), w and b."""
    conv, pool, image = plan.conv, plan.pool, plan.conv.add_extra(input)
    if plan.on_gpu:
        return gpu.gpu_pool_forward(
            direct.forward(image, weight, None, conv), bias, pool, plan.divisor
        )
    tensors = (image, weight) if bias is None else (image, weight, bias)
    if kernel := _forward_of_maxima(image, weight, plan):
        return way_to(kernel, *tensors)(image, weight, bias, conv, pool)
    return way_to(cpu.forward, *tensors)(image, weight, bias, conv, pool, plan.divisor)


def _forward_of_maxima(image: Tensor, weight: Tensor, plan: Plan) -> Any:
    """The kernel from x to the maxima of such windows; None where the library's convolution comes first."""
    if plan.narrow:
        return narrow_blocks.max_forward
    if not plan.sparse:
        return None
    channels = image.size(1), weight.size(0)
    if channels[0] < cpu.FEW_CHANNELS:
        return cpu.forward_few_channels
    if image.dtype == torch.bfloat16:  # whose tiles would have to be rounded
        return cpu.forward_pairs if has_windows(plan.conv, plan.pool, *channels) else None
    return forward_winograd if has_tiles(plan.conv, plan.pool, *channels) else None


def _spread_pooled(pooled: Tensor, code: Tensor, plan: Plan) -> Tensor:
    spread = gpu.gpu_pool_spread if plan.on_gpu else cpu.pool_spread
    return spread(pooled, code, plan.pool, plan.divisor)


def _gather_image(image: Tensor, code: Tensor, plan: Plan) -> Tensor:
    gather = gpu.gpu_pool_gather if plan.on_gpu else cpu.pool_gather
    return gather(image, code, plan.pool, plan.divisor)


def spread(grad_output: Tensor, code: Tensor, plan: Plan) -> Tensor:
    """∂L/∂z from ∂L/∂y: (N, C_out, P, Q) and the code; linear, with :func:`gather` as gradient."""
    return _spread(grad_output, code, plan)


def gather(grad_output: Tensor, code: Tensor, plan: Plan) -> Tensor:
    """The transpose of :func:`spread`, whose gradient that is: so both can be differentiated again."""
    return _gather(grad_output, code, plan)


_spread = differentiable(_spread_pooled, pooled=gather)
_gather = differentiable(_gather_image, image=spread)


def grad_image(grad_output: Tensor, code: Tensor, plan: Plan) -> Tensor | None:
    """∂L/∂z, or None where the gradients take the winners alone.

    With ``create_graph`` they do not: only the dense way can be differentiated again.
    """
    if plan.sparse and not torch.is_grad_enabled():
        return None
    return spread(grad_output, code, plan)


def grad_input(
    grad_output: Tensor, grad_image: Tensor | None, code: Tensor, weight: Tensor, plan: Plan
) -> Tensor:
    """∂L/∂x from ∂L/∂z, else from ∂L/∂y and its winners, and w → (N, C_in, H, W)."""
    if grad_image is None:
        kernel = narrow_blocks.max_grad_input if plan.narrow else cpu.winners_grad_input
        call = way_to(kernel, grad_output, weight)
        grad = call(grad_output, code, weight, plan.conv, plan.pool)
    else:
        function = library.grad_input if _by_library(plan) else direct.grad_input
        grad = function(grad_image, weight, plan.conv)
    return plan.conv.drop_extra(grad)


def grad_parameters(
    grad_output: Tensor, grad_image: Tensor | None, code: Tensor, input: Tensor, plan: Plan
) -> tuple[Tensor, Tensor] | None:
    """∂L/∂w (C_out, C_in/groups, K_h, K_w) and ∂L/∂b (C_out,) from ∂L/∂y and its winners, and x.

    The kernels sum both in one pass. None where there is ∂L/∂z, which both can be had from apart.
    """
    if grad_image is not None:
        return None
    kernel = narrow_blocks.max_grad_weight if plan.narrow else cpu.winners_grad_weight
    image = plan.conv.add_extra(input)
    return way_to(kernel, grad_output, image)(grad_output, code, image, plan.conv, plan.pool)


def grad_weight(grad_image: Tensor, input: Tensor, plan: Plan) -> Tensor:
    """∂L/∂w from ∂L/∂z and x → (C_out, C_in/groups, K_h, K_w)."""
    function = library.grad_weight if _by_library(plan) else direct.grad_weight
    return function(grad_image, plan.conv.add_extra(input), plan.conv)


def _grad_weight(grad_image: Tensor, both: Any, input: Tensor, plan: Plan) -> Tensor:
    return grad_weight(grad_image, input, plan) if both is None else both[0]


def _grad_bias(grad_image: Tensor, both: Any) -> Tensor:
    return dense_grad_bias(grad_image) if both is None else both[1]


_block = differentiable(
    forward,
    input=grad_input,
    weight=_grad_weight,
    bias=_grad_bias,
    outputs=("output", "code"),
    shared={"grad_image": grad_image, "both": grad_parameters},
)


def _by_library(plan: Plan) -> bool:
    """Whether the dense gradients are those of the library's kernels for just these two.

    On the GPU: the formulas cannot be told to use them, and there is no other public way to cuDNN's
    gradient of the weight.
    """
    return plan.on_gpu and not torch.is_grad_enabled()


def conv_relu_pool(input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
    """The fused block where there are kernels for it and it pays, else its parts one by one."""
    alone = input.dim() == 3
    fused = with_code(input.unsqueeze(0) if alone else input, weight, bias, *arguments)
    if fused is None:
        return compose("direct")(input, weight, bias, *arguments)
    output, _, _ = fused
    return output.squeeze(0) if alone else output


def with_code(
    input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Plan] | None:
    """The block, its code, and the plan that its gradients take with them; None where it is not fused.

    Args:
        input: (N, C_in, H, W).
        weight, bias, *arguments: As of ``cnnexp.ops.conv_relu_pool``, by position.
    """
    pool = arguments[-1]
    cast = input, weight, bias = cast_for_autocast(input, weight, bias)
    tensors = described(input), described(weight), None if bias is None else described(bias)
    plan = remembered(_plan, tensors, *arguments, gpu.has_kernels_for(input))
    if plan is None or in_forward_mode():
        return None
    if pool.kind == "avg":
        counts = pool.count_include_pad, pool.divisor_override
        plan = Plan(*plan[:-1], divisors(plan.pool, *counts, input))
    output, code = _block(*cast, plan)
    return laid_out(output, input, weight), code, plan


def _plan(
    input: Described, weight: Described, bias: Described | None, *arguments: Any
) -> Plan | None:
    """The plan without a divisor; None where there are no kernels for such a block."""
    *window, pool, on_gpu = arguments
    conv = conv2d_geometry_of(input, weight, bias, *window)
    image = Described((*input.shape[:-2], *conv.output_size), input.dtype, input.device)
    windows = pool.geometry(image)
    average = pool.kind == "avg"
    if on_gpu and pool_refusal(windows, average):
        return None
    if not on_gpu and cpu.refusal(input, conv, windows, average):
        return None
    if input.shape[-3] == 0 or (average and pool.divisor_override == 0):
        return None
    sparse = not (on_gpu or average) and _has_many_losers(conv, windows)
    narrow = sparse and _is_narrow(input, weight, conv)
    return Plan(conv, windows, on_gpu, sparse, narrow, None)


def _is_narrow(input: Described, weight: Described, conv: Conv2dGeometry) -> bool:
    """Whether the kernels of few channels, whose vectors run along the pixels, are to be taken.

    Those whose vectors run along the channels of the output are faster where these fill them. The choice is
    by constants, as no bit is to depend on the length of the processor's vectors.
    """
    c_in, c_out = input.shape[-3], weight.shape[0]
    half_empty = c_out % 8 != 0 or c_out < 16 or (c_in > 3 and c_out < 32)
    return c_in < cpu.FEW_CHANNELS and half_empty and takes_narrow(input, conv, c_in, c_out)


def _has_many_losers(conv: Conv2dGeometry, pool: WindowGeometry) -> bool:
    """Whether at least half of the dense products would be with zeros: one winner a window."""
    if torch.compiler.is_compiling():  # a graph for all sizes
        return math.prod(pool.stride) >= 2
    return 2 * math.prod(pool.output_size) <= math.prod(conv.output_size)


register(
    Algorithm(
        op="conv_relu_pool",
        name="fused",
        function=conv_relu_pool,
        summary="one pass, one byte a pooled element kept, gradients from the winners alone",
    )
)
