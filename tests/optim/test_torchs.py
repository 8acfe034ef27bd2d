"""torch's optimisers with less Python around their kernel: their states, copies, hooks and closures."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnexp.optim as ours
from tests.optim.kinds import KINDS, draw, every_kind, is_quick, make_optimizer, new_weights


@every_kind
def test_states_are_torchs_and_go_both_ways(kind: str) -> None:
    ends = []
    for first, second in ((torch.optim, ours), (ours, torch.optim), (ours, ours)):
        weights = new_weights()
        optimizer = make_optimizer(first, kind, weights)
        for seed in range(3):
            draw(weights, seed)
            optimizer.step()
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        other = make_optimizer(second, kind, weights)
        other.load_state_dict(torch.load(file, weights_only=True))
        for seed in range(3, 6):
            draw(weights, seed)
            other.step()
        ends.append(weights)
    for own in ends[1:]:
        assert all(map(torch.equal, own, ends[0]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_goes_on_by_itself(copied: Callable[[Any], Any]) -> None:
    weights = new_weights()
    optimizer = make_optimizer(ours, "Adam", weights)
    for seed in range(2):
        draw(weights, seed)
        optimizer.step()
    other = copied(optimizer)
    own = [each for group in other.param_groups for each in group["params"]]
    for seed in range(2, 4):
        draw(own, seed)
        other.step()
    assert optimizer.state[weights[0]]["step"] == 2
    assert other.state[own[0]]["step"] == 4
    for seed in range(2, 4):
        draw(weights, seed)
        optimizer.step()
    assert all(map(torch.equal, own, weights))


@every_kind
def test_an_optimiser_of_torchs_goes_on_as_one_of_ours(kind: str) -> None:
    found = []
    for less in (False, True):
        weights, calls = new_weights(), []
        optimizer = make_optimizer(torch.optim, kind, weights)
        optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append(1))
        for seed in range(5):
            if seed == 2 and less:
                optimizer = ours.with_less_python(optimizer)
            draw(weights, seed)
            if seed == 4 and less:
                assert is_quick(optimizer)
            else:
                optimizer.step()
        assert calls == [1] * 5
        found.append((weights, repr(optimizer)))
    assert all(map(torch.equal, found[0][0], found[1][0]))
    assert found[0][1] == found[1][1]


def test_what_has_a_schedule_stays() -> None:
    optimizer = torch.optim.SGD(new_weights(), lr=0.1, fused=True)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    assert ours.with_less_python(optimizer) is optimizer


def test_what_is_on_another_device_stays() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1, device="meta"))], lr=0.1)
    assert ours.with_less_python(optimizer) is optimizer


def test_what_is_none_of_torchs_stays() -> None:
    for kind in (torch.optim.NAdam, ours.SAM):
        optimizer = kind([nn.Parameter(torch.ones(1))], lr=0.1)
        assert ours.with_less_python(optimizer) is optimizer


@every_kind
def test_hooks_are_called_once_a_step_also_where_torchs_class_is_in_use(kind: str) -> None:
    name, _ = KINDS[kind]
    getattr(torch.optim, name)([nn.Parameter(torch.ones(1))])  # from here on its step has hooks
    calls = []
    weights = new_weights()
    optimizer = make_optimizer(ours, kind, weights)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for seed in range(3):
        draw(weights, seed)
        optimizer.step()
    assert calls == ["before", "after"] * 3


@every_kind
def test_a_closure_is_called_once_and_its_loss_is_returned(kind: str) -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer(ours, kind, [*new_weights()[:3], weight])
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
    weights = new_weights()
    optimizer = make_optimizer(ours, "Adam", weights)
    draw(weights, 0)
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
    gapped = getattr(torch.optim, name)([weight], lr=0.1, fused=True, **options)
    with pytest.raises(ValueError, match=r"strides \(4, 2\)"):
        ours.with_less_python(gapped)
    whole = getattr(ours, name)([nn.Parameter(torch.ones(2))], lr=0.1, fused=True, **options)
    with pytest.raises(ValueError, match=r"strides \(4, 2\)"):
        whole.add_param_group({"params": [weight]})
    assert len(whole.param_groups) == 1
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
        weights = new_weights()
        optimizer = module.Adam(weights, lr=0.1)
        for seed in range(3):
            draw(weights, seed)
            optimizer.step()
        found.append(weights)
    assert all(map(torch.equal, *found))


def test_a_scale_of_gradients_is_taken_off_as_torch_does() -> None:
    found = []
    for module in (torch.optim, ours):
        weights = new_weights()
        optimizer = make_optimizer(module, "Adam", weights)
        for seed, infinite in enumerate((0.0, 0.0, 1.0, 0.0)):
            draw(weights, seed)
            scaled: Any = optimizer  # as ``torch.amp.GradScaler`` does it
            scaled.grad_scale, scaled.found_inf = torch.tensor(2.0), torch.tensor(infinite)
            optimizer.step()
            del scaled.grad_scale, scaled.found_inf
            draw(weights, 10 + seed)
            optimizer.step()
        found.append((weights, optimizer.state[weights[0]]["step"]))
    (theirs, their_count), (own, own_count) = found
    assert all(map(torch.equal, own, theirs))
    assert own_count == their_count == 7
