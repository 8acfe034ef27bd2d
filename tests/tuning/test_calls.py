from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnexp.nn
import cnnexp.tuning
from cnnexp.tuning import auto, calls, paired
from cnnexp.tuning import network as network_choice


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known, nothing is kept, and time passes only where a test lets it."""
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    monkeypatch.setattr(paired, "LOOKS", (5,))
    monkeypatch.setattr(network_choice, "BUSY", 0.0)  # whatever else the machine does
    monkeypatch.setattr(calls, "clock", lambda: 0.0)
    auto.forget()
    yield
    auto.forget()


class Takes(nn.Module):
    """Lets so much time pass by the clock ``now``."""

    computes = ("forward",)

    def __init__(self, now: list[float], seconds: float, op: str = "") -> None:
        super().__init__()
        self.now, self.seconds, self.op = now, seconds, op

    def forward(self, x: Tensor) -> Tensor:
        self.now[0] += self.seconds
        return x


@pytest.mark.parametrize(("seconds", "measured"), [(0.01, []), (0.03, ["conv2d"])])
def test_an_op_that_takes_next_to_nothing_of_the_pass_is_not_measured(
    seconds: float, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looked = [0.0], []

    def times(op: str, *_: Any) -> dict[str, float]:
        looked.append(op)
        return {"native": 1.0, "direct": 2.0}

    monkeypatch.setattr(calls, "measure", times)
    monkeypatch.setattr(calls, "clock", lambda: now[0])
    network = nn.Sequential(nn.Conv2d(1, 1, 2), Takes(now, 1.0))
    cnnexp.nn.replace_layers(network, "auto", quiet=True)
    computes = network[0].forward

    def forward(x: Tensor) -> Tensor:
        now[0] += seconds
        return computes(x)

    monkeypatch.setattr(network[0], "forward", forward)
    choice = cnnexp.tuning.choose_algorithms(network, torch.randn(2, 1, 9, 9))
    assert looked == measured
    assert choice == {"0": "native"}


def test_layers_that_take_little_each_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    layers: dict[str, Any] = {f"gelu{i}": Takes(now, 0.001, "gelu") for i in range(500)}
    layers["linear"] = Takes(now, 0.001, "linear")

    def forward() -> None:
        for layer in layers.values():
            layer.forward(torch.ones(1))
        now[0] += 0.499  # of other people's code

    monkeypatch.setattr(calls, "clock", lambda: now[0])
    _, shares = calls.calls_of(layers, forward)
    assert shares == pytest.approx({"gelu": 0.5, "linear": 0.001})
    assert calls.slight_ops(shares, shares) == {"linear"}


def test_ops_are_slight_all_together_and_in_each_pass() -> None:
    assert calls.slight_ops({"linear": 0.001}, {"linear": 0.5}) == set()
    ten = {f"op{i}": 0.006 + i / 1e4 for i in range(10)}
    assert calls.slight_ops(ten) == {"op0", "op1", "op2"}
    assert calls.slight_ops() == set()


def test_after_half_of_the_time_only_what_has_promised_something_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []

    def times(op: str, *_: Any) -> dict[str, float]:
        looked.append(op)
        return {"native": 1.0, "direct": 0.5 if op == "conv2d" else 2.0}

    layers = (nn.Conv2d(1, 1, 2), nn.GELU(), nn.Conv2d(1, 1, 1), nn.GELU(), nn.Conv2d(1, 1, 1))
    network = cnnexp.nn.replace_layers(nn.Sequential(*layers), "auto")
    waiting = network_choice.waiting_layers(network)
    forward = partial(network, torch.randn(2, 1, 8, 8))
    heard, _ = calls.calls_of(waiting, forward)
    monkeypatch.setattr(calls, "measure", times)
    # at the beginning, then as each call is looked at, whose layer begins a moment before
    clock = iter([0.0, 0.0, 1.0, 1.0, 11.0, 11.0, 12.0, 12.0, 13.0])
    monkeypatch.setattr(calls, "clock", lambda: next(clock, 13.0))
    found = calls.times_of(waiting, heard, forward, 20.0)
    assert looked == ["conv2d", "conv2d"]
    assert found.keys() == {"0", "2", "4"}


def test_what_is_far_behind_in_three_calls_is_measured_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed_over: list[list[str]] = []

    def times(op: str, *others: Any) -> dict[str, float]:
        assert op == "conv2d"
        passed_over.append(others[-1])
        return {"native": 1.0, "direct": 2.0, "fft": 3.5 if len(passed_over) != 2 else 2.5}

    monkeypatch.setattr(calls, "measure", times)
    # the second call says nothing against it, and of larger kernels nobody has asked yet
    layers = [nn.Conv2d(1, 1, size) for size in (2, 2, 2, 2, 2, 4, 2)]
    network = cnnexp.nn.replace_layers(nn.Sequential(*layers), "auto")
    cnnexp.tuning.choose_algorithms(network, torch.randn(2, 1, 20, 20))
    assert passed_over == [[], [], [], [], ["fft"], [], ["fft"]]
