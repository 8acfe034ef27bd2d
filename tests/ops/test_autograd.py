"""The factory of autograd Functions: what follows from the names of the functions' arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from cnnexp.ops import differentiable, in_place
from cnnexp.ops.wiring import wire


@contextmanager
def _kept() -> Iterator[list[Tensor]]:
    """The tensors that are kept for the backward within it."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _product(a: Tensor, b: Tensor, c: Tensor | None, power: int) -> Tensor:
    """A·b² + c, with the exponent given."""
    product = a * b**power
    return product if c is None else product + c


def _of_a(a: Tensor) -> Tensor:
    return a * 1


def _grad_a(grad_output: Tensor, b: Tensor, power: int) -> Tensor:
    return grad_output * b**power


def _grad_b(grad_output: Tensor, a: Tensor, b: Tensor, power: int) -> Tensor:
    return grad_output * a * power * b ** (power - 1)


def _grad_c(grad_output: Tensor, scale: float = 1.0) -> Tensor:
    return grad_output * scale


def _leaves(needed: str, count: int = 3) -> list[Tensor]:
    made = [torch.randn(4, dtype=torch.float64) for _ in range(count)]
    for name, tensor in zip("abc", made, strict=False):
        tensor.requires_grad_(name in needed)
    return made


@pytest.mark.parametrize(
    ("needed", "kept"), [("a", "b"), ("b", "ab"), ("c", ""), ("ac", "b"), ("abc", "ab")]
)
def test_kept_is_what_a_needed_gradient_names(needed: str, kept: str) -> None:
    leaves = _leaves(needed)
    with _kept() as found:
        output = differentiable(_product, a=_grad_a, b=_grad_b, c=_grad_c)(*leaves, 2)
    assert {t.data_ptr() for t in found} == {
        leaf.data_ptr() for name, leaf in zip("abc", leaves, strict=True) if name in kept
    }
    inputs = [leaf for leaf in leaves if leaf.requires_grad]
    expected = _product(*leaves, power=2)
    torch.testing.assert_close(
        torch.autograd.grad(output.sum(), inputs), torch.autograd.grad(expected.sum(), inputs)
    )


def test_what_is_shared_is_worked_out_once_and_for_those_who_need_it() -> None:
    made: list[str] = []

    def square(b: Tensor) -> Tensor:
        made.append("square")
        return b * b

    def halves(b: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        made.append("halves")
        return square / 2, b / 2

    product = differentiable(
        _product,
        a=lambda grad_output, square: grad_output * square,
        b=lambda grad_output, a, b: grad_output * a * 4 * b,  # b is b/2 by then
        c=_grad_c,
        shared={"square": square, ("half", "b"): halves},
    )
    for needed, expected in (
        ("a", ["square"]),
        ("b", ["square", "halves"]),
        ("abc", ["square", "halves"]),
        ("c", []),
    ):
        leaves, made[:] = _leaves(needed), []
        output, inputs = product(*leaves, 2), [t for t in leaves if t.requires_grad]
        grads = torch.autograd.grad(output.sum(), inputs)
        assert made == expected
        true = torch.autograd.grad(_product(*leaves, power=2).sum(), inputs)
        torch.testing.assert_close(grads, true)


@pytest.mark.parametrize("kind", ["linear", "diagonal"])
@pytest.mark.parametrize("moved", ["a", "b", "c", "ab", "bc", "abc"])
def test_a_tangent_is_the_sum_over_the_arguments_that_move(moved: str, kind: Any) -> None:
    product = differentiable(_product, a=_grad_a, b=_grad_b, c=_grad_c, tangent=kind)
    tensors, tangents = _leaves("", 3), _leaves("", 3)

    def of_moved(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*some: Tensor) -> Tensor:
            given = dict(zip("abc", tensors, strict=True)) | dict(zip(moved, some, strict=True))
            return function(*given.values(), 1)

        return call

    primal = tuple(t for name, t in zip("abc", tensors, strict=True) if name in moved)
    tangent = tuple(t for name, t in zip("abc", tangents, strict=True) if name in moved)
    found = torch.func.jvp(of_moved(product), primal, tangent)
    torch.testing.assert_close(found, torch.func.jvp(of_moved(_product), primal, tangent))


def test_a_linear_op_of_one_argument_keeps_it_in_no_mode() -> None:
    def tripled(input: Tensor, factor: float) -> Tensor:
        return factor * input

    triple = differentiable(
        tripled, input=lambda grad_output, factor: factor * grad_output, tangent="linear"
    )
    leaf = torch.ones(3, requires_grad=True)
    with _kept() as kept:
        triple(leaf, 3.0)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(leaf, torch.ones(3))
            output = torch.autograd.forward_ad.unpack_dual(triple(dual, 3.0))
    assert kept == []
    assert output.tangent is not None
    assert output.tangent.tolist() == [3.0] * 3


def test_outputs_beside_the_first_have_no_gradient_and_can_be_kept() -> None:
    def largest(input: Tensor) -> tuple[Tensor, Tensor]:
        return input.max(0)

    def grad_input(grad_output: Tensor, place: Tensor, input: Tensor) -> Tensor:
        return torch.zeros_like(input).index_put((place,), grad_output)

    function = differentiable(largest, input=grad_input, outputs=("output", "place"))
    leaf = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    output, place = function(leaf)
    assert not place.requires_grad
    assert torch.autograd.grad(output, leaf)[0].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("widens", ["gradients", "all"])
def test_half_precision_is_computed_in_float32_and_comes_back(widens: Any) -> None:
    seen: list[torch.dtype] = []

    def forward(input: Tensor, weight: Tensor) -> Tensor:
        seen.append(input.dtype)
        return input * weight

    def grad_input(grad_output: Tensor, weight: Tensor) -> Tensor:
        seen.extend((grad_output.dtype, weight.dtype))
        return grad_output * weight

    def grad_weight(grad_output: Tensor, input: Tensor) -> Tensor:
        seen.append(input.dtype)
        return grad_output * input

    function = differentiable(forward, input=grad_input, weight=grad_weight, widens=widens)
    input = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(2, dtype=torch.float32 if widens == "all" else torch.bfloat16)
    output = function(input, weight.requires_grad_())
    grads = torch.autograd.grad(output.sum(), (input, weight))
    assert output.dtype == torch.bfloat16
    assert [grad.dtype for grad in grads] == [input.dtype, weight.dtype]
    assert seen[0] == (torch.float32 if widens == "all" else torch.bfloat16)
    assert set(seen[1:]) == {torch.float32}


def test_writing_is_torchs_in_every_mode() -> None:
    def doubled(input: Tensor) -> Tensor:
        return input * 2

    def write(input: Tensor) -> Tensor:
        return input.mul_(2)

    def grad_input(grad_output: Tensor) -> Tensor:
        return grad_output * 2

    double = in_place(write, differentiable(doubled, input=grad_input), input=grad_input)
    leaf = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        double(leaf)
    image = leaf * 1
    assert double(image) is image
    assert torch.autograd.grad(image.sum(), leaf)[0].tolist() == [2.0, 2.0]
    mapped = torch.func.vmap(torch.func.grad(lambda x: double(x * 1).sum()))(torch.ones(3, 2))
    assert mapped.tolist() == [[2.0, 2.0]] * 3


def test_autograds_graph_names_the_op() -> None:
    from cnnexp import ops

    assert type(ops.relu(torch.ones(1, requires_grad=True)).grad_fn).__name__ == "reluBackward"


def test_mistakes_in_a_declaration_are_told() -> None:
    with pytest.raises(TypeError, match=r"_product has no argument 'd' that .* are a, b, c, power"):
        differentiable(_product, d=_grad_a)
    with pytest.raises(TypeError, match=r"_grad_b asks for 'b', which is none of a, grad_output"):
        differentiable(_of_a, a=_grad_b)
    with pytest.raises(TypeError, match=r"does not say what its argument 'b' is; annotate it"):
        differentiable(lambda b: b, b=_grad_c)


def _scaled(input: Tensor, factor: float) -> Tensor:
    return input * factor


def _grad_scaled(grad_output: Tensor, factor: float) -> Tensor:
    return grad_output * factor


def test_a_tangent_of_one_linear_argument_does_not_need_its_value() -> None:
    scaled = differentiable(_scaled, input=_grad_scaled, tangent="linear")
    x, moved = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    with _kept() as kept:
        scaled(x.clone().requires_grad_(), 3.0)
    assert not kept
    output, tangent = torch.func.jvp(lambda x: scaled(x, 3.0), (x,), (moved,))[:2]
    assert torch.equal(output, 3 * x)
    assert torch.equal(tangent, 3 * moved)
    plan = wire(_scaled, ["output"], {}, {"input": _grad_scaled}, "linear")
    assert plan.kept == ()
    assert plan.tangent is not None
    assert plan.tangent[1] == ("factor", "input_tangent")
