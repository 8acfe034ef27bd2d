"""Which layer an operator of a profile is of, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from cnnexp.training.debugging.layer_table import (
    Cost,
    costs_by_layer,
    layer_table,
    operator_table,
)


def test_forward_and_backward_are_of_the_layer_that_made_them() -> None:
    small, large = nn.Linear(8, 8), nn.Linear(8, 2048)
    images = torch.rand(64, 8)
    optimizer = torch.optim.SGD([*small.parameters(), *large.parameters()], 0.1)
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as measured:
        for _ in range(2):
            optimizer.zero_grad()
            with record_function("layer small"):
                inner = small(images)
            with record_function("layer large"):
                outer = large(inner)
            outer.square().mean().backward()
            optimizer.step()
    costs = costs_by_layer(measured.events() or ())
    assert list(costs)[:2] == ["small", "large"]
    assert set(costs) >= {"(loss)", "(optimizer)", "(other)"}
    assert costs["small"].forward > 0
    assert costs["small"].backward > 0
    # two forwards of 64 × 2048 floats each, and the gradients of weights that are as many as images
    assert costs["large"].allocated >= 2 * 64 * 2048 * 4
    assert costs["large"].allocated > 10 * costs["small"].allocated
    assert costs["(optimizer)"].backward == 0
    whole = sum(event.self_cpu_time_total for event in measured.events() or ()) / 1e6
    assert sum(c.forward + c.backward for c in costs.values()) == pytest.approx(whole)
    assert "aten::addmm" in operator_table(measured)


def test_a_table_is_of_one_step_and_adds_up() -> None:
    costs = {
        "a": Cost(0.002, 0.004, 10, 0, 4_000_000),
        "(loss)": Cost(0.0, 0.002, 2, 0, 0),
        "b": Cost(),
    }
    lines = layer_table(costs, steps=2).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "a", "(loss)", "sum"]
    assert lines[1].split() == ["a", "1.000", "2.000", "75.0%", "5", "2.00"]
    assert lines[3].split() == ["sum", "1.000", "3.000", "100.0%", "6", "2.00"]
    on_a_gpu = layer_table({"a": Cost(0.002, 0.0, 2, 4, 0)}, steps=2).splitlines()
    assert on_a_gpu[0].split()[-3:] == ["kernels", "allocated", "MB"]
    assert on_a_gpu[1].split()[-2:] == ["2", "0.00"]
