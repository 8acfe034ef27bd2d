"""Parts of batch normalisation over channels_last memory: the passes of one part, each by one thread.

    d = x − μ        u = d·s + β        y = act(u)        s = γ·r
    h = ∂L/∂y · act'(u)        ∂L/∂x = s·h + b·d + a

Images are one run of numbers, cut into rows of some pixels each: so vectors are full whatever the number of
channels is, and what stands once a channel (μ, s, …) is repeated to the width of a row, in ``table``. The
last row may be shorter. A part is some rows, between the places ``begin`` and ``end``.

Sums run in the precision of the numbers (float32 for bfloat16), each column by itself. The variance of a
part is taken around its first row, which is one of its own numbers: Σ(x−k)² − (Σ(x−k))²/n then loses at
most a factor n of its precision, whatever the mean is.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

from numba import njit

from cnnexp.kernels.cpu.activation_kernels import (
    CLAMP,
    HARDSWISH,
    clamped,
    hardswish,
    hardswish_slope,
    logistic,
    passed,
    shifted,
    silu_slope,
)
from cnnexp.kernels.cpu.precision import narrow, wide
from cnnexp.kernels.cpu.vector import COMPILE


@njit(**COMPILE)
def moments(x, begin, end, part):
    """The three rows of ``part`` become k, Σ(x−k) and Σ(x−k)² of each column."""
    around, total, square = part[0], part[1], part[2]
    width = around.size
    for c in range(width):
        around[c] = wide(x[begin + c]) if begin + c < end else 0
        total[c] = 0
        square[c] = 0
    at = begin
    while at + 4 * width <= end:
        one, two = x[at : at + width], x[at + width : at + 2 * width]
        three, four = x[at + 2 * width : at + 3 * width], x[at + 3 * width : at + 4 * width]
        for c in range(width):
            d, e = wide(one[c]) - around[c], wide(two[c]) - around[c]
            f, g = wide(three[c]) - around[c], wide(four[c]) - around[c]
            total[c] += (d + e) + (f + g)
            square[c] += (d * d + e * e) + (f * f + g * g)
        at += 4 * width
    while at < end:
        one = x[at : min(at + width, end)]
        for c in range(one.size):
            d = wide(one[c]) - around[c]
            total[c] += d
            square[c] += d * d
        at += width


@njit(**COMPILE)
def forward(x, output, begin, end, table, kind, low, high):
    """The output; ``table`` has the rows μ, s and β."""
    mean, scale, shift = table[0], table[1], table[2]
    for at in range(begin, end, mean.size):
        to = min(at + mean.size, end)
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


@njit(**COMPILE)
def sums(grad, x, begin, end, table, kind, low, high, part):
    """The two rows of ``part`` become Σ h and Σ h·d of each column."""
    mean, scale, shift, total, moment = table[0], table[1], table[2], part[0], part[1]
    for c in range(mean.size):
        total[c] = 0
        moment[c] = 0
    for at in range(begin, end, mean.size):
        to = min(at + mean.size, end)
        values, grads = x[at:to], grad[at:to]
        if kind == CLAMP:
            for c in range(values.size):
                d = wide(values[c]) - mean[c]
                h = passed(wide(grads[c]), d * scale[c] + shift[c], low, high)
                total[c] += h
                moment[c] += h * d
        elif kind == HARDSWISH:
            for c in range(values.size):
                d = wide(values[c]) - mean[c]
                h = wide(grads[c]) * hardswish_slope(d * scale[c] + shift[c])
                total[c] += h
                moment[c] += h * d
        else:
            for c in range(values.size):
                d = wide(values[c]) - mean[c]
                h = wide(grads[c]) * silu_slope(d * scale[c] + shift[c])
                total[c] += h
                moment[c] += h * d


@njit(**COMPILE)
def backward(grad, x, output, begin, end, table, kind, low, high):
    """∂L/∂x; ``table`` has the rows μ, s, β, a and b."""
    mean, scale, shift, constant, along = table[0], table[1], table[2], table[3], table[4]
    for at in range(begin, end, mean.size):
        to = min(at + mean.size, end)
        values, grads, out = x[at:to], grad[at:to], output[at:to]
        if kind == CLAMP:
            for c in range(values.size):
                d = wide(values[c]) - mean[c]
                h = passed(wide(grads[c]), d * scale[c] + shift[c], low, high)
                out[c] = narrow(h * scale[c] + shifted(d, along[c], constant[c]), out)
        elif kind == HARDSWISH:
            for c in range(values.size):
                d = wide(values[c]) - mean[c]
                h = wide(grads[c]) * hardswish_slope(d * scale[c] + shift[c])
                out[c] = narrow(h * scale[c] + shifted(d, along[c], constant[c]), out)
        else:
            for c in range(values.size):
                d = wide(values[c]) - mean[c]
                h = wide(grads[c]) * silu_slope(d * scale[c] + shift[c])
                out[c] = narrow(h * scale[c] + shifted(d, along[c], constant[c]), out)
