"""A step of a network as it is: what is run, by which algorithms, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnexp.nn
from cnnexp.as_found import left_as_found
from cnnexp.nn.layer import Layer
from cnnexp.tuning import step as step_module
from cnnexp.tuning.step import Step, like_a_loss


class Seen(nn.Module):
    """Notes at each pass the algorithm of its layer, the mode, and whether there is a gradient yet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.passes = nn.Conv2d(1, 2, 3), 0
        self.note: Any = NOTES.append  # a list of its own would be restored

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.note((self.conv.algorithm, self.passes, self.conv.weight.grad is None))
        return self.conv(x)


NOTES: list[tuple[Any, int, bool]] = []


def _seconds(ways: list[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch, tick: float) -> Any:
    NOTES.clear()
    network = cnnexp.nn.replace_layers(Seen(), "auto", quiet=True)
    network.conv.weight.grad = before = torch.ones(2, 1, 3, 3)
    backwards: list[Tensor] = []
    network.conv.weight.register_post_accumulate_grad_hook(lambda p: backwards.append(p.grad))  # pyright: ignore[reportArgumentType]
    layer, images = network.conv, torch.randn(2, 1, 5, 5)
    assert isinstance(layer, Layer)
    now = iter(range(1000))
    monkeypatch.setattr(step_module, "clock", lambda: tick * next(now))
    with left_as_found(network) as restore:
        forward = lambda: network(images)  # noqa: E731
        step = Step(network, {"conv": layer}, forward, restore, torch.device("cpu"))
        seconds = [step.seconds(way) for way in ways]
    assert network.conv.weight.grad is before
    assert layer.algorithm == "auto"
    assert network.passes == 0
    assert all(torch.isfinite(grad).all() and grad.any() for grad in backwards)
    assert len(backwards) == len(NOTES)
    return seconds


def test_each_step_is_the_first_by_the_algorithms_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = _seconds([{"conv": "direct"}, {"conv": "native"}], monkeypatch, 0.03)
    assert seconds == pytest.approx([0.03, 0.03])
    twice = [("direct", 1, True)] * 2 + [("native", 1, True)] * 2  # the first does not count
    assert twice == NOTES


def test_of_a_short_step_the_shortest_of_three_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _seconds([{"conv": "direct"}], monkeypatch, 0.01) == pytest.approx([0.01])
    assert NOTES == [("direct", 1, True)] * 4  # the first does not count


def test_a_long_step_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _seconds([{"conv": "direct"}, {"conv": "native"}, {"conv": "im2col"}], monkeypatch, 0.5)
    assert [algorithm for algorithm, _, _ in NOTES] == ["direct", "direct", "native", "im2col"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_whatever_a_network_returns_has_a_loss_with_a_dense_gradient(dtype: torch.dtype) -> None:
    first = torch.full((3, 2), 2.0, dtype=dtype, requires_grad=True)
    second = torch.ones(4, requires_grad=True)
    empty = torch.ones(0, requires_grad=True)
    loss = like_a_loss({"a": [first, torch.ones(1)], "b": (second, 3, None), "c": empty})
    assert loss is not None
    assert float(loss.detach()) == 5.0
    loss.backward()
    assert first.grad is not None
    assert first.grad.is_contiguous()
    torch.testing.assert_close(first.grad, torch.full_like(first.grad, 2 * 2 / 6))


def test_what_has_no_gradient_has_no_loss() -> None:
    assert like_a_loss([torch.ones(2), "text", 3]) is None
