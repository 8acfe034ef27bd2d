"""CPU kernels of convolutions of few channels in bfloat16: vectors run along planes of pairs.

As ``narrow_kernels``, whose loops and planes these are; one instruction (``vdpbf16ps``) multiplies sixteen
pairs, so a tap is two channels, or two neighbours of a row of the kernel. ∂L/∂x is the convolution of ∂L/∂z
with the kernels turned around; in ∂L/∂w two pixels side by side are multiplied together. What is behind the
convolution (``narrow_planes``) is computed in float32, and ∂L/∂z is rounded where it becomes a factor.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange

from cnnexp.kernels.cpu.behind import NOTHING, RELU_MAX, TANH
from cnnexp.kernels.cpu.narrow_kernels import (
    SLACK,
    TASKS,
    add_shares,
    convolve,
    group_of,
    leave,
    outputs_of,
    tiles_of,
)
from cnnexp.kernels.cpu.narrow_pair_planes import pack_planes, planes_of, read, read_channels, write
from cnnexp.kernels.cpu.narrow_planes import behind, finish
from cnnexp.kernels.cpu.narrow_planes import write as write_planes
from cnnexp.kernels.cpu.narrow_tiles import LANES, SHARES, TILES
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import hold, start_of
from cnnexp.kernels.cpu.precision import narrow, numbers_at, wide
from cnnexp.kernels.cpu.vector import COMPILE, VECTOR_BYTES

__all__ = ["forward", "grad_input", "grad_weight"]

_HALF, _WORD, _BYTE, _SUM = np.uint16(1), np.uint32(1), np.uint8(1), np.empty(1, np.float32)
_WORDS, _HALVES = np.empty(1, np.uint32), np.empty(1, np.uint16)
_UNITY = np.uint16(0x3F80)  # the bits of 1


@njit(**COMPILE)
def _taps(weight, places, step, tiles):
    """The pairs of weights in the order in which :func:`convolve` takes them by such ``tiles``.

    Output o has those at ``places`` (T, 2) + o·``step``; −1 is a zero.
    """
    outputs, count = tiles.size - 1, places.shape[0]
    made, o = aligned(outputs * count, _WORDS), 0
    while o < outputs:
        some, base = TILES[tiles[outputs - o]][0], o * count
        for t in range(count):
            for k in range(some):
                pair = np.uint32(weight[places[t, 0] + (o + k) * step])
                if places[t, 1] >= 0:
                    pair |= np.uint32(weight[places[t, 1] + (o + k) * step]) << np.uint32(16)
                made[base + t * some + k] = pair
        o += some
    return made


@njit(**COMPILE)
def _biases(address, count):
    """The biases at ``address`` in float32; zeros if it is 0."""
    made = aligned(count, _SUM)
    if address != 0:
        bias = carray(numbers_at(address, _HALF), count)
        for o in range(count):
            made[o] = wide(bias[o])
    return made


@njit(**COMPILE)
def _leave(planes, plane, pitch, size, image, pairs, all_images, n, channels, last):
    """Copy the ``planes`` to image n, rounded; ``image`` and ``all_images`` are the same memory."""
    if last and channels % 2 == 0:
        write(start_of(planes), plane, pitch, size, image, pairs, n, channels, last)
    else:
        write_planes(planes, plane, pitch, size, all_images, n, channels, last)


@njit(**COMPILE)
def _in_planes(grad, grads, pairs, n, channels, last, size, room):
    """∂L/∂y of image n, in ``room`` if that makes planes of it; whether the channels are last still.

    ``grad`` and ``grads`` are the same memory, of all images.
    """
    if last and channels % 2 == 0:
        pixels = size[0] * size[1]
        read_channels(grad, pairs, n, channels, size, last, (0, size[1], pixels), start_of(room))
        return room, False
    return grads[n * channels * size[0] * size[1] :], last


@njit(parallel=True, **COMPILE)
def forward(addresses, images, channels, lasts, geometry, kernel, reads, places, step, after):
    """Leave y and what the backward needs of it at their addresses.

    Args:
        addresses: Of x, w, b (0 for none), what is kept (0 for nothing), and y.
        images: N.
        channels: Of x and y.
        lasts: Whether x and y have the channels last; what is kept has not.
        geometry: (H, W), (P, Q), padding, and rows and columns of a padded plane.
        kernel: How many weights there are, the columns of a kernel, and how far two of them are apart.
        reads: Where each tap, a pair, reads, from the pixel's place in the planes on.
        places: Where its weights are in w, for the first output, −1 for none; of the others ``step`` on.
        after: As of ``narrow_kernels.forward``.
    """
    (c_in, c_out), (size, shown, pad, pitch) = channels, geometry
    weights, width, apart = kernel
    windows, pooled, divisors, easy, kind = after
    pixels = shown[0] * shown[1]
    results = windows.shape[0] if windows.shape[0] else pixels
    x, pairs = numbers_at(addresses[0], _HALF), numbers_at(addresses[0], _WORD)
    weight = carray(numbers_at(addresses[1], _HALF), weights)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[3], _HALF), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[3], _BYTE), images * c_out * results if coded else 0)
    output = carray(numbers_at(addresses[4], _HALF), images * c_out * results)
    y, y_pairs = numbers_at(addresses[4], _HALF), numbers_at(addresses[4], _WORD)
    wide_row, padded, count = pitch[1], pitch[0] * pitch[1], reads.size
    length = (shown[0] - 1) * wide_row + shown[1]
    tiles = tiles_of(c_out, -(-length // (VECTOR_BYTES // 4)))
    made, start = _taps(weight, places, step, tiles), _biases(addresses[2], c_out)
    plane, tasks = length + SLACK, min(TASKS, images)
    layout = pad[0] * wide_row + pad[1], wide_row, padded
    for task in prange(tasks):
        planes = aligned(planes_of(c_in, width) * padded + SLACK, _WORDS)
        values, means = (
            aligned(c_out * plane, _SUM),
            aligned(c_out * windows.shape[0] + LANES, _SUM),
        )
        best, marks = aligned(plane if coded else 1, _SUM), aligned(plane if coded else 1, _SUM)
        for n in range(images * task // tasks, images * (task + 1) // tasks):
            read(x, pairs, n, c_in, size, lasts[0], layout, width, apart, start_of(planes))
            convolve(planes, reads, count, made, tiles, start, c_out, length, plane, values)
            if kind != NOTHING:
                rest, room = (windows, pooled, divisors, easy, kind), (means, best, marks)
                finish(values, plane, wide_row, shown, n, c_out, rest, kept, codes, room)
            to = y, y_pairs, output, n, c_out, lasts[1]
            if windows.shape[0]:
                _leave(means, windows.shape[0], pooled[1], pooled, *to)
            else:
                _leave(values, plane, wide_row, shown, *to)
        hold((planes, values, means))


@njit(parallel=True, **COMPILE)
def grad_input(addresses, images, channels, lasts, geometry, kernel, reads, places, step, after):
    """Leave ∂L/∂x at its address.

    Args:
        addresses: Of ∂L/∂y, what was kept (0 for nothing), w and ∂L/∂x.
        channels, lasts: Of ∂L/∂y and ∂L/∂x.
        geometry: (P, Q), (H, W), padding of ∂L/∂z, and rows and columns of a padded plane of it.
        after: As of ``narrow_kernels.grad_input``; the others as of :func:`forward`.
    """
    (c_out, c_in), (size, shown, pad, pitch) = channels, geometry
    weights, width, apart = kernel
    windows, pooled, divisors, easy, kind = after
    pixels = size[0] * size[1]
    results = windows.shape[0] if windows.shape[0] else pixels
    given = pooled if windows.shape[0] else size
    grad = carray(numbers_at(addresses[0], _HALF), images * c_out * results)
    g, g_pairs = numbers_at(addresses[0], _HALF), numbers_at(addresses[0], _WORD)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[1], _HALF), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[1], _BYTE), images * c_out * results if coded else 0)
    weight = carray(numbers_at(addresses[2], _HALF), weights)
    image, pairs = numbers_at(addresses[3], _HALF), numbers_at(addresses[3], _WORD)
    output = carray(image, images * c_in * shown[0] * shown[1])
    wide_row, padded, count = pitch[1], pitch[0] * pitch[1], reads.size
    length = (shown[0] - 1) * wide_row + shown[1]
    tiles = tiles_of(c_in, -(-length // (VECTOR_BYTES // 4)))
    taps, nothing = _taps(weight, places, step, tiles), aligned(c_in, _SUM)
    plane, tasks = length + SLACK, min(TASKS, images)
    for task in prange(tasks):
        planes = aligned(planes_of(c_out, width) * padded + SLACK, _WORDS)
        own = aligned(c_out * padded + SLACK + apart, _SUM)
        sums = aligned(c_in * plane, _SUM)
        means = aligned(c_out * windows.shape[0] + LANES, _SUM)
        outer = aligned(c_out * results + 2 * LANES, _HALVES)
        for n in range(images * task // tasks, images * (task + 1) // tasks):
            layout = pad[0] * wide_row + pad[1], wide_row, padded
            if kind == NOTHING:
                made = start_of(planes)
                read(g, g_pairs, n, c_out, size, lasts[0], layout, width, apart, made)
            else:
                rest = windows, pooled, divisors, easy, kind
                of = g, grad, g_pairs, n, c_out, lasts[0]
                mine, still_last = _in_planes(*of, given, outer)
                behind(mine, kept, codes, n, c_out, still_last, size, layout, rest, means, own)
                pack_planes(own, c_out, padded, width, apart, planes)
            convolve(planes, reads, count, taps, tiles, nothing, c_in, length, plane, sums)
            to = image, pairs, output, n, c_in, lasts[1]
            _leave(sums, plane, wide_row, shown, *to)
        hold((planes, sums, outer))


@njit(**COMPILE)
def _round_into(values, count, halves, at):
    """halves[at + k] = values[k], rounded, for k < ``count``."""
    for k in range(count):  # by indices that numba knows not to count from the end
        halves[np.uintp(at + k)] = narrow(values[np.uintp(k)], halves)


@njit(parallel=True, **COMPILE)
def grad_weight(addresses, images, channels, lasts, geometry, area, reads, parts, after):
    """Leave ∂L/∂w and ∂L/∂b at their addresses, sums over ``parts`` of the batch, in order.

    Args:
        addresses: Of x, ∂L/∂y, what was kept (0 for nothing), ∂L/∂w and ∂L/∂b.
        images, channels, lasts: N; of x and ∂L/∂y.
        geometry, after: As of :func:`forward`.
        area: K_h·K_w.
        reads: Where each tap (c, u, v) reads; then that of the bias, which reads ones; and ``SPARE`` more.
        parts: Into how many sums the batch is cut.
    """
    (c_in, c_out), (size, shown, pad, pitch) = channels, geometry
    windows, pooled, divisors, easy, kind = after
    pixels, weights = shown[0] * shown[1], c_in * area
    results = windows.shape[0] if windows.shape[0] else pixels
    given = pooled if windows.shape[0] else shown
    x, x_pairs = numbers_at(addresses[0], _HALF), numbers_at(addresses[0], _WORD)
    grad = carray(numbers_at(addresses[1], _HALF), images * c_out * results)
    outer, outer_pairs = numbers_at(addresses[1], _HALF), numbers_at(addresses[1], _WORD)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[2], _HALF), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[2], _BYTE), images * c_out * results if coded else 0)
    wide_row, padded = pitch[1], pitch[0] * pitch[1]
    length, lanes = (shown[0] - 1) * wide_row + shown[1], 2 * LANES
    steps = -(-length // lanes)
    plane = steps * lanes + lanes
    apart = (-(-((c_in + 1) * padded) // lanes) * lanes + lanes, outputs_of(c_out) * plane)
    group = group_of(2 * (apart[0] + apart[1]))
    totals = np.zeros((parts, outputs_of(c_out) * reads.size), np.float32)
    at = pad[0] * wide_row + pad[1]
    for part in prange(parts):
        first, last = images * part // parts, images * (part + 1) // parts
        some = min(group, last - first)
        planes, grads = aligned(some * apart[0], _HALVES), aligned(some * apart[1], _HALVES)
        for g in range(some):
            for k in range(g * apart[0] + c_in * padded, (g + 1) * apart[0]):
                planes[k] = _UNITY
        own, means = aligned(c_out * plane, _SUM), aligned(c_out * windows.shape[0] + LANES, _SUM)
        one = aligned(SHARES[0][1] * reads.size, _SUM)
        room = aligned(c_out * results + 2 * LANES, _HALVES)
        for begin in range(first, last, some):
            many = min(some, last - begin)
            for g in range(many):
                n, layout = begin + g, (g * apart[0] + at, wide_row, padded)
                read_channels(x, x_pairs, n, c_in, size, lasts[0], layout, start_of(planes))
                if kind == NOTHING:
                    layout, made = (g * apart[1], wide_row, plane), start_of(grads)
                    read_channels(outer, outer_pairs, n, c_out, shown, lasts[1], layout, made)
                    continue
                layout, rest = (0, wide_row, plane), (windows, pooled, divisors, easy, kind)
                of = outer, grad, outer_pairs, n, c_out, lasts[1]
                mine, still_last = _in_planes(*of, given, room)
                behind(mine, kept, codes, n, c_out, still_last, shown, layout, rest, means, own)
                _round_into(own, c_out * plane, grads, g * apart[1])
            layout = plane, steps, many, apart
            add_shares(totals[part], one, planes, reads, weights + 1, grads, c_out, layout)
        hold((planes, grads, room))
    weight = carray(numbers_at(addresses[3], _HALF), c_out * weights)
    leave(totals, reads.size, weight, carray(numbers_at(addresses[4], _HALF), c_out))
