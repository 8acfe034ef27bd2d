"""Pointers in kernels: what they read and write, and that what they point to is there while it is held."""

from __future__ import annotations

import numpy as np
import pytest
from numba import TypingError, njit

from cnnexp.kernels.cpu.pointers import ahead, hold, start_of

# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false


@njit
def _turned(numbers):
    room = np.empty_like(numbers)
    source, target = start_of(numbers), ahead(start_of(room), numbers.size - 1)
    for i in range(numbers.size):
        target[-i] = source[i]
    total = numbers.dtype.type(0)
    for i in range(numbers.size):
        total += ahead(start_of(room), i)[0] * (i + 1)
    hold((room, numbers))
    return total


@njit
def _held(count):
    """Sums of arrays that nobody but a pointer knows, while others of their size come and go."""
    total = 0.0
    for i in range(count):
        room = np.full(4096, float(i))
        at = start_of(room)
        other = np.full(4096, -1.0)
        total += at[i] + other[0] + 1
        hold(room)
    return total


@njit
def _start(numbers):
    return start_of(numbers)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16])
def test_a_pointer_reads_and_writes_the_numbers_of_its_array(dtype: type) -> None:
    numbers = np.arange(1, 8).astype(dtype)
    assert _turned(numbers) == int((numbers[::-1].astype(int) * np.arange(1, 8)).sum())


def test_an_array_that_is_held_is_there() -> None:
    assert _held(500) == sum(range(500))


def test_an_array_with_gaps_has_no_row_of_numbers_to_point_to() -> None:
    with pytest.raises(TypingError, match="whose numbers stand in a row, not array"):
        _start(np.arange(8)[::2])
