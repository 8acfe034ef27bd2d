"""CPU kernels of depthwise convolution: each channel by a kernel of its own, ``LANES`` channels at a time.

    for each image, for each LANES channels:
        its pixels → ``source``: float32 (float64), one vector a pixel, zeros around (the padding)
        for each phase, some pixels at a time: the sums of all taps, in registers, → ``out``
        ``out`` → the result, rounded once

A forward pass has one phase. ∂L/∂x has s_h·s_w of them: the pixels of x in one phase see the same taps, so
that no product with the zeros between the pixels of a spread ∂L/∂y is taken. Which pixels, taps and places
these are, the tables of ``depthwise_tables`` say. Both memory layouts meet in ``source`` and ``out``, some
ten to a hundred kilobytes that stay in the second cache: where the channels lie last, a pixel is one load;
of planes, LANES × LANES numbers are transposed in registers.

∂L/∂w reads x and ∂L/∂y in the same way, and keeps the sums of U × V taps in registers over some
rows of an image. They are added in float64 over the rows and images, in the order of these.

Per number of the result: K_h·K_w multiply-adds, 1 load for each (of which taps are shared), one read and one
write of memory. No bit depends on the number of threads. The last LANES channels (and of planes the
last LANES pixels) overlap with those before where they would not fill a vector: what is computed twice has
the same bits.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange

from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.depthwise_vectors import (
    any_sums_of,
    correlate_of,
    line_sums_of,
    narrow_pixels,
    narrow_tile,
    sums_of,
    widen_pixels,
    widen_tile,
)
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.precision import narrow, numbers_at, wide
from cnnexp.kernels.cpu.vector import COMPILE

_NUMBERS = 1 << 16  # that a thread takes at a time, about
_TERMS = 1 << 10  # of a sum in a register, about


# of the commonest kernel, alone and in pairs and two apart, and of its phases at stride 2
_sums_3x3, _pair_3x3, _far_3x3 = sums_of(4, 3, 3, 1), sums_of(2, 3, 3, 1), sums_of(4, 3, 3, 2)
_sums_2x2, _sums_2x1 = sums_of(4, 2, 2, 1), sums_of(4, 2, 1, 1)
_sums_1x2, _sums_1x1 = sums_of(4, 1, 2, 1), sums_of(4, 1, 1, 1)
# of lines of taps
_line_7, _short_7 = line_sums_of(8, 7, 1), line_sums_of(4, 7, 1)
_line_5, _pair_5, _far_5 = line_sums_of(4, 5, 1), line_sums_of(2, 5, 1), line_sums_of(4, 5, 2)
_any_4, _any_2, _any_1 = any_sums_of(4), any_sums_of(2), any_sums_of(1)
_taps_3x3, _taps_5x5, _taps_1x7, _taps_1x3, _taps_1x1 = (
    correlate_of(*each) for each in ((3, 3, 4), (5, 5, 1), (1, 7, 4), (1, 3, 1), (1, 1, 1))
)


@njit(**COMPILE)
def _first(block, channels):
    """The first channel of a block."""
    return max(0, min(block * LANES, channels - LANES))


@njit(**COMPILE)
def _read(image, n, block, channels, count, last, places, pixels):
    """The ``count`` pixels of image n, at ``places`` in ``pixels``; what has no place is not needed."""
    c = _first(block, channels)
    if channels < LANES:
        for k in range(channels):
            for f in range(count):
                at = (n * count + f) * channels + k if last else (n * channels + k) * count + f
                pixels[places[f] + k] = wide(image[at])
    elif last:
        widen_pixels(image, n * count * channels + c, channels, count, places, pixels)
    elif count < LANES:
        for k in range(LANES):
            at = (n * channels + c + k) * count
            for f in range(count):
                pixels[places[f] + k] = wide(image[at + f])
    else:
        at = (n * channels + c) * count
        for f in range(0, count - LANES + 1, LANES):
            widen_tile(image, at + f, count, places, f, pixels)
        if count % LANES:
            f = count - LANES
            widen_tile(image, at + f, count, places, f, pixels)


@njit(**COMPILE)
def _write(pixels, image, n, block, channels, count, last):
    """The other way; ``pixels`` lie one after another."""
    c = _first(block, channels)
    if channels < LANES:
        for k in range(channels):
            for f in range(count):
                at = (n * count + f) * channels + k if last else (n * channels + k) * count + f
                image[at] = narrow(pixels[f * LANES + k], image)
    elif last:
        narrow_pixels(pixels, image, n * count * channels + c, channels, count)
    elif count < LANES:
        for k in range(LANES):
            at = (n * channels + c + k) * count
            for f in range(count):
                image[at + f] = narrow(pixels[f * LANES + k], image)
    else:
        at = (n * channels + c) * count
        for f in range(0, count - LANES + 1, LANES):
            narrow_tile(pixels, f * LANES, image, at + f, count)
        if count % LANES:
            f = count - LANES
            narrow_tile(pixels, f * LANES, image, at + f, count)


@njit(**COMPILE)
def _any_pixels(out, out_at, apart, source, w, w_at, b, b_at, phase, pitch):
    """The pixels of one phase as :func:`_pixels`, whatever its taps are."""
    rows, columns, to, oy, ox = phase[0], phase[1], phase[2], phase[3] * apart, phase[4] * apart
    at, y, x, h, v = phase[5], phase[6], phase[7], phase[8], phase[9]
    for p in range(rows):
        q = 0
        while q < columns:
            o, s = out_at + to * apart + p * oy + q * ox, at + p * y + q * x
            if columns - q >= 4:
                _any_4(out, o, ox, source, s, x, pitch, w, w_at, h, v, b, b_at)
                q += 4
            elif columns - q >= 2:
                _any_2(out, o, ox, source, s, x, pitch, w, w_at, h, v, b, b_at)
                q += 2
            else:
                _any_1(out, o, ox, source, s, x, pitch, w, w_at, h, v, b, b_at)
                q += 1


@njit(**COMPILE)
def _pixels(out, out_at, apart, source, w, w_at, b, b_at, phase, pitch):
    """Pixels of one phase: ``out``, where they lie ``apart``, from ``source`` and the taps at ``w_at``.

    Returns whether their taps are of a kind that registers hold; else nothing is done.
    """
    rows, columns, oy, ox = phase[0], phase[1], phase[3] * apart, phase[4] * apart
    to, at, y = out_at + phase[2] * apart, phase[5], phase[6]
    h, v = phase[8], phase[9]
    if max(h, v) > 7:
        return False
    kind = (phase[7] // LANES << 12) + (min(columns, 4) << 8) + (h << 4) + v
    if kind & 0xFF0F == 0x1407 and columns >= 8:
        _line_7(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, h)
    elif kind & 0xFF0F == 0x1407:
        _short_7(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, h)
    elif kind & 0xFF0F == 0x1405:
        _line_5(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, h)
    elif kind & 0xFF0F == 0x1205:
        _pair_5(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, h)
    elif kind & 0xFF0F == 0x2405:
        _far_5(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, h)
    elif kind == 0x1433:
        _sums_3x3(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at)
    elif kind == 0x1422:
        _sums_2x2(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at)
    elif kind == 0x1421:
        _sums_2x1(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at)
    elif kind == 0x1412:
        _sums_1x2(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at)
    elif kind == 0x1411:
        _sums_1x1(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at)
    elif kind == 0x1233:
        _pair_3x3(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at)
    elif kind == 0x2433:
        _far_3x3(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at)
    else:
        return False
    return True


@njit(**COMPILE)
def _block(source, target, n, block, channels, source_last, target_last, table, room, w, b):
    """The result of one image's ``LANES`` channels."""
    places, phases, pitch, taps = table[0], table[1], table[2], table[3]
    inside, out, size = room[0], room[1], room[1].size // LANES
    _read(source, n, block, channels, places.size, source_last, places, inside)
    in_place = target_last and channels >= LANES
    target_at = n * size * channels + _first(block, channels)
    for k in range(phases.shape[0]):
        phase = phases[k]
        w_at, b_at = (block * taps + phase[10]) * LANES, block * LANES
        if in_place:
            if not _pixels(target, target_at, channels, inside, w, w_at, b, b_at, phase, pitch):
                _any_pixels(target, target_at, channels, inside, w, w_at, b, b_at, phase, pitch)
        elif not _pixels(out, 0, LANES, inside, w, w_at, b, b_at, phase, pitch):
            _any_pixels(out, 0, LANES, inside, w, w_at, b, b_at, phase, pitch)
    if not in_place:
        _write(out, target, n, block, channels, size, target_last)


@njit(**COMPILE)
def _vectors(values, channels, order, like):
    """The taps (C, K) as vectors, block by block, in the order of the table: (blocks · K · LANES,)."""
    blocks, taps = -(-channels // LANES), order.size
    made = aligned(blocks * taps * LANES, like)
    for block in range(blocks):
        c = _first(block, channels)
        for j in range(taps):
            for k in range(min(LANES, channels)):
                tap = wide(values[(c + k) * taps + order[j]])
                made[(block * taps + j) * LANES + k] = tap
    return made


@njit(parallel=True, **COMPILE)
def convolve(
    source_at,
    target_at,
    element,
    images,
    channels,
    source_last,
    target_last,
    w_at,
    b_at,
    table,
    order,
    size,
    like,
):
    """Leave at ``target_at`` the images of ``size`` pixels that ``table`` makes of those at ``source_at``.

    ``element`` is a number of their kind, ``like`` an array of that of the sums; an address ``b_at`` of 0
    stands for no bias.
    """
    places, phases, pitch, taps, space = table
    source = carray(numbers_at(source_at, element), images * channels * places.size)
    target = carray(numbers_at(target_at, element), images * channels * size)
    w = _vectors(carray(numbers_at(w_at, element), channels * taps), channels, order, like)
    blocks = -(-channels // LANES)
    if b_at == 0:
        b = aligned(blocks * LANES, like)
    else:
        # order[0] is 0 where there is a bias, as of any forward
        b = _vectors(carray(numbers_at(b_at, element), channels), channels, order[:1], like)
    together = max(1, _NUMBERS // (size * LANES))
    of_block = places, phases, pitch, taps
    for t in prange(-(-images * blocks // together)):
        room = aligned(space, w), aligned(size * LANES, w)
        for i in range(t * together, min((t + 1) * together, images * blocks)):
            n, block = i // blocks, i % blocks
            _block(
                source, target, n, block, channels, source_last, target_last, of_block, room, w, b
            )


@njit(**COMPILE)
def _taps(sums, grad, grad_at, apart, source, p, rows, columns, y, x, pitch, height, width):
    """The sums of all taps over some rows of an image's ∂L/∂y, by tiles of taps that fill the registers."""
    first, grad_row, at, line = grad_at + p * columns * apart, columns * apart, p * y, width * LANES
    v = 0
    while v < width:
        left = width - v
        across, u = 7 if left >= 7 else 5 if left == 5 and height == 5 else 3 if left >= 3 else 1, 0
        while u < height:
            to, s, down = (u * width + v) * LANES, at + u * pitch + v * LANES, 1
            if across == 7:
                _taps_1x7(
                    sums,
                    to,
                    line,
                    grad,
                    first,
                    grad_row,
                    apart,
                    rows,
                    columns,
                    source,
                    s,
                    y,
                    x,
                    pitch,
                )
            elif across == 5:
                down = 5
                _taps_5x5(
                    sums,
                    to,
                    line,
                    grad,
                    first,
                    grad_row,
                    apart,
                    rows,
                    columns,
                    source,
                    s,
                    y,
                    x,
                    pitch,
                )
            elif across == 3 and height - u >= 3:
                down = 3
                _taps_3x3(
                    sums,
                    to,
                    line,
                    grad,
                    first,
                    grad_row,
                    apart,
                    rows,
                    columns,
                    source,
                    s,
                    y,
                    x,
                    pitch,
                )
            elif across == 3:
                _taps_1x3(
                    sums,
                    to,
                    line,
                    grad,
                    first,
                    grad_row,
                    apart,
                    rows,
                    columns,
                    source,
                    s,
                    y,
                    x,
                    pitch,
                )
            else:
                _taps_1x1(
                    sums,
                    to,
                    line,
                    grad,
                    first,
                    grad_row,
                    apart,
                    rows,
                    columns,
                    source,
                    s,
                    y,
                    x,
                    pitch,
                )
            u += down
        v += across


@njit(**COMPILE)
def _part(part, source, grad, n, block, channels, source_last, grad_last, table, window, room):
    """Add the sums of one image's ``LANES`` channels into ``part`` (taps · LANES,)."""
    places, dense, pitch = table
    rows, columns, y, x, height, width = window
    inside, outer, sums = room
    size = rows * columns
    step = max(1, _TERMS // columns)
    _read(source, n, block, channels, places.size, source_last, places, inside)
    in_place = grad_last and channels >= LANES
    grad_at = n * size * channels + _first(block, channels)
    if not in_place:
        _read(grad, n, block, channels, size, grad_last, dense, outer)
    for p in range(0, rows, step):
        shape = p, min(step, rows - p), columns, y, x, pitch, height, width
        if in_place:
            _taps(sums, grad, grad_at, channels, inside, *shape)
        else:
            _taps(sums, outer, 0, LANES, inside, *shape)
        for j in range(sums.size):
            part[j] += sums[j]


@njit(**COMPILE)  # apart, as numba would wake all threads to write zeros
def _zeros(chunks, blocks, taps):
    return np.zeros((chunks, blocks, taps * LANES))


@njit(**COMPILE)
def _collect(parts, target, kept, channels, taps, like):
    """Of each of ``kept`` parts, or the sum of all if that is 1, its taps as ``target`` (kept, C, taps)."""
    for n in range(kept):
        for block in range(parts.shape[1]):
            c = _first(block, channels)
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
    rows, columns, y, x, height, width, together = window
    places, space, pitch = table
    taps, blocks, size = height * width, -(-channels // LANES), rows * columns
    source = carray(numbers_at(source_at, element), images * channels * places.size)
    grad = carray(numbers_at(grad_at, element), images * channels * size)
    parts = _zeros(-(-images // together), blocks, taps)
    dense = np.arange(size) * LANES
    for t in prange(parts.shape[0]):
        room = aligned(space, like), aligned(size * LANES, like), aligned(taps * LANES, like)
        of_part, shape = (places, dense, pitch), (rows, columns, y, x, height, width)
        for n in range(t * together, min((t + 1) * together, images)):
            for block in range(blocks):
                _part(
                    parts[t, block],
                    source,
                    grad,
                    n,
                    block,
                    channels,
                    source_last,
                    grad_last,
                    of_part,
                    shape,
                    room,
                )
    kept = images if together == 1 else 1
    target = carray(numbers_at(target_at, element), kept * channels * taps)
    _collect(parts, target, kept, channels, taps, like)
