"""Whether tensors are finite, by one kernel for all of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cnnexp.kernels.cpu.finite import all_finite


def tensors() -> list[Tensor]:
    weight = torch.randn(40, 16, 7, 7).to(memory_format=torch.channels_last)  # of two tasks
    return [weight, torch.randn(10), torch.empty(0), torch.tensor(3.0), torch.full((4,), 3e38)]


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, -1), (1, 4), (3, 0), (4, 3)])
def test_one_number_is_found(value: float, place: tuple[int, int]) -> None:
    each = tensors()
    assert all_finite(each) is True
    which, at = place
    # in the order in which they lie in memory
    (each[0].permute(0, 2, 3, 1) if which == 0 else each[which]).view(-1)[at] = value
    assert all_finite(each) is False


def test_nothing_is_finite() -> None:
    assert all_finite([]) is True
    assert all_finite([torch.empty(0)]) is True


@pytest.mark.parametrize(
    "other",
    [
        torch.ones(3, dtype=torch.float64),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, device="meta"),
        torch.ones(4, 4)[:, ::2],
        torch.ones(1).expand(3),
        torch.ones(2, 3).to_sparse(),
        torch._efficientzerotensor(3),
        torch.nn.Parameter(torch.ones(3)),
    ],
)
def test_of_others_it_cannot_be_told(other: Tensor) -> None:
    assert all_finite([torch.ones(2), other]) is None
