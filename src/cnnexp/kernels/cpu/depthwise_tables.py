"""Where the CPU kernels of depthwise convolution read and write: the two directions in one form.

    y[p, q] = Σ_{u,v} w[u, v] · x[p·s + u − p_h, …]                                      one phase
    ∂L/∂x[m·s + r − p_h, …] = Σ_j w[r + s·j, …] · ∂L/∂y[m − j, …],   0 ≤ r < s           s_h·s_w phases

(rows are written out, columns are alike). With the taps of a phase in the opposite order the second is
of the form of the first, with steps of 1.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from cnnexp.geometry.convolution import Conv2dGeometry

__all__ = ["LANES", "Table", "backward_table", "forward_table"]

LANES = 16  # channels that are computed together, a vector a pixel
_KEPT = 256


class Table(NamedTuple):
    """How one image becomes another; places count numbers, a vector a pixel.

    Attributes:
        places: (H·W,) of each pixel in the padded source.
        phases: (phases, 11): rows and columns of pixels; in the result, the first pixel's number and the
            steps of a row and a column; in the source the same three, as places; rows and columns of taps,
            and the first one among the taps.
        order: (taps,) of which of the K_h·K_w each is.
        pitch: Between two rows of the source.
        space: Of the source.
        size: Pixels of the result.
    """

    places: np.ndarray
    phases: np.ndarray
    order: np.ndarray
    pitch: int
    space: int
    size: int


class _Axis(NamedTuple):
    """Rows (or columns) of one phase: how many, from where to where, by how many taps, and which."""

    pixels: int
    to: int
    to_step: int
    at: int
    step: int
    taps: tuple[int, ...]


@functools.lru_cache(maxsize=_KEPT)
def forward_table(geometry: Conv2dGeometry) -> Table:
    """Of y from x."""
    g = geometry
    axes = [
        [_Axis(m, 0, 1, 0, s, tuple(range(k)))]
        for m, s, k in zip(g.output_size, g.stride, g.kernel_size, strict=True)
    ]
    return _table(g.input_size, g.padding, g.padded_size(), g.output_size, axes, g.kernel_size[1])


@functools.lru_cache(maxsize=_KEPT)
def backward_table(geometry: Conv2dGeometry) -> Table:
    """Of ∂L/∂x from ∂L/∂y."""
    g, axes, before, whole = geometry, [], [], []
    for n, m, s, k, p in zip(
        g.input_size, g.output_size, g.stride, g.kernel_size, g.padding, strict=True
    ):
        lead = -(-k // s) - 1  # zeros before ∂L/∂y
        axes.append([_phase(n, s, k, p, r, lead) for r in range(s)])
        before.append(lead)
        whole.append(lead + max(m, (n - 1 + p) // s + 1))
    return _table(g.output_size, tuple(before), tuple(whole), g.input_size, axes, g.kernel_size[1])


def _phase(size: int, stride: int, kernel: int, padding: int, r: int, lead: int) -> _Axis:
    """The rows m·s + r − p of ``size`` rows."""
    first = max(0, -(-(padding - r) // stride))
    last = (size - 1 + padding - r) // stride
    taps = tuple(reversed(range(r, kernel, stride)))
    to, at = first * stride + r - padding, lead + first - max(len(taps) - 1, 0)
    return _Axis(max(0, last - first + 1), to, stride, at, 1, taps)


def _table(
    source: tuple[int, int],
    before: tuple[int, ...],
    whole: tuple[int, ...],
    result: tuple[int, int],
    axes: list[list[_Axis]],
    k_w: int,
) -> Table:
    pitch = whole[1] * LANES
    i, j = (np.arange(n) + b for n, b in zip(source, before, strict=True))
    places = i[:, None] * pitch + j[None] * LANES
    phases, order = [], []
    for a in axes[0]:
        for b in axes[1]:
            to = a.to * result[1] + b.to, a.to_step * result[1], b.to_step
            at = a.at * pitch + b.at * LANES, a.step * pitch, b.step * LANES
            taps = len(a.taps), len(b.taps), len(order)
            phases.append([a.pixels, b.pixels, *to, *at, *taps])
            order += [u * k_w + v for u in a.taps for v in b.taps]
    return Table(
        np.ascontiguousarray(places.reshape(-1), np.intp),
        np.array(phases, np.intp),
        np.array(order, np.intp),
        pitch,
        whole[0] * pitch,
        math.prod(result),
    )
