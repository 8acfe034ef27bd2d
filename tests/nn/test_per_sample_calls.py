"""Per-sample gradients however the network calls its layers, and of layers that take no sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from cnnexp.nn import PerSampleError, per_sample_gradients, per_sample_norms, replace_layers

N = 6
IMAGES = torch.randn(N, 3, 5, 5, dtype=torch.float64)
CLASSES = torch.arange(N) % 2


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(1, 2, 6))

    def forward(self, x: Tensor, power: int = 1, more: Tensor | None = None) -> Tensor:
        return self.gain * x**power if more is None else self.gain * x**power + more


class _ByName(nn.Module):
    """Calls each of its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 5), nn.GroupNorm(2, 6)
        self.scale, self.last = _Scale(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(input=self.conv(input=x)).flatten(1)
        return self.last(input=self.scale(x=x, power=2))


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 5), nn.Flatten(), nn.Tanh())
        self.scale, self.last = _Scale(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.body, x, use_reentrant=False)
        return self.last(checkpoint(self.scale, x, use_reentrant=False))


def _parametrised(bias: bool) -> nn.Module:
    # as many output channels as samples: rows of the weight are no samples
    conv = parametrizations.weight_norm(nn.Conv2d(3, N, 5, bias=bias))
    return nn.Sequential(
        conv, nn.Flatten(), parametrizations.weight_norm(nn.Linear(N, 2, bias=bias))
    )


NETWORKS = {
    "by name": _ByName,
    "checkpointed": _Checkpointed,
    "parametrised": lambda: _parametrised(True),
    "parametrised without bias": lambda: _parametrised(False),
}


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_sample_has_the_gradient_that_it_has_alone(name: str, converted: bool) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    expected = []
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    for image, label in zip(IMAGES, CLASSES, strict=True):

        def loss(own: dict[str, Tensor], x: Tensor = image, y: Tensor = label) -> Tensor:
            return F.cross_entropy(functional_call(network, own, (x[None],)), y[None])

        expected.append(
            grad(loss)(parameters) if name != "checkpointed" else _alone(network, image, label)
        )
    if converted:
        replace_layers(network, "direct", quiet=True)
    found = per_sample_gradients(network, F.cross_entropy, (IMAGES, CLASSES))
    assert found.keys() == parameters.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, torch.stack([each[key] for each in expected]))
    squares = [sum(v.square().sum() for v in each.values()) for each in expected]
    norms = per_sample_norms(network, F.cross_entropy, (IMAGES, CLASSES))
    torch.testing.assert_close(norms, torch.tensor([float(s) ** 0.5 for s in squares]).double())


def _alone(network: nn.Module, image: Tensor, label: Tensor) -> dict[str, Any]:
    loss = F.cross_entropy(network(image[None]), label[None])
    return dict(
        zip(
            dict(network.named_parameters()),
            torch.autograd.grad(loss, [*network.parameters()]),
            strict=True,
        )
    )


class _Queries(nn.Module):
    """A table that no sample enters, with as many rows as there are samples."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.table = nn.Linear(75, 2), _Table()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1) + self.table())


class _Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.ones(N, 75))

    def forward(self) -> Tensor:
        return self.rows * 2


class _KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.shift = nn.Linear(75, 2), _Shift()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shift(x.flatten(1), by=x.flatten(1).mean(1, keepdim=True)))


class _Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, *, by: Tensor) -> Tensor:
        return x + self.gain * by


@pytest.mark.parametrize(("kind", "name"), [(_Queries, "table"), (_KeywordOnly, "shift")])
def test_what_cannot_be_told_by_sample_is_said(kind: type[nn.Module], name: str) -> None:
    with pytest.raises(
        PerSampleError, match=rf"^{name} \(_\w+\) takes no tensor of the batch, or one"
    ):
        per_sample_gradients(kind().double(), F.cross_entropy, (IMAGES, CLASSES))
