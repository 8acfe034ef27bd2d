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
    grad_weight               part of the batch × 16 o, image, position          a row of the kernel
    grad_weight_few_channels  part of the batch, 16 positions, four weights      four sums over o
    grad_input                image, position, element of its window             a row of the field

Products: C_in·K_h·K_w for each element that is alive; where C_in is small, for each element of each window
and all C_out, since vectors along o are fuller than those along a short row.
Each image is read once and padded into a buffer that the cache holds; code and ∂L/∂y are read once, one
byte and one number an element. ``python benchmarks/kernels.py`` times each kernel beside the library's dense
one (benchmarks/results/kernels.csv).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.numbers import aligned, put
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import wide
from cnnexp.kernels.cpu.vector import COMPILE, weighted_sum_of_rows

__all__ = [
    "grad_bias",
    "grad_input",
    "grad_weight",
    "pad_into",
]

_BLOCK = 16  # output channels looked at together: one cache line of float32


@njit(**COMPILE)
def pad_into(image, padded, buffer):
    """Copy (H, W, C) into the middle of a flat padded image whose border is 0 already."""
    height, width, channels = image.shape
    length, numbers = width * channels, image.reshape(-1)
    for i in range(height):
        start = ((i + padded[2]) * padded[1] + padded[3]) * channels
        put(numbers[i * length : (i + 1) * length], buffer[start : start + length])


@njit(parallel=True, **COMPILE)
def grad_weight(x, code, grad_output, fields, together, parts):
    """∂L/∂w in ``parts`` (tasks, C_out, K_h·K_w·C_in), whose sum over the first axis it is.

    ``together``: how many images share one list of gradients, so that the lists are long enough.
    """
    n_all, _, _, c_in = x.shape
    places, padded = fields.places, fields.padded
    groups, rows, step, length = fields.groups, fields.rows, fields.step, fields.length
    positions = places.shape[0]
    c_out = code.shape[-1]
    codes = code.reshape(n_all, positions, c_out)
    grads = grad_output.reshape(n_all, positions, c_out)
    blocks = (c_out + _BLOCK - 1) // _BLOCK
    size = padded[0] * padded[1] * c_in
    size_of_kernel = parts.shape[2]
    capacity = positions * together
    for task in prange(parts.shape[0] * blocks):
        part, begin = task // blocks, task % blocks * _BLOCK
        end = min(begin + _BLOCK, c_out)
        parts[part, begin:end] = 0
        images = aligned(together * size, x)
        offsets = np.empty(_BLOCK * capacity, np.int64)
        weights = np.empty(_BLOCK * capacity, x.dtype)
        counts = np.empty(_BLOCK, np.int64)
        total = ahead(start_of(parts), part * c_out * size_of_kernel)
        source, listed, factors = start_of(images), start_of(offsets), start_of(weights)
        last = n_all * (part + 1) // parts.shape[0]
        for start in range(n_all * part // parts.shape[0], last, together):
            counts[:] = 0
            for n in range(start, min(start + together, last)):
                base = (n - start) * size
                pad_into(x[n], padded, images[base : base + size])
                for position in range(positions):
                    for o in range(begin, end):
                        k = codes[n, position, o]
                        entry = (o - begin) * capacity + counts[o - begin]
                        # written always, counted if alive: no branch to mispredict
                        offsets[entry] = base + places[position, 0 if k == DEAD else k]
                        weights[entry] = grads[n, position, o]
                        counts[o - begin] += k != DEAD
            for o in range(begin, end):
                for group in range(groups.size):
                    weighted_sum_of_rows(
                        *(total, o * size_of_kernel + group * rows * length, length),
                        *(source, groups[group], step, rows, listed, factors),
                        *((o - begin) * capacity, counts[o - begin], length),
                    )
        hold((images, offsets, weights))


@njit(parallel=True, **COMPILE)
def grad_input(weight, code, grad_output, fields, grad):
    """∂L/∂x in ``grad`` (N, H, W, C_in)."""
    n_all, height, width, c_in = grad.shape
    places, padded = fields.places, fields.padded
    groups, rows, step, length = fields.groups, fields.rows, fields.step, fields.length
    positions, window = places.shape
    c_out = code.shape[-1]
    codes = code.reshape(n_all, positions, c_out)
    grads = grad_output.reshape(n_all, positions, c_out)
    kernels, size_of_kernel = start_of(weight), weight.size // c_out
    for n in prange(n_all):
        image = aligned(padded[0] * padded[1] * c_in, grad)
        offsets = np.empty(window * c_out, np.int64)
        weights = np.empty(window * c_out, grad.dtype)
        counts = np.empty(window, np.int64)
        sums, listed, factors = start_of(image), start_of(offsets), start_of(weights)
        for position in range(positions):
            counts[:] = 0
            for o in range(c_out):
                k = codes[n, position, o]
                slot = 0 if k == DEAD else k
                entry = slot * c_out + counts[slot]
                offsets[entry] = o * size_of_kernel
                weights[entry] = grads[n, position, o]
                counts[slot] += k != DEAD
            for k in range(window):
                for group in range(groups.size if counts[k] else 0):
                    weighted_sum_of_rows(
                        *(sums, places[position, k] + groups[group], step),
                        *(kernels, group * rows * length, length, rows),
                        *(listed, factors, k * c_out, counts[k], length),
                    )
        hold((offsets, weights))
        numbers, line = grad[n].reshape(-1), width * c_in
        for i in range(height):
            start = ((i + padded[2]) * padded[1] + padded[3]) * c_in
            put(image[start : start + line], numbers[i * line : (i + 1) * line])


@njit(parallel=True, **COMPILE)
def grad_bias(code, grad_output, parts):
    """∂L/∂b in ``parts`` (tasks, C_out), whose sum over the first axis it is."""
    c_out = parts.shape[1]
    codes, grads = code.reshape(-1, c_out), grad_output.reshape(-1, c_out)
    rows = codes.shape[0]
    for part in prange(parts.shape[0]):
        total, nothing = (
            parts[part],
            np.zeros(1, parts.dtype)[0],
        )  # the 0 of another dtype is no vector
        total[:] = 0
        for i in range(rows * part // parts.shape[0], rows * (part + 1) // parts.shape[0]):
            winner, grad = codes[i], grads[i]
            for o in range(c_out):
                total[o] += wide(grad[o]) if winner[o] != DEAD else nothing
