"""torch's optimisers by one kernel: the same steps, whatever the order of the numbers in memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from cnnexp.optim import NormalizedMuon, keep_layouts

LAST = torch.channels_last
KINDS: dict[str, dict[str, Any]] = {
    "Adam": {"weight_decay": 0.1},
    "AdamW": {"amsgrad": True},
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adagrad": {},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _weights(layout: torch.memory_format) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 3, 5, 5), (6, 4, 1, 1), (1, 6, 3, 3)
    made = (torch.randn(shape, generator=generator).to(memory_format=layout) for shape in shapes)
    return [nn.Parameter(each) for each in made]


def _optimizer(kind: str, weights: list[nn.Parameter], fused: bool) -> Optimizer:
    made = getattr(torch.optim, kind)(weights, lr=0.1, fused=fused, **KINDS[kind])
    if fused:
        keep_layouts(made)
    return made


def _step(optimizer: Optimizer, weights: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)  # contiguous
    optimizer.step()


@every_kind
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=str)
def test_the_steps_are_those_of_the_loop(kind: str, layout: torch.memory_format) -> None:
    found = []
    for fused in (False, True):
        weights = _weights(layout)
        optimizer = _optimizer(kind, weights, fused)
        for seed in range(3):
            _step(optimizer, weights, seed)
        found.append(weights)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@every_kind
def test_a_state_of_another_format_is_put_in_order(kind: str) -> None:
    """A file that was written in NCHW, and a network that changes while it trains."""
    plain = _weights(torch.contiguous_format)
    first = _optimizer(kind, plain, False)
    _step(first, plain, 0)
    last = [nn.Parameter(each.detach().clone(memory_format=LAST)) for each in plain]
    second = _optimizer(kind, last, True)
    state = copy.deepcopy(first.state_dict())
    for group in state["param_groups"]:
        group["fused"] = True
    second.load_state_dict(state)
    for seed in (1, 2):
        _step(first, plain, seed)
        _step(second, last, seed)
    for ours, theirs in zip(last, plain, strict=True):
        torch.testing.assert_close(ours, theirs)
    for each in last:
        each.data = each.data.contiguous()
    _step(first, plain, 3)
    _step(second, last, 3)
    for ours, theirs in zip(last, plain, strict=True):
        torch.testing.assert_close(ours, theirs)
    other = copy.deepcopy(second.state_dict())  # a file after some steps of the same weights
    for each in other["state"].values():
        moments = {
            n: v.to(memory_format=LAST) for n, v in each.items() if v is not None and v.dim() == 4
        }
        each.update(moments)
    second.load_state_dict(other)
    _step(first, plain, 4)
    _step(second, last, 4)
    for ours, theirs in zip(last, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


@every_kind
@pytest.mark.parametrize("named", [False, True])
def test_gradients_that_a_closure_computes_are_put_in_order(kind: str, named: bool) -> None:
    """As Lightning steps."""
    found = []
    for fused in (False, True):
        weights = _weights(LAST)
        optimizer = _optimizer(kind, weights, fused)
        for seed in range(2):

            def closure(weights: list[nn.Parameter] = weights, seed: int = seed) -> float:
                generator = torch.Generator().manual_seed(seed)
                for weight in weights:
                    weight.grad = torch.randn(weight.shape, generator=generator)
                return 0.5

            done = optimizer.step(closure=closure) if named else optimizer.step(closure)
            assert done == 0.5
        found.append(weights)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_state_that_is_loaded_brings_its_own_loop_and_no_kernel_that_was_not_asked_for() -> None:
    weights = _weights(LAST)
    loop, kernel = _optimizer("Adam", weights, False), _optimizer("Adam", weights, True)
    keep_layouts(loop)
    with_loop, with_kernel = (copy.deepcopy(each.state_dict()) for each in (loop, kernel))
    kernel.load_state_dict(with_loop)
    assert not kernel.param_groups[0]["fused"]
    kernel.load_state_dict(with_kernel)
    assert kernel.param_groups[0]["fused"] is True
    loop.load_state_dict(with_kernel)
    assert not loop.param_groups[0]["fused"]


def test_nothing_is_copied_where_the_order_is_the_same() -> None:
    weights = _weights(LAST)
    optimizer = _optimizer("Adam", weights, True)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    weights[1].grad = torch.ones(6, 4, 1, 1)  # other strides, the same order
    before = [weight.grad for weight in weights]
    optimizer.step()
    state = [value for each in weights for value in optimizer.state[each].values()]
    optimizer.step()
    assert all(weight.grad is grad for weight, grad in zip(weights, before, strict=True))
    after = [value for each in weights for value in optimizer.state[each].values()]
    assert all(one is other for one, other in zip(after, state, strict=True))


@every_kind
def test_the_bits_are_those_of_one_thread(kind: str) -> None:
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            generator = torch.Generator().manual_seed(0)
            weights = [nn.Parameter(torch.randn(n, generator=generator)) for n in (70_001, 33, 9)]
            optimizer = _optimizer(kind, weights, True)
            for seed in range(2):
                _step(optimizer, weights, seed)
            found.append(weights)
    finally:
        torch.set_num_threads(threads)
    for weights in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights, found[0], strict=True))


def test_the_adam_within_muon_is_guarded() -> None:
    """Its last weight, which Adam moves, may be that of a convolution."""
    gaps = nn.Parameter(torch.ones(3, 8)[:, ::2])
    assert not NormalizedMuon([gaps], lr=0.1)._adam.defaults["fused"]
    found = []
    for layout in (torch.contiguous_format, LAST):
        weights = [nn.Parameter(torch.arange(36.0).view(2, 2, 3, 3).clone(memory_format=layout))]
        optimizer = NormalizedMuon(weights, lr=0.1)
        _step(optimizer, weights, 0)
        found.append(weights[0])
    torch.testing.assert_close(found[1], found[0])


def test_a_weight_with_gaps_is_refused() -> None:
    """Whose kernel would move the numbers between its own."""
    weight = nn.Parameter(torch.ones(3, 8)[:, ::2])
    with pytest.raises(
        ValueError, match=r"shape \(3, 4\) has strides \(8, 2\), with gaps .* fused=False"
    ):
        keep_layouts(torch.optim.SGD([weight], lr=0.1, fused=True))
    turned = nn.Parameter(torch.ones(3, 8).t())
    optimizer = torch.optim.SGD([turned], lr=0.5, fused=True)
    keep_layouts(optimizer)
    turned.grad = torch.arange(24.0).view(8, 3)
    optimizer.step()
    assert turned.tolist() == (1 - 0.5 * torch.arange(24.0).view(8, 3)).tolist()
