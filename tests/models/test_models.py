from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnexp.models import LeNet5, SeedCNN
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


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name: str) -> None:
    assert activation_layer(name)(torch.zeros(3)).shape == (3,)
