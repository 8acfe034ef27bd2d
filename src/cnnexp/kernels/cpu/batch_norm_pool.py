"""The CPU kernels of batch normalisation, activation and max-pooling as torch operators.

Images (N, C, H, W) are taken with the channels last. numba compiles at the first call (some seconds a kernel
and dtype, once a machine) and is imported only then.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import batch_norm, max_pool
from cnnexp.kernels.cpu.batch_norm import (
    activation_numbers,
    address_of,
    in_dtype,
    pair_like,
)
from cnnexp.kernels.cpu.elements import ONES
from cnnexp.kernels.cpu.image_layout import is_channels_last
from cnnexp.kernels.cpu.tables import pool_windows
from cnnexp.kernels.operators import new_image, operator

__all__ = ["forward", "gradients", "takes"]

# numbers of the rows that are normalised before their windows are looked at, about
_TOGETHER = 1 << 14


def takes(input: Tensor, pool: WindowGeometry, *parameters: Tensor | None) -> bool:
    """Whether these kernels take (N, C, H, W), such windows, and such parameters (C,)."""
    if input.dim() != 4 or input.size(0) < 2:  # an image is one thread's
        return False
    last = input.size(1) > 1 and is_channels_last(input)
    return last and batch_norm.takes(input, *parameters) and max_pool.takes(input, pool)


@functools.lru_cache(maxsize=256)
def _spans(pool: WindowGeometry, channels: int) -> np.ndarray:
    """(blocks, 4): from which row of windows to which, and the pixels from which to which they read."""
    (height, width), step, reach = pool.input_size, pool.stride[0], pool.extent[0]
    rows = max(1, (_TOGETHER // (width * channels) - reach) // step + 1)
    spans = []
    for begin in range(0, pool.output_size[0], rows):
        end = min(begin + rows, pool.output_size[0])
        first = max(0, begin * step - pool.padding[0])
        last = min(height, (end - 1) * step - pool.padding[0] + reach)
        spans.append((begin, end, first * width, last * width))
    return np.array(spans)


@functools.lru_cache(maxsize=256)
def _cover(pool: WindowGeometry) -> tuple[bool, bool]:
    """Whether windows overlap, and whether each pixel is in just one."""
    (height, width), inside = pool.input_size, int((pool_windows(pool) >= 0).sum())
    return pool.overlapping, not pool.overlapping and inside == height * width


@functools.cache
def _kernels() -> Any:
    from cnnexp.kernels.cpu import batch_norm_pool_kernels

    return batch_norm_pool_kernels


def _launch(image: Tensor) -> tuple[Any, tuple[int, int, int]]:
    """A number of the image's kind; N, C and H·W."""
    n, channels, height, width = image.shape
    return ONES[image.dtype], (n, channels, height * width)


def _pooled(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
    pool: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    size, channels = pool.output_size, input.size(1)
    return new_image(input, channels, size), new_image(input, channels, size, torch.uint8)


@operator("batch_norm_pool_forward", _pooled)
def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
    pool: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    """The maxima of act(γ·(x − μ)/√(σ² + ε) + β), (N, C, P, Q), and the winners' places, uint8."""
    image = input.contiguous(memory_format=torch.channels_last)
    output, winners = _pooled(image, weight, bias, mean, variance, eps, activation, pool)
    parameters = in_dtype(mean.dtype, mean, variance, weight, bias)
    places = image.data_ptr(), *map(address_of, parameters), output.data_ptr(), winners.data_ptr()
    _kernels().forward(
        places,
        *_launch(image),
        *activation_numbers(mean.dtype, eps, activation),
        _spans(pool, image.size(1)),
        pool_windows(pool),
        max_pool.places(pool),
    )
    return output, winners


def _gradients_like(
    grad_output: Tensor,
    winners: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
    pool: WindowGeometry,
    fixed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(input, memory_format=torch.channels_last), *pair_like(input)


@operator("batch_norm_pool_gradients", _gradients_like)
def gradients(
    grad_output: Tensor,
    winners: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
    pool: WindowGeometry,
    fixed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂x (N, C, H, W), ∂L/∂γ and ∂L/∂β (C,), the latter two in the precision of the statistics.

    From ∂L/∂z (N, C, P, Q) and the winners' places; ``fixed`` says that the statistics do not depend on x.
    """
    image = input.contiguous(memory_format=torch.channels_last)
    made, of_weight, of_bias = torch.empty_like(image), *pair_like(image)
    parameters = in_dtype(mean.dtype, mean, variance, weight, bias)
    # ``to`` alone leaves the channels of a larger tensor where they are
    grad = grad_output.to(image.dtype).contiguous(memory_format=torch.channels_last)
    won = winners.contiguous(memory_format=torch.channels_last)
    tensors = image, *parameters, grad, won, made, of_weight, of_bias
    _kernels().gradients(
        tuple(map(address_of, tensors)),
        *_launch(image),
        *activation_numbers(mean.dtype, eps, activation),
        pool_windows(pool),
        max_pool.places(pool),
        _cover(pool),
        fixed,
    )
    return made, of_weight, of_bias
