"""No right function is condemned, whatever its style; what it does not offer is said."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnnexp.proofs import ASPECTS, check
from tests.proofs import styles
from tests.proofs.styles import RIGHT, Style

# torch's own, of loops that it does not know how to batch
pytestmark = pytest.mark.filterwarnings("ignore:.*performance drop.*")


@pytest.mark.parametrize("style", RIGHT.values(), ids=list(RIGHT))
def test_a_right_function_is_not_condemned(style: Style) -> None:
    report = check(style.function(), [style.call])
    assert report, str(report)
    missing = {a for a, verdict in report.verdicts.items() if verdict.state == "not offered"}
    assert missing == set(style.missing), str(report)
    assert report.name == (style.name or report.name)
    assert report.name != "apply"
    for aspect in missing:  # said with the option that leaves it out, which then does
        assert f"({ASPECTS[aspect]}=False leaves this out)" in str(report)
        left_out: dict[str, Any] = {ASPECTS[aspect]: False}
        again = check(style.function(), [style.call], **left_out)
        assert again.verdicts[aspect].state == "left out"
        break


def test_thirty_styles() -> None:
    assert len(RIGHT) >= 30


def _sevenfold(function: type) -> type:
    """The same Function with a gradient that is seven times too large."""

    def backward(ctx: Any, *grads: Any) -> Any:
        found = function.backward(ctx, *grads)
        found = found if isinstance(found, tuple) else (found,)
        return tuple(7 * g if isinstance(g, Tensor) else g for g in found)

    return type(function.__name__, (function,), {"backward": staticmethod(backward)})


_FUNCTIONS = [
    (name, style)
    for name, style in RIGHT.items()
    if style.name and isinstance(getattr(styles, style.name, None), type)
    if issubclass(getattr(styles, style.name), torch.autograd.Function)
]


@pytest.mark.parametrize("style", [s for _, s in _FUNCTIONS], ids=[n for n, _ in _FUNCTIONS])
def test_the_same_function_with_a_wrong_gradient_is_found(style: Style) -> None:
    assert style.name is not None
    arguments = style.call if style.name != "NewStyle" else [*style.call, 2]
    report = check(_sevenfold(getattr(styles, style.name)), [arguments])
    assert not report
    assert "is 7 × what it should be everywhere" in report.verdicts["first derivative"].wrong[0]


def _numpy_state() -> str:
    return repr(np.random.get_state())


def test_nothing_is_left_behind() -> None:
    network = styles._sequential()
    hooks: list[Tensor] = []
    weight = next(network.parameters())
    weight.register_hook(hooks.append)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    objects = {name: (value, value.data_ptr()) for name, value in network.named_parameters()}
    states = (torch.get_rng_state(), random.getstate(), _numpy_state())
    x = torch.randn(2, 1, 5, 5)
    x_before = x.clone()
    torch.set_rng_state(states[0])
    assert check(network, [[x]])
    assert hooks  # the parameter's own, not a copy's
    assert torch.equal(x, x_before)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype
    for name, value in network.named_parameters():
        assert objects[name] == (value, value.data_ptr())
        assert value.grad is None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert _numpy_state() == states[2]


def test_float32_zeros_inside_are_said_as_what_they_are() -> None:
    def convolution(x: Tensor, w: Tensor) -> Tensor:
        rows = x.shape[2] - 2
        y = torch.zeros(len(x), len(w), rows, rows)
        for i in range(rows):
            for j in range(rows):
                window = x[:, :, i : i + 3, j : j + 3]
                y[:, :, i, j] = torch.einsum("nckl,ockl->no", window, w)
        return y

    call = [torch.randn(2, 2, 4, 4), torch.randn(3, 2, 3, 3)]
    report = check(convolution, [call])
    assert report.failures == ["dtype and shape: the output is float32 for a float64 input"]
    assert report.verdicts["first derivative"].state == "right"
    assert check(convolution, [call], dtype_and_shape=False)


def test_float32_zeros_in_the_backward_are_said() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            grad = torch.zeros(grad_output.shape)
            grad += 2 * grad_output
            return grad

    report = check(Doubled, [[torch.randn(5)]])
    (failure,) = report.failures
    assert failure.startswith("dtype and shape: ∂L/∂x has only float32's digits")


def test_a_wrong_second_derivative_is_wrong_and_named() -> None:
    class Inner(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
            ctx.save_for_backward(x, g)
            return 3 * x**2 * g

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
            x, g = ctx.saved_tensors
            return 5 * x * g * grad, 3 * x**2 * grad  # 6, not 5

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return Inner.apply(ctx.saved_tensors[0], grad_output)

    report = check(Cube, [[torch.randn(4)]])
    assert report.verdicts["first derivative"].state == "right"
    assert (
        report.verdicts["second derivative"]
        .wrong[0]
        .startswith("the derivative of the gradients by x is wrong: ")
    )
    assert not report


@pytest.mark.parametrize(
    ("function", "aspect", "message"),
    [
        (lambda x: x.data.add_(1) * 1 + x, "inputs written to", "x is written to"),
        (lambda x: x.detach(), "first derivative", "no output requires a gradient"),
        (lambda x: x * np.random.default_rng().random(), "determinism", "gives another answer"),
        (lambda x, w: x * w.detach(), "first derivative", None),
    ],
)
def test_the_other_aspects(function: Any, aspect: str, message: str | None) -> None:
    count = function.__code__.co_argcount
    report = check(function, [[torch.randn(3) for _ in range(count)]])
    if message is None:
        assert "no gradient arrives at w" in report.verdicts[aspect].missing[0]
        return
    assert any(message in line for line in report.verdicts[aspect].wrong), str(report)


def test_a_gradient_that_comes_in_and_is_written_to_is_found() -> None:
    class Careless(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return grad_output.mul_(2)

    report = check(Careless, [[torch.randn(3)]], second_derivative=False)
    wrong = report.verdicts["inputs written to"].wrong
    assert wrong == ["grad_output, the gradient that comes in, is written to"]


def test_a_wrong_vmap_rule_is_found() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return 2 * grad_output

        @staticmethod
        def vmap(info: Any, in_dims: Any, *args: Tensor) -> tuple[Tensor, int]:
            return 3 * args[0], 0

    report = check(Doubled, [[torch.randn(3)]])
    assert report.verdicts["batched (vmap)"].wrong == [
        "torch.func.vmap gives other results than one by one"
    ]
