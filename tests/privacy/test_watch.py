"""Networks whose samples cannot be told apart are refused, and autograd's own guards stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp.nn.per_sample import PerSampleError, watched, watched_layers
from cnnexp.privacy import (
    Clipping,
    PrivacyError,
    PrivateGradient,
    SeededNoise,
    check_independence,
)

IMAGES, LABELS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3


def _step(network: nn.Module) -> None:
    noise = SeededNoise(0)
    gradient = PrivateGradient(Clipping(1.0), noise_multiplier=0.0, expected=4, noise=noise)
    gradient.begin(network, 4)
    try:
        gradient.scaled(F.cross_entropy(network(IMAGES), LABELS), 4).backward()
        gradient.finish(network, 0)
    finally:
        gradient.end()


class Tied(nn.Module):
    """A weight that is also used outside of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.linear(self.inner(x), self.inner.weight))


class Forgetful(nn.Module):
    """Changes the input of a layer in place after the layer has seen it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        y = self.first(x)
        x.mul_(2)
        return self.last(y + x)


class Pair(nn.Module):
    """A layer with a parameter that gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.last = nn.Parameter(torch.ones(6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.last(x * self.scale), x


def test_a_gradient_past_the_watch_is_found() -> None:
    with pytest.raises(PrivacyError, match=r"inner\.weight is used outside of the layer that it"):
        _step(Tied())


def test_an_input_that_is_changed_in_place_is_noticed_by_autograd() -> None:
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        _step(Forgetful())


def test_a_layer_that_gives_more_than_a_tensor_is_refused() -> None:
    with pytest.raises(PerSampleError, match=r"\(Pair\) gives a tuple; each layer with parameters"):
        _step(Pair())


def test_a_layer_without_gradient_by_sample_is_refused_by_name() -> None:
    network = nn.Sequential(nn.Dropout1d(0.5), nn.Linear(6, 6), Noisy(), nn.Linear(6, 3))
    with pytest.raises(
        PerSampleError, match=r"2 \(Noisy\): torch.func cannot tell its gradients apart"
    ):
        _step(network)


class Noisy(nn.Module):
    """Draws random numbers within a layer that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x * self.scale, 0.5)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_layer_that_the_loss_does_not_need_gets_zeros() -> None:
    network = Unused()
    _step(network)
    used, unused = network.used.weight.grad, network.unused.weight.grad
    assert used is not None
    assert unused is not None
    assert used.any()
    assert not unused.any()


def test_the_network_is_as_before_afterwards() -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    own = network[0].forward = network[0].forward  # somebody has replaced it already
    with watched(network, 4):
        assert network[0].forward is not own
        network(IMAGES)
    assert network[0].forward is own
    assert "forward" not in vars(network[2])
    assert all(p.requires_grad for p in network.parameters())


def test_what_is_watched_is_each_layer_with_parameters_once() -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), Noisy())
    network[0].weight.requires_grad_(False)
    assert list(watched_layers(network)) == ["0", "1.1", "2"]
    network[0].bias.requires_grad_(False)
    assert list(watched_layers(network)) == ["1.1", "2"]


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Counting(nn.Module):
    """Keeps a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean += x.mean()
        return x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Centred(), "depends on the other images of the batch"),
        (nn.BatchNorm2d(2, track_running_stats=False), "depends on the other images of the batch"),
        (nn.BatchNorm2d(2), "changes 1.running_mean, 1.running_var, 1.num_batches_tracked"),
        (Counting(), "the network changes 1.mean in its forward pass"),
    ],
)
def test_a_network_that_mixes_images_is_refused(layer: nn.Module, message: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), layer)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with pytest.raises(PrivacyError, match=message):
        check_independence(network, torch.empty(1, 1, 8, 8))
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name])


def test_a_network_that_takes_each_image_by_itself_is_fine() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Dropout(0.5), nn.Flatten())
    state = torch.get_rng_state()
    check_independence(network.train(), torch.empty(1, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
