"""Comparison with a twin: every output and every gradient, in whatever form they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp import check

IMAGES = torch.randn(2, 3)
_FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda one, other: (one, other),
    "list": lambda one, other: [one, other],
    "dict": lambda one, other: {"logits": one, "aux": other},
    "within": lambda one, other: {"all": (one, [other])},
}


@pytest.mark.parametrize("form", _FORMS)
def test_all_outputs_are_compared(form: str) -> None:
    """The first output does not reach the second argument: autograd finds no way to it."""

    def right(x: Tensor, y: Tensor) -> Any:
        return _FORMS[form](x.sin(), y.cos())

    def wrong(x: Tensor, y: Tensor) -> Any:
        return _FORMS[form](x.sin(), y.cos() * 1.001)

    for strict in (False, True):
        assert check(right, [[IMAGES, IMAGES]], twin=right, strict=strict)
    report = check(right, [[IMAGES, IMAGES]], twin=wrong)
    assert report.verdicts["agreement with the twin"].state == "wrong"
    said = " ".join(report.failures)
    assert "∂L/∂y differs from the twin's by" in said
    assert "∂L/∂x" not in said
    place = {"dict": "['aux']", "within": "['all'][1][0]"}.get(form, "[1]")
    assert f"output{place} differs from the twin's by" in said


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / 2


def test_gradients_of_tensors_in_lists_are_compared() -> None:
    def own(parts: list[Tensor]) -> Tensor:
        return torch.cat([parts[0], _Halved.apply(parts[1])])  # pyright: ignore[reportArgumentType]

    report = check(own, [[[IMAGES, IMAGES]]], twin=torch.cat, first_derivative=False)
    (found,) = report.failures
    assert "∂L/∂parts[1] differs from the twin's by" in found
    assert check(lambda parts: torch.cat(parts), [[[IMAGES, IMAGES]]], twin=torch.cat)


def test_gradients_of_what_both_hold_are_compared() -> None:
    layer = nn.Linear(3, 2)

    def own(x: Tensor) -> Tensor:
        return F.linear(x, _Halved.apply(layer.weight), layer.bias)  # pyright: ignore[reportArgumentType]

    report = check(own, [[IMAGES]], twin=layer, first_derivative=False, second_derivative=False)
    (found,) = report.failures
    assert "∂L/∂layer.weight differs from the twin's by" in found
    assert check(lambda x: F.linear(x, layer.weight, layer.bias), [[IMAGES]], twin=layer)


def test_classes_among_the_outputs_and_arguments() -> None:
    def top(x: Tensor, shift: Tensor) -> Any:
        return x.max(1).indices + shift, x.max(1).values

    assert check(top, [[IMAGES, torch.tensor(1)]], twin=top, strict=True, batched=False)
    report = check(
        top, [[IMAGES, torch.tensor(1)]], twin=lambda x, s: (top(x, s + 1)[0], x.max(1)[0])
    )
    (found,) = report.failures
    assert "output[0] differs from the twin's by" in found


@pytest.mark.parametrize(
    ("twin", "said"),
    [
        (lambda x: (x.sin(), x), "tensors given: 1, by the twin 2"),
        (lambda x: x.sin().sum(), "the output has the shape (2, 3), the twin's ()"),
        (lambda x: x.sin().float(), "the output is torch.float64, the twin's torch.float32"),
    ],
)
def test_another_form_is_said(twin: Callable[[Tensor], Any], said: str) -> None:
    assert said in " ".join(check(torch.sin, [[IMAGES]], twin=twin).failures)


def test_a_twin_without_gradients_is_compared_by_values() -> None:
    assert check(torch.sin, [[IMAGES]], twin=lambda x: x.detach().sin())
    assert not check(torch.sin, [[IMAGES]], twin=lambda x: x.detach().cos())
