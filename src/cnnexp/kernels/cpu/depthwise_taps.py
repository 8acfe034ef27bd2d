"""CPU kernels of ∂L/∂w of depthwise convolution, which read x and ∂L/∂y as ``depthwise_kernels`` do.

    for each chunk of images, for each LANES channels of each image:
        x → ``source``, one vector a pixel, zeros around; ∂L/∂y where it lies, if that is a vector a pixel
        the sums of U × V taps over some rows in registers, tile by tile of taps

These sums are added in float64, over the rows, the images and the chunks in their order, whatever the number
of threads is. Per number of ∂L/∂y: K_h·K_w multiply-adds, and a load or less for each.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange

from cnnexp.kernels.cpu.depthwise_images import first_of, read
from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.depthwise_vectors import correlate_of
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import narrow, numbers_at
from cnnexp.kernels.cpu.vector import COMPILE

_TERMS = 1 << 10  # of a sum in a register, about

_taps_3x3, _taps_5x5, _taps_1x7, _taps_1x3, _taps_1x1 = (
    correlate_of(*each) for each in ((3, 3, 4), (5, 5, 1), (1, 7, 4), (1, 3, 1), (1, 1, 1))
)


@njit(**COMPILE)
def _taps(sums, grad, grad_at, apart, source, p, rows, columns, y, x, pitch, height, width):
    """The sums of all taps over some rows of an image's ∂L/∂y, by tiles of taps that fill the registers."""
    g, gy, gx = grad_at + p * columns * apart, columns * apart, apart
    at, line = p * y, width * LANES
    v = 0
    while v < width:
        left = width - v
        across, u = 7 if left >= 7 else 5 if left == 5 and height == 5 else 3 if left >= 3 else 1, 0
        while u < height:
            to, s, down = (u * width + v) * LANES, at + u * pitch + v * LANES, 1
            if across == 7:
                _taps_1x7(sums, to, line, grad, g, gy, gx, rows, columns, source, s, y, x, pitch)
            elif across == 5:
                down = 5
                _taps_5x5(sums, to, line, grad, g, gy, gx, rows, columns, source, s, y, x, pitch)
            elif across == 3 and height - u >= 3:
                down = 3
                _taps_3x3(sums, to, line, grad, g, gy, gx, rows, columns, source, s, y, x, pitch)
            elif across == 3:
                _taps_1x3(sums, to, line, grad, g, gy, gx, rows, columns, source, s, y, x, pitch)
            else:
                _taps_1x1(sums, to, line, grad, g, gy, gx, rows, columns, source, s, y, x, pitch)
            u += down
        v += across


@njit(**COMPILE)
def _part(part, source, grad, n, block, channels, source_last, grad_last, table, window, room):
    """Add the sums of one image's ``LANES`` channels into ``part`` (taps · LANES,); arrays are pointers."""
    places, count, dense, pitch = table
    rows, columns, y, x, height, width = window
    inside, outer, sums = room
    size, numbers = rows * columns, height * width * LANES
    step = max(1, _TERMS // columns)
    read(source, n, block, channels, count, source_last, places, inside)
    in_place = grad_last and channels >= LANES
    grad_at = n * size * channels + first_of(block, channels)
    if not in_place:
        read(grad, n, block, channels, size, grad_last, dense, outer)
    for p in range(0, rows, step):
        shape = p, min(step, rows - p), columns, y, x, pitch, height, width
        if in_place:
            _taps(sums, grad, grad_at, channels, inside, *shape)
        else:
            _taps(sums, outer, 0, LANES, inside, *shape)
        for j in range(numbers):
            part[j] += sums[j]


@njit(**COMPILE)  # apart, as numba would wake all threads to write zeros
def _zeros(chunks, blocks, taps):
    return np.zeros((chunks, blocks, taps * LANES))


@njit(**COMPILE)
def _collect(parts, target, kept, channels, taps, like):
    """Of each of ``kept`` parts, or the sum of all if that is 1, its taps as ``target`` (kept, C, taps)."""
    for n in range(kept):
        for block in range(parts.shape[1]):
            c = first_of(block, channels)
            for j in range(taps):
                for k in range(min(LANES, channels)):
                    total = parts[n, block, j * LANES + k]
                    if kept == 1:
                        for t in range(1, parts.shape[0]):
                            total += parts[t, block, j * LANES + k]
                    like[0] = total
                    target[(n * channels + c + k) * taps + j] = narrow(like[0], target)


@njit(parallel=True, **COMPILE)
def correlate(
    source_at,
    grad_at,
    target_at,
    element,
    images,
    channels,
    source_last,
    grad_last,
    table,
    window,
    like,
):
    """Leave at ``target_at`` the sums of all taps, (C, K_h·K_w), or (N, C, K_h·K_w) of each image.

    ``window`` is P, Q, the steps of a row and a column in the source, K_h, K_w, and how many images are
    added up at a time: all are, unless that is 1 image.
    """
    rows, columns, _, _, height, width, together = window
    places, space, pitch = table
    taps, blocks, size = height * width, -(-channels // LANES), rows * columns
    source, grad = numbers_at(source_at, element), numbers_at(grad_at, element)
    parts = _zeros(-(-images // together), blocks, taps)
    dense = np.arange(size) * LANES
    totals = start_of(parts)
    of_part, shape = (start_of(places), places.size, start_of(dense), pitch), window[:6]
    for t in prange(parts.shape[0]):
        inside, outer = aligned(space, like), aligned(size * LANES, like)
        sums = aligned(taps * LANES, like)
        room = start_of(inside), start_of(outer), start_of(sums)
        for n in range(t * together, min((t + 1) * together, images)):
            for block in range(blocks):
                _part(
                    *(ahead(totals, (t * blocks + block) * taps * LANES), source, grad, n, block),
                    *(channels, source_last, grad_last, of_part, shape, room),
                )
        hold((inside, outer, sums))
    hold(dense)
    kept = images if together == 1 else 1
    target = carray(numbers_at(target_at, element), kept * channels * taps)
    _collect(parts, target, kept, channels, taps, like)
