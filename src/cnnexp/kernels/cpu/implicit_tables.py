"""Which pixels a convolution multiplies with which tap, as lists for the kernels of ``implicit_kernels``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.kernels.cpu.tables import pool_windows, remembered_table

__all__ = ["Terms", "by_input", "by_output", "by_tap"]


class Terms(NamedTuple):
    """The terms of several sums, sum by sum.

    Attributes:
        begins: (sums + 1,) where the terms of each sum begin in ``entries``; the last is where all end.
        entries: (terms, 2) what each term multiplies.
    """

    begins: np.ndarray
    entries: np.ndarray


def _all_terms(geometry: Conv2dGeometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(p, i, t) of each product: pixels of y and of x, and the tap; p and, for each p, t run in order."""
    (rows, columns), (k_h, k_w) = geometry.output_size, geometry.kernel_size
    pixels = pool_windows(geometry).reshape(rows * columns, k_h * k_w)
    outputs, taps = np.nonzero(pixels >= 0)
    return outputs, pixels[outputs, taps], taps


def _sorted(sums: int, by: np.ndarray, *factors: np.ndarray) -> Terms:
    """The terms of each of so many ``sums``, which ``by`` numbers, in the order in which they are given."""
    order = np.argsort(by, kind="stable")
    begins = np.searchsorted(by[order], np.arange(sums + 1))
    return Terms(begins, np.ascontiguousarray(np.stack([each[order] for each in factors], axis=1)))


@remembered_table
def by_output(geometry: Conv2dGeometry) -> Terms:
    """For each pixel of y the pixels of x, and the taps, that it is a sum over."""
    outputs, inputs, taps = _all_terms(geometry)
    rows, columns = geometry.output_size
    return _sorted(rows * columns, outputs, inputs, taps)


@remembered_table
def by_input(geometry: Conv2dGeometry) -> Terms:
    """For each pixel of x the pixels of y, and the taps, that ∂L/∂x is a sum over."""
    outputs, inputs, taps = _all_terms(geometry)
    height, width = geometry.input_size
    return _sorted(height * width, inputs, outputs, taps)


@remembered_table
def by_tap(geometry: Conv2dGeometry) -> Terms:
    """For each tap the pixels of y and those of x that ∂L/∂w is a sum over."""
    outputs, inputs, taps = _all_terms(geometry)
    k_h, k_w = geometry.kernel_size
    return _sorted(k_h * k_w, taps, outputs, inputs)
