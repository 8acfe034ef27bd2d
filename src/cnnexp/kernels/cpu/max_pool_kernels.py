"""CPU kernels of max-pooling on images with the channels last: one byte an output says who won.

    forward       y and the winner's place within its window, each pixel read once a window
    grad_input    ∂L/∂y to the winners' pixels, 0 to all others, each image by one thread

Vectors run along the channels (``max_pool_vectors``). bfloat16 is a bit pattern, uint16; where windows
overlap, its gradients are added in float32 and rounded once. Loops: images and rows of windows (in parallel),
windows, channels, elements; of the gradient images (in parallel), windows, channels, elements.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.max_pool_vectors import add, share, winners_of
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import narrow
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["forward", "grad_input"]


@njit(parallel=True, **COMPILE)
def forward(image, windows, codes, output, winners):
    """Output (N, P, Q, C) and its ``winners``, uint8, of ``image`` (N, H, W, C).

    ``windows`` (P, Q, K): the pixel i·W + j of each element of each window, −1 where off the image; ``codes``
    (K,): what says that element k won.
    """
    n_all, rows, columns, channels = output.shape
    size, of_image = windows.shape[2], image.size // n_all
    source, made, won = start_of(image), start_of(output), start_of(winners)
    pixels, signs = start_of(windows), start_of(codes)
    for task in prange(n_all * rows):
        n, p = task // rows, task % rows
        at = ahead(source, n * of_image)
        for q in range(columns):
            first, to = (p * columns + q) * size, (task * columns + q) * channels
            best, winner = ahead(made, to), ahead(won, to)
            winners_of(at, pixels, first, size, signs, best, winner, channels)


@njit(parallel=True, **COMPILE)
def grad_input(grad_output, winners, windows, codes, overlapping, like, image):
    """∂L/∂x in ``image`` (N, H, W, C); where windows overlap, gradients are added, of ``like``'s kind."""
    n_all, rows, columns, channels = grad_output.shape
    size, of_image = windows.shape[2], image.size // n_all
    grads, won, made = start_of(grad_output), start_of(winners), start_of(image)
    pixels, signs = start_of(windows), start_of(codes)
    for n in prange(n_all):
        to = ahead(made, n * of_image)
        total = np.zeros(of_image if overlapping else 1, like.dtype)
        of_total = start_of(total)
        if not overlapping:
            image[n] = 0
        for window in range(rows * columns):
            at, first = (n * rows * columns + window) * channels, window * size
            grad, winner = ahead(grads, at), ahead(won, at)
            if overlapping:
                add(grad, winner, pixels, first, size, signs, of_total, channels)
            else:
                share(grad, winner, pixels, first, size, signs, to, channels)
        if overlapping:
            for i in range(of_image):
                to[i] = narrow(total[i], image)
        hold(total)
