"""CPU kernel of the gradients of linear layers one after the other, each with its activation.

    ∂L/∂z_l[n, o] = act_l'(z_l) · ∂L/∂a_l[n, o]    ∂L/∂a_{l−1}[n, k] = Σ_o ∂L/∂z_l[n, o] · w_l[o, k]
    ∂L/∂w_l[o, k] = Σ_n ∂L/∂z_l[n, o] · a_{l−1}[n, k]                ∂L/∂b_l[o] = Σ_n ∂L/∂z_l[n, o]

As ``linear_act_kernels``, whose layers these are: a thread takes some rows n down through all layers, and
leaves them as ∂L/∂w needs them, ∂L/∂z in strips of its rows o, a_{l−1} in panels of its columns k. Then a
task sums some strips by a panel. bfloat16 is multiplied in pairs, of o and of n; an odd one has a zero beside
it. ∂L/∂w and ∂L/∂b are in the precision of w. Each number is a sum of its own, in the order of o or n.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.implicit_tiles import LANES, ROWS
from cnnexp.kernels.cpu.linear_act_panels import lay_all, lay_columns, lay_strips, multiply
from cnnexp.kernels.cpu.linear_act_places import (
    WIDEST,
    before_grads,
    before_inputs,
    before_panels,
    before_strips,
    filled,
    panel_of,
    panels_of,
    row_of,
    strip_size,
    words_of,
)
from cnnexp.kernels.cpu.linear_act_rows import NONE, pass_through
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import narrow, numbers_at, wide
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["backward"]

_SUM = np.empty(1, np.float32)
_FEWEST = 4 * ROWS  # rows that a thread takes
_STRIPS = 4  # of ∂L/∂w that a task sums
_TOGETHER = 64  # rows in a sum of ∂L/∂b
_LINE = 16  # words in a line of the cache


@njit(**COMPILE)
def _clear_odd(grads, rows, row, count, each):
    """Put a zero beside the last number of each row where that is none of a pair."""
    if count % each:
        for r in range(rows):
            grads[r * row + count] = 0


@njit(**COMPILE)
def _multiply_rows(one, step, rows, packed, words, columns, rooms, kind, active, to, to_row):
    """∂L/∂a of the layer before from ∂L/∂z of this one, and from that ∂L/∂z there, for some rows.

    Args:
        one: A pointer to the words of ∂L/∂z, whose rows are ``step`` words apart.
        packed: The address of the panels of w.
        words, columns: Of ∂L/∂z, and of ∂L/∂a.
        rooms: Pointers to zeros and to the sums of all strips of a panel.
        kind, active: The activation of the layer before, and a pointer to what it gave.
        to, to_row: A pointer to where ∂L/∂z of the layer before goes, and how far its rows are apart.
    """
    strips, last = -(-rows // ROWS), rows - ROWS
    for index in range(panels_of(columns)):
        begin, vectors, before = panel_of(index, columns)
        wide_row = vectors * LANES
        laid = ahead(packed, before * LANES * words)
        of_strips = strips, ROWS * step, last * step
        multiply(one, (step, 1), laid, words, vectors, of_strips, rooms[0], rooms[1])
        for strip in range(strips):
            r = min(strip * ROWS, last)
            of, here = ahead(rooms[1], strip * ROWS * wide_row), ahead(active, r * columns + begin)
            there = ahead(to, r * to_row + begin)
            pass_through(of, ROWS, wide_row, wide_row, kind, here, columns, there, to_row)


@njit(**COMPILE)
def _leave_words(dz, row, count, image, columns, some, kinds, sizes, strips, panels):
    """Lay the rows of ∂L/∂z and of a_{l−1} as words of ∂L/∂w_l.

    Args:
        dz, row, count: A pointer to the first row of ∂L/∂z, how far rows are apart, and its numbers.
        image, columns: A pointer to a_{l−1}, row 0, and its numbers in a row.
        some: The first row and the one behind the last.
        sizes: How many rows there are in all, and words of them.
        strips, panels: Pointers to where the words go.
    """
    each, (rows, words) = kinds[3], sizes
    for pair in range(some[0] // each, words_of(some[1], each)):
        single = each == 2 and pair * 2 + 1 == rows
        one, first = ahead(dz, (pair * each - some[0]) * row), ahead(image, pair * each * columns)
        other, second = ahead(one, (each - 1) * row), ahead(first, (each - 1) * columns)
        lay_columns(first, second, single, columns, pair, words, panels)
        lay_strips(one, other, single, count, strip_size(words), ahead(strips, pair * ROWS))


@njit(**COMPILE)
def _of_rows(some, sources, inputs, grads_of, kinds, rows, layers, lowest, packed, places):
    """:func:`_grads_of_rows` of the rows from the first of ``some`` up to the last."""
    number, _, like, each = kinds
    (of_weights, grad_x), (widths, activations, count) = grads_of, layers
    (n, end), words = some, words_of(rows, each)
    room = aligned((end - n + ROWS) * WIDEST, _SUM)
    nothing = aligned(WIDEST, _SUM)
    rooms, top, width = (start_of(nothing), start_of(room)), count - 1, widths[count]
    grads = numbers_at(places[0], number)
    outer = ahead(numbers_at(sources[0], number), n * width)
    y = ahead(numbers_at(sources[1], number), n * width)
    dz, row = ahead(grads, before_grads(top, rows, widths) + n * row_of(width)), row_of(width)
    pass_through(outer, end - n, width, width, activations[top], y, width, dz, row)
    _clear_odd(dz, end - n, row, width, each)
    for back in range(count - lowest):
        layer = top - back
        read, written = widths[layer + 1], widths[layer]
        at, row = before_grads(layer, rows, widths) + n * row_of(read), row_of(read)
        dz, image = ahead(grads, at), numbers_at(inputs[layer], number)
        if of_weights[layer] != 0:
            strips = numbers_at(places[1] + 4 * before_strips(layer, words, widths), like)
            panels = numbers_at(places[2] + 4 * before_inputs(layer, words, widths), like)
            of_image = image, written, some, kinds, (rows, words), strips, panels
            _leave_words(dz, row, read, *of_image)
        if layer == 0 and grad_x == 0:
            continue
        if layer > 0 and layer == lowest:
            continue
        laid = numbers_at(packed + 4 * before_panels(layer, widths, each, 1), like)
        to, to_row, kind = numbers_at(grad_x, number), written, NONE
        if layer > 0:
            to, to_row, kind = grads, row_of(written), activations[layer - 1]
        to = ahead(to, n * to_row + (before_grads(layer - 1, rows, widths) if layer > 0 else 0))
        one, active = ahead(numbers_at(places[0], like), at // each), ahead(image, n * written)
        of = one, row // each, end - n, laid, words_of(read, each), written, rooms
        _multiply_rows(*of, kind, active, to, to_row)
        if layer > 0:
            _clear_odd(to, end - n, to_row, written, each)
    hold((room, nothing))


@njit(parallel=True, **COMPILE)
def _grads_of_rows(sources, inputs, grads_of, kinds, rows, layers, lowest, threads, packed, places):
    """∂L/∂z_l and ∂L/∂x of all rows, and the words of ∂L/∂z_l and a_{l−1} that ∂L/∂w_l is made of.

    Args:
        sources: The addresses of ∂L/∂y and of y.
        inputs: Of a_0 … a_{L−1}.
        grads_of: Of all ∂L/∂w_l, 0 for those that nobody needs, and of ∂L/∂x.
        layers: C_0 … C_L, the activations, and L.
        lowest: The first layer l whose ∂L/∂z_l is needed.
        places: The addresses of all ∂L/∂z_l, of their words, and of those of all a_{l−1}.
    """
    (widths, activations, count), (of_weights, grad_x) = layers, grads_of
    each = kinds[3]
    words = words_of(rows, each)
    blocks = max(1, min(threads, rows // _FEWEST))
    for share in prange(blocks):
        block = np.intp(share)
        n, end = each * (words * block // blocks), each * (words * (block + 1) // blocks)
        some, grads, these = (n, min(rows, end)), (of_weights, grad_x), (widths, activations, count)
        _of_rows(some, sources, inputs, grads, kinds, rows, these, lowest, packed, places)


@njit(**COMPILE)
def _of_bias(grad, dz, row, rows, count, of_weight):
    """∂L/∂b_l at the address ``grad``: float32 sums of some rows, added up in float64."""
    total, part, to = np.zeros(count), aligned(count, _SUM), numbers_at(grad, of_weight)
    for first in range(0, rows, _TOGETHER):
        for o in range(count):
            part[o] = 0
        for r in range(first, min(rows, first + _TOGETHER)):
            for o in range(count):
                part[o] += wide(dz[np.uintp(r * row + o)])
        for o in range(count):
            total[o] += part[o]
    for o in range(count):
        to[o] = narrow(np.float32(total[o]), to)


@njit(**COMPILE)
def _to_sum(layer, grads, widths):
    """How many tasks sum ∂L/∂w_l: panels, and parts of each."""
    strips = -(-widths[layer + 1] // ROWS)
    return (panels_of(widths[layer]) if grads[layer] != 0 else 0), -(-strips // _STRIPS)


@njit(**COMPILE)
def _of_weights(task, grads, kinds, words, widths, places):
    """What is the task's of all ∂L/∂w_l."""
    _, of_weight, like, _ = kinds
    layer = 0
    panels, parts = _to_sum(layer, grads, widths)
    while task >= panels * parts:
        task -= panels * parts
        layer += 1
        panels, parts = _to_sum(layer, grads, widths)
    columns, count = widths[layer], widths[layer + 1]
    strips, apart = -(-count // ROWS), strip_size(words)
    begin, vectors, before = panel_of(task // parts, columns)
    first, last = strips * (task % parts) // parts, strips * (task % parts + 1) // parts
    at = before_inputs(layer, words, widths) + before * LANES * words
    laid = numbers_at(places[2] + 4 * at, like)
    at = before_strips(layer, words, widths) + first * apart
    one, wide_row = numbers_at(places[1] + 4 * at, like), vectors * LANES
    room, nothing = aligned((last - first) * ROWS * WIDEST, _SUM), aligned(WIDEST, _SUM)
    of_strips = last - first, apart, (last - first) * apart
    multiply(one, (1, ROWS), laid, words, vectors, of_strips, start_of(nothing), start_of(room))
    to, rows = numbers_at(grads[layer], of_weight), min(count, last * ROWS) - first * ROWS
    for r in range(rows):
        of, here = r * wide_row, (first * ROWS + r) * columns + begin
        for j in range(wide_row):
            to[np.uintp(here + j)] = narrow(room[np.uintp(of + j)], to)
    hold((room, nothing))


@njit(parallel=True, **COMPILE)
def _grads_of_weights(grads, biases, kinds, rows, widths, layers, places):
    """∂L/∂w_l and ∂L/∂b_l, those that have an address, from what :func:`_grads_of_rows` left."""
    tasks, words = 0, words_of(rows, kinds[3])
    for layer in range(layers):
        panels, parts = _to_sum(layer, grads, widths)
        tasks += panels * parts
    for task in prange(tasks + layers):
        if task < tasks:
            _of_weights(np.intp(task), grads, kinds, words, widths, places)
        elif biases[task - tasks] != 0:
            layer = np.intp(task - tasks)
            row, dz = row_of(widths[layer + 1]), numbers_at(places[0], kinds[0])
            dz = ahead(dz, before_grads(layer, rows, widths))
            _of_bias(biases[layer], dz, row, rows, widths[layer + 1], kinds[1])


@njit(**COMPILE)
def backward(sources, inputs, weights, gradients, grad_x, kinds, rows, layers, lowest, threads):
    """Leave ∂L/∂x, ∂L/∂w_l and ∂L/∂b_l at their addresses, those that are not 0.

    Args:
        sources: The addresses of ∂L/∂y and of y.
        inputs: Of a_0 … a_{L−1}.
        weights, gradients, grad_x: Of w_l; of ∂L/∂w_l and of ∂L/∂b_l; of ∂L/∂x.
        layers: C_0 … C_L, the activations, and L, as of ``linear_act_kernels.forward``.
        lowest: The first layer whose parameters, or input, have a gradient.
        kinds, rows, threads: As of ``linear_act_kernels.forward``.
    """
    (widths, _, count), each = layers, kinds[3]
    words = words_of(rows, each)
    sizes = (
        filled(before_panels(count, widths, each, 1)),
        filled(words_of(before_grads(count, rows, widths), each) + LANES),
        filled(before_strips(count, words, widths) + LANES),
        before_inputs(count, words, widths),
    )
    room = np.empty(sizes[0] + sizes[1] + sizes[2] + sizes[3] + _LINE, np.uint32)
    packed = np.intp(room.ctypes.data + -room.ctypes.data % 64)
    first = packed + 4 * sizes[0]
    second = first + 4 * sizes[1]
    places = first, second, second + 4 * sizes[2]
    above = 0 if grad_x != 0 else lowest + 1  # the layers whose w is multiplied by
    if above < count:
        lay_all(weights, kinds, widths, (above, count), 1, packed)
    of = gradients[0], grad_x
    _grads_of_rows(sources, inputs, of, kinds, rows, layers, lowest, threads, packed, places)
    _grads_of_weights(gradients[0], gradients[1], kinds, rows, widths, count, places)
    hold(room)
