"""Whether tensors are finite throughout, in one pass over all of them; of many numbers by all threads.

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
_FEW = 1 << 18  # numbers that one thread has read before others are awake


def all_finite(tensors: Sequence[Tensor]) -> bool | None:
    """Whether all of ``tensors`` are finite; None of others than float32 on a CPU that lie in one piece."""
    places = [_place(each) for each in tensors]
    if None in places:
        return None
    addresses, sizes = np.array(places, np.int64).reshape(-1, 2).T.copy()
    in_one_thread = sum(size for _, size in places if size) < _FEW
    return bool((_all_finite if in_one_thread else _all_finite_by_all)(addresses, sizes))


def _place(tensor: Tensor) -> tuple[int, int] | None:
    """Address and size, if these say where the numbers are.

    It is asked of each gradient in each step, with the caches full of other things.
    """
    if type(tensor) is not Tensor or tensor.dtype is not torch.float32 or not tensor.is_cpu:
        return None
    if tensor.layout is not torch.strided:
        return None
    if not (tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)):
        return None
    address, size = tensor.data_ptr(), tensor.numel()
    return (address, size) if address or not size else None  # a ZeroTensor's are nowhere


@njit(**COMPILE)
def _all_finite(addresses, sizes):
    worst = np.uint32(0)
    for i in range(sizes.size):
        worst = max(worst, _greatest(addresses[i], sizes[i]))
    return worst < _INFINITE


@njit(parallel=True, **COMPILE)
def _all_finite_by_all(addresses, sizes):
    chunks = np.empty(sizes.size + 1, np.int64)  # of the tensors before each
    chunks[0] = 0
    for i in range(sizes.size):
        chunks[i + 1] = chunks[i] + (sizes[i] + _CHUNK - 1) // _CHUNK
    worst = np.zeros(chunks[-1], np.uint32)
    for chunk in prange(chunks[-1]):
        tensor = np.searchsorted(chunks, chunk, side="right") - 1
        begin = (chunk - chunks[tensor]) * _CHUNK
        worst[chunk] = _greatest(addresses[tensor] + 4 * begin, min(_CHUNK, sizes[tensor] - begin))
    return worst.size == 0 or worst.max() < _INFINITE


@njit(**COMPILE)
def _greatest(address, count):
    """Of so many numbers, as bits without their signs."""
    numbers = numbers_at(address, _INFINITE)
    greatest = np.uint32(0)
    for i in range(count):
        greatest = max(greatest, numbers[i] & _ABSOLUTE)
    return greatest
