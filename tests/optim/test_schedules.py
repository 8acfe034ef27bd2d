from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from cnnexp import optim


def _optimizer(*rates: float) -> Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def _rates(name: str, steps: int, *, rate: float = 1.0, **arguments: Any) -> list[float]:
    """The learning rate of each step of a training of ``steps`` steps."""
    optimizer = _optimizer(rate)
    schedule = getattr(optim, name)(optimizer, steps, **arguments)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_goes_down_to_min_lr_over_all_steps() -> None:
    expected = [0.1 + 0.2 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert _rates("cosine", 10, rate=0.5, min_lr=0.1) == pytest.approx(expected)


def test_warmup_cosine_rises_in_a_line_then_falls() -> None:
    rates = _rates("warmup_cosine", 14, warmup=0.3, min_factor=0.2)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    expected = [0.2 + 0.4 * (1 + math.cos(math.pi * t / 9)) for t in range(10)]
    assert rates[4:] == pytest.approx(expected)


def test_linear_ends_at_min_factor() -> None:
    assert _rates("linear", 5) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    rates = _rates("linear", 6, warmup=0.34, min_factor=0.4)
    assert rates == pytest.approx([0.5, 1, 1, 0.8, 0.6, 0.4])


def test_wsd_is_constant_between_its_ends() -> None:
    rates = _rates("wsd", 20, warmup=0.1, decay=0.25, min_factor=0.1)
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:15] == [1.0] * 13
    expected = [1 - 0.9 * math.sqrt(s / 4) for s in range(5)]
    assert rates[15:] == pytest.approx(expected)


def test_step_and_multistep_fall_where_they_should() -> None:
    assert _rates("step", 9, every=0.34, gamma=0.5) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    rates = _rates("multistep", 8, milestones=[0.5, 0.75], gamma=0.1)
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_onecycle_peaks_at_the_optimizers_rate() -> None:
    rates = _rates("onecycle", 20, rate=0.5, warmup=0.3, div_factor=10, final_div_factor=100)
    assert rates[0] == pytest.approx(0.05)
    assert rates.index(max(rates)) == 5  # the last of the first 30 %
    assert max(rates) == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.5 / 1000)


@pytest.mark.parametrize(
    "name", ["cosine", "warmup_cosine", "linear", "wsd", "step", "multistep", "onecycle"]
)
def test_groups_keep_their_ratio(name: str) -> None:
    optimizer = _optimizer(1.0, 0.1)
    schedule = getattr(optim, name)(optimizer, 20)
    for _ in range(19):
        one, other = (group["lr"] for group in optimizer.param_groups)
        assert other == pytest.approx(one / 10)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("mode", ["max", "min"])
def test_plateau_waits_for_patience_epochs(mode: str) -> None:
    optimizer = _optimizer(1.0)
    schedule = optim.plateau(optimizer, 100, mode=mode, factor=0.5, patience=1, threshold=0.01)
    sign = 1 if mode == "max" else -1
    rates = []
    for metric in (0.90, 0.95, 0.955, 0.956, 0.957):  # from the third on less than 0.01 better
        schedule.step(sign * metric)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cosine", {"min_lr": -0.1}, r"scheduler\.min_lr=-0\.1: must be at least 0"),
        ("linear", {"warmup": 1.5}, r"scheduler\.warmup=1\.5: must be between 0 and 1"),
        ("warmup_cosine", {"warmup": 1.0}, r"scheduler\.warmup=1\.0: must be below 1"),
        ("wsd", {"warmup": 0.5, "decay": 0.6}, r"more than the training"),
        ("step", {"every": 0.0}, r"scheduler\.every=0\.0, gamma=0\.1: must be above 0"),
        ("multistep", {"milestones": [0.5, 30]}, r"scheduler\.milestones\[1\]=30: must be between"),
        ("multistep", {"milestones": [0.5, 0.2]}, r"scheduler\.milestones=.*: must rise"),
        ("onecycle", {"div_factor": 0.5}, r"scheduler\.div_factor=0\.5.*at least 1"),
        ("plateau", {"patience": -1}, r"scheduler\.patience=-1: must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(optim, name)(_optimizer(1.0), 10, **arguments)
