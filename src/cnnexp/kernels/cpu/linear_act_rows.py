"""Activations and their derivatives on the sums of linear layers, a strip of rows at a time."""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit

from cnnexp.kernels.cpu.activation_kernels import tanh, tanh_to_round
from cnnexp.kernels.cpu.precision import is_half, narrow, wide
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = ["NONE", "RELU", "TANH", "activate", "pass_through"]

NONE, RELU, TANH = 0, 1, 2


@njit(**COMPILE)
def _at(place):
    """A place as an index that numba knows not to count from the end, so that loops become vectors."""
    return np.uintp(place)


@njit(**COMPILE)
def activate(sums, rows, wide_row, count, kind, to, step):
    """to[r, j] = the activation of sums[r, j], j < ``count``, in the kind of number of ``to``."""
    for r in range(rows):
        of, at = r * wide_row, r * step
        if kind == TANH and is_half(to):
            for j in range(count):
                to[_at(at + j)] = narrow(tanh_to_round(sums[_at(of + j)]), to)
        elif kind == TANH:
            for j in range(count):
                to[_at(at + j)] = narrow(tanh(sums[_at(of + j)]), to)
        elif kind == RELU:
            for j in range(count):
                value = sums[_at(of + j)]
                to[_at(at + j)] = narrow(np.float32(0) if value <= np.float32(0) else value, to)
        else:
            for j in range(count):
                to[_at(at + j)] = narrow(sums[_at(of + j)], to)


@njit(**COMPILE)
def pass_through(grads, rows, wide_row, count, kind, active, step, to, to_step):
    """to[r, j] = grads[r, j] · act'(z), which follows from ``active`` = act(z), j < ``count``."""
    one, zero = np.float32(1), np.float32(0)
    for r in range(rows):
        of, here, at = r * wide_row, r * step, r * to_step
        if kind == TANH:
            for j in range(count):
                value = wide(active[_at(here + j)])
                grad = wide(grads[_at(of + j)]) * (one - value * value)
                to[_at(at + j)] = narrow(grad, to)
        elif kind == RELU:
            for j in range(count):
                value = wide(active[_at(here + j)])
                grad = zero if value <= zero else wide(grads[_at(of + j)])
                to[_at(at + j)] = narrow(grad, to)
        else:
            for j in range(count):
                to[_at(at + j)] = narrow(wide(grads[_at(of + j)]), to)
