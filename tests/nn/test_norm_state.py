"""When BatchNorm2d moves its running statistics, and layers under torch.fx."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import cnnexp.nn


def _trained(network: nn.Module, image: Tensor) -> list[Tensor]:
    image = image.clone().requires_grad_()
    checkpoint(network, image, use_reentrant=False).square().sum().backward()
    return [*network.buffers(), *(p.grad for p in network.parameters() if p.grad is not None)]


def test_the_last_layer_of_a_checkpoint_moves_its_statistics_as_often_as_torchs() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double()
    twin = cnnexp.nn.replace_layers(copy.deepcopy(network))
    image = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(_trained(twin, image), _trained(network, image))


def test_one_layer_may_be_computed_by_torch_and_by_us_in_one_step() -> None:
    norm = cnnexp.nn.BatchNorm2d(3)
    image = torch.randn(2, 3, 4, 4)
    for algorithms in (("native", "direct"), ("direct", "native")):
        output = image
        for norm.algorithm in algorithms:
            output = norm(output)
        output.square().sum().backward()  # torch's formula has saved the running statistics


def test_statistics_moved_after_an_evaluation_do_not_change_its_gradient() -> None:
    norm = cnnexp.nn.BatchNorm2d(3).eval()
    image = torch.randn(2, 3, 4, 4, requires_grad=True)
    output = norm(image)
    (expected,) = torch.autograd.grad(output.sum(), image, retain_graph=True)
    norm.train()(torch.randn(2, 3, 4, 4) + 5)
    torch.testing.assert_close(torch.autograd.grad(output.sum(), image)[0], expected)


@pytest.mark.parametrize("algorithm", ["direct", "auto", "fused"])
def test_fx_sees_each_layer_as_the_one_node_that_its_twin_is(algorithm: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 2),
    ).eval()
    seen: list[str] = []
    network[0].register_forward_hook(lambda *_: seen.append("hook"))
    expected = [(node.op, node.target) for node in torch.fx.symbolic_trace(network).graph.nodes]
    traced = torch.fx.symbolic_trace(cnnexp.nn.replace_layers(network, algorithm))
    assert [(node.op, node.target) for node in traced.graph.nodes] == expected
    assert not seen
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(traced(image), network(image))
    assert seen == ["hook", "hook"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "changed",
    [
        {"track_running_stats": False},
        {"track_running_stats": False, "momentum": None},
        {"momentum": None},
        {"momentum": 0.0},
        {"eps": 0.5},
        {"num_batches_tracked": None},
        {"running_mean": None, "running_var": None},
        {"running_mean": None, "running_var": None, "track_running_stats": False},
        {"weight": None, "bias": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["norm", "block"])
def test_settings_that_change_after_the_construction(
    kind: str, changed: dict[str, Any], training: bool
) -> None:
    theirs = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU() if kind == "block" else nn.Identity())
    ours = cnnexp.nn.replace_layers(copy.deepcopy(theirs), "fused", quiet=True)
    images = [torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5) + 2]
    for network in (theirs, ours):
        for name, value in changed.items():
            setattr(network[0], name, value)
        network.train(training)
    for image in images:
        torch.testing.assert_close(ours(image), theirs(image))
    for own, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(own, other)
