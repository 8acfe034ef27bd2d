"""The CPU kernels of batch normalisation for plain memory: an image has a plane a channel.

The letters and the order of sums are those of ``batch_norm_kernels``; a plane is a part. Within it ``LANES``
sums run side by side, the last few numbers by themselves, and each kernel knows one channel's μ, s and β.
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
from cnnexp.kernels.cpu.batch_norm_kernels import scale_of
from cnnexp.kernels.cpu.precision import narrow, wide
from cnnexp.kernels.cpu.vector import COMPILE

LANES = 64


@njit(**COMPILE)
def _moments(plane, around, lanes):
    """Σ(x−k) and Σ(x−k)² of one plane."""
    total, square = lanes[0], lanes[1]
    for i in range(LANES):
        total[i] = 0
        square[i] = 0
    for at in range(0, plane.size, LANES):
        some = plane[at : min(at + LANES, plane.size)]
        for i in range(some.size):
            d = wide(some[i]) - around
            total[i] += d
            square[i] += d * d
    for i in range(1, LANES):
        total[0] += total[i]
        square[0] += square[i]
    return total[0], square[0]


@njit(parallel=True, **COMPILE)
def statistics(x, mean, variance):
    """μ and σ² of each channel of ``x`` (N, C, pixels)."""
    images, channels, pixels = x.shape
    parts = np.empty((images * channels, 3), mean.dtype)  # k, Σ(x−k) and Σ(x−k)²
    for task in prange(images * channels):
        plane = x[task // channels, task % channels]
        around = wide(plane[0])
        lanes = np.empty((2, LANES), mean.dtype)
        parts[task, 0] = around
        parts[task, 1], parts[task, 2] = _moments(plane, around, lanes)
    for c in range(channels):
        centre = spread = 0.0
        for n in range(images):
            part = parts[n * channels + c]
            centre += pixels * float(part[0]) + part[1]
        centre /= images * pixels
        for n in range(images):
            part = parts[n * channels + c]
            off = part[1] / float(pixels)
            apart = part[0] + off - centre
            spread += part[2] - pixels * off * off + pixels * apart * apart
        mean[c] = centre
        variance[c] = max(spread / (images * pixels), 0.0) if spread == spread else spread


@njit(parallel=True, **COMPILE)
def forward(x, mean, variance, weight, bias, eps, kind, low, high, output):
    """The output of ``x`` (N, C, pixels)."""
    channels = x.shape[1]
    scales = scale_of(variance, weight, eps)
    for task in prange(x.shape[0] * channels):
        n, c = task // channels, task % channels
        plane, out = x[n, c], output[n, c]
        m, s, b = mean[c], scales[c], bias[c]
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
def _sums(grad, plane, m, s, b, kind, low, high, lanes):
    """Σ g' and Σ g'·d of one plane."""
    added, weighted = lanes[0], lanes[1]
    for i in range(LANES):
        added[i] = 0
        weighted[i] = 0
    for at in range(0, plane.size, LANES):
        to = min(at + LANES, plane.size)
        values, grads = plane[at:to], grad[at:to]
        if kind == CLAMP:
            for i in range(values.size):
                d = wide(values[i]) - m
                g = passed(wide(grads[i]), d * s + b, low, high)
                added[i] += g
                weighted[i] += g * d
        elif kind == HARDSWISH:
            for i in range(values.size):
                d = wide(values[i]) - m
                g = wide(grads[i]) * hardswish_slope(d * s + b)
                added[i] += g
                weighted[i] += g * d
        else:
            for i in range(values.size):
                d = wide(values[i]) - m
                g = wide(grads[i]) * silu_slope(d * s + b)
                added[i] += g
                weighted[i] += g * d
    for i in range(1, LANES):
        added[0] += added[i]
        weighted[0] += weighted[i]
    return added[0], weighted[0]


@njit(parallel=True, **COMPILE)
def sums(grad, x, mean, variance, weight, bias, eps, kind, low, high, total, moment):
    """Σ g' = ∂L/∂β and Σ g'·d·r = ∂L/∂γ of each channel."""
    images, channels = x.shape[:2]
    scales = scale_of(variance, weight, eps)
    parts = np.empty((images * channels, 2), mean.dtype)
    for task in prange(images * channels):
        n, c = task // channels, task % channels
        lanes = np.empty((2, LANES), mean.dtype)
        parts[task, 0], parts[task, 1] = _sums(
            grad[n, c], x[n, c], mean[c], scales[c], bias[c], kind, low, high, lanes
        )
    for c in range(channels):
        added = weighted = 0.0
        for n in range(images):
            added += parts[n * channels + c, 0]
            weighted += parts[n * channels + c, 1]
        total[c] = added
        moment[c] = weighted / np.sqrt(variance[c] + eps)


@njit(parallel=True, **COMPILE)
def backward(
    grad, x, mean, variance, weight, bias, eps, kind, low, high, total, moment, output
):
    """∂L/∂x, where the statistics are constants if the sums ``total`` and ``moment`` are 0."""
    channels, count = x.shape[1], x.shape[0] * x.shape[2]
    scales = scale_of(variance, weight, eps)
    constants, along = np.empty_like(mean), np.empty_like(mean)
    for c in range(channels):
        constants[c] = -scales[c] * (total[c] / count)
        along[c] = -scales[c] * (moment[c] / count) / np.sqrt(variance[c] + eps)
    for task in prange(x.shape[0] * channels):
        n, c = task // channels, task % channels
        plane, grads, out = x[n, c], grad[n, c], output[n, c]
        m, s, b, a, f = mean[c], scales[c], bias[c], constants[c], along[c]
        if kind == CLAMP:
            for i in range(plane.size):
                d = wide(plane[i]) - m
                g = passed(wide(grads[i]), d * s + b, low, high)
                out[i] = narrow(g * s + (d * f + a), out)
        elif kind == HARDSWISH:
            for i in range(plane.size):
                d = wide(plane[i]) - m
                g = wide(grads[i]) * hardswish_slope(d * s + b)
                out[i] = narrow(g * s + (d * f + a), out)
        else:
            for i in range(plane.size):
                d = wide(plane[i]) - m
                g = wide(grads[i]) * silu_slope(d * s + b)
                out[i] = narrow(g * s + (d * f + a), out)
