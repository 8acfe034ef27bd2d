"""Our own optimisers against what they are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnexp.optim import LBFGS, SAM, MuonWithAdamW, param_groups


def _network(layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    return network.double().to(memory_format=layout)  # pyright: ignore[reportCallIssue]


def _closure(network: nn.Module, optimizer: Optimizer, seed: int = 1) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 2, 5, 5, generator=generator, dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), torch.arange(6) % 3)
        loss.backward()
        return loss

    return closure


def _values(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_muon_moves_matrices_by_orthogonal_steps_and_the_rest_as_adamw(
    layout: torch.memory_format,
) -> None:
    network, twin = _network(layout), _network()
    optimizer = MuonWithAdamW(param_groups(network), lr=0.01, weight_decay=0.1, momentum=0.0)
    _closure(network, optimizer)()
    before, grads = _values(network), {n: p.grad for n, p in network.named_parameters()}
    optimizer.step()
    adamw = torch.optim.AdamW([p for p in twin.parameters() if p.dim() < 2], 0.01, weight_decay=0)
    _closure(twin, adamw)()
    adamw.step()
    for name, after in _values(network).items():
        if name.endswith("bias"):
            torch.testing.assert_close(after, dict(twin.named_parameters())[name].data)
            continue
        step = (before[name] * (1 - 0.01 * 0.1) - after).flatten(1)
        # the singular values of an orthogonal step are one number; Newton-Schulz comes near
        values = torch.linalg.svdvals(step)
        assert values.max() / values.min() < 2
        grad = grads[name]
        assert grad is not None
        assert (step * grad.flatten(1)).sum() > 0  # downhill


def test_layout_makes_no_difference_to_muon() -> None:
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network = _network(layout)
        optimizer = MuonWithAdamW(param_groups(network))
        for _ in range(3):
            optimizer.step(_closure(network, optimizer))
        results.append(_values(network))
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-4)  # Muon iterates in bfloat16


def test_sam_takes_the_gradient_at_the_worst_point() -> None:
    network, twin = _network(), _network()
    optimizer = SAM(network.parameters(), lr=0.1, rho=0.05, momentum=0.0)
    optimizer.step(_closure(network, optimizer))

    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    closure, start = _closure(twin, plain), _values(twin)
    closure()
    grads = [p.grad.clone() for p in twin.parameters() if p.grad is not None]
    norm = torch.sqrt(torch.stack([g.square().sum() for g in grads]).sum())
    with torch.no_grad():
        for parameter, grad in zip(twin.parameters(), grads, strict=True):
            parameter.add_(0.05 * grad / norm)
    closure()
    with torch.no_grad():
        for parameter, at in zip(twin.parameters(), start.values(), strict=True):
            parameter.copy_(at)
    plain.step()
    torch.testing.assert_close(_values(network), _values(twin))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_lbfgs_takes_any_layout(layout: torch.memory_format) -> None:
    results = []
    for kind, network in ((LBFGS, _network(layout)), (torch.optim.LBFGS, _network())):
        optimizer = kind(list(network.parameters()), max_iter=5, line_search_fn="strong_wolfe")
        for _ in range(2):
            optimizer.step(_closure(network, optimizer))
        results.append(_values(network))
    torch.testing.assert_close(*results)


def test_sam_of_radius_zero_is_sgd() -> None:
    network, twin = _network(), _network()
    sam = SAM(network.parameters(), lr=0.1, rho=0.0, momentum=0.9)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for seed in range(3):
        sam.step(_closure(network, sam, seed))
        sgd.step(_closure(twin, sgd, seed))
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True)
    )


def test_sam_without_closure_or_with_a_negative_radius() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    with pytest.raises(RuntimeError, match="SAM needs a closure"):
        SAM(parameters).step()
    with pytest.raises(ValueError, match="rho must be at least 0, but got -1"):
        SAM(parameters, rho=-1)


@pytest.mark.parametrize("make", [SAM, MuonWithAdamW])
def test_goes_on_from_its_state_to_the_bit(make: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    network = _network()
    optimizer = make(param_groups(network))
    for _ in range(3):
        optimizer.step(_closure(network, optimizer))
    state, values = copy.deepcopy(optimizer.state_dict()), _values(network)
    twin = _network()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(values[name])
    other = make(param_groups(twin), lr=0.5)  # the state's rate counts
    other.load_state_dict(state)
    for net, opt in ((network, optimizer), (twin, other)):
        opt.step(_closure(net, opt))
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True)
    )


def test_muon_refuses_the_state_of_other_groups() -> None:
    network = _network()
    state = MuonWithAdamW(param_groups(network)).state_dict()
    with pytest.raises(ValueError, match="of 2 parameter groups, but there are 1"):
        MuonWithAdamW([network[0].weight]).load_state_dict(state)  # pyright: ignore
