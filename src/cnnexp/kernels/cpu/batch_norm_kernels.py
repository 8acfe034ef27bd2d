"""CPU kernels of batch normalisation and an activation after it: two passes forward, two backward.

    d = x − μ        u = d·s + β        z = act(u)        s = γ·r
    g' = ∂L/∂z · act'(u)        ∂L/∂x = s·g' + b·d + a

Images in channels_last memory are one run of numbers, cut into rows of some pixels each: so vectors are full
whatever the number of channels is, and what stands once a channel (μ, s, …) is repeated to the width of a
row. The last row may be shorter. Plain memory is cut into planes of one channel each, see
``batch_norm_planes``.

Sums run in the precision of the numbers (float32 for bfloat16) over the rows of a part, each column by
itself, four rows at a time; the parts are added in float64. How large a part is depends on the shape alone:
neither the number of threads nor the instruction set changes a bit. The variance of a part is taken around
its first row, which is one of its own numbers: Σ(x−k)² − (Σ(x−k))²/n then loses at most a factor n of its
precision, whatever the mean is. The parts are put together as in Chan, Golub & LeVeque, "Updating Formulae
and a Pairwise Algorithm for Computing Sample Variances" (1979).
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.kernels.cpu.activation_kernels import (
    CLAMP,
    HARDSWISH,
    clamped,
    hardswish,
    hardswish_slope,
    logistic,
    passed,
    silu_slope,
)
from cnnexp.kernels.cpu.precision import narrow, wide
from cnnexp.kernels.cpu.vector import COMPILE


@njit(**COMPILE)
def repeated(of_channels, width, like):
    """What stands once a channel, repeated to the ``width`` of a row."""
    row = np.empty(width, like.dtype)
    for at in range(0, width, of_channels.size):
        for c in range(of_channels.size):
            row[at + c] = of_channels[c]
    return row


@njit(**COMPILE)
def scale_of(variance, weight, eps):
    """The scale s of each channel."""
    scale = np.empty_like(variance)
    for c in range(scale.size):
        scale[c] = weight[c] / np.sqrt(variance[c] + eps)
    return scale


@njit(**COMPILE)
def put_together(parts, size, rows, mean, variance):
    """μ and σ² of each channel, in float64, from k and the sums of the parts of ``size`` numbers."""
    channels, width = mean.size, parts.shape[2]
    step, count = rows * width, size // channels
    centre, spread = np.zeros(width), np.zeros(width)
    for p in range(parts.shape[0]):
        n, rest = divmod(min(step, size - p * step), width)
        for c in range(width):
            centre[c] += (n + (c < rest)) * float(parts[p, 0, c]) + parts[p, 1, c]
    for c in range(channels):
        for i in range(c + channels, width, channels):
            centre[c] += centre[i]
        mean[c] = centre[c] / count
        for i in range(c, width, channels):
            centre[i] = mean[c]
    for p in range(parts.shape[0]):
        n, rest = divmod(min(step, size - p * step), width)
        for c in range(width):
            m = max(n + (c < rest), 1)  # a column without numbers adds nothing
            off = parts[p, 1, c] / float(m)
            apart = (parts[p, 0, c] + off - centre[c]) * (n > 0 or c < rest)
            spread[c] += parts[p, 2, c] - m * off * off + m * apart * apart
    for c in range(channels):
        for i in range(c + channels, width, channels):
            spread[c] += spread[i]
        variance[c] = max(spread[c] / count, 0.0) if spread[c] == spread[c] else spread[c]


@njit(parallel=True, **COMPILE)
def statistics(x, width, rows, mean, variance):
    """μ and σ² of each channel of ``x``, which is flat, with parts of ``rows`` rows."""
    step = rows * width
    # of each part and column k, Σ(x−k) and Σ(x−k)²
    parts = np.empty((-(-x.size // step), 3, width), mean.dtype)
    for p in prange(parts.shape[0]):
        first, last = p * step, min((p + 1) * step, x.size)
        around, total, square = parts[p, 0], parts[p, 1], parts[p, 2]
        for c in range(width):
            around[c] = wide(x[first + c]) if first + c < last else 0
            total[c] = 0
            square[c] = 0
        at = first
        while at + 4 * width <= last:
            one, two = x[at : at + width], x[at + width : at + 2 * width]
            three, four = x[at + 2 * width : at + 3 * width], x[at + 3 * width : at + 4 * width]
            for c in range(width):
                d, e = wide(one[c]) - around[c], wide(two[c]) - around[c]
                f, g = wide(three[c]) - around[c], wide(four[c]) - around[c]
                total[c] += (d + e) + (f + g)
                square[c] += (d * d + e * e) + (f * f + g * g)
            at += 4 * width
        while at < last:
            one = x[at : min(at + width, last)]
            for c in range(one.size):
                d = wide(one[c]) - around[c]
                total[c] += d
                square[c] += d * d
            at += width
    put_together(parts, x.size, rows, mean, variance)


@njit(parallel=True, **COMPILE)
def forward(x, mean, variance, weight, bias, eps, width, rows, kind, low, high, output):
    """The output of ``x``, both flat."""
    step = rows * width
    scale = repeated(scale_of(variance, weight, eps), width, mean)
    mean, shift = repeated(mean, width, mean), repeated(bias, width, mean)
    for p in prange(-(-x.size // step)):
        for at in range(p * step, min((p + 1) * step, x.size), width):
            to = min(at + width, x.size)
            values, out = x[at:to], output[at:to]
            if kind == CLAMP:
                for c in range(values.size):
                    u = (wide(values[c]) - mean[c]) * scale[c] + shift[c]
                    out[c] = narrow(clamped(u, low, high), out)
            elif kind == HARDSWISH:
                for c in range(values.size):
                    u = (wide(values[c]) - mean[c]) * scale[c] + shift[c]
                    out[c] = narrow(hardswish(u), out)
            else:
                for c in range(values.size):
                    u = (wide(values[c]) - mean[c]) * scale[c] + shift[c]
                    out[c] = narrow(u * logistic(u), out)


@njit(parallel=True, **COMPILE)
def sums(grad, x, mean, variance, weight, bias, eps, width, rows, kind, low, high, total, moment):
    """Σ g' = ∂L/∂β and Σ g'·d·r = ∂L/∂γ of each channel."""
    channels, step = mean.size, rows * width
    scale = repeated(scale_of(variance, weight, eps), width, mean)
    mean, shift = repeated(mean, width, mean), repeated(bias, width, mean)
    parts = np.empty((-(-x.size // step), 2, width), mean.dtype)
    for p in prange(parts.shape[0]):
        added, weighted = parts[p, 0], parts[p, 1]
        for c in range(width):
            added[c] = 0
            weighted[c] = 0
        for at in range(p * step, min((p + 1) * step, x.size), width):
            to = min(at + width, x.size)
            values, grads = x[at:to], grad[at:to]
            if kind == CLAMP:
                for c in range(values.size):
                    d = wide(values[c]) - mean[c]
                    g = passed(wide(grads[c]), d * scale[c] + shift[c], low, high)
                    added[c] += g
                    weighted[c] += g * d
            elif kind == HARDSWISH:
                for c in range(values.size):
                    d = wide(values[c]) - mean[c]
                    g = wide(grads[c]) * hardswish_slope(d * scale[c] + shift[c])
                    added[c] += g
                    weighted[c] += g * d
            else:
                for c in range(values.size):
                    d = wide(values[c]) - mean[c]
                    g = wide(grads[c]) * silu_slope(d * scale[c] + shift[c])
                    added[c] += g
                    weighted[c] += g * d
    whole = np.zeros((2, width))
    for p in range(parts.shape[0]):
        for c in range(width):
            whole[0, c] += parts[p, 0, c]
            whole[1, c] += parts[p, 1, c]
    for c in range(channels):
        for i in range(c + channels, width, channels):
            whole[0, c] += whole[0, i]
            whole[1, c] += whole[1, i]
        total[c] = whole[0, c]
        moment[c] = whole[1, c] / np.sqrt(variance[c] + eps)


@njit(parallel=True, **COMPILE)
def backward(
    grad, x, mean, variance, weight, bias, eps, width, rows, kind, low, high, total, moment, output
):
    """∂L/∂x, where the statistics are constants if the sums ``total`` and ``moment`` are 0."""
    step, count = rows * width, x.size // mean.size
    of_channel = scale_of(variance, weight, eps)
    constant, along = np.empty_like(mean), np.empty_like(mean)
    for c in range(mean.size):
        constant[c] = -of_channel[c] * (total[c] / count)
        along[c] = -of_channel[c] * (moment[c] / count) / np.sqrt(variance[c] + eps)
    constant, along = repeated(constant, width, mean), repeated(along, width, mean)
    scale, shift = repeated(of_channel, width, mean), repeated(bias, width, mean)
    mean = repeated(mean, width, mean)
    for p in prange(-(-x.size // step)):
        for at in range(p * step, min((p + 1) * step, x.size), width):
            to = min(at + width, x.size)
            values, grads, out = x[at:to], grad[at:to], output[at:to]
            if kind == CLAMP:
                for c in range(values.size):
                    d = wide(values[c]) - mean[c]
                    g = passed(wide(grads[c]), d * scale[c] + shift[c], low, high)
                    out[c] = narrow(g * scale[c] + (d * along[c] + constant[c]), out)
            elif kind == HARDSWISH:
                for c in range(values.size):
                    d = wide(values[c]) - mean[c]
                    g = wide(grads[c]) * hardswish_slope(d * scale[c] + shift[c])
                    out[c] = narrow(g * scale[c] + (d * along[c] + constant[c]), out)
            else:
                for c in range(values.size):
                    d = wide(values[c]) - mean[c]
                    g = wide(grads[c]) * silu_slope(d * scale[c] + shift[c])
                    out[c] = narrow(g * scale[c] + (d * along[c] + constant[c]), out)
