"""What all algorithms of the pooling have in common: the divisors, and how they become the op."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnexp.geometry.pooling import pool_geometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.forward_mode import transformed
from cnnexp.ops.layout import laid_out
from cnnexp.ops.precision import wide_dtype
from cnnexp.ops.registry import Algorithm, register

_MOST = 1 << 14  # windows whose divisors are kept


def divisors(
    geometry: WindowGeometry, count_include_pad: bool, divisor_override: int | None, like: Tensor
) -> Tensor:
    """(P, Q): what the sum of each window is divided by, on the device of ``like`` and in its dtype.

    That is float32 where ``like`` is of half precision.

    ``divisor_override`` where given; else the number of the window's elements on the image, with
    ``count_include_pad`` on the padded image (what ``ceil_mode`` lets hang over never counts).
    """
    given = geometry, count_include_pad, divisor_override, wide_dtype(like.dtype), like.device
    # not on a GPU, whose graphs and streams would share what is remembered
    if transformed() or type(like) is not Tensor or like.device.type != "cpu":
        return _divisors(*given)
    small = math.prod(geometry.output_size) <= _MOST
    return (_known_divisors if small else _divisors)(*given)


def _divisors(
    geometry: WindowGeometry,
    count_include_pad: bool,
    divisor_override: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    rows, columns = geometry.output_size
    if divisor_override is not None:
        return torch.full((rows, columns), divisor_override, dtype=dtype, device=device)
    counts = []
    for axis, positions in enumerate((rows, columns)):
        size, padding = geometry.input_size[axis], geometry.padding[axis]
        first, past = (-padding, size + padding) if count_include_pad else (0, size)
        start = torch.arange(positions, device=device) * geometry.stride[axis] - padding
        end = start + geometry.kernel_size[axis]
        counts.append(end.clamp(max=past) - start.clamp(min=first))
    return torch.outer(*counts).to(dtype)


@functools.lru_cache(maxsize=64)
def _known_divisors(*given: Any) -> Tensor:
    """As of the last calls: ten small operations take as long as the block of a small image."""
    with torch.inference_mode(False):  # whose tensors no backward may keep
        return _divisors(*given)


def make_avg_pool2d(
    forward: Callable[..., Tensor], grad_input: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """The function of an algorithm of ``avg_pool2d``, out of its plain functions.

    Args:
        forward: (input, geometry, divisor (P, Q)) → output.
        grad_input: (grad_output, geometry, divisor (P, Q)) → ∂L/∂input.
    """
    pooled = differentiable(forward, input=grad_input, tangent="linear", widens="all")

    def avg_pool2d(input: Tensor, *arguments: Any) -> Tensor:
        *window, ceil_mode, count_include_pad, divisor_override = arguments
        if divisor_override == 0:
            raise RuntimeError("divisor must be not zero")
        geometry = pool_geometry(input, "avg_pool2d", *window, dilation=1, ceil_mode=ceil_mode)
        divisor = divisors(geometry, count_include_pad, divisor_override, input)
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        output = laid_out(pooled(batch, geometry, divisor), batch)
        return output if input.dim() == 4 else output.squeeze(0)

    return avg_pool2d


def register_avg_pool2d(name: str, *functions: Callable[..., Any], summary: str) -> None:
    """Enter the algorithm ``name`` of ``avg_pool2d``, of plain functions; see :func:`make_avg_pool2d`."""
    register(Algorithm("avg_pool2d", name, make_avg_pool2d(*functions), summary))
