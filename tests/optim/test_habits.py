"""What people do with any optimiser, over all of ours: copies, added parameters, hooks, odd weights."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from cnnexp import optim

KINDS = {
    name: each
    for name, each in vars(optim).items()
    if inspect.isclass(each) and issubclass(each, Optimizer)
}
every_kind = pytest.mark.parametrize("name", KINDS)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2)
    ).double()


def _made(name: str, parameters: Any) -> Any:
    return KINDS[name](parameters, lr=0.05)  # pyright: ignore[reportCallIssue]


def _closure(network: nn.Module, optimizer: Optimizer) -> Callable[[], Any]:
    images = torch.linspace(-1, 1, 4 * 2 * 16).double().sin().view(4, 2, 4, 4)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = network(images).square().sum()
        loss.backward()
        return loss

    return closure


def _copied(both: tuple[nn.Module, Any], way: str) -> tuple[nn.Module, Any]:
    if way == "deepcopy":
        return copy.deepcopy(both)
    file = io.BytesIO()
    torch.save(both, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_kind
@pytest.mark.parametrize("way", ["deepcopy", "file"])
def test_a_copy_goes_on_as_the_original(name: str, way: str) -> None:
    network = _network()
    optimizer = _made(name, network.parameters())
    optimizer.step(_closure(network, optimizer))
    other, again = _copied((network, optimizer), way)
    for each, stepped in ((network, optimizer), (other, again)):
        for _ in range(2):
            stepped.step(_closure(each, stepped))
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@every_kind
def test_parameters_that_are_added_are_trained(name: str) -> None:
    if optim.one_group(KINDS[name]):
        pytest.skip("one group, as of torch's")
    network = _network()
    optimizer = _made(name, network[2:].parameters())  # pyright: ignore[reportIndexIssue]
    optimizer.step(_closure(network, optimizer))
    optimizer.add_param_group({"params": [*network[0].parameters()], "lr": 0.01})  # pyright: ignore[reportIndexIssue]
    before = [p.detach().clone() for p in network.parameters()]
    optimizer.step(_closure(network, optimizer))
    assert not any(map(torch.equal, before, network.parameters()))
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    optimizer.step(_closure(network, optimizer))


@every_kind
def test_hooks_of_a_step_run_once(name: str) -> None:
    for base in KINDS[name].__mro__[1:]:
        if (
            issubclass(base, Optimizer)
            and base is not Optimizer
            and base.__module__.startswith("torch")
        ):
            base([nn.Parameter(torch.ones(1))])  # pyright: ignore[reportCallIssue]  # torch hooks its step
    network = _network()
    optimizer = _made(name, network.parameters())
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.step(_closure(network, optimizer))
    assert calls == ["before", "after"]


WEIGHTS = {
    "channels_last": torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "channels_last_3d": torch.randn(4, 3, 2, 2, 2).contiguous(memory_format=torch.channels_last_3d),
    "gaps": torch.randn(4, 5, 2, 2)[:, :3],
    "transposed": torch.randn(3, 4).t(),
    "transposed kernels": torch.randn(3, 4, 2, 2).transpose(0, 1),
}


@every_kind
@pytest.mark.parametrize("layout", WEIGHTS)
def test_a_weight_in_any_layout_moves_as_in_plain_memory(name: str, layout: str) -> None:
    odd = WEIGHTS[layout]
    results = []
    for values in (odd, odd.contiguous()):
        weight = nn.Parameter(values.double())
        assert (weight.stride() == values.stride()) or layout == "gaps"
        if layout == "gaps" and values is odd:
            weight = nn.Parameter(torch.cat([values, values], 1).double()[:, :3])
        last = nn.Parameter(torch.ones(2, 2).double())
        optimizer = _made(name, [weight, last])

        def closure(
            weight: nn.Parameter = weight, last: nn.Parameter = last, own: Any = optimizer
        ) -> Any:
            own.zero_grad()
            loss = ((weight - 1) ** 4).sum() + last.square().sum()
            loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure)
        assert not torch.equal(weight.detach(), values.double())
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=2e-2, atol=2e-3)  # Muon: in bfloat16
