"""The greatest of windows of a ReLU behind convolutions of few channels, and the way back to the winners."""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.behind import SIDE_BY_SIDE
from cnnexp.kernels.cpu.narrow_tiles import LANES
from cnnexp.kernels.cpu.narrow_windows import maxima_of_two_rows, winners_of_row
from cnnexp.kernels.cpu.precision import of_kind
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["maxima_of", "to_winners"]

# windows in a row from which on vectors of them pay, forward and backward
_FEWEST, _FEWEST_BACK = LANES // 2 - 2, LANES // 2 + 2


@njit(**COMPILE)
def _at(place):
    """A place as an index that numba knows not to count from the end, so that loops become vectors."""
    return np.uintp(place)


@njit(**COMPILE)
def _maxima_one_by_one(planes, base, windows, some, maxima, codes, to):
    """As :func:`maxima_of`, of one channel and ``some`` windows, one by one; −1 is off the image."""
    size = windows.shape[1]
    for k in range(some[0], some[1]):
        greatest, code = of_kind(0.0, maxima[0]), np.uint8(DEAD)
        for e in range(size):
            place = windows[k, e]
            if place >= 0:
                value = planes[_at(base + place)]
                wins = value > greatest or value != value
                greatest, code = value if wins else greatest, np.uint8(e) if wins else code
        maxima[_at(to + k)] = greatest
        codes[_at(to + k)] = code


@njit(**COMPILE)
def _maxima_of_pairs(planes, base, pitch, pool, end, maxima, codes, to):
    """As :func:`maxima_of`, of one channel whose windows are 2×2 side by side.

    A vector of codes that would reach behind ``end``, where another image begins, is found one by one.
    """
    windows, (rows, columns), _, _ = pool
    first = base + windows[0, 0]
    for r in range(rows):
        above, k = first + 2 * r * pitch, r * columns
        for s in range(0, columns, LANES):
            if to + k + s + LANES > end:
                some = k + s, k + columns
                _maxima_one_by_one(planes, base, windows, some, maxima, codes, to)
                break
            places = above + 2 * s, above + pitch + 2 * s
            maxima_of_two_rows(planes, places[0], places[1], maxima, codes, to + k + s)


@njit(**COMPILE)
def maxima_of(planes, plane, pitch, channels, pool, best, marks, maxima, codes):
    """Leave in ``maxima`` (channels, windows) those of the ReLU of the planes, and who they are in ``codes``.

    The first of equals wins, and a NaN over everything, as torch has it. A processor cannot foresee who
    wins; so windows that lie within the planes are looked at as if there were one at every place, by vectors
    that choose without a jump, and those that there are, are picked out: a seventh of the time.

    Args:
        planes, plane, pitch: Of the channels, ``plane`` numbers each, whose rows are ``pitch`` apart.
        pool: The windows, how many there are in each direction, and whether all lie
            within the planes, or side by side.
        best, marks: For ``plane`` numbers each.
    """
    windows, shown, _, easy = pool
    count, size = windows.shape
    if easy == SIDE_BY_SIDE and shown[1] >= _FEWEST:
        for o in range(channels):
            _maxima_of_pairs(
                planes, o * plane, pitch, pool, channels * count, maxima, codes, o * count
            )
        return
    zero, dead = of_kind(0.0, maxima[0]), of_kind(DEAD, maxima[0])
    first, last = windows[0, 0], size - 1
    length = windows[count - 1, 0] - first + 1
    for o in range(channels):
        base = o * plane
        if not easy:
            _maxima_one_by_one(planes, base, windows, (0, count), maxima, codes, o * count)
            continue
        for e in range(0, size, 4):  # the last is looked at again where there are no four
            e_1, e_2, e_3 = min(e + 1, last), min(e + 2, last), min(e + 3, last)
            at_0, at_1 = base + windows[0, e], base + windows[0, e_1]
            at_2, at_3 = base + windows[0, e_2], base + windows[0, e_3]
            mark_0, mark_1 = of_kind(e, zero), of_kind(e_1, zero)
            mark_2, mark_3 = of_kind(e_2, zero), of_kind(e_3, zero)
            begins = e == 0
            for p in range(length):
                greatest = zero if begins else best[_at(p)]
                mark = dead if begins else marks[_at(p)]
                value = planes[_at(at_0 + p)]
                wins = value > greatest or value != value
                greatest, mark = value if wins else greatest, mark_0 if wins else mark
                value = planes[_at(at_1 + p)]
                wins = value > greatest or value != value
                greatest, mark = value if wins else greatest, mark_1 if wins else mark
                value = planes[_at(at_2 + p)]
                wins = value > greatest or value != value
                greatest, mark = value if wins else greatest, mark_2 if wins else mark
                value = planes[_at(at_3 + p)]
                wins = value > greatest or value != value
                best[_at(p)], marks[_at(p)] = value if wins else greatest, mark_3 if wins else mark
        for k in range(count):
            place = windows[k, 0] - first
            maxima[_at(o * count + k)] = best[_at(place)]
            codes[_at(o * count + k)] = np.uint8(np.int32(marks[_at(place)]))


@njit(**COMPILE)
def _to_winners_of_pairs(grads, codes, base, pitch, size, pool, planes, of):
    """As :func:`to_winners`, of one channel whose windows are 2×2 side by side."""
    windows, (rows, columns) = pool
    height, width = size
    first = base + windows[0, 0]
    for i in range(height):
        row, k = first + i * pitch, of + i // 2 * columns
        s = 0
        if i < 2 * rows:
            while s < columns and k + s + LANES <= codes.size:
                some = 2 * (i % 2), columns - s
                winners_of_row(grads, k + s, codes, some[0], some[1], planes, row + 2 * s)
                s += LANES
            for c in range(s, columns):
                code, grad = codes[_at(k + c)], grads[_at(k + c)]
                nothing = of_kind(0.0, grad)
                left, right = code == np.uint8(2 * (i % 2)), code == np.uint8(2 * (i % 2) + 1)
                planes[_at(row + 2 * c)] = nothing + grad if left else nothing
                planes[_at(row + 2 * c + 1)] = nothing + grad if right else nothing
            s = max(s, columns)
        for j in range(2 * s, width):
            planes[_at(row + j)] = 0


@njit(**COMPILE)
def to_winners(grads, codes, layout, channels, size, pool, planes):
    """The transpose of :func:`maxima_of`: each window's gradient to its winner, 0 to all others."""
    (at, pitch, plane), (windows, shown, easy) = layout, pool
    height, width = size
    count = windows.shape[0]
    if easy == SIDE_BY_SIDE and shown[1] >= _FEWEST_BACK:
        for o in range(channels):
            of = windows, shown
            _to_winners_of_pairs(grads, codes, o * plane, pitch, size, of, planes, o * count)
        return
    for o in range(channels):
        base = o * plane
        for i in range(height):
            row = base + at + i * pitch
            for j in range(width):
                planes[_at(row + j)] = 0
        for k in range(count):
            code = codes[_at(o * count + k)]
            if code != np.uint8(DEAD):
                planes[_at(base + windows[k, np.intp(code)])] += grads[_at(o * count + k)]
