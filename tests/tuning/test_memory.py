"""What is measured is freed afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnnexp import tuning
from cnnexp.tuning.memory import saved_bytes

NETWORKS: dict[str, Callable[[], nn.Module]] = {  # each keeps an output
    "tanh": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh()),
    "sigmoid": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid()),
    "relu": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()),
}


def _saved(network: nn.Module, image: Tensor) -> None:
    assert (
        saved_bytes(lambda: network(image).sum(), network.parameters())
        == 1 * 6 * 6 * 4 + 2 * 4 * 4 * 4
    )


def _stepped(network: nn.Module, image: Tensor) -> None:
    """A work that ends with a backward of second order."""

    def step() -> Tensor:
        output = network(image).square().sum()
        parameters = [*network.parameters()]
        grads = torch.autograd.grad(output, parameters, create_graph=True)
        torch.stack([each.square().sum() for each in grads]).sum().backward()
        return output

    expected = [
        step(),
        *(each.grad.clone() for each in network.parameters() if each.grad is not None),
    ]
    network.zero_grad()
    assert saved_bytes(step) > 0
    found = [expected[0], *(each.grad for each in network.parameters())]
    torch.testing.assert_close(found, expected)


def _chosen(network: nn.Module, image: Tensor) -> None:
    tuning.choose_algorithms(network, image)


@pytest.mark.parametrize("work", [_saved, _stepped, _chosen])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_graph_outlives_it(
    name: str,
    work: Callable[[nn.Module, Tensor], None],
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    network = NETWORKS[name]()
    held = [weakref.ref(each) for each in network.parameters()]
    work(network, torch.randn(1, 1, 6, 6))
    del network
    gc.collect()
    assert [each() for each in held] == [None, None]
