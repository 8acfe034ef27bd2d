"""The CPU kernels of convolutions as products of matrices (``implicit_kernels``) as torch operators.

Images and weights are taken, and left, with their channels last; others are copied. Beside images in bfloat16
weights may be float32: they are rounded on the way into the products. numba compiles at the
first call (some seconds a kernel and dtype, once a machine) and is imported only then.
"""

from __future__ import annotations

import functools
import math
import threading
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
FEWEST_CHANNELS = 16  # of a group, which are the lanes of a register
_MOST_PIXELS = 1 << 12  # of a padded image: of larger ones a library's kernels are as fast
_MOST_KEPT = 1 << 23  # words of memory that are kept
# a word, which is what the kernels multiply, and how many numbers it has
_WORDS = {torch.float32: (np.float32(1), 1), torch.bfloat16: (np.uint32(1), 2)}


def takes(image: Tensor | Described, geometry: Conv2dGeometry, c_in: int, c_out: int) -> bool:
    """Whether these kernels take such a convolution: groups of at least 16 channels, of an even number in
    bfloat16; and at least eight small images, or, of a 1×1 kernel that reads every pixel, eight pixels.
    """
    halved, groups = image.dtype == torch.bfloat16, geometry.groups
    if image.device.type != "cpu" or image.dtype not in _WORDS or (halved and not AVAILABLE):
        return False
    if not geometry.exact:
        return False
    pixels = math.prod(geometry.padded_size())
    return (
        min(c_in, c_out) >= FEWEST_CHANNELS * groups
        and not (halved and (c_in // groups % 2 or c_out // groups % 2))
        and pixels <= _MOST_PIXELS
        and image.shape[0] * (pixels if is_pointwise(geometry) else 1) >= _FEWEST_ROWS
    )


@functools.lru_cache(maxsize=512)
def _groups(read: int, written: int, groups: int) -> tuple[Any, np.ndarray]:
    """So many channels, in all and in a group, and the first of each group (groups, 2)."""
    own = read // groups, written // groups
    return ((read, written), own), np.arange(groups)[:, None] * np.array(own)


def _kinds(image: torch.dtype, weight: torch.dtype) -> tuple[Any, ...]:
    """A number of the image, one of the weight, a word, and how many numbers a word has."""
    word, each = _WORDS[image]
    return ONES[image], ONES[weight], word, each


class _Room(threading.local):
    """Memory that each thread keeps from call to call: to get it from the system takes as long as what is
    computed in it.
    """

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint32)

    def of(self, words: int) -> np.ndarray:
        """Room for so many words, with any content; what is much is not kept."""
        if words > _MOST_KEPT:
            return np.empty(words, np.uint32)
        if self._kept.size < words:
            self._kept = np.empty(words, np.uint32)
        return self._kept


_room = _Room()


def _with_channels_last(made: Tensor) -> Tensor:
    """``made``, whose content is not written yet, or another of its shape that has its channels last."""
    return made if is_channels_last(made) else torch.empty_like(made, memory_format=_LAST)


def _convolve(
    read: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    written: Tensor,
    geometry: Conv2dGeometry,
    backward: bool,
) -> None:
    """Leave y of x, or with ``backward`` ∂L/∂x of ∂L/∂y, in ``written``, whose channels are last."""
    from cnnexp.kernels.cpu import implicit_kernels

    read, weight = read.contiguous(memory_format=_LAST), weight.contiguous(memory_format=_LAST)
    bias = None if bias is None else bias.float().contiguous()
    channels, firsts = _groups(read.size(1), written.size(1), geometry.groups)
    rows, terms = (for_input if backward else for_output)(read.size(0), geometry)
    of_bias = 0 if bias is None else bias.data_ptr()
    implicit_kernels.convolve(
        (read.data_ptr(), weight.data_ptr(), of_bias, written.data_ptr()),
        _kinds(read.dtype, weight.dtype),
        *rows,
        channels,
        (firsts, backward),
        math.prod(geometry.kernel_size),
        tuple(terms),
    )


def _output(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    return new_image(input, weight.size(0), geometry.output_size, last=True)


@operator("implicit_gemm_forward", _output)
def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y (N, C_out, P, Q) from x: (N, C_in, H, W), w: (C_out, C_in/groups, K_h, K_w) and b: (C_out,)."""
    output = _output(input, weight, bias, geometry)
    _convolve(input, weight, bias, output, geometry, backward=False)
    return output


def _grad_image(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    channels, last = weight.size(1) * geometry.groups, is_channels_last(grad_output)
    return new_image(grad_output, channels, geometry.input_size, last)


@operator("implicit_gemm_grad_input", _grad_image)
def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x (N, C_in, H, W) from ∂L/∂y: (N, C_out, P, Q) and w, in the layout of ∂L/∂y."""
    grad = _grad_image(grad_output, weight, geometry)
    made = _with_channels_last(grad)
    _convolve(grad_output, weight, None, made, geometry, backward=True)
    return grad if made is grad else grad.copy_(made)


def _grad_kernel(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, wide: bool
) -> Tensor:
    channels, kernel = (grad_output.size(1), input.size(1) // geometry.groups), geometry.kernel_size
    dtype = torch.float32 if wide else input.dtype
    if is_channels_last(input):
        return input.new_empty(channels[0], *kernel, channels[1], dtype=dtype).permute(0, 3, 1, 2)
    return input.new_empty(*channels, *kernel, dtype=dtype)


@operator("implicit_gemm_grad_weight", _grad_kernel)
def grad_weight(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, wide: bool) -> Tensor:
    """∂L/∂w (C_out, C_in/groups, K_h, K_w) from ∂L/∂y: (N, C_out, P, Q) and x: (N, C_in, H, W).

    With ``wide`` it is not rounded to bfloat16, as they are, but float32.
    """
    from cnnexp.kernels.cpu import implicit_kernels

    grad = _grad_kernel(grad_output, input, geometry, wide)
    made = _with_channels_last(grad)
    source = input.contiguous(memory_format=_LAST)
    outer = grad_output.contiguous(memory_format=_LAST)
    channels, firsts = _groups(source.size(1), outer.size(1), geometry.groups)
    (rows, terms), kinds = for_weight(source.size(0), geometry), _kinds(source.dtype, grad.dtype)
    words = implicit_kernels.words_of(
        rows.images, rows.pixels, channels[1], geometry.groups, kinds[-1]
    )
    implicit_kernels.grad_weight(
        (source.data_ptr(), outer.data_ptr(), made.data_ptr()),
        kinds,
        tuple(rows),
        channels,
        (firsts, False),
        math.prod(geometry.kernel_size),
        tuple(terms),
        _room.of(words),
    )
    return grad if made is grad else grad.copy_(made)
