"""CPU kernels of a convolution as products of matrices that are nowhere laid out (an implicit im2col).

    y[:, p] = Σ_t x[:, i(p, t)] · W_t        ∂L/∂x[:, i] = Σ_t ∂L/∂y[:, p(i, t)] · W_tᵀ
    ∂L/∂W_t = Σ_p ∂L/∂y[:, p]ᵀ · x[:, i(p, t)]

of one pixel of all images at a time: the rows are the images, and of the taps t only those are multiplied
that stand on a pixel. What stands in columns is laid out as the registers take it, a panel of some columns
at a time, which then stays in the cache. bfloat16 is multiplied in pairs of channels; in ∂L/∂W, of images.

Compiled by numba on first use and kept in its cache; after a change in ``implicit_tiles``, ``pairs``,
``precision`` or ``vector``, touch this file.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.implicit_tiles import (
    LANES,
    MOST,
    ROWS,
    product_1,
    product_2,
    product_3,
    turn,
    word_of,
)
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import narrow, numbers_at
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["convolve", "grad_weight"]

_SUM = np.empty(1, np.float32)
_CHAIN = 512  # words in one sum of ∂L/∂W at most, whose rounding errors grow with their number
_TASKS = 16  # into which the work is cut, if there are fewer panels
_WORK = 1 << 20  # products, that such a task has at least


@njit(**COMPILE)
def _panels_of(columns):
    """Into how many panels ``columns`` are cut."""
    vectors = -(-columns // LANES)
    panels = -(-vectors // MOST)
    return min(panels + panels % 2, vectors)  # even shares for two threads


@njit(**COMPILE)
def _panel(index, columns):
    """The first column of a panel, its vectors, and the vectors before it.

    The last may begin before the one before ends: both write the same numbers there.
    """
    vectors, panels = -(-columns // LANES), _panels_of(columns)
    first, last = vectors * index // panels, vectors * (index + 1) // panels
    return min(first * LANES, columns - (last - first) * LANES), last - first, first


@njit(**COMPILE)
def _product(vectors, one, steps, other, entries, scales, words, start, apart, out, step):
    of = one, steps, other, entries, scales, words, start, apart, out, step
    if vectors == 3:
        product_3(*of)
    elif vectors == 2:
        product_2(*of)
    else:
        product_1(*of)


@njit(**COMPILE)
def _turn_weights(weight, begin, vectors, taps, depth, packed, each):
    """packed[t, k, j] = word k of W[begin + j, t]: rows of the weights become columns."""
    wide, words = vectors * LANES, depth // each
    row = taps * depth
    if words < LANES:
        for j in range(wide):
            for t in range(taps):
                at = (begin + j) * row + t * depth
                for k in range(words):
                    one, other = weight[at + k * each], weight[at + k * each + each - 1]
                    packed[(t * words + k) * wide + j] = word_of(one, other, packed[0])
        return
    for vector in range(vectors):
        of_rows = ahead(weight, (begin + vector * LANES) * row)
        for t in range(taps):
            for block in range(-(-words // LANES)):
                k = min(block * LANES, words - LANES)
                source = ahead(of_rows, t * depth + k * each)
                turn(source, row, ahead(packed, (t * words + k) * wide + vector * LANES), wide)


@njit(**COMPILE)
def _pair_weights(weight, begin, vectors, taps, depth, columns, packed, each):
    """packed[t, k, j] = the word of W[k, t, begin + j], or of that and the next of row k."""
    wide, words = vectors * LANES, depth // each
    row = taps * columns
    for k in range(words):
        for t in range(taps):
            one = ahead(weight, k * each * row + t * columns + begin)
            other = ahead(one, (each - 1) * row)
            to = ahead(packed, (t * words + k) * wide)
            for j in range(wide):
                to[np.uintp(j)] = word_of(one[np.uintp(j)], other[np.uintp(j)], packed[0])


@njit(parallel=True, **COMPILE)
def convolve(addresses, kinds, images, pixels, channels, taps, begins, entries, backward):
    """Leave y, or with ``backward`` ∂L/∂x, at its address.

    Args:
        addresses: Of x (∂L/∂y), w, the bias in float32 (0 for none) and y (∂L/∂x); images and weights
            have the channels last.
        kinds: A number of images, a word of them, a number of the weights, and how many numbers
            a word has.
        images: N, at least ``ROWS``.
        pixels: Of what is read and of what is written.
        channels: Of what is read and of what is written.
        taps: K_h·K_w.
        begins: Where the list of each written pixel begins in ``entries`` (…, 2): pixels read, and taps.
    """
    number, like, of_weight, each = kinds
    (size, shown), (depth, columns) = pixels, channels
    words, panels = depth // each, _panels_of(columns)
    image, weight = numbers_at(addresses[0], like), numbers_at(addresses[1], of_weight)
    output = numbers_at(addresses[3], number)
    biases = numbers_at(addresses[2], np.float32(1))
    nothing = aligned(columns, _SUM)
    table = start_of(entries)
    groups = -(-images // ROWS)
    work = entries.shape[0] * images * words * MOST * LANES
    chunks = max(1, min(shown, _TASKS // panels, work // _WORK))
    for task in prange(panels * chunks):
        panel, chunk = task // chunks, task % chunks
        begin, vectors, _ = _panel(panel, columns)
        wide = vectors * LANES
        room = np.empty(taps * words * wide, np.uint32)
        packed = numbers_at(room.ctypes.data, like)
        if backward:
            _pair_weights(weight, begin, vectors, taps, depth, columns, packed, each)
        else:
            _turn_weights(weight, begin, vectors, taps, depth, packed, each)
        start = ahead(biases, begin) if addresses[2] != 0 else start_of(nothing)
        for p in range(shown * chunk // chunks, shown * (chunk + 1) // chunks):
            some = ahead(table, 2 * begins[p]), begins[p + 1] - begins[p]
            for group in range(groups):
                n = min(group * ROWS, images - ROWS)
                _product(
                    vectors,
                    ahead(image, n * size * words),
                    (size * words, 1),
                    packed,
                    some,
                    (words, words * wide),
                    words,
                    start,
                    0,
                    ahead(output, (n * shown + p) * columns + begin),
                    shown * columns,
                )
        hold(room)
    hold((nothing, entries))


@njit(**COMPILE)
def _pair_images(image, pixel, pixels, channels, begin, count, images, to, step, each):
    """to[k·step + j] = the word of channel begin + j of image k, or of two images, at ``pixel``."""
    apart = pixels * channels
    for k in range(-(-images // each)):
        one = ahead(image, (k * each * pixels + pixel) * channels + begin)
        here = ahead(to, k * step)
        if each == 2 and 2 * k + 1 == images:
            for j in range(count):
                here[np.uintp(j)] = word_of(one[np.uintp(j)], None, to[0])
            continue
        other = ahead(one, (each - 1) * apart)
        for j in range(count):
            here[np.uintp(j)] = word_of(one[np.uintp(j)], other[np.uintp(j)], to[0])


@njit(**COMPILE)
def _add_chains(vectors, one, other, table, entries, scales, words, together, sums):
    """sums[r, j] = the sum over ``entries``, so many ``together``, each such sum one of its own."""
    wide = vectors * LANES
    for k in range(ROWS * wide):
        sums[k] = 0
    for low in range(0, entries, together):
        some = ahead(table, 2 * low), min(together, entries - low)
        _product(vectors, one, (1, ROWS), other, some, scales, words, sums, wide, sums, wide)


@njit(parallel=True, **COMPILE)
def grad_weight(addresses, kinds, images, pixels, channels, taps, begins, entries):
    """Leave ∂L/∂w at its address, (C_out, K_h, K_w, C_in).

    Args:
        addresses: Of x, ∂L/∂y, both with channels last, and ∂L/∂w.
        kinds: As of :func:`convolve`.
        images: N.
        pixels, channels: Of x and of y.
        taps: K_h·K_w.
        begins: Where the list of each tap begins in ``entries`` (…, 2): pixels of y and of x.
    """
    number, like, of_weight, each = kinds
    (size, shown), (c_in, c_out) = pixels, channels
    words, panels, groups = -(-images // each), _panels_of(c_in), -(-c_out // ROWS)
    x, outer = numbers_at(addresses[0], number), numbers_at(addresses[1], number)
    grad = numbers_at(addresses[2], of_weight)
    grads = np.empty(groups * shown * words * ROWS, np.uint32)
    columns = np.empty(-(-c_in // LANES) * LANES * size * words, np.uint32)
    left, right = numbers_at(grads.ctypes.data, like), numbers_at(columns.ctypes.data, like)
    table = start_of(entries)
    for p in prange(shown):
        for group in range(groups):
            first = min(group * ROWS, c_out - ROWS)
            to = ahead(left, (group * shown + p) * words * ROWS)
            _pair_images(outer, p, shown, c_out, first, ROWS, images, to, ROWS, each)
    for i in prange(size):
        for panel in range(panels):
            begin, vectors, before = _panel(panel, c_in)
            wide = vectors * LANES
            to = ahead(right, (before * LANES * size + i * wide) * words)
            _pair_images(x, i, size, c_in, begin, wide, images, to, wide, each)
    chunks, together = max(1, min(groups, _TASKS // panels)), max(1, _CHAIN // words)
    nothing = aligned(MOST * LANES, _SUM)
    for task in prange(panels * chunks):
        panel, chunk = task // chunks, task % chunks
        begin, vectors, before = _panel(panel, c_in)
        wide = vectors * LANES
        other, scales = ahead(right, before * LANES * size * words), (words * ROWS, words * wide)
        room = aligned(ROWS * wide, _SUM)
        sums = start_of(room)
        for group in range(groups * chunk // chunks, groups * (chunk + 1) // chunks):
            one, first = ahead(left, group * shown * words * ROWS), min(group * ROWS, c_out - ROWS)
            for t in range(taps):
                to = ahead(grad, (first * taps + t) * c_in + begin)
                some = ahead(table, 2 * begins[t]), begins[t + 1] - begins[t]
                if some[1] <= together:
                    zeros, row = start_of(nothing), taps * c_in
                    _product(vectors, one, (1, ROWS), other, some, scales, words, zeros, 0, to, row)
                    continue
                _add_chains(vectors, one, other, *some, scales, words, together, sums)
                for k in range(ROWS * wide):
                    to[k // wide * taps * c_in + k % wide] = narrow(sums[k], to)
        hold(room)
    hold((grads, columns, nothing, entries))
