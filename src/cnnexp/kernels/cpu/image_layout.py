"""In which order the numbers of an image (N, C, H, W) stand in memory, for kernels that take two orders."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["in_order", "is_channels_last", "new_image", "sum_like"]


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the strides put the channels last; those of one channel can say it, too (as torch).

    Those of one number, as of a kernel 1×1 of one channel, say nothing, which torch takes for the plain
    layout. ``tensor.is_contiguous(memory_format=…)`` is true in both layouts for one channel, and raises in
    ``torch.func.vmap``.
    """
    if tensor.dim() != 4 or tensor.stride(1) != 1 or tensor.stride(3) < tensor.size(1):
        return False
    return tensor.stride(2) > 1 or tensor.size(1) * tensor.size(2) * tensor.size(3) != 1


def in_order(image: Tensor) -> Tensor:
    """``image`` without gaps in memory, channels last or plain, as it lies already."""
    layout = torch.channels_last if is_channels_last(image) else torch.contiguous_format
    return image.contiguous(memory_format=layout)


def new_image(like: Tensor, channels: int, size: tuple[int, int], last: bool) -> Tensor:
    """An empty image of so many channels, which stand side by side with ``last``."""
    n = like.size(0)
    if last:
        return like.new_empty(n, *size, channels).permute(0, 3, 1, 2)
    return like.new_empty(n, channels, *size)


def sum_like(dtype: torch.dtype) -> np.ndarray:
    """An array of the kind in which kernels sum numbers of ``dtype``."""
    return np.empty(1, np.float64 if dtype == torch.float64 else np.float32)
