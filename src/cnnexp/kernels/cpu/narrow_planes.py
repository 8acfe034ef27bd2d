"""Images in padded planes, for the kernels of few channels: in, out, and what is behind a convolution.

Planes hold the numbers of the sums' kind, their rows ``pitch`` apart. Behind a convolution is nothing, or

    TANH        y = Σ_window tanh(z) / D, or tanh(z)      kept: a = tanh(z)
    RELU_MAX    y = max_window relu(z)                    kept: one byte a window, the winner or DEAD
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.activation_kernels import tanh, tanh_to_round
from cnnexp.kernels.cpu.behind import RELU_MAX, TANH
from cnnexp.kernels.cpu.depthwise_pixels import Code, number_of
from cnnexp.kernels.cpu.narrow_maxima import maxima_of, to_winners
from cnnexp.kernels.cpu.narrow_tiles import LANES
from cnnexp.kernels.cpu.narrow_windows import mean_of_two_rows, shares_and_slopes
from cnnexp.kernels.cpu.numba_internals import void
from cnnexp.kernels.cpu.precision import is_half, narrow, of_kind, wide
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["behind", "finish", "read", "write"]


@njit(**COMPILE)
def _at(place):
    """A place as an index that numba knows not to count from the end, so that loops become vectors."""
    return np.uintp(place)


@njit(**COMPILE)
def read(image, n, channels, size, last, at, pitch, plane, planes):
    """Copy image n into ``planes``, its first pixel to ``at`` and rows ``pitch`` apart."""
    height, width = size
    pixels = height * width
    if (
        pitch == width and plane == pixels and not (last and channels > 1)
    ):  # they lie as in the image
        for p in range(channels * pixels):
            planes[_at(at + p)] = wide(image[_at(n * channels * pixels + p)])
        return
    for c in range(channels):
        for i in range(height):
            to = c * plane + at + i * pitch
            if last and channels > 1:
                of = (n * pixels + i * width) * channels + c
                for j in range(width):
                    planes[_at(to + j)] = wide(image[_at(of + j * channels)])
            else:
                of = (n * channels + c) * pixels + i * width
                for j in range(width):
                    planes[_at(to + j)] = wide(image[_at(of + j)])


@intrinsic
def _write_vector(typing_context, planes, of, image, to):
    """image[to + j] = planes[of + j] for ``LANES`` j, rounded to what ``image`` holds."""
    signature = types.void(planes, types.intp, image, types.intp)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code, number = Code(context, builder, signature.args, arguments), signature.args[2]
        vector = code.load(code.place(0, arguments[1]), number_of(signature.args[0]))
        code.store(code.narrowed(vector, number_of(number)), code.place(2, arguments[3]))
        return void(context)

    return signature, codegen


@njit(**COMPILE)
def write(planes, plane, pitch, size, image, n, channels, last):
    """Copy the planes, whose rows are ``pitch`` apart, to image n; ``LANES`` numbers more are read."""
    height, width = size
    pixels = height * width
    for c in range(channels):
        for i in range(height):
            of = c * plane + i * pitch
            if last and channels > 1:
                to = (n * pixels + i * width) * channels + c
                for j in range(width):
                    image[_at(to + j * channels)] = narrow(planes[_at(of + j)], image)
            else:
                # what vectors write behind a row, up to the end of the image, the next rows write again
                to, end = (n * channels + c) * pixels + i * width, (n + 1) * channels * pixels
                j = 0
                while j < width and to + j + LANES <= end:
                    _write_vector(planes, of + j, image, to + j)
                    j += LANES
                for k in range(j, width):
                    image[_at(to + k)] = narrow(planes[_at(of + k)], image)


@njit(**COMPILE)
def _squash(planes, plane, channels, length, kept):
    """Take the tanh of the first ``length`` numbers of each plane, as exact as ``kept`` can hold it."""
    for o in range(channels):
        base = o * plane
        if is_half(kept):
            for p in range(length):
                planes[_at(base + p)] = tanh_to_round(planes[_at(base + p)])
            continue
        for p in range(length):
            planes[_at(base + p)] = tanh(planes[_at(base + p)])


@njit(**COMPILE)
def _means_of(planes, plane, pitch, channels, pool, means):
    """Leave in ``means`` (channels, windows) those of the planes over the windows."""
    windows, shown, divisors, halves = pool
    count, size = windows.shape
    for o in range(channels):
        base = o * plane
        if halves:  # windows 2×2 side by side, all of one divisor
            for r in range(shown[0]):
                mean, above = o * count + r * shown[1], base + 2 * r * pitch
                for s in range(0, shown[1], LANES):
                    rows = above + 2 * s, above + pitch + 2 * s
                    mean_of_two_rows(planes, rows[0], rows[1], divisors[0], means, mean + s)
            continue
        for k in range(count):
            total = of_kind(0.0, means[0])
            for e in range(size):
                place = windows[k, e]
                if place >= 0:
                    total += planes[_at(base + place)]
            means[_at(o * count + k)] = total / divisors[k]


@njit(**COMPILE)
def _to_all(grads, at, pitch, plane, channels, size, windows, divisors, planes):
    """The transpose of :func:`_means_of`: each window's gradient in equal shares to its pixels, else 0."""
    count, elements = windows.shape
    height, width = size
    for o in range(channels):
        base = o * plane
        for i in range(height):
            row = base + at + i * pitch
            for j in range(width):
                planes[_at(row + j)] = 0
        for k in range(count):
            share = grads[_at(o * count + k)] / divisors[k]
            for e in range(elements):
                place = windows[k, e]
                if place >= 0:
                    planes[_at(base + place)] += share


@njit(**COMPILE)
def _to_all_through_tanh(grads, kept, begin, at, pitch, plane, channels, size, pool, planes):
    """:func:`_to_all` of windows 2×2 side by side, times 1 − a² of ``kept``, which begins at ``begin``."""
    windows, shown, divisors, _ = pool
    count, (height, width) = windows.shape[0], size
    reached, pixels = 2 * shown[1], height * width
    one, divisor = of_kind(1.0, planes[0]), divisors[0]
    for o in range(channels):
        for i in range(height):
            row, of = o * plane + at + i * pitch, begin + o * pixels + i * width
            grad, j = o * count + i // 2 * shown[1], 0
            if i >= 2 * shown[0]:  # of no window
                for k in range(width):
                    planes[_at(row + k)] = 0
                continue
            while j < reached and of + j + LANES <= kept.size:
                to, some = row + j, reached - j
                shares_and_slopes(grads, grad + j // 2, divisor, kept, of + j, planes, to, some)
                j += LANES
            for k in range(j, reached):
                a = wide(kept[_at(of + k)])
                planes[_at(row + k)] = grads[_at(grad + k // 2)] / divisor * (one - a * a)
            for k in range(max(j, reached), width):
                planes[_at(row + k)] = 0


@njit(**COMPILE)
def behind(grad, kept, codes, n, channels, last, size, layout, after, means, planes):
    """Leave ∂L/∂z of image n in ``planes``, from its ∂L/∂y and what is kept.

    Around the rows there are zeros before and after: vectors may write some behind a row.

    ``layout``: where the first pixel stands, the pitch and the size of a plane; ``after``: the windows, by
    such places, their number in each direction, their divisors, whether they are easy, and what is
    behind the convolution.
    """
    (at, pitch, plane), (windows, shown, divisors, easy, kind) = layout, after
    height, width = size
    if windows.shape[0]:
        read(grad, 0, channels, shown, last, 0, shown[1], windows.shape[0], means)
        if kind == RELU_MAX:
            some = codes[n * channels * windows.shape[0] :]
            to_winners(means, some, layout, channels, size, (windows, shown, easy), planes)
        elif easy and kind == TANH:
            pool, begin = (windows, shown, divisors, easy), n * channels * height * width
            _to_all_through_tanh(means, kept, begin, *layout, channels, size, pool, planes)
            return
        else:
            _to_all(means, at, pitch, plane, channels, size, windows, divisors, planes)
    else:
        read(grad, 0, channels, size, last, at, pitch, plane, planes)
    if kind == TANH:
        one = of_kind(1.0, planes[0])
        for o in range(channels):
            for i in range(height):
                row, of = o * plane + at + i * pitch, ((n * channels + o) * height + i) * width
                for j in range(width):
                    a = wide(kept[_at(of + j)])
                    planes[_at(row + j)] *= one - a * a


@njit(**COMPILE)
def finish(values, plane, pitch, shown, n, channels, after, kept, codes, room):
    """Leave in memory what the backward of image n needs, and y in planes, from z in the planes ``values``.

    Without pooling y is in ``values``, else in the first of ``room``.

    Args:
        values, plane, pitch, shown: The planes, their size, the pitch of their rows, and (P, Q).
        n, channels: The image, and C_out.
        after: As of :func:`behind`.
        kept, codes: Of all images: tanh(z), or the winners.
        room: Memory for the pooled image, and for two planes where maxima are looked for.
    """
    (windows, pooled, divisors, easy, kind), (means, best, marks) = after, room
    if kind == TANH:
        _squash(values, plane, channels, (shown[0] - 1) * pitch + shown[1], kept)
        write(values, plane, pitch, shown, kept, n, channels, False)
    count = windows.shape[0]
    if count == 0:
        return
    pool = windows, pooled, divisors, easy
    if kind == RELU_MAX:
        some = codes[n * channels * count :]
        maxima_of(values, plane, pitch, channels, pool, best, marks, means, some)
    else:
        _means_of(values, plane, pitch, channels, pool, means)
