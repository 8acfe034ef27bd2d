"""CPU kernels of blocks of few channels in bfloat16, which multiply pairs.

As ``narrow_pair_kernels``, whose planes these are, with something behind the convolution (``narrow_planes``):
that is computed in float32, and ∂L/∂z is rounded where it becomes a factor.

Compiled by numba on first use and kept in its cache; after a change in ``narrow_tiles``, ``narrow_kernels``,
``narrow_planes``, ``narrow_pair_planes``, ``narrow_pair_pixels``, ``pairs``, ``activation_kernels`` or
``precision``, touch this file.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange

from cnnexp.kernels.cpu.behind import RELU_MAX, TANH
from cnnexp.kernels.cpu.narrow_kernels import (
    SLACK,
    TASKS,
    add_shares,
    convolve,
    group_of,
    leave,
    outputs_of,
    tiles_of,
)
from cnnexp.kernels.cpu.narrow_pair_kernels import biases_of, taps_of
from cnnexp.kernels.cpu.narrow_pair_planes import pack_planes, planes_of, read, read_channels, write
from cnnexp.kernels.cpu.narrow_planes import behind, finish
from cnnexp.kernels.cpu.narrow_tiles import LANES, SHARES
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.pointers import hold, start_of
from cnnexp.kernels.cpu.precision import narrow, numbers_at
from cnnexp.kernels.cpu.vector import COMPILE, VECTOR_BYTES

__all__ = ["forward", "grad_input", "grad_weight"]

_HALF, _WORD, _BYTE, _SUM = np.uint16(1), np.uint32(1), np.uint8(1), np.empty(1, np.float32)
_WORDS, _HALVES = np.empty(1, np.uint32), np.empty(1, np.uint16)
_UNITY = np.uint16(0x3F80)  # the bits of 1


@njit(parallel=True, **COMPILE)
def forward(addresses, images, channels, lasts, geometry, kernel, reads, places, step, after):
    """Leave y and what the backward needs of it at their addresses.

    Args:
        addresses: Of x, w, b (0 for none), what is kept, and y.
        images, channels, lasts, geometry, kernel, reads, places, step: As of
            ``narrow_pair_kernels.convolution``; what is kept has not the channels last.
        after: As of ``narrow_kernels.forward``.
    """
    (c_in, c_out), (size, shown, pad, pitch) = channels, geometry
    weights, width, apart = kernel
    windows, pooled, divisors, easy, kind = after
    pixels = shown[0] * shown[1]
    results = windows.shape[0] if windows.shape[0] else pixels
    x, pairs = numbers_at(addresses[0], _HALF), numbers_at(addresses[0], _WORD)
    weight = carray(numbers_at(addresses[1], _HALF), weights)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[3], _HALF), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[3], _BYTE), images * c_out * results if coded else 0)
    output = carray(numbers_at(addresses[4], _HALF), images * c_out * results)
    wide_row, padded, count = pitch[1], pitch[0] * pitch[1], reads.size
    length = (shown[0] - 1) * wide_row + shown[1]
    tiles = tiles_of(c_out, -(-length // (VECTOR_BYTES // 4)))
    made, start = taps_of(weight, places, step, tiles), biases_of(addresses[2], c_out)
    plane, tasks = length + SLACK, min(TASKS, images)
    layout = pad[0] * wide_row + pad[1], wide_row, padded
    for task in prange(tasks):
        planes = aligned(planes_of(c_in, width) * padded + SLACK, _WORDS)
        values, means = (
            aligned(c_out * plane, _SUM),
            aligned(c_out * windows.shape[0] + LANES, _SUM),
        )
        best, marks = aligned(plane if coded else 1, _SUM), aligned(plane if coded else 1, _SUM)
        for n in range(images * task // tasks, images * (task + 1) // tasks):
            read(x, pairs, n, c_in, size, lasts[0], layout, width, apart, start_of(planes))
            convolve(planes, reads, count, made, tiles, start, c_out, length, plane, values)
            rest, room = (windows, pooled, divisors, easy, kind), (means, best, marks)
            finish(
                *(values, plane, wide_row, shown, n, c_out, lasts[1]),
                *(rest, kept, codes, room, output),
            )


@njit(parallel=True, **COMPILE)
def grad_input(addresses, images, channels, lasts, geometry, kernel, reads, places, step, after):
    """Leave ∂L/∂x at its address.

    Args:
        addresses: Of ∂L/∂y, what was kept, w and ∂L/∂x.
        channels, lasts: Of ∂L/∂y and ∂L/∂x.
        geometry: (P, Q), (H, W), padding of ∂L/∂z, and rows and columns of a padded plane of it.
        after: As of ``narrow_kernels.grad_input``; the others as of :func:`forward`.
    """
    (c_out, c_in), (size, shown, pad, pitch) = channels, geometry
    weights, width, apart = kernel
    windows, pooled, divisors, easy, kind = after
    pixels = size[0] * size[1]
    results = windows.shape[0] if windows.shape[0] else pixels
    grad = carray(numbers_at(addresses[0], _HALF), images * c_out * results)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[1], _HALF), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[1], _BYTE), images * c_out * results if coded else 0)
    weight = carray(numbers_at(addresses[2], _HALF), weights)
    output, made = numbers_at(addresses[3], _HALF), numbers_at(addresses[3], _WORD)
    wide_row, padded, count = pitch[1], pitch[0] * pitch[1], reads.size
    length = (shown[0] - 1) * wide_row + shown[1]
    tiles = tiles_of(c_in, -(-length // (VECTOR_BYTES // 4)))
    taps, nothing = taps_of(weight, places, step, tiles), aligned(c_in, _SUM)
    plane, tasks = length + SLACK, min(TASKS, images)
    for task in prange(tasks):
        planes = aligned(planes_of(c_out, width) * padded + SLACK, _WORDS)
        own = aligned(c_out * padded + SLACK + apart, _SUM)
        sums = aligned(c_in * plane, _SUM)
        means = aligned(c_out * windows.shape[0] + LANES, _SUM)
        for n in range(images * task // tasks, images * (task + 1) // tasks):
            layout = pad[0] * wide_row + pad[1], wide_row, padded
            rest = windows, pooled, divisors, easy, kind
            behind(grad, kept, codes, n, c_out, lasts[0], size, layout, rest, means, own)
            pack_planes(own, c_out, padded, width, apart, planes)
            convolve(planes, reads, count, taps, tiles, nothing, c_in, length, plane, sums)
            write(start_of(sums), plane, wide_row, shown, output, made, n, c_in, lasts[1])
        hold(sums)


@njit(**COMPILE)
def _round_into(values, count, halves, at):
    """halves[at + k] = values[k], rounded, for k < ``count``."""
    for k in range(count):  # by indices that numba knows not to count from the end
        halves[np.uintp(at + k)] = narrow(values[np.uintp(k)], halves)


@njit(parallel=True, **COMPILE)
def grad_weight(addresses, images, channels, lasts, geometry, area, reads, parts, after):
    """Leave ∂L/∂w and ∂L/∂b at their addresses, sums over ``parts`` of the batch, in order.

    Args:
        addresses: Of x, ∂L/∂y, what was kept, ∂L/∂w and ∂L/∂b.
        images, channels, lasts, geometry, area, reads, parts: As of ``narrow_pair_kernels.grad_weight``.
        after: As of ``narrow_kernels.grad_weight``.
    """
    (c_in, c_out), (size, shown, pad, pitch) = channels, geometry
    windows, pooled, divisors, easy, kind = after
    pixels, weights = shown[0] * shown[1], c_in * area
    results = windows.shape[0] if windows.shape[0] else pixels
    x, x_pairs = numbers_at(addresses[0], _HALF), numbers_at(addresses[0], _WORD)
    grad = carray(numbers_at(addresses[1], _HALF), images * c_out * results)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[2], _HALF), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[2], _BYTE), images * c_out * results if coded else 0)
    wide_row, padded = pitch[1], pitch[0] * pitch[1]
    length, lanes = (shown[0] - 1) * wide_row + shown[1], 2 * LANES
    steps = -(-length // lanes)
    plane = steps * lanes + lanes
    apart = (-(-((c_in + 1) * padded) // lanes) * lanes + lanes, outputs_of(c_out) * plane)
    group = group_of(2 * (apart[0] + apart[1]))
    totals = np.zeros((parts, outputs_of(c_out) * reads.size), np.float32)
    at = pad[0] * wide_row + pad[1]
    for part in prange(parts):
        first, last = images * part // parts, images * (part + 1) // parts
        some = min(group, last - first)
        planes, grads = aligned(some * apart[0], _HALVES), aligned(some * apart[1], _HALVES)
        for g in range(some):
            for k in range(g * apart[0] + c_in * padded, (g + 1) * apart[0]):
                planes[k] = _UNITY
        own, means = aligned(c_out * plane, _SUM), aligned(c_out * windows.shape[0] + LANES, _SUM)
        one = aligned(SHARES[0][1] * reads.size, _SUM)
        for begin in range(first, last, some):
            many = min(some, last - begin)
            for g in range(many):
                n, layout = begin + g, (g * apart[0] + at, wide_row, padded)
                read_channels(x, x_pairs, n, c_in, size, lasts[0], layout, start_of(planes))
                layout, rest = (0, wide_row, plane), (windows, pooled, divisors, easy, kind)
                behind(grad, kept, codes, n, c_out, lasts[1], shown, layout, rest, means, own)
                _round_into(own, c_out * plane, grads, g * apart[1])
            layout = plane, steps, many, apart
            add_shares(totals[part], one, planes, reads, weights + 1, grads, c_out, layout)
        hold(planes)
    weight = carray(numbers_at(addresses[3], _HALF), c_out * weights)
    leave(totals, reads.size, weight, carray(numbers_at(addresses[4], _HALF), c_out))
