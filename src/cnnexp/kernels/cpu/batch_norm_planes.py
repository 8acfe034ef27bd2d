"""Parts of batch normalisation over plain memory, where an image has a plane a channel.

As ``batch_norm_rows``, whose letters these are; a part is some planes, from ``first`` to ``last``, and
``table`` has a column a channel. Within a plane ``LANES`` sums run side by side.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

import numpy as np
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

LANES = 64


@njit(**COMPILE)
def moments(x, first, last, parts):
    """parts[n, :, c] = k, Σ(x−k) and Σ(x−k)² of plane p = n·C + c, k being its first number."""
    channels = parts.shape[2]
    lanes = np.empty((2, LANES), parts.dtype)
    total, square = lanes[0], lanes[1]
    for p in range(first, last):
        plane = x[p]
        around = wide(plane[0])
        lanes[:] = 0
        for at in range(0, plane.size, LANES):
            some = plane[at : min(at + LANES, plane.size)]
            for i in range(some.size):
                d = wide(some[i]) - around
                total[i] += d
                square[i] += d * d
        part = parts[p // channels, :, p % channels]
        part[0] = around
        _add_lanes(lanes, part[1:])


@njit(**COMPILE)
def _add_lanes(lanes, sums):
    for k in range(2):
        sums[k] = lanes[k, 0]
        for i in range(1, LANES):
            sums[k] += lanes[k, i]


@njit(**COMPILE)
def forward(x, output, first, last, table, kind, low, high):
    """The output; ``table`` has the rows μ, s and β."""
    for p in range(first, last):
        plane, out = x[p], output[p]
        c = p % table.shape[1]
        m, s, b = table[0, c], table[1, c], table[2, c]
        if kind == CLAMP:
            for i in range(plane.size):
                out[i] = narrow(clamped((wide(plane[i]) - m) * s + b, low, high), out)
        elif kind == HARDSWISH:
            for i in range(plane.size):
                out[i] = narrow(hardswish((wide(plane[i]) - m) * s + b), out)
        else:
            for i in range(plane.size):
                u = (wide(plane[i]) - m) * s + b
                out[i] = narrow(u * logistic(u), out)


@njit(**COMPILE)
def sums(grad, x, first, last, table, kind, low, high, parts):
    """parts[n, :, c] = Σ h and Σ h·d of plane p = n·C + c."""
    lanes = np.empty((2, LANES), parts.dtype)
    total, moment = lanes[0], lanes[1]
    for p in range(first, last):
        c = p % table.shape[1]
        m, s, b = table[0, c], table[1, c], table[2, c]
        lanes[:] = 0
        for at in range(0, x.shape[1], LANES):
            to = min(at + LANES, x.shape[1])
            values, grads = x[p, at:to], grad[p, at:to]
            if kind == CLAMP:
                for i in range(values.size):
                    d = wide(values[i]) - m
                    h = passed(wide(grads[i]), d * s + b, low, high)
                    total[i] += h
                    moment[i] += h * d
            elif kind == HARDSWISH:
                for i in range(values.size):
                    d = wide(values[i]) - m
                    h = wide(grads[i]) * hardswish_slope(d * s + b)
                    total[i] += h
                    moment[i] += h * d
            else:
                for i in range(values.size):
                    d = wide(values[i]) - m
                    h = wide(grads[i]) * silu_slope(d * s + b)
                    total[i] += h
                    moment[i] += h * d
        _add_lanes(lanes, parts[p // table.shape[1], :, p % table.shape[1]])


@njit(**COMPILE)
def backward(grad, x, output, first, last, table, kind, low, high):
    """∂L/∂x; ``table`` has the rows μ, s, β, a and b."""
    for p in range(first, last):
        plane, grads, out = x[p], grad[p], output[p]
        c = p % table.shape[1]
        m, s, b, constant, along = table[0, c], table[1, c], table[2, c], table[3, c], table[4, c]
        if kind == CLAMP:
            for i in range(plane.size):
                d = wide(plane[i]) - m
                h = passed(wide(grads[i]), d * s + b, low, high)
                out[i] = narrow(h * s + shifted(d, along, constant), out)
        elif kind == HARDSWISH:
            for i in range(plane.size):
                d = wide(plane[i]) - m
                h = wide(grads[i]) * hardswish_slope(d * s + b)
                out[i] = narrow(h * s + shifted(d, along, constant), out)
        else:
            for i in range(plane.size):
                d = wide(plane[i]) - m
                h = wide(grads[i]) * silu_slope(d * s + b)
                out[i] = narrow(h * s + shifted(d, along, constant), out)
