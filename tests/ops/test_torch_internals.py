"""What cnnexp uses of torch's private interface does what its name says, with this torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as all_modules
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from cnnexp.ops.torch_internals import (
    as_it_is,
    constant_when_compiled,
    exporting,
    factors_of,
    forward_level,
    hand_over_hooks,
    has_hooks,
    has_hooks_of_all,
    in_backward,
    in_torch_func,
    is_batched_by_autograd,
    is_replica,
    makers_of_sum,
    norms,
    notes_on,
    repeatable_backward,
    tell_of_graphs,
    transformed,
    unseen_by_modes,
    watching,
    writes_into,
)


def test_transforms_of_torch_func_are_noticed() -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(in_torch_func())
        return x.sum()

    look(torch.ones(2))
    torch.func.grad(look)(torch.ones(2))
    torch.func.vmap(look)(torch.ones(2, 2))
    torch.func.jvp(look, (torch.ones(2),), (torch.ones(2),))
    assert seen == [False, True, True, True]


def test_any_transform_is_noticed_by_one_question() -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(transformed())
        return x.sum()

    look(torch.ones(2))
    torch.func.grad(look)(torch.ones(2))
    with forward_ad.dual_level():
        look(torch.ones(2))
    assert seen == [False, True, True]
    compiled = torch.compile(lambda x: x + transformed(), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == 1


def test_the_question_for_transforms_breaks_no_graph() -> None:
    def look(x: Tensor) -> Tensor:
        return x + 1 if in_torch_func() else x + 2

    compiled = torch.compile(look, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == 2


def test_an_export_is_told_from_a_compilation() -> None:
    class Look(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if exporting() else x + 2

    zero = torch.zeros(1)
    compiled = torch.compile(Look(), backend="eager", fullgraph=True)
    assert [Look()(zero).item(), compiled(zero).item()] == [2, 2]
    for strict in (False, True):
        assert torch.export.export(Look(), (zero,), strict=strict).module()(zero).item() == 1
    assert compiled(zero).item() == 2


def test_forward_mode_is_counted() -> None:
    levels = [forward_level()]
    with forward_ad.dual_level():
        levels.append(forward_level())

    def look(x: Tensor) -> Tensor:
        levels.append(forward_level())
        return x

    torch.func.jvp(look, (torch.ones(2),), (torch.ones(2),))
    assert levels == [-1, 0, 0]
    assert forward_level() == -1


def test_batched_gradients_are_told_from_others() -> None:
    seen: list[bool] = []

    class Looks(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None: ...

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            seen.append(is_batched_by_autograd(grad_output))
            return grad_output

    x = torch.ones(2, requires_grad=True)
    output = Looks.apply(x)
    torch.autograd.grad(output, x, torch.ones(2), retain_graph=True)
    torch.autograd.grad(output, x, torch.ones(3, 2), is_grads_batched=True)
    assert seen == [False, True]


@pytest.mark.parametrize("order", [2.0, 1.0, torch.inf])
def test_norms_are_those_of_each_tensor(order: float) -> None:
    tensors = [torch.tensor([3.0, -4.0]), torch.tensor([[1.0], [torch.inf]]), torch.zeros(2, 2)]
    found = norms(tensors, order)
    for tensor, norm in zip(tensors, found, strict=True):
        torch.testing.assert_close(norm, torch.linalg.vector_norm(tensor, order))
    torch.testing.assert_close(norms(tensors), norms(tensors, 2.0))


@pytest.mark.parametrize(
    "add",
    [
        lambda m: m.register_forward_hook(lambda *_: None),
        lambda m: m.register_forward_pre_hook(lambda *_: None),
        lambda m: m.register_full_backward_hook(lambda *_: None),
        lambda m: m.register_full_backward_pre_hook(lambda *_: None),
    ],
)
def test_hooks_of_every_kind_are_found(add: Callable[[nn.Module], Any]) -> None:
    layer = nn.Linear(1, 1)
    assert not has_hooks(layer)
    handle = add(layer)
    assert has_hooks(layer)
    handle.remove()
    assert not has_hooks(layer)


@pytest.mark.parametrize(
    "add",
    [
        lambda: all_modules.register_module_forward_hook(lambda *_: None),
        lambda: all_modules.register_module_forward_pre_hook(lambda *_: None),
        lambda: all_modules.register_module_full_backward_hook(lambda *_: None),
        lambda: all_modules.register_module_full_backward_pre_hook(lambda *_: None),
    ],
)
def test_hooks_of_all_modules_are_found(add: Callable[[], Any]) -> None:
    assert not has_hooks_of_all()
    handle = add()
    found = has_hooks_of_all()
    handle.remove()
    assert found
    assert not has_hooks_of_all()


def test_modes_and_subclasses_see_nothing() -> None:
    class Counts(TorchFunctionMode):
        calls = 0

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    a = torch.ones(2, 2)
    flops, counts = FlopCounterMode(display=False), Counts()
    with flops, counts:
        _ = a @ a
        before = flops.get_total_flops(), counts.calls
        with unseen_by_modes():
            _ = a @ a
        assert (flops.get_total_flops(), counts.calls) == before
        _ = a @ a
    assert flops.get_total_flops() == 2 * before[0] > 0
    assert counts.calls > before[1]


def test_operations_are_watched_in_backward_as_well() -> None:
    names: list[str] = []
    x = torch.ones(2, requires_grad=True)
    with watching(lambda operation: names.append(operation.overloadpacket.__name__)):
        torch.autograd.grad(x.tanh().sum(), x)
    assert "tanh" in names
    assert "tanh_backward" in names


def test_a_compiled_backward_may_run_twice() -> None:
    x = torch.ones(4, requires_grad=True)
    with repeatable_backward():
        output = torch.compile(lambda x: x.tanh().exp(), backend="aot_eager")(x)
        grads = [
            torch.autograd.grad(output, x, torch.ones(4), retain_graph=True)[0] for _ in range(2)
        ]
    assert torch.equal(grads[0], grads[1])


def test_graphs_are_told_of_once_and_after_a_reset_as_well() -> None:
    told: list[str] = []

    def begin(_about: object) -> None:
        told.append("begin")

    def end(_about: object) -> None:
        told.append("end")

    x = torch.ones(4, requires_grad=True)
    for size in (2, 3):
        tell_of_graphs(begin, end)
        tell_of_graphs(begin, end)
        compiled = torch.compile(lambda x: x.tanh().exp(), backend="aot_eager", dynamic=False)
        told.clear()
        for _ in range(2):  # the second finds it compiled
            compiled(x.detach()[:size].requires_grad_()).sum().backward()
        assert told[:2] == ["begin", "end"]
        assert told == ["begin", "end"] * (len(told) // 2)
        assert len(told) <= 4  # the backward by itself
        torch.compiler.reset()


def test_hooks_are_handed_over_with_their_handles() -> None:
    source, target, seen = torch.nn.Identity(), torch.nn.Tanh(), list[str]()
    handles = [
        source.register_forward_pre_hook(lambda *_: seen.append("before")),
        source.register_forward_hook(lambda *_, **__: seen.append("after"), with_kwargs=True),
        source.register_full_backward_hook(lambda *_: seen.append("back")),
    ]
    hand_over_hooks(source, target)
    for each in handles:
        target(torch.ones(2, requires_grad=True)).sum().backward()
        each.remove()
    assert seen == ["before", "after", "back", "after", "back", "back"]
    assert not has_hooks(target)


def test_a_backward_that_runs_is_known() -> None:
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = 2 * x
    y.register_hook(lambda _: seen.append(in_backward()))
    y.sum().backward()
    assert (seen, in_backward()) == ([True], False)


def test_writes_into_a_tensor_are_counted() -> None:
    x = torch.ones(4)
    before = writes_into(x)
    x.sum()
    assert writes_into(x) == before
    x[:2].add_(1)  # a view of it
    assert writes_into(x) > before


def test_what_is_constant_when_compiled_is_not_traced() -> None:
    asked: list[int] = []

    @constant_when_compiled
    def number() -> int:
        asked.append(1)
        return 3

    def times(x: Tensor) -> Tensor:
        return x * number()

    assert constant_when_compiled(number) is number
    compiled = torch.compile(times, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 3.0))
    assert asked


def test_the_makers_of_a_sum_are_its_operands_nodes() -> None:
    x = torch.ones(2, requires_grad=True)
    a, b = x.exp(), x.sin()
    assert a.grad_fn is not None
    assert b.grad_fn is not None
    for total in (a + b, torch.add(a, b), a.clone().add_(b)):
        names = [node.name() for node, place in makers_of_sum(total) if place == 0]
        assert names in (["ExpBackward0", "SinBackward0"], ["CloneBackward0", "SinBackward0"])
    whole = torch.stack([a, b]).unbind()
    assert [place for _, place in makers_of_sum(whole[1] + whole[0])] == [1, 0]
    for other in (a * b, a + x, a + 1, torch.add(a, b, alpha=2), a - b, a.detach() + b, x, x.data):
        assert makers_of_sum(other) == []


def test_notes_stay_on_a_node_as_long_as_it_lives() -> None:
    x = torch.ones(2, requires_grad=True)
    for made in (x.exp(), _Twice.apply(x)):
        assert made.grad_fn is not None
        notes_on(made.grad_fn)["found"] = 3
        total = made + x.sin()
        del made
        ((node, _), _) = makers_of_sum(total)
        assert notes_on(node).pop("found") == 3
        assert "found" not in notes_on(node)


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        return 2 * inputs[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return 2 * grad_outputs[0]


def test_the_factors_of_a_product_are_those_that_it_keeps() -> None:
    x = torch.ones(2, requires_grad=True)
    a, b = x.exp(), x.sin()
    found = factors_of(a * b)
    assert found is not None
    assert [each.data_ptr() for each in found] == [a.data_ptr(), b.data_ptr()]
    assert [each.grad_fn for each in found] == [a.grad_fn, b.grad_fn]
    for other in (a + b, a * 2, a * torch.ones(2), x, x.data):
        assert factors_of(other) is None
    product = a * b
    b.add_(1)
    assert factors_of(product) is None


def test_what_hooks_pack_is_left_to_the_backward() -> None:
    def unpack(_tensor: Tensor) -> Tensor:
        raise AssertionError

    x = torch.ones(2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(as_it_is, unpack):
        assert factors_of(x.exp() * x.sin()) is None
    with torch.autograd.graph.saved_tensors_hooks(as_it_is, as_it_is):
        assert factors_of(x.exp() * x.sin()) is not None
    assert as_it_is(x) is x


def test_a_replica_of_data_parallel_is_known() -> None:
    module = nn.Conv2d(1, 1, 1)
    assert not is_replica(module)
    assert is_replica(module._replicate_for_data_parallel())
