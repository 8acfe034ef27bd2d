from __future__ import annotations

import math

import pytest
import torch

from cnnexp.optim import cosine


def test_cosine_goes_down_to_min_lr_over_all_steps() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = cosine(optimizer, total_steps=10, min_lr=0.1)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.1 + 0.2 * (1 + math.cos(math.pi * step / 10)) for step in range(11)]
    assert rates == pytest.approx(expected)


def test_a_negative_min_lr_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    with pytest.raises(ValueError, match=r"scheduler.min_lr must be at least 0, but got -0.1"):
        cosine(optimizer, 10, -0.1)
