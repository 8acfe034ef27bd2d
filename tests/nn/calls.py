"""A network whose code calls activations and poolings itself, in the ways that people do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cnnexp
from cnnexp.nn import BatchNormAct2d, ConvReLUPool, ConvTanhPool
from cnnexp.nn.deferring import Deferring

__all__ = ["CALLS", "Calls", "Forward", "blocks_of", "draw", "pair", "results"]

Forward = Callable[["Calls", Tensor], Any]


class Calls(nn.Module):
    """Layers for any forward; ``twist`` changes what it does after it was traced."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, bias=False)
        self.relu, self.into = nn.ReLU(), nn.ReLU(inplace=True)
        self.tanh, self.pool, self.mean = nn.Tanh(), nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.does, self.twist, self.seen = forward, False, list[Any]()

    def forward(self, input: Tensor) -> Tensor:
        return self.does(self, input)


_MAX, _AVG, _TANH, _NORM = (ConvReLUPool,), (ConvReLUPool,), (ConvTanhPool,), (BatchNormAct2d,)

# How people call them, and the blocks that these are.
CALLS: dict[str, tuple[Forward, tuple[type[nn.Module], ...]]] = {
    "functions": (lambda s, x: F.max_pool2d(F.relu(s.conv(x)), 2), _MAX),
    "torch's functions": (lambda s, x: torch.max_pool2d(torch.relu(s.conv(x)), (2, 2), 2), _MAX),
    "methods": (lambda s, x: F.max_pool2d(s.conv(x).relu(), kernel_size=3, stride=2), _MAX),
    "in place": (lambda s, x: F.max_pool2d(F.relu(s.conv(x), inplace=True), 2), _MAX),
    "in place, method": (lambda s, x: F.max_pool2d(s.conv(x).relu_(), 2, padding=1), _MAX),
    "the mean": (lambda s, x: F.avg_pool2d(F.relu_(s.conv(x)), 2), _AVG),
    "layers": (lambda s, x: s.pool(s.relu(s.conv(x))), _MAX),
    "layers in place": (lambda s, x: s.mean(s.into(s.conv(x))), _AVG),
    "layer and function": (lambda s, x: s.pool(F.relu(s.conv(x))), _MAX),
    "one pooling twice": (
        lambda s, x: s.pool(F.relu(s.again(s.pool(F.relu(s.conv(x)))))),
        _MAX * 2,
    ),
    "one convolution twice": (
        lambda s, x: F.max_pool2d(
            F.relu(s.again(F.max_pool2d(F.relu(s.again(s.conv(x))), 2, 1))), 2, 1
        ),
        _MAX,
    ),
    "pooling first": (lambda s, x: F.relu(F.max_pool2d(s.conv(x), 2)), _MAX),
    "layers, pooling first": (lambda s, x: s.into(s.pool(s.conv(x))), _MAX),
    "tanh": (lambda s, x: torch.tanh(s.conv(x)), _TANH),
    "tanh, the mean": (lambda s, x: F.avg_pool2d(F.tanh(s.conv(x)), 2), _TANH),
    "tanh, layers": (lambda s, x: s.mean(s.tanh(s.conv(x))), _TANH),
    "tanh, the greatest": (lambda s, x: s.pool(s.conv(x).tanh()), _TANH),
    "normalised": (lambda s, x: F.relu(s.bn(s.conv(x))), _NORM),
    "normalised in place": (lambda s, x: F.relu(s.bn(s.conv(x)), inplace=True), _NORM),
    "normalised, silu": (lambda s, x: F.silu(s.bn(s.conv(x))), _NORM),
    "normalised, relu6": (lambda s, x: F.relu6(s.bn(s.conv(x))), _NORM),
    "normalised, hardswish": (lambda s, x: F.hardswish(s.bn(s.conv(x)), True), _NORM),
    "normalised, kept": (lambda s, x: s.again(F.relu(s.bn(s.conv(x)))), _NORM),
    "in training only": (
        lambda s, x: s.pool(F.relu(s.conv(x))) if s.training else s.pool(s.conv(x)),
        (),
    ),
    "the mean first": (lambda s, x: F.relu(F.avg_pool2d(s.conv(x), 2)), ()),
    "no pooling": (lambda s, x: F.relu(s.conv(x)), ()),
    "indices": (lambda s, x: F.max_pool2d(F.relu(s.conv(x)), 2, return_indices=True)[0], ()),
    "read twice": (lambda s, x: s.pool(F.relu(y := s.conv(x)) + y), ()),
    "sizes of its own": (lambda s, x: F.max_pool2d(F.relu(s.conv(x)), x.size(2) // 2), ()),
    "another window": (
        lambda s, x: s.pool(F.relu(s.again(F.max_pool2d(F.relu(s.again(s.conv(x))), 2, 1)))),
        (),
    ),
    "written in between": (lambda s, x: (y := s.conv(x), x.clone().mul_(2), F.relu(y))[2], ()),
}


def pair(forward: Forward, algorithm: str = "fused") -> tuple[Calls, Calls]:
    """A network and a copy of it in ours."""
    torch.manual_seed(0)
    theirs = Calls(forward).double()
    return theirs, cnnexp.replace_layers(
        copy.deepcopy(theirs), algorithm, functions=True, quiet=True
    )


def draw(count: int = 3) -> Tensor:
    """Images (N, 2, 9, 8)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, 9, 8, dtype=torch.float64, generator=generator)


def results(network: nn.Module, image: Tensor) -> list[Tensor]:
    """Output, gradients and running statistics of a pass."""
    image = image.clone().requires_grad_()
    network.zero_grad()
    output = network(image)
    output.square().sum().backward()
    grads = [torch.zeros(()) if p.grad is None else p.grad for p in network.parameters()]
    assert image.grad is not None
    return [output.detach(), image.grad, *grads, *(b.clone() for b in network.buffers())]


def blocks_of(network: nn.Module) -> list[type[nn.Module]]:
    """The classes of the blocks, all of which wait."""
    kinds: tuple[type[nn.Module], ...] = ConvReLUPool, ConvTanhPool, BatchNormAct2d
    found: list[type[nn.Module]] = [
        kind for layer in network.modules() for kind in kinds if isinstance(layer, kind)
    ]
    assert all(
        isinstance(layer, Deferring) for layer in network.modules() if isinstance(layer, kinds)
    )
    return found
