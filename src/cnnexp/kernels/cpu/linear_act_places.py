"""Where the kernels of linear layers keep what: sizes and places in their memory, in words or numbers.

``widths`` are C_0 … C_L, ``each`` is how many numbers a word has.
"""

from __future__ import annotations

from numba import njit

from cnnexp.kernels.cpu.implicit_tiles import LANES, MOST, ROWS
from cnnexp.kernels.cpu.vector import COMPILE

__all__ = [
    "WIDEST",
    "before_grads",
    "before_inputs",
    "before_panels",
    "before_strips",
    "columns_of",
    "filled",
    "panel_of",
    "panels_of",
    "row_of",
    "shape_of",
    "strip_size",
    "words_of",
]

WIDEST = MOST * LANES  # columns of a panel


@njit(**COMPILE)
def words_of(count, each):
    """How many words so many numbers take."""
    return -(-count // each)


@njit(**COMPILE)
def filled(columns):
    """So many columns, filled up to whole registers."""
    return -(-columns // LANES) * LANES


@njit(**COMPILE)
def columns_of(count):
    """How many columns a product of so many is computed with: at least a vector."""
    return max(count, LANES)


@njit(**COMPILE)
def panels_of(columns):
    """Into how many panels ``columns`` are cut, at least ``LANES``; none of them is wider than all."""
    panels = -(-columns // WIDEST)
    return 2 if panels == 1 and columns > LANES and columns % LANES else panels


@njit(**COMPILE)
def panel_of(index, columns):
    """The first column of a panel, its vectors, and the vectors before it.

    The last may begin before the one before ends: both have the same numbers there.
    """
    vectors, panels = -(-columns // LANES), panels_of(columns)
    first, last = vectors * index // panels, vectors * (index + 1) // panels
    return min(first * LANES, columns - (last - first) * LANES), last - first, first


@njit(**COMPILE)
def shape_of(layer, widths, backward):
    """How many numbers a product with w of the layer reads of a row, and writes."""
    return widths[layer + backward], widths[layer + 1 - backward]


@njit(**COMPILE)
def before_panels(layer, widths, each, backward):
    """Words of the panels of w of all layers before this one."""
    total = 0
    for before in range(layer):
        read, written = shape_of(before, widths, backward)
        total += words_of(read, each) * filled(columns_of(written))
    return total


@njit(**COMPILE)
def row_of(width):
    """Numbers of a row of ∂L/∂z: whole registers, and one more to read from."""
    return filled(width) + LANES


@njit(**COMPILE)
def before_grads(layer, rows, widths):
    """Numbers of ∂L/∂z of all layers before this one."""
    total = 0
    for before in range(layer):
        total += rows * row_of(widths[before + 1])
    return total


@njit(**COMPILE)
def strip_size(words):
    """Words of a strip of the rows of ∂L/∂w: no power of two, or strips would share lines of the cache."""
    return words * ROWS + LANES


@njit(**COMPILE)
def before_strips(layer, words, widths):
    """Words of the rows of ∂L/∂w of all layers before this one: of ∂L/∂z, in strips."""
    total = 0
    for before in range(layer):
        total += -(-widths[before + 1] // ROWS) * strip_size(words)
    return total


@njit(**COMPILE)
def before_inputs(layer, words, widths):
    """Words of the columns of ∂L/∂w of all layers before this one: of their inputs, in panels."""
    total = 0
    for before in range(layer):
        total += words * filled(widths[before])
    return total
