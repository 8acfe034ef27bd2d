"""One wrong parameter gradient in any layer of cnnexp.nn is found, named and explained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import cnnexp.nn
from cnnexp.proofs import check
from cnnexp.proofs.calls import Call, Run
from cnnexp.proofs.cases import Case


class _Sent(torch.autograd.Function):
    """The identity, whose gradient goes through ``mistake``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mistake: Callable[[Tensor], Tensor]) -> Tensor:
        return weight.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mistake = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.mistake(grad_output), None


class _Mistaken(nn.Module):
    def __init__(self, mistake: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mistake = mistake

    def forward(self, weight: Tensor) -> Tensor:
        return _Sent.apply(weight, self.mistake)  # pyright: ignore[reportReturnType]


def _layer(kind: type, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    blocks = {
        cnnexp.nn.ConvReLUPool: (nn.ReLU(), nn.MaxPool2d(2)),
        cnnexp.nn.ConvTanhPool: (nn.Tanh(), nn.AvgPool2d(2)),
    }
    if kind in blocks:
        block = nn.Sequential(nn.Conv2d(2, 2, 3), *blocks[kind])
        cnnexp.nn.replace_layers(block)
        cnnexp.nn.fuse_blocks(block)
        assert isinstance(block[0], kind)
        return block
    arguments = {
        cnnexp.nn.Conv2d: (2, 2, 3),
        cnnexp.nn.Linear: (3, 3),
        cnnexp.nn.BatchNorm2d: (2,),
        cnnexp.nn.BatchNormAct2d: (2,),
        cnnexp.nn.MaxPool2d: (2,),
        cnnexp.nn.AvgPool2d: (2,),
        cnnexp.nn.AdaptiveAvgPool2d: (2,),
    }
    return kind(*arguments.get(kind, ()), **more)


def _input(kind: type) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 3) if kind is cnnexp.nn.Linear else torch.randn(2, 2, 5, 5)


_LAYERS = [
    kind
    for name in cnnexp.nn.__all__
    if isinstance(kind := getattr(cnnexp.nn, name), type) and issubclass(kind, nn.Module)
    if kind is not cnnexp.nn.Layer and not name.startswith("Lazy")  # they have no parameters yet
]
_TRAINED = [(kind, name) for kind in _LAYERS for name, _ in _layer(kind).named_parameters()]
# what the gradient becomes, and what is said about it
_MISTAKES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "zero": (lambda g: 0 * g, "is 0 everywhere, and should not be"),
    "minus": (lambda g: -g, "the sign is turned"),
    "seven": (lambda g: 7 * g, "is 7 × what it should be everywhere"),
    "half": (lambda g: g / 2, "is ½ of what it should be everywhere"),
    "transposed": (lambda g: g.transpose(0, 1), "is transposed"),
    "mirrored": (lambda g: g.flip(-1), "is mirrored along axis"),
    "decay": (lambda g: g + 0.01, "has 0.01 added everywhere"),
}


@pytest.mark.parametrize("mistake", _MISTAKES)
@pytest.mark.parametrize(
    ("kind", "name"), _TRAINED, ids=[f"{kind.__name__}-{name}" for kind, name in _TRAINED]
)
def test_a_wrong_parameter_is_found_named_and_explained(
    kind: type, name: str, mistake: str
) -> None:
    wrong, said = _MISTAKES[mistake]
    layer = _layer(kind)
    part = layer.get_submodule(name.rpartition(".")[0])
    last = name.rpartition(".")[2]
    if mistake == "transposed" and getattr(part, last).dim() < 2:
        pytest.skip("one axis")
    parametrize.register_parametrization(part, last, _Mistaken(wrong))
    report = check(layer, [[_input(kind)]], second_derivative=False, batched=False)
    assert not report
    found = [
        line for line in report.failures if f"∂L/∂{name.rpartition('.')[0]}" in line or last in line
    ]
    assert found == report.failures  # the others are right
    assert any(said in line for line in found), str(report)
    assert report.name == type(layer).__name__


@pytest.mark.parametrize("kind", _LAYERS)
def test_the_right_layer_is_right(kind: type) -> None:
    report = check(_layer(kind), [_call(kind)])
    assert report, str(report)
    assert report.verdicts["first derivative"].state == "right"


def _call(kind: type) -> list[Tensor]:
    torch.manual_seed(1)
    if kind in (cnnexp.nn.CrossEntropyLoss, cnnexp.nn.FocalLoss):
        return [torch.randn(4, 3), torch.tensor([0, 2, 1, 1])]
    if kind in (cnnexp.nn.BCEWithLogitsLoss, cnnexp.nn.HuberLoss, cnnexp.nn.MSELoss):
        return [torch.randn(4, 3), torch.rand(4, 3)]
    return [_input(kind)]


def test_a_hook_on_a_parameter_belongs_to_what_is_proved() -> None:
    layer = cnnexp.nn.Linear(3, 2)
    assert layer.weight.register_hook(lambda grad: 7 * grad)
    report = check(layer, [[torch.randn(4, 3)]])
    assert "∂L/∂weight is 7 × what it should be everywhere" in report.failures[0]


class _MissingSum(torch.autograd.Function):
    generate_vmap_rule = True
    kept = slice(0, 1)

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return x @ w.t() + b

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w, _ = ctx.saved_tensors
        kept = _MissingSum.kept
        return grad_output @ w, grad_output[kept].t() @ x[kept], grad_output[kept].sum(0)


def test_a_missing_sum_over_the_batch() -> None:
    report = check(_MissingSum, [[torch.randn(4, 3), torch.randn(2, 3), torch.randn(2)]])
    assert [line.partition(";")[0] for line in report.failures[:2]] == [
        "first derivative: missing: the sum over the batch"
    ] * 2
    assert "∂L/∂w holds the part of index 0 only" in report.failures[0]
    assert "∂L/∂b holds the part of index 0 only" in report.failures[1]


def test_one_wrong_element_of_a_large_tensor_is_found() -> None:
    def spoilt(grad: Tensor) -> Tensor:
        grad = grad.clone()
        grad[7, 31] *= 1.5
        return grad

    layer = cnnexp.nn.Linear(64, 40)
    parametrize.register_parametrization(layer, "weight", _Mistaken(spoilt))
    report = check(layer, [[torch.randn(2, 64)]], second_derivative=False, elements=50)
    assert not report
    assert "original[7, 31]" in report.failures[0]


def test_what_has_no_leaf_is_no_proof() -> None:
    report = check(lambda x: x, [[torch.tensor([1, 2])]])
    assert "there is nothing to differentiate by" in report.failures[0]


def test_runs_may_follow_each_other() -> None:
    """A graph of one run is good after another at other values, as long as these come back."""
    from cnnexp.proofs.subject import Subject

    layer = copy.deepcopy(cnnexp.nn.Linear(3, 2))
    with Call(Subject(layer), Case([torch.randn(4, 3)], {}), torch.float64) as call:
        run: Run = call.run()
        expected = torch.autograd.grad(run.outputs[0][1].sum(), run.leaves, retain_graph=True)
        call.run([value + 1 for value in call.values()])
        call.run()
        found = torch.autograd.grad(run.outputs[0][1].sum(), run.leaves)
        assert all(map(torch.equal, found, expected))
