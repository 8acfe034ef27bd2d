"""Which pixels a convolution multiplies with which tap, as lists for the kernels of ``implicit_kernels``."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.kernels.cpu.tables import pool_windows, remembered_table

__all__ = ["Rows", "Terms", "for_input", "for_output", "for_weight", "is_pointwise"]

_TOGETHER = 512  # pixels that one sum of ∂L/∂w is over, where all may stand in a row


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
def _by_output(geometry: Conv2dGeometry) -> Terms:
    """For each pixel of y the pixels of x, and the taps, that it is a sum over."""
    outputs, inputs, taps = _all_terms(geometry)
    rows, columns = geometry.output_size
    return _sorted(rows * columns, outputs, inputs, taps)


@remembered_table
def _by_input(geometry: Conv2dGeometry) -> Terms:
    """For each pixel of x the pixels of y, and the taps, that ∂L/∂x is a sum over."""
    outputs, inputs, taps = _all_terms(geometry)
    height, width = geometry.input_size
    return _sorted(height * width, inputs, outputs, taps)


@remembered_table
def _by_tap(geometry: Conv2dGeometry) -> Terms:
    """For each tap the pixels of y and those of x that ∂L/∂w is a sum over."""
    outputs, inputs, taps = _all_terms(geometry)
    k_h, k_w = geometry.kernel_size
    return _sorted(k_h * k_w, taps, outputs, inputs)


class Rows(NamedTuple):
    """The pixels of a batch, as rows of matrices.

    Attributes:
        images: How many pixels are rows of one matrix, one of each image; or, where a pixel is all that its
            window reads, pixels one after the other.
        pixels: How many such matrices are read, and written.
        steps: How many pixels a row that is read, and one that is written, is after the one before; and a
            matrix after the one before.
    """

    images: int
    pixels: tuple[int, int]
    steps: tuple[tuple[int, int], int]


def is_pointwise(geometry: Conv2dGeometry) -> bool:
    """Whether each pixel of y is made of one of x."""
    ones = (*geometry.kernel_size, *geometry.stride)
    return set(ones) == {1} and geometry.padding == (0, 0)


def _by_image(images: int, read: tuple[int, int], written: tuple[int, int]) -> Rows:
    both = math.prod(read), math.prod(written)
    return Rows(images, both, (both, 1))


@functools.lru_cache(maxsize=512)
def _in_a_row(images: int, pixels: int, most: int) -> Rows:
    """All pixels in matrices of as many as divide their number, ``most`` of them at most."""
    every = images * pixels
    matrices = next(n for n in range(-(-every // most), every + 1) if every % n == 0)
    return Rows(every // matrices, (matrices, matrices), ((1, 1), every // matrices))


@functools.lru_cache(maxsize=512)
def _each_alone(matrices: int, in_one_sum: bool) -> Terms:
    """The terms where matrix p of what is read meets matrix p of the other, and one tap."""
    alone = np.arange(matrices)
    if in_one_sum:
        return _sorted(1, np.zeros_like(alone), alone, alone)
    return _sorted(matrices, alone, alone, np.zeros_like(alone))


def for_output(images: int, geometry: Conv2dGeometry) -> tuple[Rows, Terms]:
    """What y is summed over: x is read, y written."""
    if is_pointwise(geometry):
        every = images * math.prod(geometry.output_size)
        return _in_a_row(images, math.prod(geometry.output_size), every), _each_alone(1, False)
    rows = _by_image(images, geometry.input_size, geometry.output_size)
    return rows, _by_output(geometry)


def for_input(images: int, geometry: Conv2dGeometry) -> tuple[Rows, Terms]:
    """What ∂L/∂x is summed over: ∂L/∂y is read, ∂L/∂x written."""
    if is_pointwise(geometry):
        return for_output(images, geometry)
    rows = _by_image(images, geometry.output_size, geometry.input_size)
    return rows, _by_input(geometry)


def for_weight(images: int, geometry: Conv2dGeometry) -> tuple[Rows, Terms]:
    """What ∂L/∂w is summed over: x is what is read, ∂L/∂y, in its place, what is written."""
    if is_pointwise(geometry):
        rows = _in_a_row(images, math.prod(geometry.output_size), _TOGETHER)
        if rows.images >= min(images, _TOGETHER):
            return rows, _each_alone(rows.pixels[0], True)
    return _by_image(images, geometry.input_size, geometry.output_size), _by_tap(geometry)
