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

Per number of the result: K_h·K_w multiply-adds, 1 load for each (of which taps are shared), one read and one
write of memory. No bit depends on the number of threads. The last LANES channels (and of planes the
last LANES pixels) overlap with those before where they would not fill a vector: what is computed twice has
the same bits.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

from numba import carray, njit, prange

from cnnexp.kernels.cpu.depthwise_images import first_of, read, write
from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.depthwise_vectors import any_sums_of, line_sums_of, sums_of
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import numbers_at, wide
from cnnexp.kernels.cpu.vector import COMPILE

_NUMBERS = 1 << 16  # that a thread takes at a time, about


# of the commonest kernel, alone and in pairs and two apart, and of its phases at stride 2
_sums_3x3, _pair_3x3, _far_3x3 = sums_of(4, 3, 3, 1), sums_of(2, 3, 3, 1), sums_of(4, 3, 3, 2)
_sums_2x2, _sums_2x1 = sums_of(4, 2, 2, 1), sums_of(4, 2, 1, 1)
_sums_1x2, _sums_1x1 = sums_of(4, 1, 2, 1), sums_of(4, 1, 1, 1)
# of lines of taps
_line_7, _short_7 = line_sums_of(8, 7, 1), line_sums_of(4, 7, 1)
_line_5, _pair_5, _far_5 = line_sums_of(4, 5, 1), line_sums_of(2, 5, 1), line_sums_of(4, 5, 2)
_any_4, _any_2, _any_1 = any_sums_of(4), any_sums_of(2), any_sums_of(1)


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
def _lines(out, place, source, w, w_at, b, b_at, shape, pitch):
    """As :func:`_pixels`, of kernels that are taken line by line."""
    to, oy, ox, at, y = place
    rows, columns, apart, height, width = shape
    if width == 7 and apart == 1 and columns >= 8:
        _line_7(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, height)
    elif width == 7 and apart == 1 and columns >= 4:
        _short_7(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, height)
    elif width == 5 and apart == 1 and columns >= 4:
        _line_5(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, height)
    elif width == 5 and apart == 1 and columns >= 2:
        _pair_5(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, height)
    elif width == 5 and apart == 2 and columns >= 4:
        _far_5(out, to, oy, ox, rows, columns, source, at, y, pitch, w, w_at, b, b_at, height)
    else:
        return False
    return True


@njit(**COMPILE)
def _pixels(out, out_at, lie, source, w, w_at, b, b_at, phase, pitch):
    """Pixels of one phase: ``out``, where they ``lie`` apart, from ``source`` and the taps at ``w_at``.

    Returns whether their taps are of a kind that registers hold; else nothing is done.
    """
    to, oy, ox, at, y = out_at + phase[2] * lie, phase[3] * lie, phase[4] * lie, phase[5], phase[6]
    rows, columns, apart, height, width = phase[0], phase[1], phase[7] // LANES, phase[8], phase[9]
    if width >= 5:
        shape = rows, columns, apart, height, width
        return _lines(out, (to, oy, ox, at, y), source, w, w_at, b, b_at, shape, pitch)
    if height >= 5:
        return False
    kind = (apart << 12) + (min(columns, 4) << 8) + (height << 4) + width
    if kind == 0x1433:
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
    """The result of one image's ``LANES`` channels; what is handed on are pointers (see ``pointers``)."""
    places, count, phases, kinds, of_phase, pitch, taps = table
    inside, out, size = room
    read(source, n, block, channels, count, source_last, places, inside)
    in_place = target_last and channels >= LANES
    target_at = n * size * channels + first_of(block, channels)
    for k in range(kinds):
        phase = ahead(phases, k * of_phase)
        w_at, b_at = (block * taps + phase[10]) * LANES, block * LANES
        if in_place:
            if not _pixels(target, target_at, channels, inside, w, w_at, b, b_at, phase, pitch):
                _any_pixels(target, target_at, channels, inside, w, w_at, b, b_at, phase, pitch)
        elif not _pixels(out, 0, LANES, inside, w, w_at, b, b_at, phase, pitch):
            _any_pixels(out, 0, LANES, inside, w, w_at, b, b_at, phase, pitch)
    if not in_place:
        write(out, target, n, block, channels, size, target_last)


@njit(**COMPILE)
def _vectors(values, channels, order, like):
    """The taps (C, K) as vectors, block by block, in the order of the table: (blocks · K · LANES,)."""
    blocks, taps = -(-channels // LANES), order.size
    made = aligned(blocks * taps * LANES, like)
    for block in range(blocks):
        c = first_of(block, channels)
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
    source, target = numbers_at(source_at, element), numbers_at(target_at, element)
    w = _vectors(carray(numbers_at(w_at, element), channels * taps), channels, order, like)
    blocks = -(-channels // LANES)
    if b_at == 0:
        b = aligned(blocks * LANES, like)
    else:
        # order[0] is 0 where there is a bias, as of any forward
        b = _vectors(carray(numbers_at(b_at, element), channels), channels, order[:1], like)
    together = max(1, _NUMBERS // (size * LANES))
    kinds, of_phase = phases.shape
    of_block = start_of(places), places.size, start_of(phases), kinds, of_phase, pitch, taps
    kernels, shifts = start_of(w), start_of(b)
    for t in prange(-(-images * blocks // together)):
        inside, out = aligned(space, w), aligned(size * LANES, w)
        room = start_of(inside), start_of(out), size
        for i in range(t * together, min((t + 1) * together, images * blocks)):
            n, block = i // blocks, i % blocks
            _block(
                *(source, target, n, block, channels, source_last, target_last),
                *(of_block, room, kernels, shifts),
            )
        hold((inside, out))
    hold((w, b))
