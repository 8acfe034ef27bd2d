"""Right at the border of a domain, at ties and on any scale; wrong ones in words that are true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cnnexp.proofs import check


def _within(x: Tensor) -> Tensor:
    if not bool((x >= 0).all() and (x <= 1).all()):
        raise ValueError("only from 0 to 1")
    return (2 * x).sin()


_RIGHT: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "a domain that is checked": (_within, [torch.tensor([0.0, 1.0, 0.25])]),
    "a power at 0": (lambda x: x**2.5, [torch.tensor([0.0, 1.0])]),
    "a root at 0": (torch.sqrt, [torch.tensor([0.0, 1e-8, 4.0])]),
    "close to a pole": (lambda x: torch.log1p(-x), [torch.tensor([0.999999, 0.5])]),
    "equals of topk": (lambda x: x.topk(2), [torch.ones(2, 3)]),
    "large arguments": (torch.sin, [1e6 * torch.tensor([0.3, -1.2, 0.7])]),
    "small arguments": (lambda x: (1e8 * x).sin(), [1e-8 * torch.tensor([0.3, -1.2, 0.7])]),
    "masks beside": (lambda x: (x.sin(), x > 0, x.argmax()), [torch.randn(3)]),
    "a dict given": (
        lambda given: given["a"] * given["b"].sin(),
        [{"a": torch.randn(3), "b": torch.randn(3)}],
    ),
    "a reentrant checkpoint": (
        lambda x: checkpoint(torch.sin, x, use_reentrant=True),
        [torch.randn(3)],
    ),
    "compiled": (torch.compile(lambda x: x.sin() * x, backend="eager"), [torch.randn(3)]),
    "sparse gradients": (nn.Embedding(4, 2, sparse=True), [torch.tensor([0, 2, 0])]),
}


@pytest.mark.parametrize(("function", "call"), _RIGHT.values(), ids=list(_RIGHT))
def test_right(function: Callable[..., Any], call: list[Any]) -> None:
    report = check(function, [call])
    assert report, str(report)


def test_a_wrong_gradient_at_the_border_of_a_domain_is_found() -> None:
    backward = lambda g, x: 2.02 * g * (2 * x).cos()  # noqa: E731
    report = check(_function(_within, backward), [[torch.tensor([0.0, 1.0, 0.25])]])
    assert "is 1.01 × what it should be everywhere" in report.failures[0]


def _function(forward: Callable[..., Any], backward: Callable[..., Any]) -> type:
    class Made(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            ctx.save_for_backward(x)
            return forward(x)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return backward(*grads, *ctx.saved_tensors)

    return Made


def _one_more(grad: Tensor) -> Tensor:
    grad = grad.clone()
    grad[-1, -1] += 1
    return grad


_x = torch.tensor([[0.3, -0.7, 1.4, -0.2], [-1.1, 0.9, 0.4, 0.6], [1.2, -0.5, -0.8, 0.1]])
_image = _x.repeat(2, 2)[None, None, :4]
_WRONG: dict[str, tuple[Callable[..., Any], Callable[..., Any], Tensor, str]] = {
    "1/N": (
        lambda x: x.sin().mean(),
        lambda g, x: g * x.cos(),
        _x,
        "12 × what it should be everywhere (x has 12: a sum for a mean, 1/N left out?)",
    ),
    "no grad_output": (lambda x: x.sin().sum(), lambda g, x: x.cos(), _x, "leaves grad_output out"),
    "inverted mask": (F.relu, lambda g, x: g * (x <= 0), _x, "is a mask inverted?"),
    "no mask": (F.relu, lambda g, x: g, _x, "is wrong only where x is negative"),
    "strict mask": (
        F.relu,
        lambda g, x: g * (x > 0.35),
        _x,
        "is 0 in 2 of 12 elements, and should not be there",
    ),
    "every winner": (
        lambda x: F.max_pool2d(x, 2),
        lambda g, x: F.interpolate(g, scale_factor=2),
        _image,
        "should be 0 in",
    ),
    "softmax's diagonal": (
        lambda x: x.softmax(-1),
        lambda g, x: g * x.softmax(-1) * (1 - x.softmax(-1)),
        _x,
        "holds the diagonal of the Jacobian only",
    ),
    "second output": (
        lambda x: (x.sin(), x.cos()),
        lambda a, b, x: a * x.cos(),
        _x,
        "leaves out what output 1 sends back",
    ),
    "second output's sign": (
        lambda x: (x.sin(), x.cos()),
        lambda a, b, x: a * x.cos() + b * x.sin(),
        _x,
        "has the sign turned in what output 1 sends back",
    ),
    "clipped": (
        lambda x: 3 * x.sin(),
        lambda g, x: (3 * g * x.cos()).clamp(-2, 2),
        _x,
        "is clipped to ±2",
    ),
    "one element": (
        torch.sin,
        lambda g, x: _one_more(g * x.cos()),
        _x,
        "is wrong in 1 of 12 elements",
    ),
    "two exchanged": (
        lambda x: x.sin(),
        lambda g, x: (g * x.cos()).flip(0),
        _x[:2],
        "is mirrored along axis 0, where its two indices are exchanged",
    ),
}


@pytest.mark.parametrize(("forward", "backward", "x", "said"), _WRONG.values(), ids=list(_WRONG))
def test_what_is_said_is_true(
    forward: Callable[..., Any], backward: Callable[..., Any], x: Tensor, said: str
) -> None:
    report = check(_function(forward, backward), [[x]], second_derivative=False, batched=False)
    wrong = report.verdicts["first derivative"].wrong
    assert len(wrong) == 1
    assert said in wrong[0]


def test_a_value_of_the_call_before_is_said_as_that() -> None:
    kept: list[Tensor] = []

    class Stale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            kept.append(w.detach().clone())
            ctx.save_for_backward(x)
            ctx.w = kept[max(0, len(kept) - 2)]
            return x * w

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            (x,) = ctx.saved_tensors
            return grad_output * ctx.w, grad_output * x

    report = check(Stale, [[torch.randn(3), torch.randn(3)]])
    assert not report
    assert any("changes from call to call" in line for line in report.failures)


def test_a_gradient_that_is_wrong_where_the_other_is_frozen() -> None:
    class Frozen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(x, w)
            return x * w

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            x, w = ctx.saved_tensors
            return grad_output * w * (1 if ctx.needs_input_grad[1] else 2), grad_output * x

    report = check(Frozen, [[torch.randn(3), torch.randn(3)]])
    assert report.verdicts["first derivative"].wrong == [
        "∂L/∂x changes where only it requires a gradient, as with all others frozen"
    ]
