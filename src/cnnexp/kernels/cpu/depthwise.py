"""The CPU kernels of depthwise convolution as torch operators, and what each is handed.

Images (N, C, H, W) are taken as they lie: in channels_last memory, or plain. numba compiles at the first call
(some seconds a kernel and dtype, once a machine) and is imported only then.

Milliseconds of forward, ∂L/∂x and ∂L/∂w beside those of torch 2.14.1 (oneDNN's kernels, and plain loops
where it has none), batch 32, channels_last, one thread of an EPYC Zen 5 that others use as well, the least
of 9 interleaved calls:

    image, kernel, stride       float32: ours, torch's                   bfloat16: ours, torch's
    144×16×16, 3×3, 1      0.86 0.76 0.57   0.89 1.38 0.57        0.46 0.45 0.36   0.32 0.42 0.36
    96×32×32,  3×3, 2      1.44 1.81 1.71   1.76 2.31 0.65        0.81 1.09 0.88   0.41 88.0 0.37
    240×8×8,   5×5, 1      0.40 0.35 0.38   0.32 0.67 6.75        0.36 0.35 0.36   0.29 0.44 24.7
    672×4×4,   5×5, 2      0.28 0.57 0.27   0.13 0.14 3.58        0.25 0.40 0.26   0.10 50.6 36.9
    96×16×16,  7×7, 1      1.25 1.13 1.15   1.03 1.79 18.5        0.95 0.90 0.87   0.71 1.36 28.3
"""

from __future__ import annotations

from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.kernels.cpu.depthwise_tables import Table, backward_table, forward_table
from cnnexp.kernels.cpu.elements import ONES
from cnnexp.kernels.cpu.image_layout import in_order, is_channels_last, new_image, sum_like
from cnnexp.kernels.operators import operator

__all__ = ["forward", "grad_input", "grad_weight", "takes"]

_TOGETHER = 8  # images whose ∂L/∂w one thread adds up


def takes(image: Tensor, geometry: Conv2dGeometry, c_in: int, c_out: int) -> bool:
    """Whether these kernels take such images: a kernel of its own for each channel, without dilation."""
    return (
        geometry.groups == c_in == c_out
        and geometry.dilation == (1, 1)
        and image.device.type == "cpu"
        and image.dtype in ONES
    )


def _convolved(
    source: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None, table: Table
) -> Tensor:
    if not source.numel():
        return target
    source, weight = in_order(source), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    from cnnexp.kernels.cpu import depthwise_kernels

    depthwise_kernels.convolve(
        source.data_ptr(),
        target.data_ptr(),
        ONES[source.dtype],
        source.size(0),
        source.size(1),
        is_channels_last(source),
        is_channels_last(target),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        (table.places, table.phases, table.pitch, table.order.size, table.space),
        table.order,
        table.size,
        sum_like(source.dtype),
    )
    return target


def _output(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    last = is_channels_last(input) or is_channels_last(weight)
    return new_image(input, input.size(1), geometry.output_size, last)


@operator("depthwise_forward", _output)
def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y (N, C, P, Q) from x: (N, C, H, W), w: (C, 1, K_h, K_w) and b: (C,)."""
    output = _output(input, weight, bias, geometry)
    return _convolved(input, output, weight, bias, forward_table(geometry))


def _grad_image(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    return new_image(
        grad_output, grad_output.size(1), geometry.input_size, is_channels_last(grad_output)
    )


@operator("depthwise_grad_input", _grad_image)
def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x (N, C, H, W) from ∂L/∂y: (N, C, P, Q) and w: (C, 1, K_h, K_w)."""
    grad = _grad_image(grad_output, weight, geometry)
    return _convolved(grad_output, grad, weight, None, backward_table(geometry))


def _grad_kernel(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, per_sample: bool
) -> Tensor:
    n, channels = input.shape[:2]
    lead = (n,) if per_sample else ()
    return input.new_empty(*lead, channels, 1, *geometry.kernel_size)


@operator("depthwise_grad_weight", _grad_kernel)
def grad_weight(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, per_sample: bool
) -> Tensor:
    """∂L/∂w (C, 1, K_h, K_w) from ∂L/∂y: (N, C, P, Q) and x: (N, C, H, W); ``per_sample`` (N, C, 1, …)."""
    grad = _grad_kernel(grad_output, input, geometry, per_sample)
    if not input.numel():
        return grad.zero_()
    source, outer, table = in_order(input), in_order(grad_output), forward_table(geometry)
    rows, columns, *_, y, x = [int(each) for each in table.phases[0, :8]]
    from cnnexp.kernels.cpu import depthwise_taps

    depthwise_taps.correlate(
        source.data_ptr(),
        outer.data_ptr(),
        grad.data_ptr(),
        ONES[source.dtype],
        source.size(0),
        source.size(1),
        is_channels_last(source),
        is_channels_last(outer),
        (table.places, table.space, table.pitch),
        (rows, columns, y, x, *geometry.kernel_size, 1 if per_sample else _TOGETHER),
        sum_like(source.dtype),
    )
    return grad
