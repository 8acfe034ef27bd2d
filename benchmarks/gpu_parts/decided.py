"""Which pooled elements of the block no rounding can decide.

The gradient goes to the winner of a window, and to nobody where the ReLU stops it. Where the two greatest
elements of a window, or the winner and 0, are nearer to each other than a rounding, different correct
programs give it to different elements, and their gradients differ in whole elements, however exact they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops

__all__ = ["decided"]

_ROUNDINGS = 64  # of the greatest element, two numbers are apart


def decided(tensors: list[Tensor], arguments: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """1 for each element of the output whose gradient has one owner in ``dtype``, else 0: (N, C, P, Q) bool.

    Args:
        tensors: x, w and b of ``cnnexp.ops.conv_relu_pool``, in float64.
        arguments: Its other arguments.
        dtype: In which it is computed.
    """
    conv = {name: value for name, value in arguments.items() if name != "pool"}
    pool: Any = arguments.get("pool") or ops.Pool()
    z = F.conv2d(tensors[0], tensors[1], tensors[2], **conv)
    near = _ROUNDINGS * torch.finfo(dtype).eps * z.abs().amax()
    if pool.kind == "avg":  # each element of a window that the ReLU lets through has a share
        doubtful = (z.abs() < near).to(z.dtype)
        return F.max_pool2d(doubtful, pool.kernel_size, pool.stride, pool.padding) == 0
    n, c = z.shape[:2]
    planes = F.pad(z.flatten(0, 1)[:, None], 2 * [pool.padding, pool.padding], value=-torch.inf)
    windows = F.unfold(planes, pool.kernel_size, stride=pool.stride or pool.kernel_size)
    first, second = windows.topk(2, dim=1).values.unbind(1)
    clear = (first.abs() > near) & ((first - second > near) | (first < 0))
    shape = F.max_pool2d(z, pool.kernel_size, pool.stride, pool.padding).shape
    return clear.view(n, c, *shape[2:])
