"""Layers are proved wherever a function keeps them, and what a call changes is set back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnexp.proofs import Case, check


def _sevenfold() -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.weight.register_hook(lambda grad: 7 * grad)
    return layer


_global = _sevenfold()


def _helper(x: Tensor) -> Tensor:
    return _global(x)


class _Holder:
    net = _sevenfold()  # of the class: no search of the object finds it

    def __init__(self) -> None:
        self.layers = [_sevenfold()]

    def __call__(self, x: Tensor) -> Tensor:
        return self.layers[0](x)

    def method(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


class _ListInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [_sevenfold()]  # not a ModuleList: torch does not know of them

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


def _decorated(layer: nn.Module) -> Callable[..., Any]:
    def run(x: Tensor) -> Tensor:
        return layer(x)

    @functools.wraps(run)
    def wrapper(*arguments: Any) -> Any:
        return run(*arguments)

    return wrapper


def _of(kept: Any, use: Callable[[Any, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: use(kept, x)


_holder = _Holder()
_HELD: dict[str, tuple[Callable[..., Any], str]] = {
    "list": (_of([_sevenfold()], lambda kept, x: kept[0](x)), "kept[0].weight"),
    "dict": (_of({"a": (_sevenfold(),)}, lambda kept, x: kept["a"][0](x)), "kept['a'][0].weight"),
    "module list": (
        _of(nn.ModuleList([_sevenfold()]), lambda kept, x: kept[0](x)),
        "kept.0.weight",
    ),
    "partial": (functools.partial(lambda x, net: net(x), net=_sevenfold()), "net.weight"),
    "object": (_holder, "layers[0].weight"),
    "object's method": (_holder.method, "layers[0].weight"),
    "object in a closure": (_of(_holder, lambda kept, x: kept.method(x)), "kept.layers[0].weight"),
    "decorated": (_decorated(_sevenfold()), "layer.weight"),
    "global in a helper": (lambda x: _helper(x), "_global.weight"),
    "comprehension": (lambda x: sum(f(x) for f in [_global]), "_global.weight"),
    "default": (lambda x, net=_sevenfold(): net(x), "net.weight"),  # noqa: B008
    "list of a Module": (_ListInside(), "layers[0].weight"),
    "found by the graph": (lambda x: _Holder.net(x), "held tensor"),
}


@pytest.mark.parametrize(("function", "name"), _HELD.values(), ids=list(_HELD))
def test_a_layer_is_proved_wherever_it_is_kept(function: Callable[..., Any], name: str) -> None:
    report = check(function, [[torch.randn(2, 2)]], second_derivative=False, batched=False)
    assert report.verdicts["dtype and shape"].state == "right"  # all of it in float64
    wrong = report.verdicts["first derivative"].wrong
    assert len(wrong) == 1
    assert wrong[0].startswith(f"∂L/∂{name}")
    assert "is 7 × what it should be everywhere" in wrong[0]
    assert _global.weight.dtype == torch.float32


@pytest.mark.parametrize("keyword", [False, True])
def test_a_layer_among_the_arguments_is_proved(keyword: bool) -> None:
    net, x = _sevenfold(), torch.randn(2, 2)
    arguments: list[Any] = [x, net]
    case = Case([x], {"net": net}) if keyword else Case(arguments, {})
    report = check(lambda x, net: net(x), [case], second_derivative=False, batched=False)
    assert report.verdicts["first derivative"].wrong[0].startswith("∂L/∂net.weight is 7 ×")


def test_attributes_that_forward_sets_are_set_back() -> None:
    class Remembers(nn.Linear):
        calls, last = 0, None

        def forward(self, input: Tensor) -> Tensor:
            self.calls += 1
            self.last = super().forward(input)
            return self.last.sin()

    layer = Remembers(2, 2)
    before = dict(vars(layer))
    assert check(layer, [[torch.randn(2, 2)]])
    assert vars(layer) == before


def test_a_value_of_an_earlier_call_is_found() -> None:
    class Caches(nn.Linear):
        cache: Tensor | None = None

        def forward(self, input: Tensor) -> Tensor:
            if self.cache is None:
                self.cache = 2 * self.weight
            return nn.functional.linear(input, self.cache, self.bias)

    report = check(Caches(2, 2), [[torch.randn(2, 2)]], second_derivative=False, batched=False)
    assert any("the output does not change with weight" in line for line in report.failures)


def test_a_lazy_layer_is_proved_as_a_copy() -> None:
    lazy = nn.LazyLinear(2)
    report = check(lazy, [[torch.randn(2, 3)]])
    assert report, str(report)
    assert report.notes == [
        "it has lazy layers: a copy of it, initialised by its first call, was proved"
    ]
    assert isinstance(lazy.weight, nn.UninitializedParameter)
    report = check(lambda x: lazy(x), [[torch.randn(2, 3)]])
    assert "its layer is lazy: call it once before" in report.failures[0]


@pytest.mark.parametrize(
    "normed", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm]
)
def test_buffers_that_forward_moves_come_to_rest(normed: Callable[..., nn.Module]) -> None:
    layer = normed(nn.Linear(3, 4))
    kept = {name: value.clone() for name, value in layer.state_dict().items()}
    report = check(layer, [[torch.randn(2, 3)]])
    assert report, str(report)
    assert report.verdicts["first derivative"].state == "right"
    assert "forward changes buffers" in report.verdicts["second derivative"].missing[0]
    assert all(torch.equal(value, kept[name]) for name, value in layer.state_dict().items())
