"""torch's optimisers with less Python around their kernel: the same bits, whatever happens between steps."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import cnnexp.optim as ours
from cnnexp.ops.torch_internals import watching

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam": ("Adam", {}),
    "Adam, all options": (
        "Adam",
        {"betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
    ),
    "AdamW": ("AdamW", {}),
    "AdamW, amsgrad": ("AdamW", {"amsgrad": True, "weight_decay": 0.3}),
    "Adagrad": (
        "Adagrad",
        {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    "SGD": ("SGD", {}),
    "SGD, momentum": ("SGD", {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}),
    "SGD, Nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
LAST = torch.channels_last


def _weights(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 3, 5, 5), (6, 4, 1, 1), (1, 6, 3, 3), (7,), ()
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return [nn.Parameter(each.to(memory_format=LAST) if each.dim() == 4 else each) for each in made]


def _made(module: Any, kind: str, weights: list[nn.Parameter], **more: Any) -> Optimizer:
    """Two groups, as the weights with and without decay are."""
    name, options = KINDS[kind]
    groups = [{"params": weights[:3]}, {"params": weights[3:], "weight_decay": 0.0, "lr": 0.02}]
    return getattr(module, name)(groups, lr=0.1, fused=True, **{**options, **more})


def _draw(weights: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        grad = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        weight.grad = torch.empty_like(weight).copy_(grad)


def _operators(call: Callable[[], object]) -> list[str]:
    """The names of the operators that ``call`` runs."""
    seen: list[str] = []
    with watching(lambda operation: seen.append(str(operation))):
        call()
    return seen


def _is_quick(optimizer: Optimizer) -> bool:
    """Take a step, and say whether it was taken without looking everything up: torch's counts one by one."""
    if isinstance(optimizer, torch.optim.SGD):  # which does not count
        left = getattr(optimizer, "_left")  # noqa: B009
        optimizer.step()
        return left is not None and getattr(optimizer, "_left") is left  # noqa: B009
    seen = _operators(optimizer.step)
    assert any("_fused_" in name for name in seen)
    return not any("_foreach_add_" in name for name in seen)


Disturbance = Callable[[Optimizer, list[nn.Parameter]], object]


def _new_rates(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group["lr"] *= 0.3


def _none_for_one(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    weights[1].grad = None


def _other_order(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    grad = weights[0].grad
    assert grad is not None
    weights[0].grad = grad.contiguous()


def _other_format(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    weights[0].data = weights[0].data.contiguous()
    assert weights[0].grad is not None
    weights[0].grad = weights[0].grad.contiguous()


def _loaded(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def _state_replaced(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    for weight, state in [*optimizer.state.items()]:  # as Lightning does when it moves a state
        optimizer.state[weight] = {
            n: v.clone() if isinstance(v, Tensor) else v for n, v in state.items()
        }


def _state_written(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    for name, value in optimizer.state[weights[0]].items():
        if isinstance(value, Tensor):
            optimizer.state[weights[0]][name] = value * 2


def _one_more(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    weights.append(nn.Parameter(torch.ones(3)))
    weights[-1].grad = torch.full((3,), 0.5)
    optimizer.add_param_group({"params": [weights[-1]], "lr": 0.01})


def _tensor_rate(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]))


def _by_loops(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group["fused"] = False


DISTURBANCES: dict[str, Disturbance | None] = {
    "nothing": None,
    "new rates": _new_rates,
    "no gradient for one": _none_for_one,
    "a gradient in another order": _other_order,
    "a weight in another format": _other_format,
    "a state is loaded": _loaded,
    "the state is replaced": _state_replaced,
    "a state is written to": _state_written,
    "a group is added": _one_more,
    "a rate that is a tensor": _tensor_rate,
    "by loops from here": _by_loops,
}


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_all_steps_have_torchs_bits_whatever_happens_between_them(
    kind: str, dtype: torch.dtype, disturbance: str
) -> None:
    disturb = DISTURBANCES[disturbance]
    if kind.startswith("Adagrad") and disturb is _tensor_rate:
        pytest.skip("torch's Adagrad takes no such rate later")
    found = []
    for module in (torch.optim, ours):
        weights = _weights(dtype)
        optimizer = _made(module, kind, weights)
        if module is torch.optim:
            ours.keep_layouts(optimizer)
        for seed in range(7):
            _draw(weights, seed)
            if disturb is not None and seed in (3, 5):
                disturb(optimizer, weights)
            optimizer.step()
        found.append((weights, [*optimizer.state.values()]))
    (theirs, their_states), (own, own_states) = found
    for one, other in zip(own, theirs, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(own_states, their_states, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            assert value is other[name] is None or torch.equal(value, other[name])


@every_kind
def test_a_step_looks_nothing_up_that_is_as_it_was_left(kind: str) -> None:
    weights = _weights()
    optimizer = _made(ours, kind, weights)
    quick = []
    for seed in range(6):
        _draw(weights, seed)
        if seed == 3:
            weights[0].grad = None
        if seed == 5:
            _new_rates(optimizer, weights)
        quick.append(_is_quick(optimizer))
    assert quick == [False, True, True, False, False, True]


def test_a_gradient_with_other_strides_of_one_element_is_no_other_order() -> None:
    weight = nn.Parameter(torch.ones(4, 2, 1, 1))
    optimizer = ours.Adam([weight], fused=True)
    quick = []
    for strides in ((2, 1, 1, 1), (2, 1, 2, 2), (2, 1, 2, 2)):
        weight.grad = torch.ones(8).as_strided((4, 2, 1, 1), strides)
        quick.append(_is_quick(optimizer))
    assert quick == [False, True, True]


@every_kind
def test_states_are_torchs_and_go_both_ways(kind: str) -> None:
    ends = []
    for first, second in ((torch.optim, ours), (ours, torch.optim), (ours, ours)):
        weights = _weights()
        optimizer = _made(first, kind, weights)
        for seed in range(3):
            _draw(weights, seed)
            optimizer.step()
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        other = _made(second, kind, weights)
        other.load_state_dict(torch.load(file, weights_only=True))
        for seed in range(3, 6):
            _draw(weights, seed)
            other.step()
        ends.append(weights)
    for own in ends[1:]:
        assert all(map(torch.equal, own, ends[0]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_goes_on_by_itself(copied: Callable[[Any], Any]) -> None:
    weights = _weights()
    optimizer = _made(ours, "Adam", weights)
    for seed in range(2):
        _draw(weights, seed)
        optimizer.step()
    other = copied(optimizer)
    own = [each for group in other.param_groups for each in group["params"]]
    for seed in range(2, 4):
        _draw(own, seed)
        other.step()
    assert optimizer.state[weights[0]]["step"] == 2
    assert other.state[own[0]]["step"] == 4
    for seed in range(2, 4):
        _draw(weights, seed)
        optimizer.step()
    assert all(map(torch.equal, own, weights))


@every_kind
def test_an_optimiser_of_torchs_goes_on_as_one_of_ours(kind: str) -> None:
    found = []
    for less in (False, True):
        weights, calls = _weights(), []
        optimizer = _made(torch.optim, kind, weights)
        optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append(1))
        for seed in range(5):
            if seed == 2 and less:
                optimizer = ours.with_less_python(optimizer)
            _draw(weights, seed)
            if seed == 4 and less:
                assert _is_quick(optimizer)
            else:
                optimizer.step()
        assert calls == [1] * 5
        found.append((weights, repr(optimizer)))
    assert all(map(torch.equal, found[0][0], found[1][0]))
    assert found[0][1] == found[1][1]


def test_what_is_none_of_torchs_stays() -> None:
    for kind in (torch.optim.NAdam, ours.SAM):
        optimizer = kind([nn.Parameter(torch.ones(1))], lr=0.1)
        assert ours.with_less_python(optimizer) is optimizer


@every_kind
def test_hooks_are_called_once_a_step_also_where_torchs_class_is_in_use(kind: str) -> None:
    name, _ = KINDS[kind]
    getattr(torch.optim, name)([nn.Parameter(torch.ones(1))])  # from here on its step has hooks
    calls = []
    weights = _weights()
    optimizer = _made(ours, kind, weights)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for seed in range(3):
        _draw(weights, seed)
        optimizer.step()
    assert calls == ["before", "after"] * 3


@every_kind
def test_a_closure_is_called_once_and_its_loss_is_returned(kind: str) -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = _made(ours, kind, [*_weights()[:3], weight])
    losses, calls = [], []
    asked: Any = optimizer  # whose closure returns a tensor

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        assert weight.grad is None
        loss = (weight**2).sum()
        loss.backward()
        return loss

    for _ in range(3):
        losses.append(float(asked.step(closure).detach()))
    assert calls == [True] * 3
    assert losses[0] == 4.0
    assert len(set(losses)) == 3


def test_gradients_become_zero_where_that_is_asked_for() -> None:
    weights = _weights()
    optimizer = _made(ours, "Adam", weights)
    _draw(weights, 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(each.grad is not None and not each.grad.any() for each in weights)
    optimizer.zero_grad()
    assert all(each.grad is None for each in weights)


@every_kind
def test_a_weight_with_gaps_is_refused_with_the_next_step(kind: str) -> None:
    name, options = KINDS[kind]
    weight = nn.Parameter(torch.zeros(2, 4)[:, ::2])
    with pytest.raises(
        ValueError, match=r"strides \(4, 2\).*make it contiguous, or set fused=False"
    ):
        getattr(ours, name)([weight], lr=0.1, fused=True, **options)
    made = getattr(ours, name)([weight], lr=0.1, **options)
    weight.grad = torch.ones(2, 2)
    made.step()
    state = made.state_dict()
    for group in state["param_groups"]:
        group["fused"] = True  # of a file of another machine's
    made.load_state_dict(state)
    assert [group["fused"] for group in made.param_groups] == [None]


def test_without_fused_it_is_torchs_step() -> None:
    found = []
    for module in (torch.optim, ours):
        weights = _weights()
        optimizer = module.Adam(weights, lr=0.1)
        for seed in range(3):
            _draw(weights, seed)
            optimizer.step()
        found.append(weights)
    assert all(map(torch.equal, *found))


def test_a_scale_of_gradients_is_taken_off_as_torch_does() -> None:
    found = []
    for module in (torch.optim, ours):
        weights = _weights()
        optimizer = _made(module, "Adam", weights)
        for seed, infinite in enumerate((0.0, 0.0, 1.0, 0.0)):
            _draw(weights, seed)
            scaled: Any = optimizer  # as ``torch.amp.GradScaler`` does it
            scaled.grad_scale, scaled.found_inf = torch.tensor(2.0), torch.tensor(infinite)
            optimizer.step()
            del scaled.grad_scale, scaled.found_inf
            _draw(weights, 10 + seed)
            optimizer.step()
        found.append((weights, optimizer.state[weights[0]]["step"]))
    (theirs, their_count), (own, own_count) = found
    assert all(map(torch.equal, own, theirs))
    assert own_count == their_count == 7
