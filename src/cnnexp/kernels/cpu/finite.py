"""Whether tensors are finite throughout, in one pass over all of them by all threads.

torch has a kernel for each tensor: of the article's network their calls take four times as long as what they
read. Arrays are given by their addresses, as no two tensors need be of one size.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from cnnexp.kernels.cpu.precision import numbers_at
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["all_finite"]

_INFINITE = np.uint32(0x7F800000)  # the bits of float32's ∞; a NaN has larger ones, with no sign
_ABSOLUTE = np.uint32(0x7FFFFFFF)
_CHUNK = 1 << 14  # numbers that a task reads


def all_finite(tensors: Sequence[Tensor]) -> bool | None:
    """Whether all of ``tensors`` are finite; None of others than float32 on a CPU that lie in one piece."""
    if not all(map(_in_one_piece, tensors)):
        return None
    addresses = np.array([each.data_ptr() for each in tensors], np.int64)
    sizes = np.array([each.numel() for each in tensors], np.int64)
    if (sizes[addresses == 0] > 0).any():  # numbers that are nowhere, as those of a ZeroTensor
        return None
    return bool(_all_finite(addresses, sizes))


def _in_one_piece(tensor: Tensor) -> bool:
    if type(tensor) is not Tensor or tensor.layout != torch.strided:  # whose address says nothing
        return False
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        return False
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


@njit(parallel=True, **COMPILE)
def _all_finite(addresses, sizes):
    chunks = np.empty(sizes.size + 1, np.int64)  # of the tensors before each
    chunks[0] = 0
    for i in range(sizes.size):
        chunks[i + 1] = chunks[i] + (sizes[i] + _CHUNK - 1) // _CHUNK
    worst = np.zeros(chunks[-1], np.uint32)
    for chunk in prange(chunks[-1]):
        tensor = np.searchsorted(chunks, chunk, side="right") - 1
        begin = (chunk - chunks[tensor]) * _CHUNK
        count = min(_CHUNK, sizes[tensor] - begin)
        numbers = numbers_at(addresses[tensor] + 4 * begin, _INFINITE)
        greatest = np.uint32(0)
        for i in range(count):
            greatest = max(greatest, numbers[i] & _ABSOLUTE)
        worst[chunk] = greatest
    return worst.size == 0 or worst.max() < _INFINITE
