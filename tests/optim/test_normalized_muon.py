"""Orthogonal steps on weights of a fixed norm, Adam's for the rest."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnexp.optim import NormalizedMuon, param_groups
from cnnexp.optim.normalized_muon import orthogonal


def _network(layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    return network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]


def _backward(network: nn.Module, seed: int = 1) -> None:
    images = torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
    network.zero_grad()
    nn.functional.cross_entropy(network(images), torch.arange(6) % 3).backward()


def _values(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_hidden_weights_get_a_norm_and_an_orthogonal_step_the_rest_adams(
    layout: torch.memory_format,
) -> None:
    network, twin = _network(layout), _network()
    optimizer = NormalizedMuon(param_groups(network), lr=0.1, adam_share=0.2, momentum=0.0)
    _backward(network)
    before, grads = _values(network), {n: p.grad for n, p in network.named_parameters()}
    optimizer.step()
    after = _values(network)
    rest = [p for name, p in twin.named_parameters() if name not in ("0.weight", "3.weight")]
    adam = torch.optim.AdamW(rest, 0.02, betas=(0.8, 0.95), weight_decay=0.0)
    _backward(twin)
    adam.step()
    for name, wanted in _values(twin).items():
        if name not in ("0.weight", "3.weight"):
            torch.testing.assert_close(after[name], wanted)
            continue
        weight = before[name]
        scaled = weight * len(weight) ** 0.5 / weight.norm()
        step = ((scaled - after[name]) / 0.1).flatten(1)
        grad = grads[name]
        assert grad is not None
        left, values, right = torch.linalg.svd(grad.flatten(1), full_matrices=False)
        # the directions are those of the gradient's singular vectors, all that it has about as long
        aligned = left.mT @ step @ right.mT
        assert (aligned - aligned.diag().diag()).abs().max() < 1e-3, name
        present = aligned.diag()[values / values.norm() > 0.03]
        assert len(present) >= 2, name
        assert present.min() > 0.6, name
        assert present.max() < 1.3, name


def test_momentum_looks_ahead() -> None:
    weight = nn.Parameter(torch.eye(2, 3))
    last = nn.Parameter(torch.ones(1, 2))
    optimizer = NormalizedMuon([weight, last], lr=0.5, momentum=0.5)
    first, second = torch.tensor([[1.0, 0, 0], [0, 2, 0]]), torch.tensor([[0, 3.0, 0], [4, 0, 0]])
    for grad in (first, second):
        before = weight.detach().clone()
        weight.grad, last.grad = grad, torch.zeros(1, 2)
        optimizer.step()
    buffer = 0.5 * first + second
    scaled = before * 2**0.5 / before.norm()
    wanted = scaled - 0.5 * orthogonal(second + 0.5 * buffer, 3)
    torch.testing.assert_close(weight.detach(), wanted)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_the_factors_on_the_smaller_matrix_are_the_iteration_itself(shape: tuple[int, int]) -> None:
    a, b, c = 3.4445, -4.7750, 2.0315
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = matrix / matrix.norm()
    for _ in range(4):
        if shape[0] <= shape[1]:
            gram = wanted @ wanted.mT
            wanted = a * wanted + (b * gram + c * gram @ gram) @ wanted
        else:
            gram = wanted.mT @ wanted
            wanted = a * wanted + wanted @ (b * gram + c * gram @ gram)
    torch.testing.assert_close(orthogonal(matrix, 4), wanted, rtol=1e-6, atol=1e-6)


def test_zeros_stay_zeros() -> None:
    assert torch.equal(orthogonal(torch.zeros(2, 3), 3), torch.zeros(2, 3))


def test_a_state_that_is_loaded_goes_on_as_the_one_it_was_saved_from() -> None:
    network = _network()
    optimizer = NormalizedMuon(param_groups(network), lr=0.1)
    _backward(network)
    optimizer.step()
    twin = _network()
    twin.load_state_dict(network.state_dict())
    again = NormalizedMuon(param_groups(twin), lr=0.3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, own in ((network, optimizer), (twin, again)):
        _backward(each, seed=2)
        own.step()
    for name, value in _values(network).items():
        assert torch.equal(value, _values(twin)[name]), name


def test_a_schedule_of_lr_scales_adams_rate_as_well() -> None:
    network = _network()
    optimizer = NormalizedMuon(param_groups(network), lr=0.1)
    _backward(network)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    bias, head = _values(network)["0.bias"], _values(network)["5.weight"]
    optimizer.step()
    assert torch.equal(_values(network)["0.bias"], bias)
    assert torch.equal(_values(network)["5.weight"], head)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, r"lr must be at least 0 and finite, but got -0\.1"),
        ({"adam_share": float("nan")}, "adam_share must be at least 0 and finite, but got nan"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, but got 1\.0"),
        ({"ns_steps": 0}, "ns_steps must be at least 1, but got 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NormalizedMuon(_network().parameters(), **options)
