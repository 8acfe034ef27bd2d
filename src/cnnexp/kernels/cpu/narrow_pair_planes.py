"""Images of bfloat16 in padded planes of pairs, for the kernels of few channels: in, and sums out.

A pair is 32 bits, two bfloat16 that one instruction multiplies with two weights. In a plane they are those of

    two channels                        x[2q, p], x[2q + 1, p]
    the last of an odd number           x[c, p], x[c, p + apart]    for two taps of a row of the kernel
    the same, for a tap that is left    x[c, p], 0

For ∂L/∂w two pixels side by side are the pair, of planes that hold a channel each (``read_channels``). With
channels last the pairs of a pixel stand side by side in memory: sixteen pixels of one, two or four pairs each
are turned in registers (``narrow_pair_pixels``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit

from cnnexp.kernels.cpu.narrow_pair_pixels import (
    PIXELS,
    pack,
    read_1,
    read_2,
    read_4,
    read_row_4,
    read_two_1,
    read_two_2,
    read_two_4,
    read_two_row_4,
    write_1,
    write_2,
    write_4,
    write_row_4,
)
from cnnexp.kernels.cpu.precision import narrow
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["pack_planes", "planes_of", "read", "read_channels", "write"]

_HALVES = np.empty(0, np.uint16)


@njit(**COMPILE)
def _at(place):
    """A place as an index that numba knows not to count from the end, so that loops become vectors."""
    return np.uintp(place)


@njit(**COMPILE)
def _pair(first, second):
    return np.uint32(first) | np.uint32(second) << np.uint32(16)


@njit(**COMPILE)
def planes_of(channels, width):
    """How many planes there are of so many channels, for kernels of ``width`` columns."""
    return channels // 2 + channels % 2 * ((width > 1) + width % 2)


@njit(**COMPILE)
def _read_block(words, at, pairs, planes, to, step, plane):
    """16 pixels of so many ``pairs`` into planes, of which those of two pairs are ``step`` apart."""
    q = 0
    if pairs == 4:
        read_row_4(words, at, pairs, planes, to, plane)
        return
    while q + 4 <= pairs:
        read_4(words, at + q, pairs, planes, to + q * step, plane)
        q += 4
    if q + 2 <= pairs:
        read_2(words, at + q, pairs, planes, to + q * step, plane)
        q += 2
    if q < pairs:
        read_1(words, at + q, pairs, planes, to + q * step, plane)


@njit(**COMPILE)
def _read_row(words, of, pairs, left, columns, planes, to, plane):
    """Copy a row of pixels of so many ``pairs``; ``left`` pixels are left in the image.

    What it writes behind the row, up to 15 pixels, is of the rows that follow, and between them.
    """
    for j in range(0, columns, PIXELS):
        at, place = of + j * pairs, to + j
        if j + PIXELS > left:
            for q in range(pairs):
                for k in range(columns - j):
                    planes[_at(place + q * plane + k)] = words[_at(at + k * pairs + q)]
            return
        _read_block(words, at, pairs, planes, place, plane, plane)


@njit(**COMPILE)
def _read_two_blocks(words, at, pairs, planes, to, plane):
    """32 pixels of so many ``pairs`` into planes of a channel each."""
    q = 0
    if pairs == 4:
        read_two_row_4(words, at, pairs, planes, to, plane)
        return
    while q + 4 <= pairs:
        read_two_4(words, at + q, pairs, planes, to + 2 * q * plane, plane)
        q += 4
    if q + 2 <= pairs:
        read_two_2(words, at + q, pairs, planes, to + 2 * q * plane, plane)
        q += 2
    if q < pairs:
        read_two_1(words, at + q, pairs, planes, to + 2 * q * plane, plane)


@njit(**COMPILE)
def _read_row_of_channels(image, words, of, pairs, left, columns, planes, to, plane):
    """As :func:`_read_row`, into planes of a channel each."""
    j = 0
    while j < columns:
        at, place = of + j * pairs, to + j
        if j + PIXELS > left:
            for c in range(2 * pairs):
                for k in range(columns - j):
                    planes[_at(place + c * plane + k)] = image[_at(2 * at + k * 2 * pairs + c)]
            return
        if j + PIXELS < columns and j + 2 * PIXELS <= left:
            _read_two_blocks(words, at, pairs, planes, place, plane)
            j += PIXELS
        else:
            _read_block(words, at, pairs, planes, place, 2 * plane, plane)
        j += PIXELS


@njit(**COMPILE)
def _clear_margin(planes, count, to, plane, columns, pitch):
    """Clear what is between a row and the next as far as the row's pixels may have been written."""
    for j in range(columns, min(pitch, columns + PIXELS)):
        for q in range(count):
            planes[_at(to + q * plane + j)] = 0


@njit(**COMPILE)
def read(image, words, n, channels, size, last, layout, width, apart, planes):
    """Copy image n into ``planes`` of pairs, where what is around the images is zero before and after.

    Args:
        image, words: The numbers, bits of bfloat16, and the same memory as pairs.
        layout: The place of the first pixel, the pitch of the rows, and the size of a plane.
        width, apart: The columns of the kernels, and how many pixels lie between two of them.
    """
    height, columns = size
    (at, pitch, plane), pixels, pairs = layout, height * columns, channels // 2
    step, next_one = (channels, 1) if last else (1, pixels)
    for i in range(height):
        to, of = at + i * pitch, n * channels * pixels + i * columns * step
        if last and channels % 2 == 0:
            _read_row(words, of // 2, pairs, pixels - i * columns, columns, planes, to, plane)
            _clear_margin(planes, pairs, to, plane, columns, pitch if i + 1 < height else 0)
            continue
        for q in range(pairs):
            start = of + 2 * q * next_one
            _pair_row(image, start, start + next_one, step, columns, planes, to + q * plane)
        if channels % 2:
            start, row = of + (channels - 1) * next_one, to + pairs * plane
            if width > 1:
                _read_neighbours(image, start, step, columns, apart, at % pitch, planes, row)
                row += plane
            if width % 2:
                _copy_row(image, start, step, columns, planes, row)


@njit(**COMPILE)
def _copy_row(image, of, step, columns, planes, to):
    """Copy numbers of ``image`` that are ``step`` apart, those side by side as vectors."""
    if step == 1:
        for j in range(columns):
            planes[_at(to + j)] = image[_at(of + j)]
        return
    for j in range(columns):
        planes[_at(to + j)] = image[_at(of + j * step)]


@njit(**COMPILE)
def _pair_row(image, first, second, step, columns, planes, to):
    """As :func:`_copy_row`, of pairs of a number from ``first`` on and one from ``second`` on."""
    if step == 1:
        for j in range(columns):
            planes[_at(to + j)] = _pair(image[_at(first + j)], image[_at(second + j)])
        return
    for j in range(columns):
        planes[_at(to + j)] = _pair(image[_at(first + j * step)], image[_at(second + j * step)])


@njit(**COMPILE)
def _read_neighbours(image, of, step, columns, apart, margin, planes, to):
    """Copy a row of one channel as pairs of pixels that are ``apart``; beside the image are zeros."""
    zero = np.uint16(0)
    for j in range(max(apart - margin, 0), min(apart, columns)):
        planes[_at(to - apart + j)] = _pair(zero, image[_at(of + j * step)])
    _pair_row(image, of, of + apart * step, step, columns - apart, planes, to)
    for j in range(max(columns - apart, 0), columns):
        planes[_at(to + j)] = _pair(image[_at(of + j * step)], zero)


@njit(**COMPILE)
def read_channels(image, words, n, channels, size, last, layout, planes):
    """Copy image n into ``planes`` of one channel each, as bits of bfloat16; see :func:`read`."""
    height, columns = size
    (at, pitch, plane), pixels, pairs = layout, height * columns, channels // 2
    step, next_one = (channels, 1) if last else (1, pixels)
    for i in range(height):
        to, of = at + i * pitch, n * channels * pixels + i * columns * step
        if last and channels % 2 == 0:
            left = pixels - i * columns
            _read_row_of_channels(image, words, of // 2, pairs, left, columns, planes, to, plane)
            _clear_margin(planes, channels, to, plane, columns, pitch if i + 1 < height else 0)
            continue
        for c in range(channels):
            _copy_row(image, of + c * next_one, step, columns, planes, to + c * plane)


@njit(**COMPILE)
def _write_row(sums, of, plane, words, to, pairs, left, columns):
    """Copy a row of pixels; up to 15 that it writes behind the row the next rows write again."""
    for j in range(0, columns, PIXELS):
        q = 0
        if j + PIXELS <= left:
            if pairs == 4:
                write_row_4(sums, of + j, plane, words, to + j * pairs, pairs)
                continue
            while q + 4 <= pairs:
                write_4(sums, of + 2 * q * plane + j, plane, words, to + j * pairs + q, pairs)
                q += 4
            if q + 2 <= pairs:
                write_2(sums, of + 2 * q * plane + j, plane, words, to + j * pairs + q, pairs)
                q += 2
            if q < pairs:
                write_1(sums, of + 2 * q * plane + j, plane, words, to + j * pairs + q, pairs)
            continue
        for q in range(pairs):
            for k in range(j, columns):
                first = narrow(sums[_at(of + 2 * q * plane + k)], _HALVES)
                second = narrow(sums[_at(of + (2 * q + 1) * plane + k)], _HALVES)
                words[_at(to + k * pairs + q)] = _pair(first, second)
        return


@njit(**COMPILE)
def write(sums, plane, pitch, size, image, words, n, channels, last):
    """Copy the planes of ``sums``, whose rows are ``pitch`` apart, to image n, rounded to bfloat16."""
    height, columns = size
    pixels, pairs = height * columns, channels // 2
    for i in range(height):
        of = i * pitch
        if last and channels % 2 == 0:
            to = (n * pixels + i * columns) * pairs
            _write_row(sums, of, plane, words, to, pairs, pixels - i * columns, columns)
            continue
        step, next_one = (channels, 1) if last else (1, pixels)
        for o in range(channels):
            to = n * channels * pixels + i * columns * step + o * next_one
            for j in range(columns):
                image[_at(to + j * step)] = narrow(sums[_at(of + o * plane + j)], image)


@njit(**COMPILE)
def pack_planes(values, channels, plane, width, apart, planes):
    """Leave the planes of ``values``, one a channel, in ``planes`` of pairs, as :func:`read` does an image.

    Both have planes of the same size; behind the last of ``values`` there are ``apart`` and a vector more.
    """
    vectors, last = -(-plane // PIXELS), (channels - 1) * plane
    # a vector reaches into the next plane, which comes afterwards
    for q in range(channels // 2):
        pack(values, 2 * q * plane, (2 * q + 1) * plane, planes, q * plane, vectors)
    if channels % 2 == 0:
        return
    to = channels // 2 * plane
    if width > 1:
        pack(values, last, last + apart, planes, to, vectors)
        to += plane
    if width % 2:
        for p in range(plane):
            planes[_at(to + p)] = np.uint32(narrow(values[_at(last + p)], _HALVES))
