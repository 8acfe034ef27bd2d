"""In which order the numbers of an image (N, C, H, W) stand in memory, for kernels that take two orders."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["in_order", "is_channels_last"]


def is_channels_last(image: Tensor) -> bool:
    """Whether the channels of ``image`` stand side by side in memory."""
    return image.stride(1) == 1 and image.stride(3) >= image.size(1)


def in_order(image: Tensor) -> Tensor:
    """``image`` without gaps in memory, channels last or plain, as it lies already."""
    layout = torch.channels_last if is_channels_last(image) else torch.contiguous_format
    return image.contiguous(memory_format=layout)
