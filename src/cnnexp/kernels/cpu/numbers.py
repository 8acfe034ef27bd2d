"""Numbers as the CPU kernels hold them: bfloat16, which numpy does not have, as its bit pattern, uint16."""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from cnnexp.kernels.cpu.precision import wide
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["aligned", "put", "rounded"]

_LINE = 64  # bytes in a line of the cache


@njit(**COMPILE)
def rounded(bits):
    """The bits of a float32 → those of the nearest bfloat16, of two the even one."""
    last = (bits >> np.uint32(16)) & np.uint32(1)
    nearest = np.uint16((bits + np.uint32(0x7FFF) + last) >> np.uint32(16))
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.uint16(0x7FC0) if is_nan else nearest


def put(numbers: np.ndarray, row: np.ndarray) -> None:
    """Write ``numbers`` into ``row``, widened or rounded where one of them is bfloat16; for kernels only.

    Loops over slices become vectors; an assignment of slices takes some hundred nanoseconds.
    """
    raise NotImplementedError("only numba's compiled code calls it")


@overload(put)
def _put(numbers, row):
    if row.dtype == numbers.dtype:

        def copy(numbers, row):
            for i in range(row.size):
                row[i] = numbers[i]

        return copy
    if row.dtype != types.uint16:

        def widen_all(numbers, row):
            for i in range(row.size):
                row[i] = wide(numbers[i])

        return widen_all

    def round_all(numbers, row):
        bits = numbers.view(np.uint32)
        for i in range(row.size):
            row[i] = rounded(bits[i])

    return round_all


@njit(**COMPILE)
def aligned(count, like):
    """``count`` zeros like those of ``like``, the first at the beginning of a line of the cache."""
    room = np.zeros(count + _LINE // like.itemsize, like.dtype)
    skip = (_LINE - room.ctypes.data % _LINE) % _LINE // like.itemsize
    return room[skip : skip + count]
