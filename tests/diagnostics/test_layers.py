"""Which layers are looked at, and where the activation is that each hands on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnexp.diagnostics import TracedLayer, trace_layers
from cnnexp.models import LeNet5, SeedCNN, SmallResNet, TinyCNN, torchvision_model
from cnnexp.nn import replace_layers


def _trace(network: nn.Module, channels: int = 1) -> list[TracedLayer]:
    return trace_layers(network, torch.zeros(2, channels, 28, 28))


def test_they_are_in_the_order_of_computing_with_names_for_people() -> None:
    layers = _trace(SeedCNN())
    assert [str(layer) for layer in layers] == [
        "conv1 (features.0)",
        "conv2 (features.3)",
        "conv3 (features.6)",
        "conv4 (features.9)",
        "linear1 (classifier)",
    ]


@pytest.mark.parametrize("backward", ["native", "direct", "fused"])
def test_the_activation_is_behind_norm_activation_and_pooling(backward: str) -> None:
    network = replace_layers(TinyCNN(), backward)
    ends = [layer.output.module for layer in _trace(network)]
    names = {module: name for name, module in network.named_modules()}
    # stages of conv, norm, relu, conv, norm, relu, pool
    assert [names[end] for end in ends[:2]] == ["features.2", "features.6"]


def test_dropout_and_what_is_no_layer_end_the_chain() -> None:
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Sigmoid()
    )
    first, second = _trace(network)
    assert first.output.module is network[2]
    assert first.squash is not None
    assert first.squash.module is network[2]
    assert second.output.module is network[5]


def test_a_module_that_stands_in_several_places_is_told_apart_by_its_calls() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), relu, nn.Conv2d(2, 2, 3), relu, nn.Flatten(), nn.Linear(2 * 24 * 24, 3)
    )
    layers = _trace(network)
    assert [(layer.output.module is relu, layer.output.call) for layer in layers] == [
        (True, 0),
        (True, 1),
        (False, 0),
    ]


@pytest.mark.parametrize(
    ("network", "count"),
    [(SmallResNet(), 10), (LeNet5(), 5), (torchvision_model("resnet18"), 21)],
    ids=["resnet", "lenet5", "resnet18"],
)
def test_every_weight_of_a_network_is_found(network: nn.Module, count: int) -> None:
    channels = 3 if count == 21 else 1
    layers = _trace(network, channels)
    assert len(layers) == count
    found = {layer.name for layer in layers}
    named = network.named_modules()
    assert found == {n for n, m in named if isinstance(m, (nn.Conv2d, nn.Linear))}


def test_tracing_leaves_no_trace() -> None:
    network = TinyCNN(dropout=0.5)
    network.dropout.eval()
    modes = [m.training for m in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    _trace(network)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks for m in network.modules())
