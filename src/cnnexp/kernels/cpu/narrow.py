"""The CPU kernels of convolutions of few channels as torch operators, and what each is handed.

Images (N, C, H, W) are taken as they lie: in channels_last memory, or plain. numba compiles at the first call
(some seconds a kernel and dtype, once a machine) and is imported only then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.described import Described
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu.behind import NOTHING, RELU_MAX, TANH
from cnnexp.kernels.cpu.elements import ONES
from cnnexp.kernels.cpu.tables import pool_windows
from cnnexp.kernels.operators import operator

__all__ = [
    "FEW",
    "Behind",
    "forward",
    "grad_input",
    "grad_weight",
    "image_of",
    "is_channels_last",
    "new_image",
    "new_kernel",
    "run_forward",
    "run_grad_input",
    "run_grad_weight",
    "takes",
]

# channels of input and output that these kernels take: of more, a library's are the faster
FEW = 32
# of a batch, each a sum of its own: a constant, so that no rounding depends on the threads
_PARTS = 16
_NO_WINDOWS = np.empty((0, 0), np.int64)


def takes(image: Tensor | Described, geometry: Conv2dGeometry, c_in: int, c_out: int) -> bool:
    """Whether these kernels take such a convolution: one group of few channels, of stride 1, padded at most
    by what the kernel reaches.
    """
    reach = _reach(geometry)
    numbers = (geometry.groups, *geometry.stride, *geometry.padding)
    if any(isinstance(number, (bool, float)) for number in numbers):
        return False  # True and 1.0 equal 1; a library's convolution refuses them
    return (
        image.device.type == "cpu"
        and image.dtype in ONES
        and geometry.groups == 1
        and geometry.stride == (1, 1)
        and min(reach) >= 0
        and 0 < c_in <= FEW
        and 0 < c_out <= FEW
    )


def _reach(geometry: Conv2dGeometry) -> tuple[int, int]:
    """The padding with which ∂L/∂z is convolved to ∂L/∂x."""
    (e_h, e_w), (p_h, p_w) = geometry.extent, geometry.padding
    return e_h - 1 - p_h, e_w - 1 - p_w


def is_channels_last(image: Tensor) -> bool:
    """Whether the channels of ``image`` stand side by side in memory."""
    return image.stride(1) == 1 and image.stride(3) >= image.size(1)


def _in_order(image: Tensor) -> Tensor:
    """``image`` without gaps in memory, channels last or plain, as it lies already."""
    layout = torch.channels_last if is_channels_last(image) else torch.contiguous_format
    return image.contiguous(memory_format=layout)


def new_image(like: Tensor, channels: int, size: tuple[int, int], last: bool) -> Tensor:
    """An empty image of so many channels, which stand side by side with ``last``."""
    n = like.size(0)
    if last:
        return like.new_empty(n, *size, channels).permute(0, 3, 1, 2)
    return like.new_empty(n, channels, *size)


def _number(dtype: torch.dtype) -> np.ndarray:
    """An array of the kind of the sums."""
    return np.empty(1, np.float64 if dtype == torch.float64 else np.float32)


@functools.lru_cache(maxsize=512)
def _table(
    geometry: Conv2dGeometry, channels: int, padding: tuple[int, int], multiple: int = 0
) -> tuple[tuple[int, int], np.ndarray]:
    """Rows and columns of a plane with ``padding``, and where each tap (c, u, v) reads.

    With ``multiple`` a tap more reads the plane after the last, and there are so many times that.
    """
    size = geometry.input_size if padding == geometry.padding else geometry.output_size
    rows, columns = (n + 2 * p for n, p in zip(size, padding, strict=True))
    (k_h, k_w), (d_h, d_w) = geometry.kernel_size, geometry.dilation
    c, u, v = np.arange(channels), np.arange(k_h) * d_h, np.arange(k_w) * d_w
    reads = c[:, None, None] * rows * columns + u[:, None] * columns + v
    if not multiple:
        return (rows, columns), reads.ravel()
    reads = np.append(reads, channels * rows * columns)
    return (rows, columns), np.resize(reads, -(-reads.size // multiple) * multiple)


class Behind(NamedTuple):
    """What is behind a convolution: an activation, and the windows of a pooling if there is one.

    Attributes:
        kind: ``TANH`` or ``RELU_MAX``.
        pool: The windows, of one pixel where nothing is pooled.
        divisor: Of a mean, (R, S); None where there is none.
    """

    kind: int
    pool: WindowGeometry
    divisor: Tensor | None = None

    def arguments(self, pitch: int, first: int, dtype: Any) -> tuple[Any, ...]:
        """Of the kernels, in planes whose rows are ``pitch`` apart, from the place ``first`` on."""
        none = np.empty(0, dtype)
        if self.kind == TANH and self.divisor is None:
            return _NO_WINDOWS, (0, 0), none, False, self.kind
        divisors = none
        if self.divisor is not None:
            divisors = self.divisor.detach().contiguous().numpy().reshape(-1)
        pool, windows = self.pool, _places(self.pool, pitch, first)
        easy = _within(pool) if self.kind == RELU_MAX else _side_by_side(pool)
        return windows, pool.output_size, divisors.astype(dtype, copy=False), easy, self.kind


def _side_by_side(pool: WindowGeometry) -> bool:
    """Whether the windows are 2×2 and share no pixel."""
    given = pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode
    return given == ((2, 2), (2, 2), (0, 0), False)


@functools.lru_cache(maxsize=512)
def _within(pool: WindowGeometry) -> bool:
    """Whether no window has a pixel off the image."""
    return bool((pool_windows(pool) >= 0).all())


@functools.lru_cache(maxsize=512)
def _places(pool: WindowGeometry, pitch: int, first: int) -> np.ndarray:
    """(R·S, K): the place at each offset of each window, −1 where off the image."""
    windows = pool_windows(pool)
    row, column = np.divmod(windows.reshape(-1, windows.shape[2]), pool.input_size[1])
    return np.where(row < 0, -1, first + row * pitch + column)


def _nothing_behind(dtype: Any) -> tuple[Any, ...]:
    return _NO_WINDOWS, (0, 0), np.empty(0, dtype), False, NOTHING


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
    (after, first), number = behind, _number(weight.dtype)
    pitch = places[-1][1]
    rest = after.arguments(pitch, first, number.dtype) if after else _nothing_behind(number.dtype)
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
    from cnnexp.kernels.cpu import narrow_kernels

    source, weight = _in_order(input), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    pitch, reads = _table(conv, weight.size(1), conv.padding)
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
    from cnnexp.kernels.cpu import narrow_kernels

    source, outer = _in_order(input), _in_order(grad_output)
    pitch, reads = _table(conv, input.size(1), conv.padding, narrow_kernels.TAPS)
    tensors = source, outer, kept, grad, of_bias
    places = conv.input_size, conv.output_size, conv.padding, pitch
    parts = min(_PARTS, source.size(0))
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
    from cnnexp.kernels.cpu import narrow_kernels

    outer, weight, reach = _in_order(grad_output), weight.contiguous(), _reach(conv)
    pitch, reads = _table(conv, weight.size(0), reach)
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
