"""Each sample's gradient of a block of convolution, tanh and pooling is that of its convolution."""

from __future__ import annotations

import copy

import pytest
import torch

import cnnexp
from cnnexp.models import LeNet5
from cnnexp.nn.per_sample.watch import watched


@pytest.mark.parametrize("algorithm", ["fused", "im2col"])
def test_norms_are_those_of_the_parts(algorithm: str) -> None:
    network = LeNet5(image_size=(12, 12)).double()
    fused = cnnexp.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    fused.features[0].algorithm = algorithm  # pyright: ignore[reportArgumentType]
    images = torch.randn(3, 1, 12, 12, dtype=torch.float64)
    norms = []
    for each in (network, fused):
        with watched(each, 3) as calls:
            each(images).square().sum().backward()
        norms.append([call.squared_norms() for call in calls])
    torch.testing.assert_close(norms[1], norms[0])
