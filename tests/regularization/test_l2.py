from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnexp.regularization import L2, l2_penalty, penalised_weights


def test_the_penalty_is_half_the_sum_of_squares_and_its_gradient_the_weight() -> None:
    weight = torch.tensor([[3.0, 4.0]], requires_grad=True)
    penalty = l2_penalty([weight])
    assert penalty.item() == 12.5
    assert torch.autograd.grad(penalty, weight)[0].tolist() == [[3.0, 4.0]]
    assert l2_penalty([]).item() == 0.0


def test_biases_norms_and_frozen_weights_are_left_out() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    assert len(list(penalised_weights(network))) == 2
    network[0].weight.requires_grad_(False)
    assert [w.shape for w in penalised_weights(network)] == [(2, 8)]


def test_with_sgd_it_is_weight_decay() -> None:
    def step(strength: float, decay: float) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2, bias=False)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=decay)
        (layer(torch.ones(3)).sum() + L2(strength).penalty(layer)).backward()
        optimizer.step()
        return layer.weight.detach()

    torch.testing.assert_close(step(0.01, 0.0), step(0.0, 0.01))


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"regularization.l2.strength must be at least 0, but got -1"
    ):
        L2(-1)
