"""CPU kernels that add the bias, apply the ReLU and pool in one pass over a convolution's output.

Compiled by numba on first use and kept in its cache. All arrays are contiguous and in the order
(N, height, width, channel). One byte of ``code`` a pooled element is all that the backward needs:
for max-pooling which offset k = u·K_w + v of the window won, or DEAD where the ReLU stopped it; for
average-pooling one bit for each element of the window, set where it is alive.

The loops go over images and rows of windows (in parallel), windows, elements of a window, channels;
vectors run along the channels. A forward reads each pixel once for each window that it lies in, and
writes a number and a byte a window, where a ReLU and a pooling one after the other write the image
again and an int64 a window. A gradient is zeroed and added to an image at a time, by one thread: no
atomic addition, one order of sums. ``python benchmarks/kernels.py`` times them within ``forward``
(benchmarks/results/kernels.csv).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.pointers import ahead, start_of
from cnnexp.kernels.cpu.vector import COMPILE


@njit(parallel=True, **COMPILE)
def max_forward(image, bias, windows, output, code):
    """Output = max over the window of relu(image + bias), and code.

    ``windows`` (P, Q, K): the pixel i·W + j of each element of each window, −1 where off the image.
    """
    n_all, rows, columns, channels = output.shape
    elements, of_image = windows.shape[2], image.size // n_all
    pixels, made, codes = start_of(image), start_of(output), start_of(code)
    for task in prange(n_all * rows):
        n, p = task // rows, task % rows
        image_at = ahead(pixels, n * of_image)
        for q in range(columns):
            to = (task * columns + q) * channels
            best, winner = ahead(made, to), ahead(codes, to)
            for c in range(channels):
                best[c] = 0
                winner[c] = DEAD
            for k in range(elements):
                if windows[p, q, k] >= 0:
                    values = ahead(image_at, windows[p, q, k] * channels)
                    for c in range(channels):
                        value = values[c] + bias[c]
                        # as torch: the first of equals, a NaN over everything
                        wins = value > best[c] or value != value
                        best[c] = value if wins else best[c]
                        winner[c] = np.uint8(k) if wins else winner[c]


@njit(parallel=True, **COMPILE)
def max_forward_half(image, windows, output, code):
    """``max_forward`` of bfloat16, the bias added before; bit patterns as int16.

    Of two numbers that are not negative, the larger one is the larger int16, and a negative one is a
    negative int16.
    """
    n_all, rows, columns, channels = output.shape
    absolute, infinity = np.int16(0x7FFF), np.int16(0x7F80)
    elements, of_image = windows.shape[2], image.size // n_all
    pixels, made, codes = start_of(image), start_of(output), start_of(code)
    for task in prange(n_all * rows):
        n, p = task // rows, task % rows
        image_at = ahead(pixels, n * of_image)
        for q in range(columns):
            to = (task * columns + q) * channels
            best, winner = ahead(made, to), ahead(codes, to)
            for c in range(channels):
                best[c] = 0
                winner[c] = DEAD
            for k in range(elements):
                if windows[p, q, k] >= 0:
                    values = ahead(image_at, windows[p, q, k] * channels)
                    for c in range(channels):
                        value = values[c]
                        size = value & absolute
                        wins = value > best[c] or size > infinity
                        # a NaN without its sign, by which it would be less than all that follow
                        best[c] = size if wins else best[c]
                        winner[c] = np.uint8(k) if wins else winner[c]


@njit(parallel=True, **COMPILE)
def avg_forward(image, bias, windows, divisors, output, code):
    """Output = Σ over the window of relu(image + bias) / divisor; bit k of code: element k is alive."""
    n_all, rows, columns, channels = output.shape
    elements, of_image = windows.shape[2], image.size // n_all
    pixels, made, codes = start_of(image), start_of(output), start_of(code)
    for task in prange(n_all * rows):
        n, p = task // rows, task % rows
        image_at = ahead(pixels, n * of_image)
        for q in range(columns):
            to = (task * columns + q) * channels
            total, alive = ahead(made, to), ahead(codes, to)
            for c in range(channels):
                total[c] = 0
                alive[c] = 0
            for k in range(elements):
                if windows[p, q, k] >= 0:
                    values = ahead(image_at, windows[p, q, k] * channels)
                    bit = np.uint8(1 << k)
                    for c in range(channels):
                        value = values[c] + bias[c]
                        dead = value <= 0  # a NaN is not
                        total[c] += 0 if dead else value
                        alive[c] |= np.uint8(0) if dead else bit
            for c in range(channels):
                total[c] /= divisors[p, q]


@njit(parallel=True, **COMPILE)
def max_spread(grad_output, code, windows, image):
    """The gradient of the convolution's output: each pooled gradient at its winner, else 0."""
    n_all, rows, columns, channels = grad_output.shape
    elements, of_image = windows.shape[2], image.size // n_all
    pixels, grads_at, codes = start_of(image), start_of(grad_output), start_of(code)
    for n in prange(n_all):
        image[n] = 0
        image_at = ahead(pixels, n * of_image)
        for p in range(rows):
            for q in range(columns):
                at = ((n * rows + p) * columns + q) * channels
                grads, winner = ahead(grads_at, at), ahead(codes, at)
                for k in range(elements):
                    if windows[p, q, k] >= 0:
                        target = ahead(image_at, windows[p, q, k] * channels)
                        for c in range(channels):
                            target[c] += grads[c] if winner[c] == k else 0


@njit(parallel=True, **COMPILE)
def max_gather(image, code, windows, output):
    """The transpose of ``max_spread``: what stands at each winner, 0 where there is none."""
    n_all, rows, columns, channels = output.shape
    pixels = image.reshape(n_all, -1, channels)
    for n in prange(n_all):
        for p in range(rows):
            for q in range(columns):
                for c in range(channels):
                    k = code[n, p, q, c]
                    output[n, p, q, c] = 0 if k == DEAD else pixels[n, windows[p, q, k], c]


@njit(parallel=True, **COMPILE)
def avg_spread(grad_output, code, windows, divisors, image):
    """The gradient of the convolution's output: an equal share to each element that is alive."""
    n_all, rows, columns, channels = grad_output.shape
    elements, of_image = windows.shape[2], image.size // n_all
    pixels, grads_at, codes = start_of(image), start_of(grad_output), start_of(code)
    for n in prange(n_all):
        image[n] = 0
        image_at = ahead(pixels, n * of_image)
        for p in range(rows):
            for q in range(columns):
                at = ((n * rows + p) * columns + q) * channels
                grads, alive = ahead(grads_at, at), ahead(codes, at)
                for k in range(elements):
                    if windows[p, q, k] >= 0:
                        target = ahead(image_at, windows[p, q, k] * channels)
                        for c in range(channels):
                            share = grads[c] / divisors[p, q]
                            target[c] += share if (alive[c] >> k) & 1 else 0


@njit(parallel=True, **COMPILE)
def avg_gather(image, code, windows, divisors, output):
    """The transpose of ``avg_spread``."""
    n_all, rows, columns, channels = output.shape
    elements, of_image = windows.shape[2], image.size // n_all
    pixels, made, codes = start_of(image), start_of(output), start_of(code)
    for n in prange(n_all):
        image_at = ahead(pixels, n * of_image)
        for p in range(rows):
            for q in range(columns):
                to = ((n * rows + p) * columns + q) * channels
                total, alive = ahead(made, to), ahead(codes, to)
                for c in range(channels):
                    total[c] = 0
                for k in range(elements):
                    if windows[p, q, k] >= 0:
                        values = ahead(image_at, windows[p, q, k] * channels)
                        for c in range(channels):
                            total[c] += values[c] if (alive[c] >> k) & 1 else 0
                for c in range(channels):
                    total[c] /= divisors[p, q]
