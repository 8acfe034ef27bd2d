"""The max-norm constraint and adaptive gradient clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnexp.regularization import Clip, MaxNorm, clip_units


def _norms(values: torch.Tensor) -> torch.Tensor:
    return values.detach().flatten(1).norm(dim=1)


def test_max_norm_shortens_the_units_that_are_too_long_and_no_other() -> None:
    conv, linear = nn.Conv2d(2, 3, 3), nn.Linear(27, 4)
    network = nn.Sequential(conv, nn.Flatten(), linear)
    with torch.no_grad():
        conv.weight[1] *= 100
        linear.bias.fill_(50)
    before = conv.weight.detach().clone()
    MaxNorm(2.0).weights(network)
    assert _norms(conv.weight).max().item() == pytest.approx(2.0)
    assert torch.equal(conv.weight[0], before[0])
    torch.testing.assert_close(conv.weight[1], before[1] * 2 / before[1].norm())
    assert (linear.bias == 50).all()


def test_max_norm_bears_weights_of_zero() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    MaxNorm(1.0).weights(layer)
    assert (layer.weight == 0).all()


def test_adaptive_clip_goes_by_the_ratio_of_each_unit() -> None:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0, 10.0, 0.0])))
    layer.weight.grad = torch.ones(3, 3)
    layer.bias.grad = torch.zeros(3)
    clip_units(layer.parameters(), 0.1, eps=1e-2)
    # 0.1 · 1, 0.1 · 10, and 0.1 · eps where the weights are 0
    torch.testing.assert_close(_norms(layer.weight.grad), torch.tensor([0.1, 1.0, 1e-3]))
    assert (layer.bias.grad == 0).all()


def test_adaptive_clip_leaves_small_gradients_alone() -> None:
    layer = nn.Linear(3, 3)
    grad = 1e-4 * torch.randn(3, 3)
    layer.weight.grad = grad.clone()
    Clip(adaptive=0.1).gradients(list(layer.parameters()))  # the bias has no gradient
    assert torch.equal(layer.weight.grad, grad)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"regularization\.max_norm\.limit must be above 0"):
        MaxNorm(0)
    with pytest.raises(ValueError, match=r"clip\.adaptive and its eps must be above 0"):
        clip_units([], 0)
