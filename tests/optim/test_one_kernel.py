"""Steps by one kernel have torch's bits, whatever happens between them, and look nothing up without need."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import cnnexp.optim as ours
from tests.optim.kinds import KINDS, draw, every_kind, is_quick, make_optimizer, new_weights

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


def _state_emptied(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    for state in [*optimizer.state.values()] if not _needs_its_state(optimizer) else []:
        state.clear()


def _needs_its_state(optimizer: Optimizer) -> bool:
    """Whether torch's class makes it when the optimiser is made, and no more."""
    return isinstance(optimizer, torch.optim.Adagrad)


def _states_swapped(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    """Those of the first weight, as it is and as another; in the order of before."""
    if weights[0] not in optimizer.state:
        return
    states = [*optimizer.state.items()]
    optimizer.state.clear()
    optimizer.state.update(reversed(states))


def _counted_anew(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].data = torch.tensor(1.0)


def _group_removed(optimizer: Optimizer, weights: list[nn.Parameter]) -> None:
    if len(optimizer.param_groups) > 1:
        optimizer.param_groups.pop()


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
    "states are emptied": _state_emptied,
    "states are in another order": _states_swapped,
    "steps are counted anew": _counted_anew,
    "a group is removed": _group_removed,
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
        weights = new_weights(dtype)
        optimizer = make_optimizer(module, kind, weights)
        if module is torch.optim:
            ours.keep_layouts(optimizer)
        for seed in range(7):
            draw(weights, seed)
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
def test_states_that_change_places_belong_to_their_new_weights(kind: str) -> None:
    found = []
    for module in (torch.optim, ours):
        weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        name, options = KINDS[kind]
        optimizer = getattr(module, name)(weights, lr=0.1, fused=True, **options)
        for seed in range(4):
            draw(weights, seed)
            if seed == 2 and optimizer.state:
                states = [*optimizer.state.values()]
                optimizer.state.clear()
                optimizer.state[weights[1]], optimizer.state[weights[0]] = states
            optimizer.step()
        found.append(weights)
    assert all(map(torch.equal, *found))


@every_kind
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_a_weight_that_is_there_twice_is_moved_twice(kind: str) -> None:
    found = []
    for module in (torch.optim, ours):
        weights = [nn.Parameter(torch.ones(2))]
        name, options = KINDS[kind]
        optimizer = getattr(module, name)(weights * 2, lr=0.1, fused=True, **options)
        for seed in range(4):
            draw(weights, seed)
            optimizer.step()
        found.append(weights)
    assert all(map(torch.equal, *found))


@every_kind
def test_groups_without_gradients_or_parameters_take_part(kind: str) -> None:
    found = []
    for module in (torch.optim, ours):
        weights = new_weights()
        name, options = KINDS[kind]
        groups = [{"params": weights[:2]}, {"params": []}, {"params": weights[2:]}]
        optimizer = getattr(module, name)(groups, lr=0.1, fused=True, **options)
        if module is torch.optim:
            ours.keep_layouts(optimizer)
        for seed in range(4):
            draw(weights[:2], seed)
            optimizer.step()
        found.append(weights)
    assert all(map(torch.equal, *found))


def test_sparse_gradients_are_refused_as_torch_does() -> None:
    for module in (torch.optim, ours):
        layer = nn.Embedding(4, 2, sparse=True)
        optimizer = module.SGD(layer.parameters(), lr=0.1, fused=True)
        layer(torch.tensor([1])).sum().backward()
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()


def test_a_schedule_moves_the_rates_of_all_steps() -> None:
    found = []
    for module in (torch.optim, ours):
        weights = new_weights()
        optimizer = make_optimizer(module, "Adam", weights)
        if module is torch.optim:
            ours.keep_layouts(optimizer)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
        for seed in range(6):
            draw(weights, seed)
            optimizer.step()
            schedule.step()
        found.append(weights)
    assert all(map(torch.equal, *found))


@every_kind
def test_a_step_looks_nothing_up_that_is_as_it_was_left(kind: str) -> None:
    weights = new_weights()
    optimizer = make_optimizer(ours, kind, weights)
    quick = []
    for seed in range(6):
        draw(weights, seed)
        if seed == 3:
            weights[0].grad = None
        if seed == 5:
            _new_rates(optimizer, weights)
        quick.append(is_quick(optimizer))
    assert quick == [False, True, True, False, False, True]


def test_a_gradient_with_other_strides_of_one_element_is_no_other_order() -> None:
    weight = nn.Parameter(torch.ones(4, 2, 1, 1))
    optimizer = ours.Adam([weight], fused=True)
    quick = []
    for strides in ((2, 1, 1, 1), (2, 1, 2, 2), (2, 1, 2, 2)):
        weight.grad = torch.ones(8).as_strided((4, 2, 1, 1), strides)
        quick.append(is_quick(optimizer))
    assert quick == [False, True, True]
