"""The CPU kernels of max-pooling as torch operators, and what each is handed.

Images (N, C, H, W) are taken in channels_last memory. numba compiles at the first call (some seconds, once a
machine) and is imported only then.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu.conv_relu_pool import array_of
from cnnexp.kernels.cpu.narrow import is_channels_last
from cnnexp.kernels.cpu.tables import pool_windows
from cnnexp.kernels.operators import new_image, operator

__all__ = ["forward", "grad_input", "spreads", "takes"]

_MOST = 255  # that a byte tells apart
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def takes(image: Tensor, geometry: WindowGeometry) -> bool:
    """Whether these kernels pool such images: channels last, and a window's places go into a byte."""
    known = image.device.type == "cpu" and image.dtype in _DTYPES
    return known and _channels_last(image) and geometry.farthest <= _MOST


def spreads(grad_output: Tensor, winners: Tensor, geometry: WindowGeometry) -> bool:
    """Whether they compute such a gradient: of places in a byte; bfloat16 is not added up."""
    known = grad_output.device.type == "cpu" and grad_output.dtype in _DTYPES
    adds = geometry.overlapping and grad_output.dtype == torch.bfloat16
    return known and winners.dtype == torch.uint8 and _channels_last(winners) and not adds


def _channels_last(image: Tensor) -> bool:
    return image.size(1) > 1 and is_channels_last(image)


@functools.lru_cache(maxsize=256)
def _places(geometry: WindowGeometry) -> np.ndarray:
    """(K,) the place of each element of a window, from its first element on, in a row of pixels."""
    (k_h, k_w), (d_h, d_w) = geometry.kernel_size, geometry.dilation
    u, v = np.divmod(np.arange(k_h * k_w), k_w)
    return (u * d_h * geometry.input_size[1] + v * d_w).astype(np.uint8)


def _pooled(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    size, channels = geometry.output_size, input.size(1)
    return new_image(input, channels, size), new_image(input, channels, size, torch.uint8)


@operator("max_pool_forward", _pooled)
def forward(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """X (N, C, H, W) → y and the winners' places within their windows, uint8, both (N, C, P, Q)."""
    output, winners = _pooled(input, geometry)
    if output.numel():
        from cnnexp.kernels.cpu import max_pool_kernels

        tables = pool_windows(geometry), _places(geometry)
        max_pool_kernels.forward(array_of(input), *tables, array_of(output), array_of(winners))
    return output, winners


def _spread(grad_output: Tensor, winners: Tensor, geometry: WindowGeometry) -> Tensor:
    return new_image(grad_output, grad_output.size(1), geometry.input_size)


@operator("max_pool_grad_input", _spread)
def grad_input(grad_output: Tensor, winners: Tensor, geometry: WindowGeometry) -> Tensor:
    """∂L/∂x (N, C, H, W) from ∂L/∂y: (N, C, P, Q) and the winners' places."""
    image = _spread(grad_output, winners, geometry)
    if not grad_output.numel():
        return image.zero_()
    from cnnexp.kernels.cpu import max_pool_kernels

    arrays = array_of(grad_output), array_of(winners), pool_windows(geometry), _places(geometry)
    max_pool_kernels.grad_input(*arrays, geometry.overlapping, array_of(image))
    return image
