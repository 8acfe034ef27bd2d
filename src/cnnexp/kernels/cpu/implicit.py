"""The CPU kernels of convolutions as products of matrices (``implicit_kernels``) as torch operators.

Images and weights are taken, and left, with their channels last; others are copied. numba compiles at the
first call (some seconds a kernel and dtype, once a machine) and is imported only then.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.described import Described
from cnnexp.kernels.cpu.bfloat16 import AVAILABLE
from cnnexp.kernels.cpu.elements import ONES
from cnnexp.kernels.cpu.image_layout import is_channels_last, new_image
from cnnexp.kernels.cpu.implicit_tables import for_input, for_output, for_weight, is_pointwise
from cnnexp.kernels.operators import operator

__all__ = ["FEWEST_CHANNELS", "forward", "grad_input", "grad_weight", "takes"]

_LAST = torch.channels_last
_FEWEST_ROWS = 8  # images, or pixels, whose sums registers hold together
FEWEST_CHANNELS = 16  # which are the lanes of a register
_MOST_PIXELS = (
    1 << 12
)  # of a padded image: the lists of larger ones are long, and a library's kernels are as fast
# a word, which is what the kernels multiply, and how many numbers it has
_WORDS = {torch.float32: (np.float32(1), 1), torch.bfloat16: (np.uint32(1), 2)}


def takes(image: Tensor | Described, geometry: Conv2dGeometry, c_in: int, c_out: int) -> bool:
    """Whether these kernels take such a convolution: one group of at least 16 channels, of an even number in
    bfloat16, and at least eight small images, or eight pixels of which none is beside others in a window.
    """
    numbers = (geometry.groups, *geometry.stride, *geometry.padding, *geometry.dilation)
    if any(isinstance(number, (bool, float)) for number in numbers):
        return False  # True and 1.0 equal 1; a library's convolution refuses them
    if image.device.type != "cpu" or image.dtype not in _WORDS or geometry.groups != 1:
        return False
    halved, pixels = image.dtype == torch.bfloat16, math.prod(geometry.output_size)
    return (
        (AVAILABLE or not halved)
        and min(c_in, c_out) >= FEWEST_CHANNELS
        and not (halved and (c_in % 2 or c_out % 2))
        and image.shape[0] * (pixels if is_pointwise(geometry) else 1) >= _FEWEST_ROWS
        and math.prod(geometry.padded_size()) <= _MOST_PIXELS
    )


def _kinds(image: Tensor, weight: Tensor) -> tuple[Any, ...]:
    """A number of the image, a word of it, a number of the weights, and how many numbers a word has."""
    word, each = _WORDS[image.dtype]
    return ONES[image.dtype], word, ONES[weight.dtype], each


def _output(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    return new_image(input, weight.size(0), geometry.output_size, last=True)


@operator("implicit_gemm_forward", _output)
def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y (N, C_out, P, Q) from x: (N, C_in, H, W), w: (C_out, C_in, K_h, K_w) and b: (C_out,)."""
    from cnnexp.kernels.cpu import implicit_kernels

    output = _output(input, weight, bias, geometry)
    input, weight = input.contiguous(memory_format=_LAST), weight.contiguous(memory_format=_LAST)
    bias = None if bias is None else bias.float().contiguous()
    rows, terms = for_output(input.size(0), geometry)
    implicit_kernels.convolve(
        (input.data_ptr(), weight.data_ptr(), _address(bias), output.data_ptr()),
        _kinds(input, weight),
        *rows,
        (weight.size(1), weight.size(0)),
        math.prod(geometry.kernel_size),
        *terms,
        False,
    )
    return output


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _grad_image(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    return new_image(grad_output, weight.size(1), geometry.input_size, last=True)


@operator("implicit_gemm_grad_input", _grad_image)
def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x (N, C_in, H, W) from ∂L/∂y: (N, C_out, P, Q) and w."""
    from cnnexp.kernels.cpu import implicit_kernels

    grad = _grad_image(grad_output, weight, geometry)
    outer = grad_output.contiguous(memory_format=_LAST)
    weight = weight.contiguous(memory_format=_LAST)
    rows, terms = for_input(outer.size(0), geometry)
    implicit_kernels.convolve(
        (outer.data_ptr(), weight.data_ptr(), 0, grad.data_ptr()),
        _kinds(outer, weight),
        *rows,
        (weight.size(0), weight.size(1)),
        math.prod(geometry.kernel_size),
        *terms,
        True,
    )
    return grad


def _grad_kernel(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
    channels, kernel = (grad_output.size(1), input.size(1)), geometry.kernel_size
    if is_channels_last(input):
        return input.new_empty(channels[0], *kernel, channels[1]).permute(0, 3, 1, 2)
    return input.new_empty(*channels, *kernel)


@operator("implicit_gemm_grad_weight", _grad_kernel)
def grad_weight(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂w (C_out, C_in, K_h, K_w) from ∂L/∂y: (N, C_out, P, Q) and x: (N, C_in, H, W)."""
    from cnnexp.kernels.cpu import implicit_kernels

    grad = _grad_kernel(grad_output, input, geometry)
    made = grad.contiguous(memory_format=_LAST)  # itself, unless it is plain
    source = input.contiguous(memory_format=_LAST)
    outer = grad_output.contiguous(memory_format=_LAST)
    rows, terms = for_weight(source.size(0), geometry)
    implicit_kernels.grad_weight(
        (source.data_ptr(), outer.data_ptr(), made.data_ptr()),
        _kinds(source, made),
        *rows,
        (source.size(1), outer.size(1)),
        math.prod(geometry.kernel_size),
        *terms,
    )
    return made if made is grad else grad.copy_(made)
