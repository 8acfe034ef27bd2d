from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnexp.models import SeedCNN
from cnnexp.optim import freeze, param_groups


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("network", [SeedCNN(), _network()], ids=["seed_cnn", "with norm"])
@pytest.mark.parametrize("scaled", [False, True])
def test_each_parameter_is_in_exactly_one_group(network: nn.Module, scaled: bool) -> None:
    first = next(iter(dict(network.named_parameters())))
    groups = param_groups(network, lr=1.0, lr_scale={first: 0.5} if scaled else None)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in network.parameters())


def test_weight_decay_touches_exactly_the_weights() -> None:
    network = SeedCNN()
    optimizer = torch.optim.SGD(param_groups(network), lr=1.0, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        halved = torch.equal(parameter, before[name] / 2)
        assert halved == name.endswith("weight"), name
    # 4 convolutions and a linear layer, without their 32 + 64 + 128 + 256 + 10 biases
    weights = sum(p.numel() for n, p in network.named_parameters() if n.endswith("weight"))
    decayed = [g for g in optimizer.param_groups if g["weight_decay"]]
    assert sum(p.numel() for g in decayed for p in g["params"]) == weights == 390_410 - 490


def test_decay_all_touches_biases_as_well() -> None:
    groups = param_groups(_network(), decay_all=True)
    assert [group.get("weight_decay") for group in groups] == [None]


def test_the_longer_name_counts_and_layers_get_their_own_rate() -> None:
    groups = param_groups(_network(), lr=0.1, lr_scale={"0": 0.5, "0.bias": 2.0, "3": 0.0})
    rates = {group["name"]: group.get("lr") for group in groups}
    assert rates == {
        "0": 0.05,
        "0.bias (no decay)": 0.2,
        "network (no decay)": None,
        "3": 0.0,
        "3 (no decay)": 0.0,
    }


def test_frozen_layers_are_in_no_group() -> None:
    network = _network()
    freeze(network, ["0", "3.bias"])
    names = {id(p): name for name, p in network.named_parameters()}
    groups = param_groups(network)
    found = {names[id(p)] for group in groups for p in group["params"]}
    assert found == {"1.weight", "1.bias", "3.weight"}


def test_mistakes_name_what_is_known() -> None:
    with pytest.raises(
        ValueError, match=r"parameters\.frozen: no parameter is named 'conv1' .*3\.w"
    ):
        freeze(_network(), ["conv1"])
    with pytest.raises(ValueError, match=r"parameters\.lr_scale: no parameter is named '4'"):
        param_groups(_network(), lr=1.0, lr_scale={"4": 1.0})
    with pytest.raises(ValueError, match=r"parameters\.lr_scale\.0=-1: must be at least 0"):
        param_groups(_network(), lr=1.0, lr_scale={"0": -1})
    with pytest.raises(ValueError, match="this optimizer has no lr to scale"):
        param_groups(_network(), lr_scale={"0": 1.0})
