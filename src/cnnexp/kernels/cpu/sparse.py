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
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.vector import COMPILE, four_weighted_sums, weighted_sum_of_rows

__all__ = [
    "forward_few_channels",
    "grad_bias",
    "grad_input",
    "grad_weight",
    "grad_weight_few_channels",
    "pad_into",
]

_BLOCK = 16  # output channels looked at together: one cache line of float32


@njit(**COMPILE)
def pad_into(image, padded, buffer):
    """Copy (H, W, C) into the middle of a flat padded image whose border is 0 already."""
    height, width, channels = image.shape
    for i in range(height):
        start = ((i + padded[2]) * padded[1] + padded[3]) * channels
        buffer[start : start + width * channels] = image[i].reshape(-1)


@njit(**COMPILE)
def _reads(fields):
    """Where each number of a receptive field stands, from its beginning."""
    rows, length = fields.rows, fields.length
    reads = np.empty(fields.groups.size * rows * length, np.int64)
    for i in range(reads.size):
        piece = i // length
        reads[i] = fields.groups[piece // rows] + piece % rows * fields.step + i % length
    return reads


@njit(parallel=True, **COMPILE)
def forward_few_channels(x, kernels, bias, fields, output, code):
    """Convolution, bias, ReLU and max-pool of few input channels: z is never written.

    ``kernels`` (K_h·K_w·C_in, C_out); results as those of ``pooling.max_forward``.
    """
    n_all, c_out = output.shape[0], output.shape[3]
    places, padded = fields.places, fields.padded
    positions, window = places.shape
    outputs, codes = output.reshape(n_all, positions, c_out), code.reshape(n_all, positions, c_out)
    c_in, size = x.shape[3], kernels.shape[0]
    flat = kernels.reshape(-1)
    for n in prange(n_all):
        image = np.zeros(padded[0] * padded[1] * c_in, x.dtype)
        pad_into(x[n], padded, image)
        reads, offsets = _reads(fields), np.arange(size) * c_out
        patches = np.zeros(4 * size, x.dtype)
        sums = np.empty((4, c_out), x.dtype)
        all_sums = sums.reshape(-1)
        for position in range(positions):
            best, winner = outputs[n, position], codes[n, position]
            for o in range(c_out):
                best[o] = 0
                winner[o] = DEAD
            for begin in range(0, window, 4):  # four elements of the window at a time
                for k in range(4):
                    inside = begin + k < window and places[position, begin + k] >= 0
                    start = places[position, begin + k] if inside else 0
                    patch, row = patches[k * size : (k + 1) * size], sums[k]
                    for i in range(size):
                        patch[i] = image[start + reads[i]] if inside else 0
                    for o in range(c_out):
                        row[o] = bias[o] if inside else -np.inf
                four_weighted_sums(all_sums, 0, flat, offsets, patches, size, c_out)
                k = np.uint8(begin)
                s0, s1, s2, s3 = sums[0], sums[1], sums[2], sums[3]
                for o in range(c_out):
                    value, won = best[o], winner[o]
                    # as torch: the first of equals, a NaN over everything
                    for each, offset in ((s0[o], 0), (s1[o], 1), (s2[o], 2), (s3[o], 3)):
                        wins = each > value or each != each
                        value = each if wins else value
                        won = np.uint8(k + offset) if wins else won
                    best[o], winner[o] = value, won


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
        total = parts[part].reshape(-1)
        images = np.zeros(together * size, x.dtype)
        offsets = np.empty(_BLOCK * capacity, np.int64)
        weights = np.empty(_BLOCK * capacity, x.dtype)
        counts = np.empty(_BLOCK, np.int64)
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
                        total,
                        o * size_of_kernel + group * rows * length,
                        length,
                        images,
                        groups[group],
                        step,
                        rows,
                        offsets,
                        weights,
                        (o - begin) * capacity,
                        counts[o - begin],
                        length,
                    )


@njit(parallel=True, **COMPILE)
def grad_weight_few_channels(x, code, grad_output, fields, parts):
    """As ``grad_weight`` for few input channels, with output channels along the vectors.

    ``parts`` (tasks, K_h·K_w·C_in rounded up to a multiple of 4, C_out).
    """
    n_all, _, _, c_in = x.shape
    places, padded = fields.places, fields.padded
    positions, window = places.shape
    c_out = code.shape[-1]
    codes = code.reshape(n_all, positions, c_out)
    grads = grad_output.reshape(n_all, positions, c_out)
    for part in prange(parts.shape[0]):
        parts[part] = 0
        total = parts[part].reshape(-1)
        image = np.zeros(padded[0] * padded[1] * c_in, x.dtype)
        reads = _reads(fields)
        most = _BLOCK * window
        shares = np.empty((most, c_out), x.dtype)  # g[o] where offset k won, else 0
        all_shares = shares.reshape(-1)
        offsets = np.arange(most) * c_out
        starts = np.empty(most, np.int64)
        pixels = np.zeros(4 * most, x.dtype)
        for n in range(n_all * part // parts.shape[0], n_all * (part + 1) // parts.shape[0]):
            pad_into(x[n], padded, image)
            for begin in range(0, positions, _BLOCK):
                count = 0
                for position in range(begin, min(begin + _BLOCK, positions)):
                    winner, grad = codes[n, position], grads[n, position]
                    for k in range(window):
                        starts[count] = max(places[position, k], 0)
                        share = shares[count]
                        for o in range(c_out):
                            share[o] = grad[o] if winner[o] == k else 0
                        count += 1
                for i in range(0, reads.size, 4):  # four weights at a time
                    for r in range(min(4, reads.size - i)):
                        row = pixels[r * count : (r + 1) * count]
                        at = reads[i + r]
                        for j in range(count):
                            row[j] = image[starts[j] + at]
                    four_weighted_sums(total, i * c_out, all_shares, offsets, pixels, count, c_out)


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
    kernels = weight.reshape(-1)
    size_of_kernel = kernels.size // c_out
    for n in prange(n_all):
        image = np.zeros(padded[0] * padded[1] * c_in, grad.dtype)
        offsets = np.empty(window * c_out, np.int64)
        weights = np.empty(window * c_out, grad.dtype)
        counts = np.empty(window, np.int64)
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
                        image,
                        places[position, k] + groups[group],
                        step,
                        kernels,
                        group * rows * length,
                        length,
                        rows,
                        offsets,
                        weights,
                        k * c_out,
                        counts[k],
                        length,
                    )
        for i in range(height):
            start = ((i + padded[2]) * padded[1] + padded[3]) * c_in
            grad[n, i] = image[start : start + width * c_in].reshape(width, c_in)


@njit(parallel=True, **COMPILE)
def grad_bias(code, grad_output, parts):
    """∂L/∂b in ``parts`` (tasks, C_out), whose sum over the first axis it is."""
    c_out = parts.shape[1]
    codes, grads = code.reshape(-1, c_out), grad_output.reshape(-1, c_out)
    rows = codes.shape[0]
    for part in prange(parts.shape[0]):
        total = parts[part]
        total[:] = 0
        for i in range(rows * part // parts.shape[0], rows * (part + 1) // parts.shape[0]):
            winner, grad = codes[i], grads[i]
            for o in range(c_out):
                total[o] += grad[o] if winner[o] != DEAD else 0
