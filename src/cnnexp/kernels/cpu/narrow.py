"""The CPU kernels of convolutions of few channels as torch operators, and what each is handed.

Images (N, C, H, W) are taken as they lie: in channels_last memory, or plain. numba compiles at the first call
(some seconds a kernel and dtype, once a machine) and is imported only then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.described import Described
from cnnexp.kernels.cpu import narrow_pairs
from cnnexp.kernels.cpu.elements import ONES
from cnnexp.kernels.cpu.image_layout import in_order, is_channels_last, new_image, sum_like
from cnnexp.kernels.cpu.narrow_tables import PARTS, Behind, arguments_of, plane_table
from cnnexp.kernels.operators import operator

__all__ = [
    "FEW",
    "Behind",
    "forward",
    "grad_input",
    "grad_weight",
    "image_of",
    "new_kernel",
    "run_forward",
    "run_grad_input",
    "run_grad_weight",
    "takes",
]

# channels of input and output that these kernels take: of more, a library's are the faster
FEW = 32


def takes(image: Tensor | Described, geometry: Conv2dGeometry, c_in: int, c_out: int) -> bool:
    """Whether these kernels take such a convolution: one group of few channels, of stride 1, padded at most
    by what the kernel reaches.
    """
    return (
        image.device.type == "cpu"
        and image.dtype in ONES
        and geometry.exact
        and geometry.groups == 1
        and geometry.stride == (1, 1)
        and min(geometry.backward_padding) >= 0
        and 0 < c_in <= FEW
        and 0 < c_out <= FEW
    )


def _launch(
    kernel: Callable[..., None],
    tensors: tuple[Tensor | None, ...],
    lasts: tuple[Tensor, Tensor],
    weight: Tensor,
    places: tuple[Any, ...],
    reads: np.ndarray,
    behind: tuple[Behind | None, int],
    *parts: int,
) -> None:
    """Call ``kernel`` with the addresses of ``tensors``, 0 for None.

    Args:
        kernel: Of ``narrow_kernels``, whose arguments the others are.
        tensors: All of one dtype, without gaps in memory.
        lasts: The images that are read and written, channels last or plain.
        weight: Of the convolution, or a tensor of its shape.
        places: Sizes and padding, and rows and columns of a padded plane.
        reads: Where each tap reads.
        behind: What is behind the convolution, and the place of the first pixel in the planes.
        *parts: Into how many sums the batch is cut, where it is.
    """
    (after, first), number = behind, sum_like(weight.dtype)
    pitch = places[-1][1]
    rest = arguments_of(after, pitch, first, number.dtype)
    kernel(
        tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors),
        ONES[weight.dtype],
        lasts[0].size(0),
        (weight.size(0), weight.size(1), weight.size(2) * weight.size(3)),
        (is_channels_last(lasts[0]), is_channels_last(lasts[1])),
        places,
        reads,
        rest,
        *parts,
        number,
    )


def run_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    output: Tensor,
    kept: Tensor | None = None,
    behind: Behind | None = None,
) -> None:
    """Leave y in ``output``, and in ``kept`` what the backward of what is behind needs."""
    if narrow_pairs.has_pairs(input):
        narrow_pairs.run_forward(input, weight, bias, conv, output, kept, behind)
        return
    from cnnexp.kernels.cpu import narrow_kernels

    source, weight = in_order(input), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    pitch, reads = plane_table(conv, weight.size(1), conv.padding)
    places = conv.input_size, conv.output_size, conv.padding, pitch
    tensors = source, weight, bias, kept, output
    kernel = narrow_kernels.forward
    _launch(kernel, tensors, (source, output), weight, places, reads, (behind, 0))


def run_grad_weight(
    grad_output: Tensor,
    input: Tensor,
    conv: Conv2dGeometry,
    kept: Tensor | None = None,
    behind: Behind | None = None,
) -> tuple[Tensor, Tensor]:
    """∂L/∂w (C_out, C_in, K_h, K_w) and ∂L/∂b (C_out,), through what is behind."""
    grad, of_bias = new_kernel(grad_output, input, conv), input.new_empty(grad_output.size(1))
    if not grad_output.numel():
        return grad.zero_(), of_bias.zero_()
    if narrow_pairs.has_pairs(input):
        narrow_pairs.run_grad_weight(grad_output, input, conv, grad, of_bias, kept, behind)
        return grad, of_bias
    from cnnexp.kernels.cpu import narrow_kernels
    from cnnexp.kernels.cpu.narrow_tiles import SPARE

    source, outer = in_order(input), in_order(grad_output)
    pitch, reads = plane_table(conv, input.size(1), conv.padding, SPARE)
    tensors = source, outer, kept, grad, of_bias
    places = conv.input_size, conv.output_size, conv.padding, pitch
    parts = min(PARTS, source.size(0))
    kernel = narrow_kernels.grad_weight
    _launch(kernel, tensors, (source, outer), grad, places, reads, (behind, 0), parts)
    return grad, of_bias


def run_grad_input(
    grad_output: Tensor,
    weight: Tensor,
    conv: Conv2dGeometry,
    kept: Tensor | None = None,
    behind: Behind | None = None,
) -> Tensor:
    """∂L/∂x (N, C_in, H, W), through what is behind."""
    grad = image_of(grad_output, weight, conv)
    if not grad.numel():
        return grad
    if narrow_pairs.has_pairs(grad_output):
        narrow_pairs.run_grad_input(grad_output, weight, conv, grad, kept, behind)
        return grad
    from cnnexp.kernels.cpu import narrow_kernels

    outer, weight, reach = in_order(grad_output), weight.contiguous(), conv.backward_padding
    pitch, reads = plane_table(conv, weight.size(0), reach)
    first = reach[0] * pitch[1] + reach[1]
    tensors = outer, kept, weight, grad
    places = conv.output_size, conv.input_size, reach, pitch
    kernel = narrow_kernels.grad_input
    _launch(kernel, tensors, (outer, grad), weight, places, reads, (behind, first))
    return grad


def output_of(input: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv2dGeometry) -> Tensor:
    last = is_channels_last(input) or is_channels_last(weight)
    return new_image(input, weight.size(0), conv.output_size, last)


@operator("narrow_forward", output_of)
def forward(input: Tensor, weight: Tensor, bias: Tensor | None, conv: Conv2dGeometry) -> Tensor:
    """Y (N, C_out, P, Q) from x: (N, C_in, H, W), w: (C_out, C_in, K_h, K_w) and b: (C_out,)."""
    output = output_of(input, weight, bias, conv)
    if output.numel():
        run_forward(input, weight, bias, conv, output)
    return output


def image_of(grad_output: Tensor, weight: Tensor, conv: Conv2dGeometry) -> Tensor:
    """An empty ∂L/∂x, channels last if ∂L/∂y is."""
    last = is_channels_last(grad_output)
    return new_image(grad_output, weight.size(1), conv.input_size, last)


@operator("narrow_grad_input", image_of)
def grad_input(grad_output: Tensor, weight: Tensor, conv: Conv2dGeometry) -> Tensor:
    """∂L/∂x (N, C_in, H, W) from ∂L/∂y: (N, C_out, P, Q) and w."""
    return run_grad_input(grad_output, weight, conv)


def new_kernel(grad_output: Tensor, input: Tensor, conv: Conv2dGeometry) -> Tensor:
    """An empty ∂L/∂w."""
    return input.new_empty(grad_output.size(1), input.size(1), *conv.kernel_size)


@operator("narrow_grad_weight", new_kernel)
def grad_weight(grad_output: Tensor, input: Tensor, conv: Conv2dGeometry) -> Tensor:
    """∂L/∂w (C_out, C_in, K_h, K_w) from ∂L/∂y: (N, C_out, P, Q) and x: (N, C_in, H, W)."""
    return run_grad_weight(grad_output, input, conv)[0]
