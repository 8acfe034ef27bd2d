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
(``sparse``); so an infinite x that had no say leaves ∂L/∂w finite, where a dense sum has 0·∞. The
gradient of the gradient, which few need, takes the dense way through ∂L/∂z. So does the GPU, where
cuDNN's dense products are the faster ones.

Source: docs/derivation.md.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.geometry.pooling import Pool
from cnnexp.geometry.windows import IntPair, WindowGeometry
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.cpu.winograd import forward_winograd, has_tiles
from cnnexp.kernels.gpu import conv_relu_pool as gpu
from cnnexp.kernels.limits import pool_refusal
from cnnexp.ops.autocast import cast_for_autocast
from cnnexp.ops.avg_pool2d.function import divisors
from cnnexp.ops.conv2d import direct
from cnnexp.ops.conv2d.function import grad_bias as dense_grad_bias
from cnnexp.ops.conv_relu_pool.parts import compose
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.layout import laid_out
from cnnexp.ops.ownership import owned, owned_gradients
from cnnexp.ops.precision import widened
from cnnexp.ops.registry import Algorithm, register

__all__ = ["conv_relu_pool"]


class _Plan(NamedTuple):
    """What the Function knows of its arguments beside the tensors."""

    conv: Conv2dGeometry
    pool: WindowGeometry
    on_gpu: bool
    sparse: bool  # whether the gradients multiply the winners only
    divisor: Tensor | None


class _Spread(torch.autograd.Function):
    """∂L/∂y → ∂L/∂z, linear, with its transpose as backward; so it can be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad_output: Tensor, code: Tensor, plan: _Plan) -> Tensor:
        spread = gpu.gpu_pool_spread if plan.on_gpu else cpu.pool_spread
        return owned(spread(grad_output, code, plan.pool, plan.divisor))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, code, ctx.plan = inputs
        ctx.save_for_backward(code)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Gather.apply(grad, *ctx.saved_tensors, ctx.plan), None, None


class _Gather(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, code: Tensor, plan: _Plan) -> Tensor:
        gather = gpu.gpu_pool_gather if plan.on_gpu else cpu.pool_gather
        return owned(gather(image, code, plan.pool, plan.divisor))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, code, ctx.plan = inputs
        ctx.save_for_backward(code)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Spread.apply(grad, *ctx.saved_tensors, ctx.plan), None, None


class _ConvReLUPool(torch.autograd.Function):
    generate_vmap_rule = True  # the operators have rules of their own

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        input = plan.conv.add_extra(input)
        conv, pool = plan.conv, plan.pool
        if plan.on_gpu:
            image = direct.forward(input, weight, None, plan.conv)
            output, code = gpu.gpu_pool_forward(image, bias, pool, plan.divisor)
        elif plan.sparse and input.size(1) < cpu.FEW_CHANNELS:
            output, code = cpu.forward_few_channels(input, weight, bias, conv, pool)
        elif plan.sparse and has_tiles(plan.conv, plan.pool, input.size(1), weight.size(0)):
            output, code = forward_winograd(input, weight, bias, conv, pool)
        else:
            output, code = cpu.forward(input, weight, bias, conv, pool, plan.divisor)
        return owned(output), owned(code)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, weight, _, ctx.plan = inputs
        _, code = output
        ctx.mark_non_differentiable(code)
        needs_input, needs_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(
            input if needs_weight else None, weight if needs_input else None, code
        )

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        input, weight, code = ctx.saved_tensors
        plan, needs = ctx.plan, ctx.needs_input_grad
        # create_graph: only the dense way can be differentiated again
        gradients = _sparse if plan.sparse and not torch.is_grad_enabled() else _dense
        return owned_gradients(gradients(grad_output, code, input, weight, needs, plan))


def _sparse(
    grad_output: Tensor,
    code: Tensor,
    input: Tensor,
    weight: Tensor,
    needs: tuple[bool, ...],
    plan: _Plan,
) -> tuple[Tensor | None, ...]:
    """The gradients from the winners alone."""
    grads: list[Tensor | None] = [None, None, None, None]
    conv, pool = plan.conv, plan.pool
    if needs[0]:
        grads[0] = plan.conv.drop_extra(
            cpu.winners_grad_input(grad_output, code, weight, conv, pool)
        )
    if needs[1]:
        image = plan.conv.add_extra(input)
        grads[1] = cpu.winners_grad_weight(grad_output, code, image, conv, pool)
    if needs[2]:
        grads[2] = cpu.winners_grad_bias(grad_output, code)
    return tuple(grads)


def _dense(
    grad_output: Tensor,
    code: Tensor,
    input: Tensor,
    weight: Tensor,
    needs: tuple[bool, ...],
    plan: _Plan,
) -> tuple[Tensor | None, ...]:
    """The gradients through ∂L/∂z, by the formulas of ``conv2d``'s ``direct``.

    On the GPU by the library's kernels for just these two, which the formulas cannot be told to
    use: there is no other public way to cuDNN's gradient of the weight.
    """
    grads: list[Tensor | None] = [None, None, None, None]
    spread = _Spread.apply(grad_output, code, plan)
    by_library = plan.on_gpu and not torch.is_grad_enabled()
    if needs[0]:
        grad_input = _library_grad_input if by_library else direct.grad_input
        grads[0] = plan.conv.drop_extra(grad_input(spread, weight, plan.conv))
    if needs[1]:
        grad_weight = _library_grad_weight if by_library else direct.grad_weight
        grads[1] = grad_weight(spread, plan.conv.add_extra(input), plan.conv)
    if needs[2]:
        grads[2] = dense_grad_bias(spread)
    return tuple(grads)


def _library_grad_input(spread: Tensor, weight: Tensor, g: Conv2dGeometry) -> Tensor:
    size = (spread.size(0), weight.size(1) * g.groups, *g.input_size)
    arguments: tuple[Any, ...] = g.stride, g.padding, g.dilation, g.groups  # annotated as int
    return conv2d_input(size, weight, spread, *arguments)


def _library_grad_weight(spread: Tensor, input: Tensor, g: Conv2dGeometry) -> Tensor:
    size = (spread.size(1), input.size(1) // g.groups, *g.kernel_size)
    arguments: tuple[Any, ...] = g.stride, g.padding, g.dilation, g.groups  # annotated as int
    return conv2d_weight(input, size, spread, *arguments)


def conv_relu_pool(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntPair,
    padding: IntPair | str,
    dilation: IntPair,
    groups: int,
    pool: Pool,
) -> Tensor:
    """The fused block where there are kernels for it and it pays, else its parts one by one."""
    arguments = (stride, padding, dilation, groups)
    cast = cast_for_autocast(input, weight, bias)
    geometry = conv2d_geometry(*cast, *arguments)
    windows = pool.geometry(
        input.new_empty((*input.shape[:-2], *geometry.output_size), device="meta")
    )
    on_gpu = gpu.has_kernels_for(input)
    if not _fuses(cast[0], geometry, windows, pool, on_gpu):
        return compose("direct")(input, weight, bias, *arguments, pool)
    divisor = None
    if pool.kind == "avg":
        divisor = divisors(windows, pool.count_include_pad, pool.divisor_override, widened(cast[0]))
    batch = cast[0] if input.dim() == 4 else cast[0].unsqueeze(0)
    sparse = not on_gpu and pool.kind == "max" and _has_many_losers(geometry, windows)
    plan = _Plan(geometry, windows, on_gpu, sparse, divisor)
    output, _ = _ConvReLUPool.apply(batch, *cast[1:], plan)
    output = laid_out(output, batch, cast[1])
    return output if input.dim() == 4 else output.squeeze(0)


def _fuses(
    input: Tensor, conv: Conv2dGeometry, pool: WindowGeometry, kind: Pool, on_gpu: bool
) -> bool:
    average = kind.kind == "avg"
    refusal = pool_refusal(pool, average) if on_gpu else cpu.refusal(input, conv, pool, average)
    has_kernels = on_gpu or find_spec("numba") is not None
    return refusal is None and has_kernels and input.size(-3) > 0 and not in_forward_mode()


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
        requires=("numba",),
    )
)
