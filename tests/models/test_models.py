from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cnnexp.models import (
    LeNet5,
    SeedCNN,
    SmallResNet,
    TinyCNN,
    VGGLike,
    initialise,
    lsuv,
    torchvision_model,
)
from cnnexp.models.activation import ACTIVATIONS, activation_layer


def test_seed_cnn_is_the_network_of_the_article() -> None:
    network = SeedCNN()
    kinds = [type(layer) for layer in network.features]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.MaxPool2d] * 4
    channels = [layer.out_channels for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert channels == [32, 64, 128, 256]
    # Σ (9·c_in + 1)·c_out of the convolutions, then 256·10 + 10
    expected = 320 + 18_496 + 73_856 + 295_168 + 2_570
    assert sum(p.numel() for p in network.parameters()) == expected
    logits = network(torch.randn(5, 1, 28, 28))
    assert logits.shape == (5, 10)
    assert logits.min() < 0  # logits, not probabilities


def test_seed_cnn_can_be_configured() -> None:
    network = SeedCNN(3, 7, (32, 40), channels=(4, 8), kernel_size=(5, 3), activation="gelu")
    assert network(torch.randn(2, 3, 32, 40)).shape == (2, 7)
    assert SeedCNN(channels=(4,), pool_size=1)(torch.randn(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, "channels must be one or more positive numbers"),
        ({"kernel_size": (3, 3)}, "kernel_size has 2 values for 4 blocks"),
        ({"kernel_size": 0}, "must be at least 1, but got"),
        ({"image_size": (8, 8)}, "images of 8×8 are too small for 4 blocks"),
        ({"activation": "swoosh"}, "unknown activation 'swoosh'; known: gelu, leaky_relu, relu"),
    ],
)
def test_seed_cnn_says_what_is_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeedCNN(**options)  # pyright: ignore[reportArgumentType]


def test_lenet5() -> None:
    network = LeNet5()
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert sum(p.numel() for p in network.parameters()) == 61_706  # the usual count
    with pytest.raises(ValueError, match="images of 8×8 are too small for LeNet-5"):
        LeNet5(image_size=(8, 8))


@pytest.mark.parametrize(
    ("blocks", "channels"), [(1, [4]), (2, [4, 8]), (3, [4, 8, 8]), (None, [4, 8])]
)
def test_seed_cnn_has_as_many_blocks_as_asked_for(blocks: int | None, channels: list[int]) -> None:
    network = SeedCNN(channels=[4, 8], blocks=blocks)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == channels
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name: str) -> None:
    assert activation_layer(name)(torch.zeros(3)).shape == (3,)


@pytest.mark.parametrize("kind", [SeedCNN, SmallResNet, VGGLike, TinyCNN])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_the_blocks_take_any_image_norm_and_activation(kind: type[nn.Module], norm: str) -> None:
    sizes: dict[str, Any] = {} if kind is SmallResNet else {"image_size": (32, 40)}
    network = kind(in_channels=3, num_classes=7, norm=norm, activation="gelu", **sizes)
    assert network(torch.randn(2, 3, 32, 40)).shape == (2, 7)
    norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
    assert bool(norms) == (norm != "none")
    assert all(isinstance(m, nn.BatchNorm2d) == (norm == "batch") for m in norms)


def test_sizes_are_those_that_the_configs_name() -> None:
    assert sum(p.numel() for p in TinyCNN().parameters()) == 7_154 < 8_000
    assert sum(p.numel() for p in SmallResNet().parameters()) == 77_658


def test_without_dropout_there_is_no_layer_for_it() -> None:
    assert not any(isinstance(m, nn.Dropout) for m in SeedCNN().modules())
    dropped = SeedCNN(dropout=0.5, spatial_dropout=0.1)
    assert sum(isinstance(m, nn.Dropout) for m in dropped.modules()) == 1
    assert sum(isinstance(m, nn.Dropout2d) for m in dropped.modules()) == 4


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SeedCNN, {"norm": "layer"}, "unknown norm 'layer'; known: none, batch, group"),
        (SeedCNN, {"dropout": 1.0}, "dropout must be at least 0 and below 1, but got 1.0"),
        (SeedCNN, {"init": "ones"}, "unknown init 'ones'; known: default, he, xavier"),
        (SmallResNet, {"blocks": 0}, "blocks at least 1, but got"),
        (VGGLike, {"channels": ()}, "channels must be one or more positive numbers"),
        (VGGLike, {"image_size": (4, 4)}, "images of 4×4 are too small to be halved 3 times"),
    ],
)
def test_mistakes_are_named(
    kind: type[nn.Module], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


@pytest.mark.parametrize(
    ("scheme", "variance"), [("he", 2 / 144), ("xavier", 2 / (144 + 288)), ("default", 1 / 432)]
)
def test_inits_have_their_variance(scheme: str, variance: float) -> None:
    conv = nn.Conv2d(16, 32, 3)
    initialise(conv, scheme)
    assert conv.weight.var().item() == pytest.approx(variance, rel=0.1)
    assert conv.bias is not None
    assert bool((conv.bias == 0).all()) == (scheme != "default")


def test_dirac_passes_the_input_on_and_orthogonal_rows_are() -> None:
    conv, linear = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(16, 8)
    initialise(conv, "dirac")
    images = torch.randn(2, 4, 5, 5)
    assert torch.equal(conv(images), images)
    initialise(linear, "orthogonal")
    product = linear.weight.detach() @ linear.weight.detach().T
    torch.testing.assert_close(product, torch.eye(8), atol=1e-5, rtol=0)


def test_lsuv_gives_every_layer_unit_variance() -> None:
    network = SeedCNN(norm="batch")
    images = torch.randn(64, 1, 28, 28)
    lsuv(network, images)
    assert network.training
    seen: list[float] = []
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda _, __, y: seen.append(y.std().item()))
    network.eval()
    network(images)
    assert len(seen) == 5
    assert all(abs(deviation - 1) < 0.03 for deviation in seen)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_torchvisions_classifiers_by_name(name: str) -> None:
    network = torchvision_model(name, in_channels=1, num_classes=7).eval()
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    with pytest.raises(ValueError, match="unknown torchvision model 'resnet19'; known: alexnet"):
        torchvision_model("resnet19")
