"""bfloat16 as bit patterns: widened and rounded as torch does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from cnnexp.kernels.cpu.numbers import aligned, put


@njit
def _put(numbers: Any, row: Any) -> None:
    put(numbers, row)


@njit
def _aligned(count: int, like: Any) -> Any:
    return aligned(count, like)


def test_every_bfloat16_is_widened_as_by_torch() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(bits.size, np.float32)
    _put(bits, wide)
    expected = torch.from_numpy(bits).view(torch.bfloat16).float()
    assert torch.equal(
        torch.from_numpy(wide).view(torch.int32), expected.view(torch.int32)
    )  # a NaN equals no NaN


def test_float32_is_rounded_as_by_torch() -> None:
    numbers = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, np.uint32)
    halves = numbers[:1000] & np.uint32(0xFFFF0000) | np.uint32(
        0x8000
    )  # of two as near, the even one
    wide = np.concatenate([numbers, halves]).view(np.float32)
    rounded = np.empty(wide.size, np.uint16)
    _put(wide, rounded)
    found = torch.from_numpy(rounded).view(torch.bfloat16)
    expected = torch.from_numpy(wide).bfloat16()
    nan = expected.isnan()
    assert torch.equal(found.isnan(), nan)
    assert torch.equal(found[~nan].view(torch.int16), expected[~nan].view(torch.int16))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_numbers_of_one_dtype_are_copied(dtype: Any) -> None:
    numbers, row = np.arange(7).astype(dtype), np.zeros(7, dtype)
    _put(numbers, row)
    assert row.tolist() == numbers.tolist()


def test_only_compiled_code_puts_numbers() -> None:
    with pytest.raises(NotImplementedError, match="only numba's compiled code calls it"):
        put(np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_rooms_begin_with_a_line_of_the_cache(dtype: Any) -> None:
    for count in (0, 1, 33, 5000):
        room = _aligned(count, np.empty(0, dtype))
        assert (room.size, room.dtype) == (count, dtype)
        assert count == 0 or room.ctypes.data % 64 == 0
        assert not room.any()
