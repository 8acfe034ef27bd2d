"""The CPU kernels of max-pooling as torch operators, and what each is handed.

Images (N, C, H, W) are taken as they lie: in channels_last memory, or plain. numba compiles at the first call
(some seconds, once a machine) and is imported only then.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu.conv_relu_pool import array_of
from cnnexp.kernels.cpu.image_layout import is_channels_last
from cnnexp.kernels.cpu.tables import pool_windows
from cnnexp.kernels.operators import new_image, operator

__all__ = ["forward", "grad_input", "places", "spreads", "takes"]

_MOST = 255  # that a byte tells apart
_MOST_PLACES = 1 << 22  # in the table of an image's windows: 32 MB
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_FLOATS, _DOUBLES = np.empty(0, np.float32), np.empty(0, np.float64)


def takes(image: Tensor, geometry: WindowGeometry) -> bool:
    """Whether these kernels pool such images: a window's places go into a byte, all of them into a table."""
    known = image.device.type == "cpu" and image.dtype in _DTYPES
    places = math.prod((*geometry.output_size, *geometry.kernel_size))
    return known and geometry.farthest <= _MOST and places <= _MOST_PLACES


def spreads(grad_output: Tensor, winners: Tensor) -> bool:
    """Whether they compute such a gradient: of places in a byte."""
    known = grad_output.device.type == "cpu" and grad_output.dtype in _DTYPES
    return known and winners.dtype == torch.uint8


def _channels_last(image: Tensor) -> bool:
    return image.size(1) > 1 and is_channels_last(image)


@functools.lru_cache(maxsize=256)
def places(geometry: WindowGeometry) -> np.ndarray:
    """(K,) the place of each element of a window, from its first element on, in a row of pixels."""
    (k_h, k_w), (d_h, d_w) = geometry.kernel_size, geometry.dilation
    u, v = np.divmod(np.arange(k_h * k_w), k_w)
    return (u * d_h * geometry.input_size[1] + v * d_w).astype(np.uint8)


class _Reach(NamedTuple):
    """Where windows read in a plane that is padded as far as they reach; see ``max_pool_planes.forward``."""

    pitch: tuple[int, int]
    offsets: np.ndarray
    codes: np.ndarray
    firsts: np.ndarray


@functools.lru_cache(maxsize=256)
def _reach(geometry: WindowGeometry) -> _Reach:
    g, codes = geometry, places(geometry)
    rows, columns = (
        max((count - 1) * step + extent, size + padding)
        for count, step, extent, size, padding in zip(
            g.output_size, g.stride, g.extent, g.input_size, g.padding, strict=True
        )
    )
    u, v = np.divmod(np.arange(codes.size), g.kernel_size[1])
    offsets = u * g.dilation[0] * columns + v * g.dilation[1]
    firsts = codes[(pool_windows(g) >= 0).argmax(2)]
    return _Reach((rows, columns), offsets, codes, firsts)


def _new(like: Tensor, size: tuple[int, int], last: bool, dtype: torch.dtype) -> Tensor:
    if last:
        return new_image(like, like.size(1), size, dtype)
    return like.new_empty(*like.shape[:2], *size, dtype=dtype)


def _array(image: Tensor, last: bool) -> np.ndarray:
    """The numbers of ``image`` in a row, (N, H, W, C) with ``last``, else as they are; bfloat16 as bits."""
    if last:
        return array_of(image)
    plain = image.detach().contiguous()
    return (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()


def _like(dtype: torch.dtype) -> np.ndarray:
    """An array of the kind in which numbers are compared and added."""
    return _DOUBLES if dtype == torch.float64 else _FLOATS


def _pooled(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    size, last = geometry.output_size, _channels_last(input)
    return _new(input, size, last, input.dtype), _new(input, size, last, torch.uint8)


@operator("max_pool_forward", _pooled)
def forward(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """X (N, C, H, W) → y and the winners' places within their windows, uint8, both (N, C, P, Q)."""
    output, winners = _pooled(input, geometry)
    if output.numel():
        from cnnexp.kernels.cpu import max_pool_kernels, max_pool_planes

        last, steps = _channels_last(input), (geometry.padding, geometry.stride)
        image, *made = (_array(each, last) for each in (input, output, winners))
        if last:
            max_pool_kernels.forward(image, pool_windows(geometry), places(geometry), *made)
        else:
            arguments: Any = image, *steps, *_reach(geometry), _like(input.dtype), *made
            max_pool_planes.forward(*arguments)
    return output, winners


def _spread(grad_output: Tensor, winners: Tensor, geometry: WindowGeometry) -> Tensor:
    return _new(grad_output, geometry.input_size, _channels_last(winners), grad_output.dtype)


@operator("max_pool_grad_input", _spread)
def grad_input(grad_output: Tensor, winners: Tensor, geometry: WindowGeometry) -> Tensor:
    """∂L/∂x (N, C, H, W) from ∂L/∂y: (N, C, P, Q) and the winners' places."""
    image = _spread(grad_output, winners, geometry)
    if not grad_output.numel():
        return image.zero_()
    from cnnexp.kernels.cpu import max_pool_kernels, max_pool_planes

    last, rest = _channels_last(winners), (geometry.overlapping, _like(grad_output.dtype))
    grad, won, made = (_array(each, last) for each in (grad_output, winners, image))
    if last:
        tables = pool_windows(geometry), places(geometry)
        max_pool_kernels.grad_input(grad, won, *tables, *rest, made)
    else:
        max_pool_planes.grad_input(grad, won, geometry.padding, geometry.stride, *rest, made)
    return image
