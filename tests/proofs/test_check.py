"""The public check: it accepts what is right, finds what is wrong, and says what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cnnexp.gradcheck import check
from cnnexp.proofs import CASES, SMOOTH_CASES, Case
from cnnexp.proofs.battery import negative_control


class Square(torch.autograd.Function):
    generate_vmap_rule = True
    factor = 2.0

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return input * input

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (input,) = ctx.saved_tensors
        return Square.factor * input * grad_output


CALLS = [[torch.randn(3)], [torch.randn(2, 2, dtype=torch.float64)]]


def test_a_right_function_passes() -> None:
    report = check(Square.apply, CALLS, twin=torch.square, name="square")
    assert report
    assert report.cases == 2
    assert report.differences is not None
    assert report.differences < 1e-8
    assert str(report).startswith("square: ok, 2 cases, largest error against differences ")


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Square, "factor", 2.002)
    report = check(Square.apply, CALLS, name="square")
    assert not report
    assert "∂L/∂input is 1.001 × what it should be everywhere" in report.failures[0]
    assert "WRONG" in str(report)


def test_a_wrong_value_is_found_by_the_twin() -> None:
    report = check(Square.apply, CALLS, twin=lambda x: x.square() + 1)
    assert "((3,)): the output differs from the twin's by " in report.failures[0]


def test_an_input_that_is_written_to_is_found() -> None:
    def careless(x: Tensor) -> Tensor:
        output = x * x
        with torch.no_grad():
            x.data.add_(1)
        return output

    assert not check(careless, CALLS)


def test_a_gradient_that_cannot_be_differentiated_again_is_found() -> None:
    class Once(Square):
        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            (input,) = ctx.saved_tensors
            return (2 * input * grad_output).detach()

    report = check(Once.apply, CALLS, batched=False)
    assert report  # what is not offered is not wrong
    assert report.verdicts["second derivative"].state == "not offered"
    assert "the backward is cut from input" in str(report)
    assert not check(Once.apply, CALLS, batched=False, strict=True)
    assert check(Once.apply, CALLS, second_derivative=False, batched=False, strict=True)


def test_what_the_function_raises_is_a_finding_and_no_cases_prove_nothing() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ZeroDivisionError("here")

    assert "ZeroDivisionError: here" in check(broken, CALLS).failures[0]
    assert check(Square.apply, []).failures == ["there are no cases"]


def test_cases_take_arguments() -> None:
    report = check(torch.pow, [Case([torch.rand(3) + 1], {"exponent": 3})])
    assert report, str(report)


@pytest.mark.parametrize("op", CASES)
def test_gradients_that_are_wrong_by_one_per_mille_are_caught(op: str) -> None:
    assert not negative_control(op).report


@pytest.mark.parametrize("op", CASES)
def test_the_same_seed_draws_the_same_cases(op: str) -> None:
    import random

    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append([SMOOTH_CASES[op](random.Random(5)).tensors for _ in range(3)])
    for one, other in zip(*drawn, strict=True):
        assert all(map(torch.equal, one, other))
