"""The weights of one network in another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnnexp.models import SeedCNN, torchvision_model, transfer_weights


def _network(classes: int = 3, width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 36, classes)
    )


def test_all_of_it_is_taken_by_name() -> None:
    source, network = _network(), _network()
    source.get_buffer("1.running_mean").fill_(0.5)
    given = transfer_weights(network, source.state_dict())
    assert (len(given.taken), given.kept, given.anew) == (9, 0, "")
    for name, value in network.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_the_last_layer_is_made_anew_where_the_classes_are_others() -> None:
    source, network = _network(classes=10), _network()
    before = network.get_parameter("3.weight").clone(), network.get_parameter("3.bias").clone()
    given = transfer_weights(network, source.state_dict())
    assert str(given) == (
        "7 of 9 tensors; the last layer, 3, is made anew ((10, 144) there, (3, 144) here)"
    )
    assert torch.equal(network.get_parameter("3.weight"), before[0])
    assert torch.equal(network.get_parameter("3.bias"), before[1])
    assert torch.equal(network.get_parameter("0.weight"), source.get_parameter("0.weight"))


def test_a_last_layer_that_the_source_lacks_is_made_anew() -> None:
    source = {n: v for n, v in _network().state_dict().items() if not n.startswith("3.")}
    given = transfer_weights(_network(), source)
    assert given.anew == "3"
    assert str(given).endswith("is made anew (it is not there)")


def test_some_layers_alone() -> None:
    source, network = _network(width=4), _network(width=4)
    before = network.get_parameter("1.weight").data.fill_(7.0).clone()
    given = transfer_weights(network, source.state_dict(), ["0", "3.bias"])
    assert given.taken == ("0.weight", "0.bias", "3.bias")
    assert torch.equal(network.get_parameter("1.weight"), before)
    assert torch.equal(network.get_parameter("3.bias"), source.get_parameter("3.bias"))
    assert not torch.equal(network.get_parameter("3.weight"), source.get_parameter("3.weight"))


@pytest.mark.parametrize("prefix", ["network.", "module.", "model."])
def test_what_programs_put_around_a_network_is_taken_off(prefix: str) -> None:
    source, network = _network(), _network()
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    given = transfer_weights(network, {**weights, "mean": torch.zeros(1)})
    assert given.kept == 0
    assert torch.equal(network.get_parameter("0.weight"), source.get_parameter("0.weight"))


def test_counters_that_older_files_lack_stay() -> None:
    source = {n: v for n, v in _network().state_dict().items() if "num_batches" not in n}
    given = transfer_weights(_network(), source)
    assert given.kept == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"0.weight": torch.zeros(4, 3, 3, 3)}),
         r"0.weight has the shape \(4, 3, 3, 3\) there, but \(4, 1, 3, 3\) in the network; use the model"),
        (lambda w: w.pop("1.weight"), "has no 1.weight, which the network has"),
        (lambda w: w.update({"4.weight": torch.zeros(1)}), "holds 4.weight, which the network has not"),
        (lambda w: w["0.bias"].fill_(float("nan")), "0.bias holds values that are infinite or NaN"),
        (lambda w: w.update({"0.bias": torch.zeros(4).int()}), "0.bias is of torch.int32 there"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_changed(
    change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    weights, network = _network().state_dict(), _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    change(weights)
    with pytest.raises(ValueError, match=message):
        transfer_weights(network, weights)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_layer_that_there_is_not_is_named_with_the_nearest() -> None:
    network = torchvision_model("resnet18", num_classes=3)
    with pytest.raises(
        ValueError, match=r"layers=\[layer5\].*its parts are .*Did you mean 'layer\d'\?"
    ):
        transfer_weights(network, network.state_dict(), ["layer5"])


def test_a_network_without_memory_is_checked_alone() -> None:
    with torch.device("meta"):
        network = SeedCNN()
    assert transfer_weights(network, SeedCNN().state_dict()).kept == 0
    with pytest.raises(ValueError, match=r"has no features\.9\.weight"):
        transfer_weights(network, SeedCNN(channels=(8, 8, 8)).state_dict())
