"""What the kernels of linear layers lay out for their products, panel by panel, and the products."""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.implicit_tiles import (
    LANES,
    ROWS,
    lay,
    lay_rows,
    product,
    turn,
    word_of,
)
from cnnexp.kernels.cpu.linear_act_places import (
    WIDEST,
    before_panels,
    columns_of,
    panel_of,
    panels_of,
    shape_of,
    words_of,
)
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import numbers_at
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["lay_all", "lay_columns", "lay_strips", "multiply"]

_PART = 128  # words of a panel that are multiplied together: the nearest cache holds them
_LAID = 512  # words of a panel that a task lays out
_TASKS = 16  # that lay out w of a layer for the backward
_WORDS = np.empty(1, np.uint32)


@njit(**COMPILE)
def _turn_weights(weight, of_weight, depth, rows, begin, vectors, part, packed, each):
    """packed[k, j] = word k of row begin + j of w (rows, depth), for the words of ``part``."""
    wide, words = vectors * LANES, depth // each
    filled = aligned(LANES * depth if rows < LANES else 1, _WORDS)
    if rows < LANES:  # zeros fill the only panel up
        whole = numbers_at(filled.ctypes.data, of_weight)
        for k in range(rows * depth):
            whole[k] = weight[k]
        weight = whole
    for v in range(vectors):
        of_rows = ahead(weight, (begin + v * LANES) * depth)
        for at in range(part[0], part[1], LANES):
            k = min(at, words - LANES)
            turn(ahead(of_rows, k * each), depth, ahead(packed, k * wide + v * LANES), wide)
    hold(filled)


@njit(**COMPILE)
def _lay_weights(weight, of_weight, rows, columns, part, packed, each):
    """packed[k, j] = w[k, j], or that of rows 2k and 2k + 1, for the words of ``part``, panel by panel."""
    words = -(-rows // each)
    nothing = aligned(WIDEST, _WORDS)
    zeros = numbers_at(nothing.ctypes.data, of_weight)
    for k in range(part[0], part[1]):
        row, single = ahead(weight, k * each * columns), k * each + each > rows
        for index in range(panels_of(columns)):
            begin, vectors, before = panel_of(index, columns)
            to = ahead(packed, (before * words + k * vectors) * LANES)
            one = ahead(row, begin)
            other = zeros if single else ahead(one, (each - 1) * columns)
            for v in range(vectors):
                lay(ahead(one, v * LANES), ahead(other, v * LANES), ahead(to, v * LANES))
    hold(nothing)


@njit(**COMPILE)
def _to_lay(layer, widths, each, backward):
    """How many tasks lay out w of a layer, forward panels and parts of each, backward some rows of all."""
    read, written = shape_of(layer, widths, backward)
    words = words_of(read, each)
    if backward:
        return 1, min(_TASKS, words)
    return panels_of(columns_of(written)), -(-words // _LAID)


@njit(**COMPILE)
def _lay(task, weights, kinds, widths, first, backward, packed):
    """Lay out what is the task's, of the layers from ``first`` on."""
    _, of_weight, like, each = kinds
    layer = first
    panels, parts = _to_lay(layer, widths, each, backward)
    while task >= panels * parts:
        task -= panels * parts
        layer += 1
        panels, parts = _to_lay(layer, widths, each, backward)
    read, written = shape_of(layer, widths, backward)
    words, weight = words_of(read, each), numbers_at(weights[layer], of_weight)
    part = words * (task % parts) // parts, words * (task % parts + 1) // parts
    at = before_panels(layer, widths, each, backward)
    if backward:
        to = numbers_at(packed + 4 * at, like)
        _lay_weights(weight, of_weight, read, written, part, to, each)
    else:
        begin, vectors, before = panel_of(task // parts, columns_of(written))
        to = numbers_at(packed + 4 * (at + before * LANES * words), like)
        _turn_weights(weight, of_weight, read, written, begin, vectors, part, to, each)


@njit(parallel=True, **COMPILE)
def lay_all(weights, kinds, widths, some, backward, packed):
    """Lay out w of the layers first ≤ l < last at the address ``packed``, panel by panel."""
    tasks = 0
    for layer in range(some[0], some[1]):
        panels, parts = _to_lay(layer, widths, kinds[3], backward)
        tasks += panels * parts
    for task in prange(tasks):
        _lay(np.intp(task), weights, kinds, widths, some[0], backward, packed)


@njit(**COMPILE)
def lay_strips(one, other, single, count, apart, to):
    """Lay a row, or a pair of rows, of so many numbers, in strips of ``ROWS`` whose words begin ``apart``.

    Behind the last of a row there is at least a register more, which may be anything; ``single`` says that
    there is no other row.
    """
    for strip in range(-(-count // ROWS)):
        at, here = strip * ROWS, ahead(to, strip * apart)
        if single:
            for k in range(ROWS):
                here[k] = word_of(one[at + k], to[0])
        else:
            lay_rows(ahead(one, at), ahead(other, at), here)


@njit(**COMPILE)
def lay_columns(one, other, single, columns, place, words, to):
    """Lay a row, or a pair of rows, as word ``place`` of so many ``words`` of each column, panel by panel."""
    for index in range(panels_of(columns)):
        begin, vectors, before = panel_of(index, columns)
        here = ahead(to, (before * words + place * vectors) * LANES)
        if single:
            for j in range(vectors * LANES):
                here[j] = word_of(one[begin + j], to[0])
            continue
        for v in range(vectors):
            at = begin + v * LANES
            lay(ahead(one, at), ahead(other, at), ahead(here, v * LANES))


@njit(**COMPILE)
def multiply(one, steps, laid, words, vectors, places, start, sums):
    """sums[s, r, j] = start[j] + Σ_k one[places₀(s) + r, k] · laid[k, j] for strips s of ``ROWS`` rows r.

    Args:
        one: A pointer to words, which are ``steps`` apart from row to row and from k to k + 1.
        laid: A pointer to a panel of so many ``vectors`` a row.
        words: How many k there are.
        places: How many strips there are, how far two of them are apart in ``one``, and where the last is.
        start: A pointer to float32, a panel's row.
        sums: A pointer to float32.
    """
    strips, by, last = places
    wide, entry = vectors * LANES, np.zeros(2, np.int64)
    of = start_of(entry), 1
    for first in range(0, words, _PART):
        some, other = min(_PART, words - first), ahead(laid, first * wide)
        for strip in range(strips):
            left = ahead(one, min(strip * by, last) + first * steps[1])
            to = ahead(sums, strip * ROWS * wide)
            scales, begin, apart = (0, 0), start, 0
            if first > 0:  # on what is there
                begin, apart = to, wide
            product(vectors, left, steps, other, of, scales, some, begin, apart, to, wide)
    hold(entry)
