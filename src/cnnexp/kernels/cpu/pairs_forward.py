"""Convolution, bias, ReLU and max-pool in bfloat16 in one pass: what is pooled never leaves a core's cache.

Arrays as in ``pairs_sparse``, the weights (C_out/32, K_h·K_w·channels/2, 64). Of some windows at a time,
of one image or of a few small ones, all elements are computed and rounded, as a convolution by itself would
leave them; then the maximum of each window. Products: those of a dense convolution for what windows read.

Loops (outermost first), and what stays in registers:

    max_forward    images, 32 o, some windows, eight of their elements    their sums, 256
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.numbers import aligned, put
from cnnexp.kernels.cpu.pair_windows import CHANNELS, FIELDS, maximum_of_fields, sums_of_fields
from cnnexp.kernels.cpu.pairs_sparse import pad_into
from cnnexp.kernels.cpu.pointers import hold, start_of
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["CHANNELS", "ELEMENTS", "max_forward", "pair_kernels"]

ELEMENTS = 64  # of windows, about, that are computed before they are pooled


@njit(**COMPILE)
def _table(places, numbers, images):
    """Where the fields of image n, of ``numbers``, begin: n·P·Q·K + l·K + k → −1 where off the image."""
    starts = places.reshape(-1)
    table = np.empty(images * starts.size, np.int64)
    for n in range(images):
        for i in range(starts.size):
            table[n * starts.size + i] = n * numbers + starts[i] if starts[i] >= 0 else -1
    return table


@njit(parallel=True, **COMPILE)
def pair_kernels(weight, made):
    """``weight`` (C_out, K_h·K_w, C_in) → ``made`` (C_out/CHANNELS, K_h·K_w·channels/2, CHANNELS) of uint32.

    A number there is a pair of neighbours of a kernel, which is filled up with a zero to an even number of
    ``channels``.
    """
    _, taps, c_in = weight.shape
    half = made.shape[1] // taps
    for task in prange(made.shape[0] * taps):
        block, tap = task // taps, task % taps
        numbers = np.zeros(CHANNELS * 2 * half, weight.dtype)
        for o in range(CHANNELS):
            row = numbers[o * 2 * half : o * 2 * half + c_in]
            put(weight[block * CHANNELS + o, tap], row)
        pairs = numbers.view(np.uint32)
        for k in range(half):
            for o in range(CHANNELS):
                made[block, tap * half + k, o] = pairs[o * half + k]


@njit(parallel=True, **COMPILE)
def max_forward(x, weights, bias, fields, channels, images, output, code):
    """Pooled ReLU in ``output`` (N, P, Q, C_out), bits as int16, and ``code``.

    C_out is a multiple of ``CHANNELS``, ``channels`` ≥ C_in an even number; ``bias`` is of float32;
    ``images``: how many are taken together.
    """
    padded = fields.padded
    groups, rows, step, pairs = fields.groups, fields.rows, fields.step, fields.length // 2
    positions, size = fields.places.shape
    n_all, _, _, c_out = output.shape
    begins, biases, kernels = start_of(groups), start_of(bias), start_of(weights)
    made, codes = start_of(output), start_of(code)
    some, count, taps = max(1, ELEMENTS // size), groups.size, groups.size * rows * pairs
    numbers = padded[0] * padded[1] * channels
    for task in prange((n_all + images - 1) // images):
        start, stop = task * images, min((task + 1) * images, n_all)
        image, places = aligned(images * numbers, x), _table(fields.places, numbers, images)
        for n in range(start, stop):
            base = (n - start) * numbers
            pad_into(x[n], padded, channels, image[base : base + numbers])
        sums = np.empty((some * size + FIELDS) * CHANNELS, np.int16)
        pixels, values, table = start_of(image), start_of(sums), start_of(places)
        for o in range(0, c_out, CHANNELS):
            for first in range(0, (stop - start) * positions, some):
                together = min(some, (stop - start) * positions - first)
                last = (first + together) * size
                for element in range(first * size, last, FIELDS):
                    sums_of_fields(
                        *(values, (element - first * size) * CHANNELS, pixels, table, element),
                        *(last - 1, begins, count, rows, step, pairs),
                        *(kernels, 2 * o * taps, biases, o),
                    )
                for w in range(together):
                    to, of = (start * positions + first + w) * c_out + o, w * size * CHANNELS
                    window = (first + w) * size
                    maximum_of_fields(values, of, table, window, size, made, codes, to)
        hold((image, places, sums))
