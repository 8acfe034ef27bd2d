"""CPU kernels of max-pooling on plain images, where a channel is a plane: as ``max_pool_kernels``.

torch's own forward takes such images a number at a time. Here vectors run along a row of windows
(``max_pool_vectors``), which read a plane with its padding, −∞. Each plane is computed by one thread.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.max_pool_vectors import winners_along_of
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import narrow, wide
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["forward", "grad_input"]

_along_1, _along_2, _along_any = (winners_along_of(stride) for stride in (1, 2, None))


@njit(parallel=True, **COMPILE)
def forward(image, padding, strides, pitch, offsets, codes, firsts, like, output, winners):
    """Output (N, C, P, Q) and its ``winners``, uint8, of ``image`` (N, C, H, W).

    Args:
        padding: (rows, columns).
        strides: Of the windows, (rows, columns).
        pitch: Rows and columns of a plane with its padding, as far as windows reach.
        offsets: (K,) where in such a plane each element of the first window stands.
        codes: (K,) what says that element k won.
        firsts: (P, Q) that of the first element that is on the image.
        like: An array of the kind in which numbers are compared.
    """
    height, width = image.shape[2:]
    rows, columns = output.shape[2:]
    (s_h, s_w), (p_h, p_w), size = strides, padding, offsets.size
    source, made, won = start_of(image), start_of(output), start_of(winners)
    places, signs, begin = start_of(offsets), start_of(codes), start_of(firsts)
    for plane in prange(image.shape[0] * image.shape[1]):
        room = np.full(pitch[0] * pitch[1] + s_w, -np.inf, like.dtype)
        padded, at = start_of(room), ahead(source, plane * height * width)
        for i in range(min(height, pitch[0] - p_h)):
            of, to = ahead(at, i * width), ahead(padded, (i + p_h) * pitch[1] + p_w)
            for j in range(min(width, pitch[1] - p_w)):
                to[j] = wide(of[j])
        for p in range(rows):
            to, row = (plane * rows + p) * columns, ahead(padded, p * s_h * pitch[1])
            best, winner, first = ahead(made, to), ahead(won, to), ahead(begin, p * columns)
            if s_w == 1:
                _along_1(row, 1, places, signs, size, first, best, winner, columns)
            elif s_w == 2:
                _along_2(row, 2, places, signs, size, first, best, winner, columns)
            else:
                _along_any(row, s_w, places, signs, size, first, best, winner, columns)
        hold(room)


@njit(parallel=True, **COMPILE)
def grad_input(grad_output, winners, padding, strides, overlapping, like, image):
    """∂L/∂x in ``image`` (N, C, H, W); where windows overlap, gradients are added, of the kind of ``like``.

    A winner's byte is its place from the window's first element on, in a row of pixels.
    """
    pixels, width = image.shape[2] * image.shape[3], image.shape[3]
    rows, columns = grad_output.shape[2:]
    (s_h, s_w), (p_h, p_w) = strides, padding
    grads, won, made = start_of(grad_output), start_of(winners), start_of(image)
    for plane in prange(image.shape[0] * image.shape[1]):
        to = ahead(made, plane * pixels)
        total = np.zeros(pixels if overlapping else 1, like.dtype)
        sums = start_of(total)
        if not overlapping:
            for i in range(pixels):
                to[i] = 0
        for p in range(rows):
            at = (plane * rows + p) * columns
            grad, winner, first = ahead(grads, at), ahead(won, at), (p * s_h - p_h) * width - p_w
            for q in range(columns):
                place = first + q * s_w + np.intp(winner[q])
                if overlapping:
                    sums[place] += wide(grad[q])
                else:
                    to[place] = grad[q]
        if overlapping:
            for i in range(pixels):
                to[i] = narrow(total[i], image)
        hold(total)
