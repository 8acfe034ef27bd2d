"""What ``torch.fx`` traces of a converted network, and what is said where it cannot."""

from __future__ import annotations

import logging
import types
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from cnnexp.nn import replace_layers
from cnnexp.nn.conversion import REPLACED, conversion
from cnnexp.nn.deferring import Deferring


class ByKeyword(nn.Module):
    """A network that calls its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(input=self.conv(input=x)))


@pytest.mark.parametrize("algorithm", ["direct", "fused"])
def test_a_layer_that_is_called_by_keyword_is_one_node(algorithm: str) -> None:
    network = replace_layers(ByKeyword(), algorithm)
    traced = fx.symbolic_trace(network)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        "conv",
        "bn",
    ]
    image = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(traced(image), network(image))


class OfAGrid(nn.Module):
    """A network that calls a layer on a buffer, which is computed while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.rand(5, 2))
        self.where = nn.Linear(2, 8)
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        places: Any = self.grid
        return F.relu(self.bn(self.conv(x))) + self.where(places).mean(0).view(1, -1, 1, 1)


def test_the_first_conversion_is_as_the_second_where_a_layer_is_called_on_a_buffer() -> None:
    network = OfAGrid()
    kinds = []
    for _ in range(2):
        replace_layers(network, "fused", functions=True)
        kinds.append([type(layer) for layer in network.modules()])
    assert kinds[0] == kinds[1]
    assert isinstance(network.bn, Deferring)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x))) if float(x.sum()) > 0 else x


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"functions": True}, "functions=True"),
        ({"recompute": True}, "recompute=True"),
        ({"recompute": True, "functions": True}, "functions=True and recompute=True"),
    ],
)
def test_what_cannot_be_traced_is_said(
    asked: dict[str, bool], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    line = f"torch.fx cannot trace the network's forward, so that {said} finds nothing outside of an nn.Seq"
    with caplog.at_level(logging.WARNING):
        replace_layers(Untraceable(), "fused", **asked)
    assert [each for each in caplog.messages if each.startswith(line)]
    caplog.clear()
    replace_layers(Untraceable(), "fused")
    replace_layers(OfAGrid(), "fused", **asked)
    assert caplog.messages == []


def test_a_convolution_that_pads_by_a_function_of_its_own_stays_torchs() -> None:
    """As programs do that make textures without seams: round in one direction alone."""

    def round_in_x(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padded = F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
        return F.conv2d(padded, weight, bias, self.stride)

    conv = nn.Conv2d(3, 4, 3, padding=1)
    conv._conv_forward = types.MethodType(round_in_x, conv)  # pyright: ignore[reportAttributeAccessIssue]
    network, image = nn.Sequential(conv, nn.ReLU()), torch.randn(2, 3, 6, 6)
    right = network(image)
    replace_layers(network, "fused", quiet=True)
    assert conversion(network).kept == {"0": REPLACED}
    assert torch.equal(network(image), right)
