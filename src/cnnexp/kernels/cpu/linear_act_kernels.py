"""CPU kernel of linear layers one after the other, each with its activation, as products of matrices.

    a_l[n, o] = act_l(b_l[o] + Σ_k a_{l−1}[n, k] · w_l[o, k])        a_0 = x, a_L = y

A thread takes some rows n through all layers, while the caches hold them. What stands in the columns of a
product was laid out before as the registers take it (``linear_act_panels``), a panel of some columns at a
time. bfloat16 is multiplied in pairs of k. Beside rows of bfloat16, w may be float32: it is rounded where it
is laid out. Each number is a sum of its own, in the order of k: no bit depends on the number of threads.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.implicit_tiles import LANES, ROWS
from cnnexp.kernels.cpu.linear_act_panels import lay_all, multiply
from cnnexp.kernels.cpu.linear_act_places import (
    WIDEST,
    before_panels,
    columns_of,
    panel_of,
    panels_of,
)
from cnnexp.kernels.cpu.linear_act_rows import activate
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import numbers_at, wide
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["forward"]

_SUM, _WORDS = np.empty(1, np.float32), np.empty(1, np.uint32)
_FEWEST = 2 * ROWS  # rows that a thread takes


@njit(**COMPILE)
def _begin(bias, of_weight, first, count, start):
    """start[j] = the bias of column first + j, from its address, or 0."""
    for j in range(count):
        start[j] = 0
    if bias != 0:
        biases = numbers_at(bias, of_weight)
        for j in range(count):
            start[j] = wide(biases[first + j])


@njit(parallel=True, **COMPILE)
def _forward(x, biases, outputs, kinds, rows, widths, layers, activations, threads, packed):
    number, of_weight, like, each = kinds
    blocks = max(1, min(threads, rows // _FEWEST))
    for share in prange(blocks):
        block = np.intp(share)
        n, end = rows * block // blocks, rows * (block + 1) // blocks
        strips, last = -(-(end - n) // ROWS), end - n - ROWS
        room, begins = aligned(strips * ROWS * WIDEST, _SUM), aligned(WIDEST, _SUM)
        sums, start = start_of(room), start_of(begins)
        for layer in range(layers):
            written, words = widths[layer + 1], widths[layer] // each
            one = ahead(numbers_at(x if layer == 0 else outputs[layer - 1], like), n * words)
            place = before_panels(layer, widths, each, 0)
            output = ahead(numbers_at(outputs[layer], number), n * written)
            for index in range(panels_of(columns_of(written))):
                begin, vectors, before = panel_of(index, columns_of(written))
                wide_row = vectors * LANES
                some = min(wide_row, written - begin)
                _begin(biases[layer], of_weight, begin, some, start)
                laid = numbers_at(packed + 4 * (place + before * LANES * words), like)
                places = strips, ROWS * words, last * words
                multiply(one, (words, 1), laid, words, vectors, places, start, sums)
                for strip in range(strips):
                    of = ahead(sums, strip * ROWS * wide_row)
                    to = ahead(output, min(strip * ROWS, last) * written + begin)
                    activate(of, ROWS, wide_row, some, activations[layer], to, written)
        hold((room, begins))


@njit(**COMPILE)
def forward(x, weights, biases, outputs, kinds, rows, widths, layers, activations, threads):
    """Leave a_1 … a_L at their addresses.

    Args:
        x: The address of x.
        weights, biases, outputs: The addresses of w_l, of b_l (0 for none), and of a_l.
        kinds: A number of the rows, one of the weights, a word, and how many numbers a word has.
        rows: N, at least ``ROWS``.
        widths: C_0 … C_L; all but the last are whole words, at least as many as a register has.
        layers: L.
        activations: By layer, see ``linear_act_rows``.
        threads: Among how many the rows are shared.
    """
    room = aligned(before_panels(layers, widths, kinds[3], 0), _WORDS)
    packed = np.intp(room.ctypes.data)
    lay_all(weights, kinds, widths, (0, layers), 0, packed)
    _forward(x, biases, outputs, kinds, rows, widths, layers, activations, threads, packed)
    hold(room)
