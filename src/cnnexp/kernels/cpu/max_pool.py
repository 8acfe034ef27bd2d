"""The CPU kernels of max-pooling as torch operators, and what each is handed.

Images (N, C, H, W) are taken in channels_last memory. numba compiles at the first call (some seconds, once a
machine) and is imported only then.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu.tables import pool_windows
from cnnexp.kernels.operators import new_image, operator

__all__ = ["forward", "grad_input", "spreads", "takes"]

_MOST = 255  # that a byte tells apart
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def takes(image: Tensor, geometry: WindowGeometry) -> bool:
    """Whether these kernels pool such images: channels last, and a window's places go into a byte."""
    known = image.device.type == "cpu" and image.dtype in _DTYPES
    return known and _channels_last(image) and _farthest(geometry) <= _MOST


def spreads(grad_output: Tensor, winners: Tensor, geometry: WindowGeometry) -> bool:
    """Whether they compute such a gradient: of places in a byte; bfloat16 is not added up."""
    known = grad_output.device.type == "cpu" and grad_output.dtype in _DTYPES
    adds = geometry.overlapping and grad_output.dtype == torch.bfloat16
    return known and winners.dtype == torch.uint8 and _channels_last(winners) and not adds


def _channels_last(image: Tensor) -> bool:
    return image.size(1) > 1 and image.stride(1) == 1 and image.stride(3) >= image.size(1)


def _farthest(geometry: WindowGeometry) -> int:
    down, right = (extent - 1 for extent in geometry.extent)
    return down * geometry.input_size[1] + right


def _places(geometry: WindowGeometry) -> np.ndarray:
    """(K,) the place of each element of a window, from its first element on, in a row of pixels."""
    (k_h, k_w), (d_h, d_w) = geometry.kernel_size, geometry.dilation
    u, v = np.divmod(np.arange(math.prod((k_h, k_w))), k_w)
    return (u * d_h * geometry.input_size[1] + v * d_w).astype(np.uint8)


def _bits(image: Tensor) -> np.ndarray:
    """(N, C, H, W) → (N, H, W, C), of bfloat16 its bit patterns."""
    last = image.detach().permute(0, 2, 3, 1).contiguous()
    return (last.view(torch.uint16) if image.dtype == torch.bfloat16 else last).numpy()


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
        max_pool_kernels.forward(_bits(input), *tables, _bits(output), _bits(winners))
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

    arrays = _bits(grad_output), _bits(winners), pool_windows(geometry), _places(geometry)
    max_pool_kernels.grad_input(*arrays, geometry.overlapping, _bits(image))
    return image
