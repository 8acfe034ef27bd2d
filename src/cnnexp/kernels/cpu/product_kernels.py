"""The CPU kernel of a product of two matrices, whose bits depend on the two matrices alone.

Each number of the result is a sum of its own in one lane of a register, over k in order, ``_CHAIN`` at a
time; the sums of these parts are added in order, too. So neither the number of threads nor the width of the
registers is in the result.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.vector import COMPILE, VECTOR_BYTES, weighted_sums_of

__all__ = ["multiply"]

_CHAIN = 512  # additions in one sum: short enough for its error, and what it reads fits the cache
_ROWS = 4  # of the result, whose sums are in registers together
_BLOCK = 32  # rows of the result in one task
_VECTORS = 6 if VECTOR_BYTES == 64 else 2  # of each of these rows; there are 32 registers, or 16

_rows_6, _rows_4, _rows_2, _rows_1 = (
    weighted_sums_of(n, rows=_ROWS, weights_differ=True) for n in (6, 4, 2, 1)
)
_row_6, _row_4, _row_2, _row_1 = (weighted_sums_of(n) for n in (6, 4, 2, 1))


@njit(**COMPILE)
def _vectors_for(columns, lanes):
    """How many vectors the next columns of the result take of each row."""
    if columns > 2 * lanes:
        return min(_VECTORS, 6 if columns > 4 * lanes else 4)
    return 2 if columns > lanes else 1


@njit(**COMPILE)
def _pack(other, turned, start, count, width, packed):
    """Columns ``start`` … of ``other``, row by row, ``width`` numbers each, with zeros after the last."""
    depth = packed.size // width
    if turned:  # a few rows at a time, whose lines stay in the cache
        for first in range(0, depth, 16):
            for c in range(count):
                column = other[start + c]
                for k in range(first, min(first + 16, depth)):
                    packed[k * width + c] = column[k]
    else:
        for k in range(depth):
            row, to = other[k, start : start + count], packed[k * width : k * width + count]
            for c in range(count):
                to[c] = row[c]
    for k in range(depth):
        for c in range(count, width):
            packed[k * width + c] = 0


@njit(**COMPILE)
def _sums(acc, rows, weights, depth, packed, at, offsets, count, vectors, lanes):
    """``acc`` (rows, vectors·lanes) of ``count`` terms, from the beginning of each."""
    width = vectors * lanes
    acc[: rows * width] = 0
    if rows == _ROWS:
        of = acc, 0, width, packed, at, offsets, weights, 0, depth, count
        if vectors == 6:
            _rows_6(*of)
        elif vectors == 4:
            _rows_4(*of)
        elif vectors == 2:
            _rows_2(*of)
        else:
            _rows_1(*of)
        return
    for row in range(rows):
        of_row = weights[row * depth :]
        one = acc, row * width, 0, packed, at, offsets, of_row, 0, 0, count
        if vectors == 6:
            _row_6(*one)
        elif vectors == 4:
            _row_4(*one)
        elif vectors == 2:
            _row_2(*one)
        else:
            _row_1(*one)


@njit(parallel=True, **COMPILE)
def multiply(one, other, turned, bias, output):
    """output[m, n] = Σ_k one[m, k]·other[k, n] + bias[n].

    All are contiguous. ``turned`` says that ``other`` has columns for rows; ``bias`` may be empty.
    """
    (rows, depth), columns = one.shape, output.shape[1]
    lanes = VECTOR_BYTES // one.itemsize
    width = _VECTORS * lanes
    panels, blocks = -(-columns // width), -(-rows // _BLOCK)
    packed = np.empty((columns + width) * depth, one.dtype)
    weights, offsets = one.reshape(-1), np.arange(depth)
    for panel in prange(panels):
        start = panel * width
        wide = _vectors_for(columns - start, lanes) * lanes
        room = packed[start * depth : (start + wide) * depth]
        _pack(other, turned, start, min(width, columns - start), wide, room)
    for task in prange(panels * blocks):
        start, begin = task // blocks * width, task % blocks * _BLOCK
        vectors = _vectors_for(columns - start, lanes)
        wide, count = vectors * lanes, min(width, columns - start)
        places, acc = offsets * wide, aligned(_ROWS * width, one)
        for k in range(0, depth, _CHAIN):
            terms, at = min(_CHAIN, depth - k), start * depth + k * wide
            for m in range(begin, min(begin + _BLOCK, rows), _ROWS):
                together = min(_ROWS, rows - m)
                _sums(
                    *(acc, together, weights[m * depth + k :], depth),
                    *(packed, at, places, terms, vectors, lanes),
                )
                for row in range(together):
                    to = output[m + row, start : start + count]
                    if k == 0:
                        for c in range(count):
                            to[c] = acc[row * wide + c]
                    else:
                        for c in range(count):
                            to[c] += acc[row * wide + c]
        if bias.size:
            for m in range(begin, min(begin + _BLOCK, rows)):
                to = output[m, start : start + count]
                for c in range(count):
                    to[c] += bias[start + c]
