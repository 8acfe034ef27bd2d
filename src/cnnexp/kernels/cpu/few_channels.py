"""CPU kernels of the max-pooled block for few input channels, as those of a first layer.

Vectors run along the output channels, since those along a short row of x would be half empty. Products:
C_in·K_h·K_w for each element of each window and all C_out, with many sums in registers (``taps``).
Arrays as in ``sparse``; x, ∂L/∂y and y may be of bfloat16, sums are of the dtype of the others. ``python
benchmarks/kernels.py`` times each kernel beside the library's dense one.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import narrow
from cnnexp.kernels.cpu.sparse import pad_into
from cnnexp.kernels.cpu.taps import MOST_TAPS, alive_of, shares_of, window_of
from cnnexp.kernels.cpu.vector import COMPILE, lanes_of

__all__ = ["forward_few_channels", "grad_weight_few_channels"]

_window_2, _window_1, _window_channel = window_of(2, None), window_of(1, None), window_of(1, 1)
_whole_2, _whole_1 = window_of(2, None, whole=True), window_of(1, None, whole=True)
_shares_2, _shares_1, _shares_channel = (
    shares_of(MOST_TAPS, vectors, lanes) for vectors, lanes in ((2, None), (1, None), (1, 1))
)
_share_2, _share_1, _share_channel = (
    shares_of(1, vectors, lanes) for vectors, lanes in ((2, None), (1, None), (1, 1))
)
_alive_2, _alive_1, _alive_channel = alive_of(2, None), alive_of(1, None), alive_of(1, 1)


@njit(**COMPILE)
def _reads(fields):
    """Where each number of a receptive field stands, from its beginning."""
    rows, length = fields.rows, fields.length
    reads = np.empty(fields.groups.size * rows * length, np.int64)
    for i in range(reads.size):
        piece = i // length
        reads[i] = fields.groups[piece // rows] + piece % rows * fields.step + i % length
    return reads


@njit(**COMPILE)
def _whole_window(of, c_out, lanes, values, made, winner):
    """Leave the maxima of a window of up to four elements in ``made``, and who they are in ``winner``."""
    o = 0
    while c_out - o >= 2 * lanes:
        _whole_2(*of, o, c_out, made, winner, 0)
        o += 2 * lanes
    if c_out - o >= lanes:
        _whole_1(*of, o, c_out, made, winner, 0)
        o += lanes
    for each in range(o, c_out):
        values[each], winner[each] = 0, DEAD
        _window_channel(*of, each, c_out, values, winner, 0)
        made[each] = narrow(values[each], made)


@njit(parallel=True, **COMPILE)
def forward_few_channels(x, kernels, bias, fields, output, code):
    """Convolution, bias, ReLU and max-pool of few input channels: z is never written.

    ``kernels`` (K_h·K_w·C_in, C_out); results as those of ``pooling.max_forward``.
    """
    n_all, c_out = output.shape[0], output.shape[3]
    places, padded = fields.places, fields.padded
    positions, window = places.shape
    c_in, taps = x.shape[3], kernels.shape[0]
    flat, starts, offsets = start_of(kernels), start_of(places), start_of(bias)
    outputs, codes = start_of(output), start_of(code)
    lanes = lanes_of(kernels)
    for n in prange(n_all):
        image = np.zeros(padded[0] * padded[1] * c_in, kernels.dtype)
        pad_into(x[n], padded, image)
        reads, best = _reads(fields), aligned(c_out, kernels)
        pixels, read, values = start_of(image), start_of(reads), start_of(best)
        for position in range(positions):
            to = (n * positions + position) * c_out
            winner, made = ahead(codes, to), ahead(outputs, to)
            if window <= 4:
                of = pixels, starts, position * window, window, read, taps, flat, offsets
                _whole_window(of, c_out, lanes, values, made, winner)
                continue
            for o in range(c_out):
                values[o], winner[o] = 0, DEAD
            for k in range(0, window, 4):  # four elements of the window at a time
                of = pixels, starts, position * window + k, min(4, window - k), read, taps
                o = 0
                while c_out - o >= 2 * lanes:
                    _window_2(*of, flat, offsets, o, c_out, values, winner, k)
                    o += 2 * lanes
                if c_out - o >= lanes:
                    _window_1(*of, flat, offsets, o, c_out, values, winner, k)
                    o += lanes
                for each in range(o, c_out):
                    _window_channel(*of, flat, offsets, each, c_out, values, winner, k)
            for o in range(c_out):
                made[o] = narrow(values[o], made)
        hold((image, reads, best))


@njit(**COMPILE)
def _add_alive(total, codes, grads, at, positions, channels):
    """Add to ``total`` the gradients from ``at`` on that have a winner; all are pointers."""
    lanes, o = lanes_of(total), 0
    while channels - o >= 2 * lanes:
        _alive_2(total, o, codes, grads, at + o, positions, channels)
        o += 2 * lanes
    if channels - o >= lanes:
        _alive_1(total, o, codes, grads, at + o, positions, channels)
        o += lanes
    for each in range(o, channels):
        _alive_channel(total, each, codes, grads, at + each, positions, channels)


@njit(parallel=True, **COMPILE)
def grad_weight_few_channels(x, code, grad_output, fields, parts, shares):
    """∂L/∂w and ∂L/∂b in ``parts`` and ``shares``, whose sums over the first axis they are.

    ``parts`` (tasks, K_h·K_w·C_in or more, C_out), the rows after the first K_h·K_w·C_in becoming 0;
    ``shares`` (tasks, C_out).
    """
    n_all, _, _, c_in = x.shape
    places, padded = fields.places, fields.padded
    positions, window = places.shape
    c_out = code.shape[-1]
    codes, grads, starts = start_of(code), start_of(grad_output), start_of(places)
    lanes = lanes_of(parts)
    for part in prange(parts.shape[0]):
        parts[part], shares[part] = 0, 0
        total = ahead(start_of(parts), part * parts.shape[1] * c_out)
        of_bias = ahead(start_of(shares), part * c_out)
        image = np.zeros(padded[0] * padded[1] * c_in, parts.dtype)
        reads = _reads(fields)
        of = start_of(image), starts, positions, window, start_of(reads)
        for n in range(n_all * part // parts.shape[0], n_all * (part + 1) // parts.shape[0]):
            pad_into(x[n], padded, image)
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
            _add_alive(of_bias, codes, grads, n * positions * c_out, positions, c_out)
        hold((image, reads))
