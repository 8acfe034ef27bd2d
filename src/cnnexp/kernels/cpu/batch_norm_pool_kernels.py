"""CPU kernels of batch normalisation, an activation and max-pooling, on images with the channels last.

    u = (x − μ)·s + β        y = act(u)        z = max_window y

What stands between x and z is computed a few rows at a time, while the caches hold them, and written nowhere:
kept are x and a byte a window. The backward hands ∂L/∂z to the winners of an image, and goes on as that of
``batch_norm_kernels``, whose parts these are made of, in the same order of sums whatever the threads.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange

from cnnexp.kernels.cpu import batch_norm_rows as rows
from cnnexp.kernels.cpu.batch_norm_kernels import added, cut, leave_sums, table_of
from cnnexp.kernels.cpu.max_pool_vectors import add, picked, share, winners_of
from cnnexp.kernels.cpu.pointers import ahead, hold, start_of
from cnnexp.kernels.cpu.precision import numbers_at
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["forward", "gradients"]


@njit(parallel=True, **COMPILE)
def _forward(x, images, table, kind, low, high, spans, windows, codes, output, winners):
    count, columns, size = windows.shape
    channels = output.size // (images * count * columns)
    of_image, blocks = x.size // images, spans.shape[0]
    made, won, pixels, signs = (
        start_of(output),
        start_of(winners),
        start_of(windows),
        start_of(codes),
    )
    for task in prange(images * blocks):
        n, block = task // blocks, task % blocks
        first, end = spans[block, 2] * channels, spans[block, 3] * channels
        image = x[n * of_image + first : n * of_image + end]
        active = np.empty_like(image)
        rows.forward(image, active, 0, image.size, table, kind, low, high)
        source = ahead(start_of(active), -first)
        for p in range(spans[block, 0], spans[block, 1]):
            for q in range(columns):
                window = p * columns + q
                to = (n * count * columns + window) * channels
                best, winner = ahead(made, to), ahead(won, to)
                winners_of(source, pixels, window * size, size, signs, best, winner, channels)
        hold(active)


@njit(**COMPILE)
def _spread(grad, winners, n, windows, codes, cover, channels, total):
    """∂L/∂y of image n in ``total``, from ∂L/∂z."""
    overlapping, tiled = cover
    count, size = windows.shape[0] * windows.shape[1], windows.shape[2]
    grads, won, to = start_of(grad), start_of(winners), start_of(total)
    pixels, signs = start_of(windows), start_of(codes)
    if not tiled:
        total[:] = 0
    for window in range(count):
        at = (n * count + window) * channels
        of, winner, first = ahead(grads, at), ahead(won, at), window * size
        if overlapping:
            add(of, winner, pixels, first, size, signs, to, channels)
        else:
            share(of, winner, pixels, first, size, signs, to, channels)
    hold((grad, winners, windows, codes, total))


@njit(parallel=True, **COMPILE)
def _sums(grad, winners, x, images, channels, windows, codes, table, kind, low, high):
    """Σ h and Σ h·d of each channel: (2, C) in float64, of the winners, since h is 0 elsewhere."""
    of_image, count, size = x.size // images, grad.size // (images * channels), windows.shape[2]
    parts = np.empty((images, 2, table.shape[1]), table.dtype)
    source, won, pixels, signs = start_of(x), start_of(winners), start_of(windows), start_of(codes)
    for n in prange(images):
        some = np.empty(count * channels, x.dtype)
        image, to, winner = (
            ahead(source, n * of_image),
            start_of(some),
            ahead(won, n * count * channels),
        )
        for window in range(count):
            at, first = window * channels, window * size
            picked(image, ahead(winner, at), pixels, first, size, signs, ahead(to, at), channels)
        own = grad[n * some.size : (n + 1) * some.size]
        rows.sums(own, some, 0, some.size, table, kind, low, high, parts[n])
    return added(parts, channels)


@njit(parallel=True, **COMPILE)
def _backward(
    grad, winners, x, output, images, channels, windows, codes, cover, table, kind, low, high
):
    of_image = x.size // images
    for n in prange(images):
        total = np.empty(of_image, table.dtype)
        _spread(grad, winners, n, windows, codes, cover, channels, total)
        begin, end = n * of_image, (n + 1) * of_image
        image, made = x[begin:end], output[begin:end]
        rows.backward(total, image, made, 0, of_image, table, kind, low, high)


@njit(**COMPILE)
def forward(addresses, element, shape, eps, kind, low, high, spans, windows, codes):
    """Leave z and the winners' codes at their addresses.

    Args:
        addresses: Of x, μ, σ², γ, β (0 for none), z and the codes, a byte each.
        element: A number of x's kind; what it is does not matter.
        shape: N, C and H·W.
        eps: ε, of the statistics' kind.
        kind, low, high: Of the activation, see ``activation_kernels``.
        spans: (blocks, 4) the windows' rows of a block, from … to, and the pixels that they read.
        windows: (P, Q, K) the pixel i·W + j of each element of each window, −1 where off the image.
        codes: (K,) what says that element k won.
    """
    images, channels, pixels = shape
    size, results = images * channels * pixels, windows.shape[0] * windows.shape[1]
    x = carray(numbers_at(addresses[0], element), size)
    mean = carray(numbers_at(addresses[1], eps), channels)
    variance = carray(numbers_at(addresses[2], eps), channels)
    output = carray(numbers_at(addresses[5], element), images * channels * results)
    winners = carray(numbers_at(addresses[6], np.uint8(0)), images * channels * results)
    width, _, _ = cut(images, channels, pixels, True)
    table = table_of(mean, variance, addresses[3], addresses[4], eps, width, 3)
    _forward(x, images, table, kind, low, high, spans, windows, codes, output, winners)


@njit(**COMPILE)
def gradients(addresses, element, shape, eps, kind, low, high, windows, codes, cover, fixed):
    """Leave ∂L/∂x, ∂L/∂γ and ∂L/∂β at their addresses; ``fixed`` says that the statistics are constants.

    ``addresses``: of x, μ, σ², γ, β (0 for none), ∂L/∂z, the codes, ∂L/∂x, ∂L/∂γ and ∂L/∂β; ``cover``:
    whether windows overlap, and whether each pixel is in just one; the others as of :func:`forward`.
    """
    images, channels, pixels = shape
    size, results = images * channels * pixels, windows.shape[0] * windows.shape[1]
    x, output = (
        carray(numbers_at(addresses[0], element), size),
        carray(numbers_at(addresses[7], element), size),
    )
    mean = carray(numbers_at(addresses[1], eps), channels)
    variance = carray(numbers_at(addresses[2], eps), channels)
    grad = carray(numbers_at(addresses[5], element), images * channels * results)
    winners = carray(numbers_at(addresses[6], np.uint8(0)), images * channels * results)
    width, _, _ = cut(images, channels, pixels, True)
    table = table_of(mean, variance, addresses[3], addresses[4], eps, width, 5)
    found = _sums(grad, winners, x, images, channels, windows, codes, table, kind, low, high)
    of_weight = carray(numbers_at(addresses[8], eps), channels)
    of_bias = carray(numbers_at(addresses[9], eps), channels)
    leave_sums(found, variance, eps, images * pixels, fixed, table, of_weight, of_bias)
    _backward(
        grad,
        winners,
        x,
        output,
        images,
        channels,
        windows,
        codes,
        cover,
        table,
        kind,
        low,
        high,
    )
