"""Per-sample gradients of networks and programs that say how products are rounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnexp.nn import per_sample_gradients, per_sample_norms
from tests.nn.test_per_sample import LAYERS


class InAutocast(nn.Module):
    """A layer whose network enters autocast by itself."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(input)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_a_network_that_enters_autocast(name: str) -> None:
    make, inputs = LAYERS[name]
    torch.manual_seed(1)
    layer, given = make(), inputs()
    given = given.float() if given.is_floating_point() else given
    batch = given, torch.zeros(len(given))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.float().square().flatten(1).sum(1).sub(target).sum()

    network = InAutocast(layer)
    found = per_sample_gradients(network, loss, batch)
    loss(network(given), batch[1]).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert found[key].dtype == parameter.dtype
        difference = found[key].sum(0) - parameter.grad
        assert difference.norm() <= 0.02 * parameter.grad.norm() + 1e-4, key
    squares = sum(each.flatten(1).square().sum(1) for each in found.values())
    norms = per_sample_norms(network, loss, batch).float()
    torch.testing.assert_close(norms, torch.as_tensor(squares).sqrt(), rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("name", ["cuda", "mkldnn"])
def test_a_program_may_say_how_each_library_rounds(name: str) -> None:
    """torch's older questions for all libraries raise then."""
    library: Any = getattr(torch.backends, name).matmul
    before = library.fp32_precision
    library.fp32_precision = "tf32"
    try:
        batch = torch.ones(2, 2), torch.zeros(2, 1)
        assert per_sample_norms(nn.Linear(2, 1), nn.MSELoss(), batch).shape == (2,)
        assert library.fp32_precision == "tf32"
    finally:
        library.fp32_precision = before
