"""CPU kernels for the gradients of a convolution whose output was max-pooled.

The pool hands the gradient of each pooled element to one element of its window; all others get 0.
So of ∂L/∂y, the gradient of the convolution's output, only one element in a window is not zero, and
the two gradients of the convolution are sums over these few alone:

    ∂L/∂w[o, u, v, c] = Σ_{n,l alive} g[n, l, o] · x[n, place(l, code[n, l, o]) + (u, v), c]
    ∂L/∂x[n, place(l, k) + (u, v), c] += Σ_{o : code[n, l, o] = k} g[n, l, o] · w[o, u, v, c]

with l the pooled position and place(l, k) where the receptive field of the element at offset k of
its window begins. A 2×2 pool thus leaves a quarter of the products that a dense convolution does,
less what the ReLU stopped.

Compiled by numba on first use and kept in its cache. Arrays are contiguous and in the order
(N, height, width, channel), x unpadded, w (C_out, K_h, K_w, C_in). ``fields`` says where the receptive
fields stand, see ``tables.ReceptiveFields``. Work is split by the shapes alone, never by the number of
threads: the order of every sum is the same on every run.

Loops (outermost first), and what stays in registers:

    forward_few_channels      image, position, four elements of its window, o    four sums over o
    grad_weight               part of the batch × 16 o, images, slice of c, o    nine vectors of the kernel
    grad_weight_few_channels  part of the batch, 16 positions, four weights      four sums over o
    grad_input                images, slice of c, 64 o, position, k              nine vectors of the field
                              the same, windows of 2×2 (``patches``)             sixteen of its four fields

Products: C_in·K_h·K_w for each element that is alive; where C_in is small, for each element of each window
and all C_out, since vectors along o are fuller than those along a short row.
Code and ∂L/∂y are read once, one byte and one number an element, and lists of the winners made of them
(``winners``). The sums of 3×3 kernels then go through 16 channels of x and w at a time, each laid out by
itself: what winners read, in any order, mostly is in the first cache then (in float32 36 KB of weights, an
image of 20×20 25 KB), which feeds two multiply-adds a cycle, the second cache one. Other kernels have all
channels in one slice. ``python benchmarks/kernels.py`` times each kernel beside the library's dense one
(benchmarks/results/kernels.csv).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.numbers import aligned, put
from cnnexp.kernels.cpu.patches import PIXEL, add_patch, fits
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.vector import (
    COMPILE,
    copy_vector,
    weighted_sum_of_rows,
)
from cnnexp.kernels.cpu.winners import (
    SHARES,
    SLACK,
    add_list,
    list_by_channel,
    list_window,
    sum_shares,
    table_of,
)

__all__ = [
    "SLICE",
    "collect",
    "grad_input",
    "grad_weight",
    "pad_into",
    "slice_kernels",
]

BLOCK = 16  # output channels whose gradients of the weights a task sums
SLICE = PIXEL  # channels of the input that the gradients of a 3×3 kernel go through together
_LISTED = 64  # output channels whose weights, of a slice, the first cache holds: 36 KB of float32
_ENTRIES = 1 << 16  # of lists at a time, so that large images need no memory for all


@njit(**COMPILE)
def pad_into(image, padded, buffer):
    """Copy (H, W, C) into the middle of a flat padded image whose border is 0 already."""
    height, width, channels = image.shape
    length, numbers = width * channels, image.reshape(-1)
    for i in range(height):
        start = ((i + padded[2]) * padded[1] + padded[3]) * channels
        put(numbers[i * length : (i + 1) * length], buffer[start : start + length])


@njit(**COMPILE)
def _pad_slice_into(image, first, padded, buffer):
    """``pad_into`` of ``SLICE`` channels of ``image`` from ``first`` on; ``buffer`` is a pointer."""
    height, width, channels = image.shape
    numbers = ahead(start_of(image), first)
    for i in range(height):
        to = ahead(buffer, ((i + padded[2]) * padded[1] + padded[3]) * SLICE)
        for j in range(width):
            copy_vector(ahead(numbers, (i * width + j) * channels), ahead(to, j * SLICE))
    hold(image)


@njit(parallel=True, **COMPILE)
def grad_weight(x, code, grad_output, fields, channels, together, parts, shares):
    """∂L/∂w and ∂L/∂b in parts, for ``collect``.

    ``parts`` (tasks, slices, C_out, K_h·K_w·channels), ``shares`` (tasks, C_out, ``SHARES``). ``fields``: of
    images of so many ``channels``, all of C_in or ``SLICE``. ``together``: how many images share one list of
    gradients, so that the lists are long enough.
    """
    n_all = x.shape[0]
    places, padded = fields.places, fields.padded
    groups, rows, step, length = fields.groups, fields.rows, fields.step, fields.length
    positions, window = places.shape
    tasks, slices, c_out, size_of_kernel = parts.shape
    codes_at, grads_at, biases = start_of(code), start_of(grad_output), start_of(shares)
    blocks = (c_out + BLOCK - 1) // BLOCK
    size = padded[0] * padded[1] * channels
    apart = positions * together + SLACK
    for task in prange(tasks * blocks):
        part, begin = task // blocks, task % blocks * BLOCK
        end = min(begin + BLOCK, c_out)
        parts[part, :, begin:end] = 0
        shares[part, begin:end] = 0
        images, table = aligned(together * size, x), table_of(places, size, together)
        entries, weights = np.empty(BLOCK * apart, np.uint32), np.empty(BLOCK * apart, x.dtype)
        counts = np.empty(BLOCK, np.int64)
        total = ahead(start_of(parts), part * slices * c_out * size_of_kernel)
        source, factors, number = start_of(images), start_of(weights), start_of(counts)
        listed = start_of(entries)
        last = n_all * (part + 1) // tasks
        for start in range(n_all * part // tasks, last, together):
            stop = min(start + together, last)
            at = start * positions * c_out + begin
            list_by_channel(
                *(ahead(codes_at, at), ahead(grads_at, at), c_out, (stop - start) * positions),
                *(window, listed, factors, apart, number, end - begin),
            )
            for o in range(end - begin):
                for i in range(o * apart, o * apart + number[o]):
                    listed[i] = table[listed[i]]
                of_bias = ahead(biases, (part * c_out + begin + o) * SHARES)
                add_list(ahead(factors, o * apart), number[o], of_bias)
            for piece in range(slices):
                for n in range(start, stop):
                    base = (n - start) * size
                    if slices == 1:
                        pad_into(x[n], padded, images[base : base + size])
                    else:
                        _pad_slice_into(x[n], piece * channels, padded, ahead(source, base))
                for o in range(end - begin):
                    to = (piece * c_out + begin + o) * size_of_kernel
                    of = listed, factors, o * apart, number[o]
                    for group in range(groups.size):
                        weighted_sum_of_rows(
                            *(total, to + group * rows * length, length),
                            *(source, groups[group], step, rows, *of, length),
                        )
        hold((images, table, entries, weights, counts))


@njit(parallel=True, **COMPILE)
def collect(parts, shares, weight, bias):
    """∂L/∂w (C_out, K_h·K_w, C_in) and ∂L/∂b (C_out,) from what ``grad_weight`` made, which it changes."""
    tasks, slices, c_out, size = parts.shape
    taps, channels = weight.shape[1], weight.shape[2] // slices
    for o in prange(c_out):
        bias[o] = sum_shares(shares, o)
        for piece in range(slices):
            total = parts[0, piece, o]
            for part in range(1, tasks):
                row = parts[part, piece, o]
                for i in range(size):
                    total[i] += row[i]
            for tap in range(taps):
                of = total[tap * channels : (tap + 1) * channels]
                put(of, weight[o, tap, piece * channels : (piece + 1) * channels])


@njit(parallel=True, **COMPILE)
def slice_kernels(weight, kernels):
    """``weight`` (C_out, K_h·K_w, C_in) → ``kernels`` (slices, C_out, K_h·K_w·channels)."""
    c_out, taps, c_in = weight.shape
    slices, channels = kernels.shape[0], c_in // kernels.shape[0]
    given, made = start_of(weight), start_of(kernels)
    for o in prange(c_out):
        for tap in range(taps):
            of = ahead(given, (o * taps + tap) * c_in)
            for piece in range(slices):
                to = ahead(made, ((piece * c_out + o) * taps + tap) * channels)
                if channels == SLICE:
                    copy_vector(ahead(of, piece * channels), to)
                else:
                    for c in range(channels):
                        to[c] = of[piece * channels + c]


@njit(**COMPILE)
def _list_windows(codes, grads, images, positions, chunk, channels, window, size, lists, starts):
    """Lists of each element of the window of each position, block by block of ``_LISTED`` channels.

    Codes and gradients are of the first of ``chunk`` of the ``positions`` of so many ``images``; entries are
    where kernels of ``size`` begin, in numbers of 32 bits; ``lists``: room for entries and for weights;
    ``starts`` becomes where each list begins, and at last the end. All are pointers.
    """
    number = starts[0] = 0
    for begin in range(0, channels, _LISTED):
        count = min(_LISTED, channels - begin)
        for n in range(images):
            for position in range(n * positions, n * positions + chunk):
                at = position * channels + begin
                of = ahead(codes, at), ahead(grads, at), count, begin * size, size
                list_window(*of, window, lists[0], lists[1], ahead(starts, number))
                number += window


@njit(**COMPILE)
def _are_squares(fields):
    """Whether windows are 2×2 neighbours on the image, and fields 3×3 neighbours of ``SLICE`` channels."""
    step = fields.step
    square = fields.rows == 3 and fields.length == 3 * SLICE and fields.places.shape[1] == 4
    for window in fields.places:
        first = window[0]
        square = square and first >= 0 and window[1] == first + SLICE
        square = square and window[2] == first + step and window[3] == first + step + SLICE
    return square


@njit(**COMPILE)
def _add_windows(sums, fields, squares, first, last, kernels, lists, starts):
    """Add to ``sums``, a padded image laid out flat, what the lists of its windows have of ``kernels``.

    ``starts``: where the lists of the windows from ``first`` to ``last`` begin, and at last the end. All but
    ``fields`` are pointers.
    """
    places, groups = fields.places, fields.groups
    rows, step, length = fields.rows, fields.step, fields.length
    window = places.shape[1]
    for position in range(first, last):
        of_window = ahead(starts, (position - first) * window)
        if squares:
            add_patch(sums, places[position, 0], step, kernels, lists[0], lists[1], of_window)
            continue
        for k in range(window):
            begin, count = of_window[k], of_window[k + 1] - of_window[k]
            for group in range(groups.size if count else 0):
                weighted_sum_of_rows(
                    *(sums, places[position, k] + groups[group], step),
                    *(kernels, group * rows * length, length, rows),
                    *(lists[0], lists[1], begin, count, length),
                )


@njit(**COMPILE)
def _cut_out(of, padded, channels, image, size):
    """Write the middle of a flat padded image of ``channels`` into those of ``image`` (H, W, C).

    ``size``: H, W and C. The images are pointers.
    """
    height, width, c_in = size
    for i in range(height):
        row = ahead(of, ((i + padded[2]) * padded[1] + padded[3]) * channels)
        line = ahead(image, i * width * c_in)
        if channels == SLICE:
            for j in range(width):
                copy_vector(ahead(row, j * SLICE), ahead(line, j * c_in))
        else:
            for c in range(width * c_in):
                line[c] = row[c]


@njit(parallel=True, **COMPILE)
def grad_input(kernels, code, grad_output, fields, channels, together, grad):
    """∂L/∂x in ``grad`` (N, H, W, C_in).

    ``kernels``: see ``slice_kernels``; ``fields``: of images of so many ``channels``; ``together``: how many
    images a task goes through with the weights of a slice in the first cache.
    """
    n_all, padded = grad.shape[0], fields.padded
    positions, window = fields.places.shape
    slices, c_out, size_of_kernel = kernels.shape
    codes_at, grads_at = start_of(code), start_of(grad_output)
    kernels_at, made = start_of(kernels), start_of(grad)
    size, blocks = padded[0] * padded[1] * channels, (c_out + _LISTED - 1) // _LISTED
    most = max(1, _ENTRIES // (together * c_out))
    for task in prange((n_all + together - 1) // together):
        begin, images = task * together, min(together, n_all - task * together)
        room = images * min(most, positions)
        entries = np.empty(room * c_out + SLACK, np.uint32)
        weights = np.empty(entries.size, grad.dtype)
        starts = np.empty(blocks * room * window + 2, np.int64)
        lists, start = (start_of(entries), start_of(weights)), start_of(starts)
        padded_images = aligned(slices * images * size, grad)
        sums = start_of(padded_images)
        squares = fits(sums) and _are_squares(fields)
        for first in range(0, positions, most):
            last = min(first + most, positions)
            at = (begin * positions + first) * c_out
            _list_windows(
                *(ahead(codes_at, at), ahead(grads_at, at), images, positions, last - first),
                *(c_out, window, size_of_kernel, lists, start),
            )
            for piece in range(slices):
                source = ahead(kernels_at, piece * c_out * size_of_kernel)
                for number in range(blocks * images):
                    to = ahead(sums, (piece * images + number % images) * size)
                    of = ahead(start, number * (last - first) * window)
                    _add_windows(to, fields, squares, first, last, source, lists, of)
        for piece in range(slices):
            for n in range(images):
                image = ahead(made, (begin + n) * (grad.size // n_all) + piece * channels)
                of = ahead(sums, (piece * images + n) * size)
                _cut_out(of, padded, channels, image, grad.shape[1:])
        hold((entries, weights, starts, padded_images))
