"""CPU kernels of max-pooling on images with the channels last: one byte an output says who won.

    forward       y and the winner's place within its window, each pixel read once a window
    grad_input    ∂L/∂y to the winners' pixels, 0 to all others, each image by one thread

Vectors run along the channels. bfloat16 is a bit pattern, uint16, compared as float32 and copied as it is.
Loops: images and rows of windows (in parallel), windows, elements, channels; of the gradient images (in
parallel), windows, elements, channels.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.pointers import ahead, start_of
from cnnexp.kernels.cpu.precision import wide
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["forward", "grad_input"]


@njit(**COMPILE)
def _maximum(image, pixels, first, size, codes, best, winner, channels):
    """That of those of ``size`` pixels that are on the image, at least one, and its code.

    As torch: the first of equals, a NaN over everything.
    """
    begun = False
    for k in range(size):
        pixel, code = pixels[first + k], codes[k]
        if pixel < 0:
            continue
        values = ahead(image, pixel * channels)
        if not begun:
            for c in range(channels):
                best[c], winner[c] = values[c], code
        else:
            for c in range(channels):
                each = values[c]
                wins = wide(each) > wide(best[c]) or wide(each) != wide(each)
                best[c], winner[c] = each if wins else best[c], code if wins else winner[c]
        begun = True


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
            _maximum(at, pixels, first, size, signs, best, winner, channels)


@njit(parallel=True, **COMPILE)
def grad_input(grad_output, winners, windows, codes, overlapping, image):
    """∂L/∂x in ``image`` (N, H, W, C); where windows overlap, gradients are added, which bfloat16 is not."""
    n_all, rows, columns, channels = grad_output.shape
    size, of_image = windows.shape[2], image.size // n_all
    grads, won, made = start_of(grad_output), start_of(winners), start_of(image)
    pixels, signs, nothing = start_of(windows), start_of(codes), np.zeros(1, image.dtype)[0]
    for n in prange(n_all):
        image[n] = 0
        to = ahead(made, n * of_image)
        for window in range(rows * columns):
            at = (n * rows * columns + window) * channels
            grad, winner = ahead(grads, at), ahead(won, at)
            for k in range(size):
                pixel, code = pixels[window * size + k], signs[k]
                if pixel < 0:
                    continue
                target = ahead(to, pixel * channels)
                if overlapping:
                    for c in range(channels):
                        target[c] += grad[c] if winner[c] == code else nothing
                else:
                    for c in range(channels):
                        target[c] = grad[c] if winner[c] == code else nothing
