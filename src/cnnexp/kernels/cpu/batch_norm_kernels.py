"""CPU kernels of batch normalisation and an activation after it: two passes forward, two backward.

They are handed addresses: to make arrays of tensors takes longer than to normalise a small image. ``last``
says that the channels lie last in memory (``batch_norm_rows``), else in planes (``batch_norm_planes``);
an address 0 stands for what is not there.

The sums of the parts are added in float64, as in Chan, Golub & LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances" (1979). How large a part is depends on the shape alone: neither the
number of threads nor the instruction set changes a bit. One part is not worth waking a second thread.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

import math

import numpy as np
from numba import carray, njit, prange

from cnnexp.kernels.cpu import batch_norm_planes as planes
from cnnexp.kernels.cpu import batch_norm_rows as rows
from cnnexp.kernels.cpu.precision import numbers_at
from cnnexp.kernels.cpu.vector import COMPILE

_WIDTH = 256  # of a row at least
_VECTOR = 32  # of which it is a multiple
_NUMBERS = 1 << 16  # in a part, about


@njit(**COMPILE)
def cut(images, channels, pixels, last):
    """How the numbers are cut: the width of a row, the numbers of a part, and how many parts there are.

    In plain memory: of a part whose sums are one, which is an image of planes.
    """
    if not last:
        return channels, channels * pixels, images
    least = channels * _VECTOR // math.gcd(channels, _VECTOR)
    width = -(-_WIDTH // least) * least
    step = max(4, _NUMBERS // width) * width
    return width, step, -(-images * channels * pixels // step)


@njit(**COMPILE)
def _tasks(images, channels, pixels, last, parts):
    """How many tasks there are, and how many planes each has, or parts of rows."""
    if last:
        return parts, 1
    together = max(1, _NUMBERS // pixels)
    return -(-images * channels // together), together


@njit(**COMPILE)
def _together(parts, size, step, mean, variance):
    """μ and σ² of each channel of ``size`` numbers from k and the sums of the ``parts``, each of ``step``.

    parts[p, :, i] are those of column i, whose channel is i modulo C.
    """
    channels, width = mean.size, parts.shape[2]
    centre, spread = np.zeros(width), np.zeros(width)
    for p in range(parts.shape[0]):
        n, rest = divmod(min(step, size - p * step), width)
        for i in range(width):
            centre[i] += (n + (i < rest)) * float(parts[p, 0, i]) + parts[p, 1, i]
    for c in range(channels):
        for i in range(c + channels, width, channels):
            centre[c] += centre[i]
        centre[c] /= size // channels
        for i in range(c + channels, width, channels):
            centre[i] = centre[c]
    for p in range(parts.shape[0]):
        n, rest = divmod(min(step, size - p * step), width)
        for i in range(width):
            m = n + (i < rest)
            off = parts[p, 1, i] / float(max(m, 1))  # a column without numbers adds nothing
            apart = parts[p, 0, i] + off - centre[i]
            spread[i] += parts[p, 2, i] - m * off * off + m * apart * apart
    for c in range(channels):
        for i in range(c + channels, width, channels):
            spread[c] += spread[i]
        mean[c] = centre[c]
        # rounding may leave less than nothing, and a NaN stays one
        variance[c] = 0.0 if spread[c] < 0 else spread[c] / (size // channels)


@njit(parallel=True, **COMPILE)
def _statistics(x, images, channels, pixels, last, mean, variance):
    width, step, count = cut(images, channels, pixels, last)
    tasks, together = _tasks(images, channels, pixels, last, count)
    parts = np.empty((count, 3, width), mean.dtype)
    if last and tasks == 1:
        rows.moments(x, 0, x.size, parts[0])
    elif last:
        for t in prange(tasks):
            rows.moments(x, t * step, min((t + 1) * step, x.size), parts[t])
    else:
        image = x.reshape(images * channels, pixels)
        if tasks == 1:
            planes.moments(image, 0, images * channels, parts)
        else:
            for t in prange(tasks):
                end = min((t + 1) * together, images * channels)
                planes.moments(image, t * together, end, parts)
    _together(parts, x.size, step, mean, variance)


@njit(**COMPILE)
def _filled(address, channels, like, default):
    """The (C,) numbers at ``address``, or ``default`` for each channel."""
    made = np.empty(channels, like.dtype)
    given = carray(numbers_at(address, made[0]), channels)
    for c in range(channels):
        made[c] = default if address == 0 else given[c]
    return made


@njit(**COMPILE)
def table_of(mean, variance, weight_at, bias_at, eps, width, height):
    """The rows μ, s, β and others, each repeated to the ``width``."""
    channels = mean.size
    table = np.empty((height, width), mean.dtype)
    weight = _filled(weight_at, channels, mean, 1.0)
    bias = _filled(bias_at, channels, mean, 0.0)
    for c in range(channels):
        scale = weight[c] / np.sqrt(variance[c] + eps)
        for i in range(c, width, channels):
            table[0, i] = mean[c]
            table[1, i] = scale
            table[2, i] = bias[c]
    return table


@njit(parallel=True, **COMPILE)
def _forward(x, output, images, channels, pixels, last, table, kind, low, high):
    _, step, count = cut(images, channels, pixels, last)
    tasks, together = _tasks(images, channels, pixels, last, count)
    if last and tasks == 1:
        rows.forward(x, output, 0, x.size, table, kind, low, high)
    elif last:
        for t in prange(tasks):
            end = min((t + 1) * step, x.size)
            rows.forward(x, output, t * step, end, table, kind, low, high)
    else:
        image = x.reshape(images * channels, pixels)
        out = output.reshape(images * channels, pixels)
        if tasks == 1:
            planes.forward(image, out, 0, images * channels, table, kind, low, high)
        else:
            for t in prange(tasks):
                end = min((t + 1) * together, images * channels)
                planes.forward(image, out, t * together, end, table, kind, low, high)


@njit(**COMPILE)  # apart, as numba would wake all threads to write zeros
def added(parts, channels):
    """(2, C) from the sums of the ``parts`` (P, 2, width), added in float64."""
    width = parts.shape[2]
    whole = np.zeros((2, width))
    for p in range(parts.shape[0]):
        for i in range(width):
            whole[0, i] += parts[p, 0, i]
            whole[1, i] += parts[p, 1, i]
    for c in range(channels):
        for i in range(c + channels, width, channels):
            whole[0, c] += whole[0, i]
            whole[1, c] += whole[1, i]
    return whole


@njit(parallel=True, **COMPILE)
def _sums(grad, x, images, channels, pixels, last, table, kind, low, high):
    """Σ h and Σ h·d of each channel: (2, C) in float64."""
    width, step, count = cut(images, channels, pixels, last)
    tasks, together = _tasks(images, channels, pixels, last, count)
    parts = np.empty((count, 2, width), table.dtype)
    if last and tasks == 1:
        rows.sums(grad, x, 0, x.size, table, kind, low, high, parts[0])
    elif last:
        for t in prange(tasks):
            end = min((t + 1) * step, x.size)
            rows.sums(grad, x, t * step, end, table, kind, low, high, parts[t])
    else:
        image = x.reshape(images * channels, pixels)
        grads = grad.reshape(images * channels, pixels)
        if tasks == 1:
            planes.sums(grads, image, 0, images * channels, table, kind, low, high, parts)
        else:
            for t in prange(tasks):
                end = min((t + 1) * together, images * channels)
                planes.sums(grads, image, t * together, end, table, kind, low, high, parts)
    return added(parts, channels)


@njit(parallel=True, **COMPILE)
def _backward(grad, x, output, images, channels, pixels, last, table, kind, low, high):
    _, step, count = cut(images, channels, pixels, last)
    tasks, together = _tasks(images, channels, pixels, last, count)
    if last and tasks == 1:
        rows.backward(grad, x, output, 0, x.size, table, kind, low, high)
    elif last:
        for t in prange(tasks):
            end = min((t + 1) * step, x.size)
            rows.backward(grad, x, output, t * step, end, table, kind, low, high)
    else:
        image = x.reshape(images * channels, pixels)
        out = output.reshape(images * channels, pixels)
        grads = grad.reshape(images * channels, pixels)
        if tasks == 1:
            planes.backward(grads, image, out, 0, images * channels, table, kind, low, high)
        else:
            for t in prange(tasks):
                end = min((t + 1) * together, images * channels)
                planes.backward(grads, image, out, t * together, end, table, kind, low, high)


@njit(**COMPILE)
def leave_sums(found, variance, eps, count, fixed, table, of_weight, of_bias):
    """Leave ∂L/∂γ, ∂L/∂β and the rows a and b of ``table``, from ``found``, Σ h and Σ h·d of each channel.

    A channel has ``count`` numbers; ``fixed`` says that the statistics are constants.
    """
    channels, width = variance.size, table.shape[1]
    for c in range(channels):
        rate = 1 / np.sqrt(float(variance[c]) + eps)
        total, moment = found[0, c], found[1, c] * rate
        of_bias[c] = total
        of_weight[c] = moment
        for i in range(c, width, channels):
            table[3, i] = table[4, i] = 0
            if not fixed:
                table[3, i] = -table[1, i] * (total / count)
                table[4, i] = -table[1, i] * (moment / count) * rate


@njit(**COMPILE)
def statistics(x_at, images, channels, pixels, last, element, mean_at, variance_at, one):
    """Leave μ and σ² of each channel at their addresses.

    ``element`` is a number of x's kind, ``one`` of the statistics'; what they are does not matter.
    """
    x = carray(numbers_at(x_at, element), images * channels * pixels)
    mean = carray(numbers_at(mean_at, one), channels)
    variance = carray(numbers_at(variance_at, one), channels)
    _statistics(x, images, channels, pixels, last, mean, variance)


@njit(**COMPILE)
def move(mean_at, variance_at, one, count, momentum, channels, running_mean_at, running_var_at):
    """Move the running statistics towards those of ``count`` numbers a channel."""
    mean = carray(numbers_at(mean_at, one), channels)
    variance = carray(numbers_at(variance_at, one), channels)
    running_mean = carray(numbers_at(running_mean_at, one), channels)
    running_var = carray(numbers_at(running_var_at, one), channels)
    for c in range(channels):
        unbiased = variance[c] * (count / (count - 1))
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (unbiased - running_var[c])


@njit(**COMPILE)
def forward(
    x_at,
    images,
    channels,
    pixels,
    last,
    element,
    mean_at,
    variance_at,
    weight_at,
    bias_at,
    eps,
    kind,
    low,
    high,
    output_at,
):
    """Leave the output at its address."""
    size = images * channels * pixels
    x, output = (
        carray(numbers_at(x_at, element), size),
        carray(numbers_at(output_at, element), size),
    )
    mean = carray(numbers_at(mean_at, eps), channels)
    variance = carray(numbers_at(variance_at, eps), channels)
    width, _, _ = cut(images, channels, pixels, last)
    table = table_of(mean, variance, weight_at, bias_at, eps, width, 3)
    _forward(x, output, images, channels, pixels, last, table, kind, low, high)


@njit(**COMPILE)
def gradients(
    x_at,
    images,
    channels,
    pixels,
    last,
    element,
    mean_at,
    variance_at,
    weight_at,
    bias_at,
    eps,
    kind,
    low,
    high,
    grad_at,
    output_at,
    of_weight_at,
    of_bias_at,
    fixed,
):
    """Leave ∂L/∂x, ∂L/∂γ and ∂L/∂β at their addresses; ``fixed`` says that the statistics are constants."""
    size, count = images * channels * pixels, images * pixels
    x, grad = carray(numbers_at(x_at, element), size), carray(numbers_at(grad_at, element), size)
    mean = carray(numbers_at(mean_at, eps), channels)
    variance = carray(numbers_at(variance_at, eps), channels)
    width, _, _ = cut(images, channels, pixels, last)
    table = table_of(mean, variance, weight_at, bias_at, eps, width, 5)
    found = _sums(grad, x, images, channels, pixels, last, table, kind, low, high)
    of_weight = carray(numbers_at(of_weight_at, eps), channels)
    of_bias = carray(numbers_at(of_bias_at, eps), channels)
    leave_sums(found, variance, eps, count, fixed, table, of_weight, of_bias)
    output = carray(numbers_at(output_at, element), size)
    _backward(grad, x, output, images, channels, pixels, last, table, kind, low, high)
