"""The CPU kernels of Winograd's convolution with bias, ReLU and 2×2 max-pool in one pass.

``transform_kernels`` goes over the weights once a call, in blocks of 16 × 16 channels, which it turns in the
cache: vectors of w run along its input channels, those of the products along the output channels. A task of
``max_forward`` takes as many images as make ``_TILES_TOGETHER`` tiles (see ``winograd``): it transforms their
tiles, then computes sixteen matrix products (tiles × C_in)·(C_in × C_out), 64 output channels and four tiles
at a time with their sums in vector registers, then transforms back, adds the bias and pools, a tile in
sixteen registers. Tiles and products stay in the cache of a core; the kernel reads x once and writes a number
and a byte a window. Products: 16·C_in·C_out a window, where the direct sum has 36. ``python
benchmarks/kernels.py`` times it beside the library's convolution, ReLU and pooling
(benchmarks/results/kernels.csv).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.tiles import (
    input_channel,
    input_tile,
    kernel_channel,
    kernel_tile,
    output_channel,
    output_tile,
)
from cnnexp.kernels.cpu.vector import COMPILE, four_sums, lanes_of

_BLOCK = 16  # channels that are turned together
_TOGETHER = (
    64  # output channels, whose weights the first cache holds while tiles are multiplied with them
)
# numbers from the end of one of the sixteen to the next: powers of two apart they would share a set of lines
# of each cache, which has not room for sixteen
APART = 16


@njit(parallel=True, **COMPILE)
def transform_kernels(weight, kernels):
    """G w Gᵀ for all pairs of channels, from ``weight`` (C_out, 3, 3, C_in).

    ``kernels`` (16, C_in·C_out + APART): each of the sixteen is (blocks of 64 output channels, C_in, output
    channels of a block), the last block being the rest.
    """
    c_out, _, _, c_in = weight.shape
    apart = kernels.shape[1]
    lanes = lanes_of(weight)
    given, made = start_of(weight), start_of(kernels)
    across = (c_in + _BLOCK - 1) // _BLOCK
    for task in prange((c_out + _BLOCK - 1) // _BLOCK * across):
        first, begin = task // across * _BLOCK, task % across * _BLOCK
        outputs, inputs = min(_BLOCK, c_out - first), min(_BLOCK, c_in - begin)
        turned = np.empty(9 * _BLOCK * _BLOCK, weight.dtype)
        numbers = start_of(turned)
        for o in range(outputs):
            for tap in range(9):
                of = ahead(given, ((first + o) * 9 + tap) * c_in + begin)
                row = ahead(numbers, tap * _BLOCK * _BLOCK + o)
                for c in range(inputs):
                    row[c * _BLOCK] = of[c]
        block = first // _TOGETHER * _TOGETHER
        width = min(_TOGETHER, c_out - block)
        for c in range(inputs):
            to, o = block * c_in + (begin + c) * width + first - block, 0
            while outputs - o >= lanes:
                at = c * _BLOCK + o
                kernel_tile(numbers, at, _BLOCK * _BLOCK, made, to + o, apart)
                o += lanes
            for each in range(o, outputs):
                at = c * _BLOCK + each
                kernel_channel(numbers, at, _BLOCK * _BLOCK, made, to + each, apart)
        hold(turned)


@njit(**COMPILE)
def _cut_out(image, top, left, height, width, field):
    """Copy what of ``image`` (H, W, C) lies within a field whose corner is at (−top, −left)."""
    channels = image.shape[2]
    columns = min(image.shape[1], width - left)
    for i in range(min(image.shape[0], height - top)):
        start = ((i + top) * width + left) * channels
        field[start : start + columns * channels] = image[i, :columns].reshape(-1)


@njit(**COMPILE)
def _to_tiles(field, rows, columns, channels, tiles, first, apart):
    """``tiles`` (16, tile, channel) from the tile ``first`` on; ``apart``: from one of 16 to the next."""
    lanes = lanes_of(field)
    down = (2 * columns + 2) * channels
    for tile in range(rows * columns):
        at = tile // columns * 2 * down + tile % columns * 2 * channels
        to = (first + tile) * channels
        c = 0
        while channels - c >= lanes:
            input_tile(field, at + c, down, channels, tiles, to + c, apart)
            c += lanes
        for each in range(c, channels):
            input_channel(field, at + each, down, channels, tiles, to + each, apart)


@njit(parallel=True, **COMPILE)
def max_forward(x, kernels, bias, padding, together, output, code, checks):
    """Pooled ReLU and code, each tile of 2×2 outputs being one window of the pool.

    ``kernels``: see ``transform_kernels``. ``together``: how many images are
    multiplied with them at once. ``checks`` (tasks, lanes): NaN where a number was not finite.
    """
    n_all, rows, columns, c_out = output.shape
    c_in = x.shape[3]
    values, codes, biases = start_of(output), start_of(code), start_of(bias)
    lanes = lanes_of(x)
    per_image = rows * columns
    height, width = 2 * rows + 2, 2 * columns + 2
    for task in prange(checks.shape[0]):
        first, last = task * together, min((task + 1) * together, n_all)
        count = (last - first) * per_image
        rounded = (count + 3) // 4 * 4
        field = np.zeros(height * width * c_in, x.dtype)
        of_tiles, of_products = rounded * c_in + APART, rounded * c_out + APART
        tiles = np.empty(16 * of_tiles, x.dtype)
        products = np.empty(16 * of_products, x.dtype)
        offsets, last_offsets = np.arange(c_in) * _TOGETHER, np.arange(c_in) * (c_out % _TOGETHER)
        check = ahead(start_of(checks), task * checks.shape[1])
        pixels, inputs = start_of(field), start_of(tiles)
        sums, places, rest = start_of(products), start_of(offsets), start_of(last_offsets)
        for n in range(first, last):
            _cut_out(x[n], padding[0], padding[1], height, width, field)
            _to_tiles(pixels, rows, columns, c_in, inputs, (n - first) * per_image, of_tiles)
        for k in range(16):
            here, there = ahead(inputs, k * of_tiles), ahead(sums, k * of_products)
            for each in range(count * c_in, rounded * c_in):  # fill up the fours
                here[each] = 0
            kernel = ahead(start_of(kernels), k * kernels.shape[1])
            for o in range(0, c_out, _TOGETHER):
                channels = min(_TOGETHER, c_out - o)
                read = places if channels == _TOGETHER else rest
                for tile in range(0, rounded, 4):
                    to, of = ahead(there, tile * c_out), ahead(here, tile * c_in)
                    four_sums(to, o, c_out, kernel, o * c_in, read, of, c_in, channels)
        for tile in range(count):
            at, to = tile * c_out, (first * per_image + tile) * c_out
            o = 0
            while c_out - o >= lanes:
                output_tile(sums, at + o, of_products, biases, o, values, codes, to + o, check)
                o += lanes
            for each in range(o, c_out):
                output_channel(
                    sums, at + each, of_products, biases, each, values, codes, to + each, check
                )
        hold((field, tiles, products, offsets, last_offsets))
