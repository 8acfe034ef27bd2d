"""CPU kernels of a convolution as products of matrices that are nowhere laid out (an implicit im2col).

    y[:, p] = Σ_t x[:, i(p, t)] · W_t        ∂L/∂x[:, i] = Σ_t ∂L/∂y[:, p(i, t)] · W_tᵀ
    ∂L/∂W_t = Σ_p ∂L/∂y[:, p]ᵀ · x[:, i(p, t)]

of one pixel of all images at a time: the rows are the images, and of the taps t only those are multiplied
that stand on a pixel. A convolution in groups is several such, of channels side by side. What stands in
columns is laid out as the registers take it, a panel of some columns at a time, which then stays in the
cache. bfloat16 is multiplied in pairs of channels; in ∂L/∂W, of images, or of pixels where these are the
rows. A strip is of as many rows as registers hold the sums of together.

Beside images of bfloat16, W may be float32: it is rounded where it is laid out, and ∂L/∂W is not.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.implicit_tiles import (
    LANES,
    MOST,
    ROWS,
    lay,
    lay_rows,
    product,
    turn,
    word_at,
    word_of,
)
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import narrow, numbers_at
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["convolve", "grad_weight", "words_of"]

_SUM = np.empty(1, np.float32)
_LINE = 64  # bytes
_CHAIN = 512  # words in one sum of ∂L/∂W, of whole pixels: rounding errors grow with their number
_TASKS = 16  # into which the work is cut, if there are fewer panels
_WORK = 1 << 20  # products, that such a task has at least


@njit(**COMPILE)
def _panels_of(columns):
    """Into how many panels ``columns`` are cut, at least ``LANES``: none of them is wider than all."""
    panels = -(-columns // (MOST * LANES))
    if panels > _TASKS // 2:
        return panels + panels % 2  # which are the tasks: even shares for two threads
    return 2 if panels == 1 and columns % LANES else panels


@njit(**COMPILE)
def _panel(index, columns):
    """The first column of a panel, its vectors, and the vectors before it.

    The last may begin before the one before ends: both write the same numbers there.
    """
    vectors, panels = -(-columns // LANES), _panels_of(columns)
    first, last = vectors * index // panels, vectors * (index + 1) // panels
    return min(first * LANES, columns - (last - first) * LANES), last - first, first


@njit(**COMPILE)
def _on_a_line(room):
    """The first address in ``room`` at which a line of the cache begins."""
    return room.ctypes.data + -room.ctypes.data % _LINE


@njit(**COMPILE)
def _turn_weights(weight, begin, vectors, taps, words, packed, each):
    """packed[t, k, j] = word k of W[begin + j, t]: rows of the weights become columns."""
    wide, row = vectors * LANES, taps * words * each
    if words < LANES:
        for j in range(wide):
            of_row = ahead(weight, (begin + j) * row)
            for k in range(taps * words):
                packed[k * wide + j] = word_at(ahead(of_row, k * each), packed)
        return
    for vector in range(vectors):
        of_rows = ahead(weight, (begin + vector * LANES) * row)
        for t in range(taps):
            for block in range(-(-words // LANES)):
                k = t * words + min(block * LANES, words - LANES)
                to = ahead(packed, k * wide + vector * LANES)
                turn(ahead(of_rows, k * each), row, to, wide)


@njit(**COMPILE)
def _pair_weights(weight, begin, vectors, taps, words, columns, packed, each):
    """packed[t, k, j] = the word of W[k, t, begin + j], or of that and the next of row k."""
    wide, row = vectors * LANES, taps * columns
    for k in range(words):
        for t in range(taps):
            one = ahead(weight, k * each * row + t * columns + begin)
            other, to = ahead(one, (each - 1) * row), ahead(packed, (t * words + k) * wide)
            for v in range(vectors):
                lay(ahead(one, v * LANES), ahead(other, v * LANES), ahead(to, v * LANES))


@njit(parallel=True, **COMPILE)
def convolve(addresses, kinds, images, pixels, steps, channels, groups, taps, terms):
    """Leave y or ∂L/∂x at its address.

    Args:
        addresses: Of x (∂L/∂y), w, the bias in float32 (0 for none) and y (∂L/∂x). Images have the channels
            last; the weights are those of a group (C_out, K_h, K_w, C_in), group by group.
        kinds: A number of the images, one of the weights, a word, and how many numbers a word has.
        images: N, at least ``ROWS``.
        pixels: How many are read of an image, and written.
        steps: How many pixels an image is after the one before, and a pixel after the one before.
        channels: Of what is read and of what is written, in all, and in a group.
        groups: The first channels of each group (groups, 2); and whether this is the backward, which reads
            what the rows of the weights are for.
        taps: K_h·K_w.
        terms: Where the list of each written pixel begins, and the lists (…, 2): pixels read, and taps.
    """
    number, of_weight, like, each = kinds
    shown, ((by_read, by_written), by_pixel) = pixels[1], steps
    (in_all, out_row), (depth, columns) = channels
    (firsts, backward), (begins, entries) = groups, terms
    words, panels, row = depth // each, _panels_of(columns), in_all // each
    image, output = numbers_at(addresses[0], like), numbers_at(addresses[3], number)
    weight, biases = numbers_at(addresses[1], of_weight), numbers_at(addresses[2], np.float32(1))
    nothing = aligned(columns, _SUM)
    table = start_of(entries)
    strips = -(-images // ROWS)
    work = entries.shape[0] * images * words * MOST * LANES
    panels_of_all = panels * firsts.shape[0]
    chunks = max(1, min(shown * strips, _TASKS // panels_of_all, work // _WORK))
    for task in prange(panels_of_all * chunks):
        group, panel, chunk = task // chunks // panels, task // chunks % panels, task % chunks
        begin, vectors, _ = _panel(panel, columns)
        wide, before = vectors * LANES, group * columns * taps * depth
        room = np.empty(taps * words * wide + LANES, np.uint32)
        packed = numbers_at(_on_a_line(room), like)
        of_group = ahead(weight, before)
        if backward:
            _pair_weights(of_group, begin, vectors, taps, words, columns, packed, each)
        else:
            _turn_weights(of_group, begin, vectors, taps, words, packed, each)
        source, begin = ahead(image, firsts[group, 0] // each), firsts[group, 1] + begin
        start = ahead(biases, begin) if addresses[2] != 0 else start_of(nothing)
        scales = by_pixel * row, words * wide
        for part in range(shown * strips * chunk // chunks, shown * strips * (chunk + 1) // chunks):
            p, n = part // strips, min(part % strips * ROWS, images - ROWS)
            one = ahead(source, n * by_read * row)
            some = ahead(table, 2 * begins[p]), begins[p + 1] - begins[p]
            to = ahead(output, (n * by_written + p * by_pixel) * out_row + begin)
            product(
                *(vectors, one, (by_read * row, 1), packed, some, scales, words),
                *(start, 0, to, by_written * out_row),
            )
        hold(room)
    hold((nothing, entries))


@njit(**COMPILE)
def _last_words(image, count, to):
    """The words of so many numbers of an image that has none beside it."""
    for j in range(count):
        to[j] = word_of(image[j], to[0])


@njit(**COMPILE)
def _lay_columns(one, other, single, channels, panels, to, apart, step):
    """The words of a pixel of two images, or of one, panel by panel.

    Args:
        one, other: Pointers to the pixel in both; ``single`` says that there is no other.
        channels: How many it has.
        to: Where the words of the first panel begin: of one a vector wide they are ``step`` apart, of all
            panels before so many vectors wide ``apart``.
    """
    for panel in range(panels):
        begin, vectors, before = _panel(panel, channels)
        here = ahead(to, before * apart + vectors * step)
        if single:
            _last_words(ahead(one, begin), vectors * LANES, here)
            continue
        for v in range(vectors):
            at = begin + v * LANES
            lay(ahead(one, at), ahead(other, at), ahead(here, v * LANES))


@njit(**COMPILE)
def _lay_rows(one, other, single, channels, strips, to, apart):
    """As :func:`_lay_columns`, in strips of ``ROWS`` channels whose words begin ``apart``."""
    for strip in range(strips):
        begin, here = min(strip * ROWS, channels - ROWS), ahead(to, strip * apart)
        if single:
            _last_words(ahead(one, begin), ROWS, here)
        else:
            lay_rows(ahead(one, begin), ahead(other, begin), here)


@njit(**COMPILE)
def _add_chains(vectors, one, other, table, entries, scales, words, together, sums):
    """sums[r, j] = the sum over ``entries``, so many ``together``, each such sum one of its own."""
    wide = vectors * LANES
    for k in range(ROWS * wide):
        sums[k] = 0
    for low in range(0, entries, together):
        some = ahead(table, 2 * low), min(together, entries - low)
        product(vectors, one, (1, ROWS), other, some, scales, words, sums, wide, sums, wide)


@njit(**COMPILE)
def _apart(images, pixels, channels, each):
    """Words of a strip of ∂L/∂y and of all of x, of a group of so many ``channels`` of x and of y.

    They are no powers of two, or what is apart so far would share lines of the cache.
    """
    words, columns = -(-images // each), -(-channels[0] // LANES) * LANES
    return pixels[1] * words * ROWS + LANES, pixels[0] * words * columns + LANES


@njit(**COMPILE)
def words_of(images, pixels, channels, groups, each):
    """How many words :func:`grad_weight` has to have room for; the arguments are those of it."""
    of_strip, of_columns = _apart(images, pixels, channels, each)
    return groups * (-(-channels[1] // ROWS) * of_strip + of_columns) + LANES


@njit(parallel=True, **COMPILE)
def grad_weight(addresses, kinds, rows, channels, groups, taps, terms, room):
    """Leave ∂L/∂w at its address, group by group (C_out, K_h, K_w, C_in).

    Args:
        addresses: Of x, ∂L/∂y, both with channels last, and ∂L/∂w.
        kinds, channels, groups: As of :func:`convolve`, x being what is read and ∂L/∂y in the place of what
            is written.
        rows: Images, pixels and steps as of :func:`convolve`.
        taps: K_h·K_w.
        terms: Where the list of each tap begins, and the lists (…, 2): pixels of y and of x.
        room: At least :func:`words_of` words.
    """
    (number, of_weight, like, each), (images, pixels, steps) = kinds, rows
    (size, shown), ((by_input, by_output), by_pixel) = pixels, steps
    (all_in, all_out), (c_in, c_out) = channels
    (firsts, _), (begins, entries) = groups, terms
    words, panels, strips = -(-images // each), _panels_of(c_in), -(-c_out // ROWS)
    x, outer = numbers_at(addresses[0], number), numbers_at(addresses[1], number)
    grad = numbers_at(addresses[2], of_weight)
    apart = _apart(images, pixels, channels[1], each)
    left = numbers_at(_on_a_line(room), like)
    right = ahead(left, firsts.shape[0] * strips * apart[0])
    table = start_of(entries)
    for k in prange(words):  # images one after the other are read as they lie
        single = each == 2 and 2 * k + 1 == images
        for i in range(size):
            pixel = ahead(x, (k * each * by_input + i * by_pixel) * all_in)
            step = (i * words + k) * LANES
            for group in range(firsts.shape[0]):
                one, to = ahead(pixel, firsts[group, 0]), ahead(right, group * apart[1])
                other = ahead(one, (each - 1) * by_input * all_in)
                _lay_columns(one, other, single, c_in, panels, to, size * words * LANES, step)
    for p in prange(shown):
        for k in range(words):
            single = each == 2 and 2 * k + 1 == images
            pixel = ahead(outer, (k * each * by_output + p * by_pixel) * all_out)
            for group in range(firsts.shape[0]):
                one = ahead(pixel, firsts[group, 1])
                other = ahead(one, (each - 1) * by_output * all_out)
                to = ahead(left, group * strips * apart[0] + (p * words + k) * ROWS)
                _lay_rows(one, other, single, c_out, strips, to, apart[0])
    sizes = size * words, words * ROWS, taps, c_in, c_out, max(1, _CHAIN // words)
    panels_of_all = panels * firsts.shape[0]
    chunks = max(1, min(strips, _TASKS // panels_of_all))
    for task in prange(panels_of_all * chunks):
        group, panel, chunk = task // chunks // panels, task // chunks % panels, task % chunks
        some = strips * chunk // chunks, strips * (chunk + 1) // chunks
        of_group = ahead(left, group * strips * apart[0]), ahead(right, group * apart[1])
        to = ahead(grad, group * c_out * taps * c_in)
        _sum_panel(of_group, apart[0], table, begins, panel, some, sizes, words, to)
    hold((room, entries))


@njit(**COMPILE)
def _sum_panel(sources, apart, table, begins, panel, some, sizes, words, grad):
    """∂L/∂w of a panel of columns and of ``some`` strips of rows, from the one to the other.

    Args:
        sources: Pointers to the strips, ``apart``, and to the panels.
        table, begins: As of :func:`grad_weight`.
        sizes: Words of a column; of a pixel of a strip; taps; channels of x and of y; and how many entries
            one sum is over.
        words: Of a pixel.
        grad: A pointer to ∂L/∂w.
    """
    column, of_strip, taps, c_in, c_out, together = sizes
    begin, vectors, before = _panel(panel, c_in)
    wide = vectors * LANES
    other, scales = ahead(sources[1], before * LANES * column), (of_strip, words * wide)
    nothing, room = aligned(wide, _SUM), aligned(ROWS * wide, _SUM)
    zeros, sums = start_of(nothing), start_of(room)
    for strip in range(some[0], some[1]):
        one, first = ahead(sources[0], strip * apart), min(strip * ROWS, c_out - ROWS)
        for t in range(taps):
            to, row = ahead(grad, (first * taps + t) * c_in + begin), taps * c_in
            terms = ahead(table, 2 * begins[t]), begins[t + 1] - begins[t]
            if terms[1] <= together:
                product(vectors, one, (1, ROWS), other, terms, scales, words, zeros, 0, to, row)
                continue
            _add_chains(vectors, one, other, *terms, scales, words, together, sums)
            for k in range(ROWS * wide):
                to[k // wide * row + k % wide] = narrow(sums[k], to)
    hold((nothing, room))
