"""CPU kernels of a convolution of few channels in bfloat16: vectors run along planes of pairs.

As ``narrow_kernels``, whose loops and planes these are; one instruction (``vdpbf16ps``) multiplies sixteen
pairs, so a tap is two channels, or two neighbours of a row of the kernel. ∂L/∂x is the convolution of ∂L/∂y
with the kernels turned around; in ∂L/∂w two pixels side by side are multiplied together.

Compiled by numba on first use and kept in its cache; after a change in ``narrow_tiles``, ``narrow_kernels``,
``narrow_pair_planes``, ``narrow_pair_pixels``, ``pairs`` or ``precision``, touch this file.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange

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
from cnnexp.kernels.cpu.narrow_pair_planes import planes_of, read, read_channels, write
from cnnexp.kernels.cpu.narrow_tiles import LANES, SHARES, TILES
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import hold, start_of
from cnnexp.kernels.cpu.precision import numbers_at, wide
from cnnexp.kernels.cpu.vector import COMPILE, VECTOR_BYTES

__all__ = ["biases_of", "convolution", "grad_weight", "taps_of"]

_HALF, _WORD, _SUM = np.uint16(1), np.uint32(1), np.empty(1, np.float32)
_WORDS, _HALVES = np.empty(1, np.uint32), np.empty(1, np.uint16)
_UNITY = np.uint16(0x3F80)  # the bits of 1


@njit(**COMPILE)
def taps_of(weight, places, step, tiles):
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
def biases_of(address, count):
    """The biases at ``address`` in float32; zeros if it is 0."""
    made = aligned(count, _SUM)
    if address != 0:
        bias = carray(numbers_at(address, _HALF), count)
        for o in range(count):
            made[o] = wide(bias[o])
    return made


@njit(parallel=True, **COMPILE)
def convolution(addresses, images, channels, lasts, geometry, kernel, reads, places, step):
    """Leave y at its address.

    Args:
        addresses: Of x, w, b (0 for none) and y.
        images: N.
        channels: Of x and y.
        lasts: Whether x and y have the channels last.
        geometry: (H, W), (P, Q), padding, and rows and columns of a padded plane.
        kernel: How many weights there are, the columns of a kernel, and how far two of them are apart.
        reads: Where each tap, a pair, reads, from the pixel's place in the planes on.
        places: Where its weights are in w, for the first output, −1 for none; of the others ``step`` on.
    """
    (c_in, c_out), (size, shown, pad, pitch) = channels, geometry
    weights, width, apart = kernel
    x, pairs = numbers_at(addresses[0], _HALF), numbers_at(addresses[0], _WORD)
    y, made = numbers_at(addresses[3], _HALF), numbers_at(addresses[3], _WORD)
    weight = carray(numbers_at(addresses[1], _HALF), weights)
    wide_row, padded, count = pitch[1], pitch[0] * pitch[1], reads.size
    length = (shown[0] - 1) * wide_row + shown[1]
    tiles = tiles_of(c_out, -(-length // (VECTOR_BYTES // 4)))
    made_taps, start = taps_of(weight, places, step, tiles), biases_of(addresses[2], c_out)
    plane, tasks = length + SLACK, min(TASKS, images)
    layout = pad[0] * wide_row + pad[1], wide_row, padded
    taps, begin, table = start_of(made_taps), start_of(start), start_of(reads)
    for task in prange(tasks):
        room = (
            aligned(planes_of(c_in, width) * padded + SLACK, _WORDS),
            aligned(c_out * plane, _SUM),
        )
        planes, sums = start_of(room[0]), start_of(room[1])
        for n in range(images * task // tasks, images * (task + 1) // tasks):
            read(x, pairs, n, c_in, size, lasts[0], layout, width, apart, planes)
            convolve(planes, table, count, taps, tiles, begin, c_out, length, plane, sums)
            write(sums, plane, wide_row, shown, y, made, n, c_out, lasts[1])
        hold(room)
    hold((made_taps, start, reads))


@njit(parallel=True, **COMPILE)
def grad_weight(addresses, images, channels, lasts, geometry, area, reads, parts):
    """Leave ∂L/∂w and ∂L/∂b at their addresses, sums over ``parts`` of the batch, in order.

    Args:
        addresses: Of x, ∂L/∂y, ∂L/∂w and ∂L/∂b.
        images, channels, lasts: N; of x and ∂L/∂y.
        geometry: As of :func:`convolution`.
        area: K_h·K_w.
        reads: Where each tap (c, u, v) reads; then that of the bias, which reads ones; and ``SPARE`` more.
        parts: Into how many sums the batch is cut.
    """
    (c_in, c_out), (size, shown, pad, pitch) = channels, geometry
    x, x_pairs = numbers_at(addresses[0], _HALF), numbers_at(addresses[0], _WORD)
    grad, grad_pairs = numbers_at(addresses[1], _HALF), numbers_at(addresses[1], _WORD)
    wide_row, padded, weights = pitch[1], pitch[0] * pitch[1], c_in * area
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
        room = aligned(some * apart[0], _HALVES), aligned(some * apart[1], _HALVES)
        planes, grads = start_of(room[0]), start_of(room[1])
        for g in range(some):
            for k in range(g * apart[0] + c_in * padded, (g + 1) * apart[0]):
                planes[k] = _UNITY
        one = aligned(SHARES[0][1] * reads.size, _SUM)
        for begin in range(first, last, some):
            many = min(some, last - begin)
            for g in range(many):
                n, layout = begin + g, (g * apart[0] + at, wide_row, padded)
                read_channels(x, x_pairs, n, c_in, size, lasts[0], layout, planes)
                layout = g * apart[1], wide_row, plane
                read_channels(grad, grad_pairs, n, c_out, shown, lasts[1], layout, grads)
            layout = plane, steps, many, apart
            add_shares(totals[part], one, planes, reads, weights + 1, grads, c_out, layout)
        hold(room)
    weight = carray(numbers_at(addresses[2], _HALF), c_out * weights)
    leave(totals, reads.size, weight, carray(numbers_at(addresses[3], _HALF), c_out))
