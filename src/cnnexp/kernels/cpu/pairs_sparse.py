"""The sparse gradients of ``sparse`` in bfloat16: products of pairs of winners, sums in float32.

Arrays as there, bfloat16 as uint16, and channels of x and w filled up with zeros to a multiple of 32, which
leaves no rest in any loop. A list of odd length gets one more entry, which reads zeros.

Loops (outermost first), and what stays in registers:

    grad_weight    part of the batch × 32 o, images, o, piece of the kernel        288 sums
    grad_input     image, position, element of its window, piece of the field      288 sums
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.numbers import aligned, put
from cnnexp.kernels.cpu.pairs import pair_sums_of_rows
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.vector import COMPILE
from cnnexp.kernels.cpu.winners import (
    SHARES,
    SLACK,
    add_list,
    list_by_channel,
    list_by_offset,
    sum_shares,
    table_of,
)

__all__ = ["BLOCK", "collect", "grad_input", "grad_weight", "pad_into", "spread_kernels"]

BLOCK = 32  # output channels a task
PIECE = 96  # numbers of a row that are summed in registers, in three rows together


@njit(**COMPILE)
def pad_into(image, padded, channels, buffer):
    """Copy (H, W, C) into the middle of a flat padded image of ``channels`` ≥ C whose rest is 0 already."""
    height, width, c_in = image.shape
    length, numbers = width * c_in, image.reshape(-1)
    for i in range(height):
        start = ((i + padded[2]) * padded[1] + padded[3]) * channels
        if c_in == channels:
            put(numbers[i * length : (i + 1) * length], buffer[start : start + length])
        else:
            for j in range(width):
                at = start + j * channels
                put(image[i, j], buffer[at : at + c_in])


@njit(**COMPILE)
def _list_winners(
    codes, grads, channels, rows, window, nothing, entries, weights, apart, counts, listed
):
    """The lists of ``listed`` channels, all of even length.

    Args: codes and grads: of ``rows`` positions of ``channels`` each, from the first that is listed on;
    nothing: the entry of a zero; entries, weights: room for lists ``apart`` from each other; counts: becomes
    their lengths. All are pointers.
    """
    list_by_channel(codes, grads, channels, rows, window, entries, weights, apart, counts, listed)
    for o in range(listed):
        if counts[o] % 2:
            end = o * apart + counts[o]
            entries[end], weights[end] = nothing, 0
            counts[o] += 1


@njit(parallel=True, **COMPILE)
def grad_weight(x, code, grad_output, fields, channels, together, parts, shares):
    """∂L/∂w and ∂L/∂b in ``parts`` (tasks, C_out, K_h·K_w·channels) and ``shares``, for ``collect``.

    C_out is a multiple of 16. ``together``: how many images share one list of gradients,
    P·Q·K·together < 2¹⁶.
    """
    n_all = x.shape[0]
    places, padded = fields.places, fields.padded
    groups, rows, step, length = fields.groups, fields.rows, fields.step, fields.length
    positions, window = places.shape
    c_out = code.shape[-1]
    codes_at, grads_at, biases = start_of(code), start_of(grad_output), start_of(shares)
    blocks = (c_out + BLOCK - 1) // BLOCK
    size = padded[0] * padded[1] * channels
    size_of_kernel = parts.shape[2]
    apart = positions * together + SLACK
    for task in prange(parts.shape[0] * blocks):
        part, begin = task // blocks, task % blocks * BLOCK
        end = min(begin + BLOCK, c_out)
        parts[part, begin:end] = 0
        shares[part, begin:end] = 0
        images = aligned((together + 1) * size, x)  # the last remains 0
        table = table_of(places, size, together)
        entries = np.empty(BLOCK * apart, np.uint16)
        weights = np.empty(BLOCK * apart, np.uint16)
        counts = np.empty(BLOCK, np.int64)
        total = ahead(start_of(parts), part * c_out * size_of_kernel)
        source, starts, number = start_of(images), start_of(table), start_of(counts)
        listed, factors = start_of(entries), start_of(weights)
        last = n_all * (part + 1) // parts.shape[0]
        for start in range(n_all * part // parts.shape[0], last, together):
            stop = min(start + together, last)
            for n in range(start, stop):
                base = (n - start) * size
                pad_into(x[n], padded, channels, images[base : base + size])
            at = start * positions * c_out + begin
            _list_winners(
                *(ahead(codes_at, at), ahead(grads_at, at), c_out, (stop - start) * positions),
                *(window, table.size - 1, listed, factors, apart, number, end - begin),
            )
            for o in range(end - begin):
                of_bias = ahead(biases, (part * c_out + begin + o) * SHARES)
                add_list(ahead(factors, o * apart), number[o], of_bias)
            for group in range(groups.size):
                for piece in range(0, length, PIECE):  # that the first cache holds of all images
                    until = min(piece + PIECE, length)
                    for o in range(end - begin):
                        to = (begin + o) * size_of_kernel + group * rows * length
                        pair_sums_of_rows(
                            *(total, to, length, source, groups[group], step, rows, starts),
                            *(listed, factors, o * apart, number[o] // 2, piece, until),
                        )
        hold((images, table, entries, weights, counts))


@njit(**COMPILE)
def _reorder(given, made):
    """Of each 32 numbers the k-th four → the fours 0, 2, 4, 6, 1, 3, 5, 7: where the sums of pairs belong.

    Four numbers of 16 bits are one of 64 here: see ``pairs``.
    """
    for start in range(0, given.size, 8):
        for k in range(4):
            made[start + 2 * k] = given[start + k]
            made[start + 2 * k + 1] = given[start + 4 + k]


@njit(parallel=True, **COMPILE)
def collect(parts, shares, weight, bias):
    """∂L/∂w (C_out, K_h·K_w, C_in), rounded, and ∂L/∂b (C_out,), not, of what ``grad_weight`` made."""
    taps, c_in = weight.shape[1:]
    channels = parts.shape[2] // taps
    for o in prange(weight.shape[0]):
        bias[o] = sum_shares(shares, o)
        total, numbers = parts[0, o], np.empty(parts.shape[2], weight.dtype)
        ordered = np.empty_like(numbers)
        for part in range(1, parts.shape[0]):
            row = parts[part, o]
            for i in range(row.size):
                total[i] += row[i]
        put(total, numbers)
        _reorder(numbers.view(np.uint64), ordered.view(np.uint64))
        for tap in range(taps):
            put(ordered[tap * channels : tap * channels + c_in], weight[o, tap])


@njit(parallel=True, **COMPILE)
def spread_kernels(weight, kernels):
    """``weight`` (C_out, K_h·K_w, C_in) → ``kernels`` (C_out + 1, K_h·K_w·channels) for ``grad_input``.

    Each 32 channels are put into the order that the sums of pairs bring back to the usual one; the channels
    that fill up, and the last kernel, are 0.
    """
    c_out, taps, c_in = weight.shape
    channels = kernels.shape[1] // taps
    for o in prange(c_out + 1):
        numbers = np.zeros(kernels.shape[1], weight.dtype)
        for tap in range(taps if o < c_out else 0):
            put(weight[o, tap], numbers[tap * channels : tap * channels + c_in])
        _reorder(numbers.view(np.uint64), kernels[o].view(np.uint64))


@njit(**COMPILE)
def _cut_out(image, padded, channels, grad):
    """Round the middle of a flat padded image of ``channels`` ≥ C into ``grad`` (H, W, C)."""
    height, width, c_in = grad.shape
    length, numbers = width * c_in, grad.reshape(-1)
    for i in range(height):
        start = ((i + padded[2]) * padded[1] + padded[3]) * channels
        if c_in == channels:
            put(image[start : start + length], numbers[i * length : (i + 1) * length])
        else:
            for j in range(width):
                at = start + j * channels
                put(image[at : at + c_in], grad[i, j])


@njit(parallel=True, **COMPILE)
def grad_input(kernels, code, grad_output, fields, channels, like, grad):
    """∂L/∂x in ``grad`` (N, H, W, C_in).

    ``kernels``: see ``spread_kernels``; ``like``: an array of float32.
    """
    places, padded = fields.places, fields.padded
    groups, rows, step, length = fields.groups, fields.rows, fields.step, fields.length
    positions, window = places.shape
    c_out = code.shape[-1]
    codes_at, grads_at, source = start_of(code), start_of(grad_output), start_of(kernels)
    apart = c_out + SLACK
    for n in prange(grad.shape[0]):
        image = aligned(padded[0] * padded[1] * channels, like)
        table = np.arange(c_out + 1) * kernels.shape[1]
        entries = np.empty(window * apart, np.uint16)
        weights = np.empty(window * apart, np.uint16)
        sums, starts, listed = start_of(image), start_of(table), start_of(entries)
        factors = start_of(weights)
        for position in range(positions):
            at = (n * positions + position) * c_out
            of = ahead(codes_at, at), ahead(grads_at, at), c_out, 0, 1
            for k in range(window):
                first = k * apart
                last = list_by_offset(*of, k, listed, factors, first)
                count = last - first
                if count == 0:
                    continue
                listed[last], factors[last] = c_out, 0
                for group in range(groups.size):
                    pair_sums_of_rows(
                        *(sums, places[position, k] + groups[group], step),
                        *(source, group * rows * length, length, rows),
                        *(starts, listed, factors, first, (count + 1) // 2, 0, length),
                    )
        hold((table, entries, weights))
        _cut_out(image, padded, channels, grad[n])
