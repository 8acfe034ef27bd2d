"""Where the CPU kernels read and write, as tables of offsets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry

__all__ = [
    "MOST_BYTES",
    "PatchPixels",
    "ReceptiveFields",
    "forget",
    "kept_bytes",
    "patch_pixels",
    "pool_windows",
    "receptive_fields",
    "remembered_table",
]

MOST_BYTES = 1 << 26  # of tables that are kept: those of large images are large
_Given = ParamSpec("_Given")
_Made = TypeVar("_Made", bound=np.ndarray | tuple[Any, ...])
_kept: dict[Any, tuple[Any, int]] = {}  # by arguments, and the bytes of each


def remembered_table(make: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """``make``, whose results are kept for the next call, all in all up to ``MOST_BYTES``."""

    def remembering(*arguments: _Given.args, **named: _Given.kwargs) -> _Made:
        key = make, arguments, tuple(named.items())
        found = _kept.get(key)
        if found is None:
            made = make(*arguments, **named)
            arrays = [made] if isinstance(made, np.ndarray) else made[:2]
            size = sum(array.nbytes for array in arrays)
            if kept_bytes() + size > MOST_BYTES:
                forget()
            if size <= MOST_BYTES:
                _kept[key] = made, size
            return made
        return found[0]

    return remembering


def kept_bytes() -> int:
    """The size of all tables that are kept."""
    return sum(size for _, size in list(_kept.values()))  # other threads add


def forget() -> None:
    """Keep no table."""
    _kept.clear()


@remembered_table
def pool_windows(pool: WindowGeometry) -> np.ndarray:
    """(P, Q, K): the pixel i·W + j at each offset of each window, −1 where off the image."""
    (h, w), (rows, columns) = pool.input_size, pool.output_size
    i, j = (
        (np.arange(n) * s - p)[:, None] + np.arange(k) * d
        for n, s, p, k, d in zip(
            (rows, columns), pool.stride, pool.padding, pool.kernel_size, pool.dilation, strict=True
        )
    )
    i, j = i[:, None, :, None], j[None, :, None, :]
    pixels = np.where((i >= 0) & (i < h) & (j >= 0) & (j < w), i * w + j, -1)
    return np.ascontiguousarray(pixels.reshape(rows, columns, math.prod(pool.kernel_size)))


class ReceptiveFields(NamedTuple):
    """Where the receptive fields stand that the elements of pooling windows were computed from.

    A field consists of pieces of ``length`` contiguous numbers: ``rows`` of them, ``step`` apart, from
    each of the beginnings ``groups`` on; a kernel is all of them in a row.

    Attributes:
        places: (P·Q, K) the offset of each field in one padded image laid out flat, −1 where the
            element of the window is off the image.
        groups: Where, from the beginning of a field, its groups of pieces begin.
        rows: Pieces a group.
        step: From one piece of a group to the next.
        length: Numbers a piece.
        padded: (4,) height and width with padding, and the padding above and to the left.
    """

    places: np.ndarray
    groups: np.ndarray
    rows: int
    step: int
    length: int
    padded: np.ndarray


@remembered_table
def receptive_fields(
    geometry: Conv2dGeometry, pool: WindowGeometry, channels: int
) -> ReceptiveFields:
    """What of the padded image each element of each pooling window was computed from."""
    (k_h, k_w), (d_h, d_w) = geometry.kernel_size, geometry.dilation
    height, width = geometry.padded_size()
    windows = pool_windows(pool).reshape(-1, math.prod(pool.kernel_size))
    row, column = np.divmod(windows, geometry.output_size[1])
    places = (row * geometry.stride[0] * width + column * geometry.stride[1]) * channels
    down, right = d_h * width * channels, d_w * channels
    side_by_side = d_w == 1  # the K_w pixels of a row are one piece
    return ReceptiveFields(
        places=np.ascontiguousarray(np.where(windows < 0, -1, places)),
        groups=np.zeros(1, np.int64) if side_by_side else np.arange(k_h) * down,
        rows=k_h if side_by_side else k_w,
        step=down if side_by_side else right,
        length=k_w * channels if side_by_side else channels,
        padded=np.array([height, width, *geometry.padding]),
    )


class PatchPixels(NamedTuple):
    """Which pixels the elements of pooling windows were computed from, each element numbered once.

    Attributes:
        pixels: (M, K_h·K_w) the pixel i·W + j that each element m reads, H·W where that is padding;
            m runs in row-major order.
        numbers: (P·Q, K) the m at each offset of each window, −1 where off the image.
    """

    pixels: np.ndarray
    numbers: np.ndarray


@remembered_table
def patch_pixels(geometry: Conv2dGeometry, pool: WindowGeometry) -> PatchPixels:
    """The pixels behind each element that a window of ``pool`` reads."""
    windows = pool_windows(pool).reshape(-1, math.prod(pool.kernel_size))
    read = np.unique(windows[windows >= 0])
    row, column = np.divmod(read, geometry.output_size[1])
    u, v = np.divmod(np.arange(math.prod(geometry.kernel_size)), geometry.kernel_size[1])
    (s_h, s_w), (d_h, d_w), (p_h, p_w) = geometry.stride, geometry.dilation, geometry.padding
    i, j = row[:, None] * s_h + u * d_h - p_h, column[:, None] * s_w + v * d_w - p_w
    height, width = geometry.input_size
    on_image = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    return PatchPixels(
        pixels=np.where(on_image, i * width + j, height * width),
        numbers=np.where(windows < 0, -1, np.searchsorted(read, windows)),
    )
