"""Where the taps of a convolution of few channels read in the padded planes of its images."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu.behind import NOTHING, RELU_MAX, SIDE_BY_SIDE, TANH
from cnnexp.kernels.cpu.tables import pool_windows

__all__ = ["PARTS", "Behind", "arguments_of", "pair_table", "pitch_of", "plane_table"]

# of a batch, each a sum of its own: a constant, so that no rounding depends on the threads
PARTS = 16
_NO_WINDOWS = np.empty((0, 0), np.int64)


def pitch_of(geometry: Conv2dGeometry, padding: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a plane with ``padding``: of x, or, with that of the backward, of ∂L/∂z."""
    size = geometry.input_size if padding == geometry.padding else geometry.output_size
    rows, columns = (n + 2 * p for n, p in zip(size, padding, strict=True))
    return rows, columns


@functools.lru_cache(maxsize=512)
def plane_table(
    geometry: Conv2dGeometry, channels: int, padding: tuple[int, int], spare: int = 0
) -> tuple[tuple[int, int], np.ndarray]:
    """Rows and columns of a plane with ``padding``, and where each tap (c, u, v) reads.

    With ``spare`` a tap more reads the plane after the last, and so many taps come after it.
    """
    rows, columns = pitch_of(geometry, padding)
    (k_h, k_w), (d_h, d_w) = geometry.kernel_size, geometry.dilation
    c, u, v = np.arange(channels), np.arange(k_h) * d_h, np.arange(k_w) * d_w
    reads = c[:, None, None] * rows * columns + u[:, None] * columns + v
    if not spare:
        return (rows, columns), reads.ravel()
    reads = np.append(reads, channels * rows * columns)
    return (rows, columns), np.resize(reads, reads.size + spare)


@functools.lru_cache(maxsize=512)
def pair_table(
    conv: Conv2dGeometry, c_in: int, c_out: int, backward: bool
) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Rows and columns of a padded plane, where each tap reads, and where its two weights are.

    The taps are (q, u, v) of two channels each; then, of the last of an odd number, those of two neighbours
    of a row of the kernel, and those that are left.
    """
    channels, padding = (c_out, conv.backward_padding) if backward else (c_in, conv.padding)
    rows, columns = pitch_of(conv, padding)
    (k_h, k_w), (d_h, d_w) = conv.kernel_size, conv.dilation
    area, pairs = k_h * k_w, channels // 2
    of_channel = area * (c_in if backward else 1)  # weights from one channel's to the next

    def tap(plane: int, u: int, v: int, *weights: tuple[int, int]) -> tuple[int, int, int]:
        at = [c * of_channel + (area - 1 - s if backward else s) for c, s in weights]
        first, second = [*at, -1][:2]
        return plane * rows * columns + u * d_h * columns + v * d_w, first, second

    taps = [
        tap(q, u, v, (2 * q, u * k_w + v), (2 * q + 1, u * k_w + v))
        for q in range(pairs)
        for u in range(k_h)
        for v in range(k_w)
    ]
    if channels % 2:
        last, single = channels - 1, pairs + (k_w > 1)
        for u in range(k_h):
            for v in range(0, k_w - 1, 2):
                taps.append(tap(pairs, u, v, (last, u * k_w + v), (last, u * k_w + v + 1)))
            if k_w % 2:
                taps.append(tap(single, u, k_w - 1, (last, u * k_w + k_w - 1)))
    table = np.array(taps)
    return (rows, columns), np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1:])


class Behind(NamedTuple):
    """What is behind a convolution: an activation, and the windows of a pooling if there is one.

    Attributes:
        kind: ``TANH`` or ``RELU_MAX``.
        pool: The windows, of one pixel where nothing is pooled.
        divisor: Of a mean, (R, S); None where there is none.
    """

    kind: int
    pool: WindowGeometry
    divisor: Tensor | None = None

    def arguments(self, pitch: int, first: int, dtype: Any) -> tuple[Any, ...]:
        """Of the kernels, in planes whose rows are ``pitch`` apart, from the place ``first`` on."""
        none = np.empty(0, dtype)
        if self.kind == TANH and self.divisor is None:
            return _NO_WINDOWS, (0, 0), none, 0, self.kind
        divisors = none
        if self.divisor is not None:
            divisors = self.divisor.detach().contiguous().numpy().reshape(-1)
        pool, windows = self.pool, _places(self.pool, pitch, first)
        easy = SIDE_BY_SIDE if _side_by_side(pool) else 0
        if self.kind == RELU_MAX and not easy:
            easy = int(_within(pool))
        return windows, pool.output_size, divisors.astype(dtype, copy=False), easy, self.kind


def _side_by_side(pool: WindowGeometry) -> bool:
    """Whether the windows are 2×2 and share no pixel."""
    given = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    return given == ((2, 2), (2, 2), (0, 0), (1, 1), False)


@functools.lru_cache(maxsize=512)
def _within(pool: WindowGeometry) -> bool:
    """Whether no window has a pixel off the image."""
    return bool((pool_windows(pool) >= 0).all())


@functools.lru_cache(maxsize=512)
def _places(pool: WindowGeometry, pitch: int, first: int) -> np.ndarray:
    """(R·S, K): the place at each offset of each window, −1 where off the image."""
    windows = pool_windows(pool)
    row, column = np.divmod(windows.reshape(-1, windows.shape[2]), pool.input_size[1])
    return np.where(row < 0, -1, first + row * pitch + column)


def arguments_of(behind: Behind | None, pitch: int, first: int, dtype: Any) -> tuple[Any, ...]:
    """What the kernels are told of ``behind``; see :meth:`Behind.arguments`."""
    if behind is None:
        return _NO_WINDOWS, (0, 0), np.empty(0, dtype), 0, NOTHING
    return behind.arguments(pitch, first, dtype)
