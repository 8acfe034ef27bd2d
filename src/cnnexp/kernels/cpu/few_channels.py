"""CPU kernels of the max-pooled block for few input channels, as those of a first layer.

Vectors run along the output channels, since those along a short row of x would be half empty. Products:
C_in·K_h·K_w for each element of each window and all C_out, with many sums in registers (``taps``).
Arrays as in ``sparse``; x, ∂L/∂y and y may be of bfloat16, sums are of the dtype of the others. ``python
benchmarks/kernels.py`` times each kernel beside the library's dense one.

Compiled by numba on first use and kept in its cache; after a change in ``taps``, touch this file.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.numbers import aligned, put
from cnnexp.kernels.cpu.sparse import pad_into
from cnnexp.kernels.cpu.taps import MOST_TAPS, shares_of, window_of
from cnnexp.kernels.cpu.vector import COMPILE, VECTOR_BYTES

__all__ = ["forward_few_channels", "grad_weight_few_channels"]

_window_2, _window_1, _window_channel = window_of(2, None), window_of(1, None), window_of(1, 1)
_shares_2, _shares_1, _shares_channel = (
    shares_of(MOST_TAPS, vectors, lanes) for vectors, lanes in ((2, None), (1, None), (1, 1))
)
_share_2, _share_1, _share_channel = (
    shares_of(1, vectors, lanes) for vectors, lanes in ((2, None), (1, None), (1, 1))
)


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
    c_in, taps = x.shape[3], kernels.shape[0]
    flat, starts = kernels.reshape(-1), places.reshape(-1)
    lanes = VECTOR_BYTES // kernels.itemsize
    for n in prange(n_all):
        image = np.zeros(padded[0] * padded[1] * c_in, kernels.dtype)
        pad_into(x[n], padded, image)
        reads = _reads(fields)
        best = aligned(c_out, kernels)
        for position in range(positions):
            winner = codes[n, position]
            for o in range(c_out):
                best[o] = 0
                winner[o] = DEAD
            for k in range(0, window, 4):  # four elements of the window at a time
                first, count = position * window + k, min(4, window - k)
                of = image, starts, first, count, reads, taps, flat, bias
                o = 0
                while c_out - o >= 2 * lanes:
                    _window_2(*of, o, c_out, best, winner, k)
                    o += 2 * lanes
                if c_out - o >= lanes:
                    _window_1(*of, o, c_out, best, winner, k)
                    o += lanes
                for each in range(o, c_out):
                    _window_channel(*of, each, c_out, best, winner, k)
            put(best, outputs[n, position])


@njit(parallel=True, **COMPILE)
def grad_weight_few_channels(x, code, grad_output, fields, parts):
    """∂L/∂w in ``parts`` (tasks, K_h·K_w·C_in or more, C_out), whose sum over the first axis it is.

    The rows after the first K_h·K_w·C_in become 0.
    """
    n_all, _, _, c_in = x.shape
    places, padded = fields.places, fields.padded
    positions, window = places.shape
    c_out = code.shape[-1]
    codes, grads, starts = code.reshape(-1), grad_output.reshape(-1), places.reshape(-1)
    lanes = VECTOR_BYTES // parts.itemsize
    for part in prange(parts.shape[0]):
        parts[part] = 0
        total = parts[part].reshape(-1)
        image = np.zeros(padded[0] * padded[1] * c_in, parts.dtype)
        reads = _reads(fields)
        for n in range(n_all * part // parts.shape[0], n_all * (part + 1) // parts.shape[0]):
            pad_into(x[n], padded, image)
            of = image, starts, positions, window, reads
            tap = 0
            while tap < reads.size:
                many = reads.size - tap >= MOST_TAPS
                to, at = tap * c_out, n * positions * c_out
                o = 0
                while c_out - o >= 2 * lanes:
                    if many:
                        _shares_2(total, to + o, *of, tap, codes, grads, at + o, c_out)
                    else:
                        _share_2(total, to + o, *of, tap, codes, grads, at + o, c_out)
                    o += 2 * lanes
                if c_out - o >= lanes:
                    if many:
                        _shares_1(total, to + o, *of, tap, codes, grads, at + o, c_out)
                    else:
                        _share_1(total, to + o, *of, tap, codes, grads, at + o, c_out)
                    o += lanes
                for each in range(o, c_out):
                    if many:
                        _shares_channel(total, to + each, *of, tap, codes, grads, at + each, c_out)
                    else:
                        _share_channel(total, to + each, *of, tap, codes, grads, at + each, c_out)
                tap += MOST_TAPS if many else 1
