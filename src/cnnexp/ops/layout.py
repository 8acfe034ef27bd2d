"""Where results lie in memory: as torch's own, so that ``x.view(len(x), -1)`` works on them too."""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.kernels.cpu.image_layout import is_channels_last

__all__ = ["in_layout", "is_channels_last", "laid_out"]


def laid_out(output: Tensor, *sources: Tensor) -> Tensor:
    """``output`` in plain memory, (N, C, H, W), or channels last where one of ``sources`` is.

    An algorithm may compute in the one or the other, whatever it is given.
    """
    if any(map(is_channels_last, sources)):
        if is_channels_last(output):
            return output
        return output.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return output.contiguous()


def in_layout(images: Tensor, layout: torch.memory_format) -> Tensor:
    """``images`` (N, C, H, W) in ``layout``, said by their strides even where C = 1.

    ``contiguous`` leaves the strides of one channel alone, and torch and ours then take them for the
    other layout.
    """
    images = images.contiguous(memory_format=layout)
    if layout is torch.channels_last and images.size(1) == 1:
        return images.squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)
    return images
