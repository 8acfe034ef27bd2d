"""Small cases whose answers are computed on paper; docs/derivation.md shows the first one."""

from __future__ import annotations

import pytest
import torch

from cnnexp import ops

X = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])
W = torch.tensor([[[[1.0, 0.0], [-1.0, 2.0]]]])
G = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
every_algorithm = pytest.mark.parametrize("algorithm", ops.algorithm_names("conv2d"))


@every_algorithm
def test_conv2d_3x3_with_a_2x2_kernel(algorithm: str) -> None:
    x, w, b = X.clone().requires_grad_(), W.clone().requires_grad_(), torch.tensor([0.5])
    y = ops.conv2d(x, w, b.requires_grad_(), algorithm=algorithm)
    # 1·1 + 2·0 − 4·1 + 5·2 + ½ = 7½, and so on
    assert y.tolist() == [[[[7.5, 9.5], [13.5, 15.5]]]]
    grads = torch.autograd.grad(y, (x, w, b), G)
    # each window hands g·w back to where it read
    assert grads[0].tolist() == [[[[1.0, 2.0, 0.0], [2.0, 4.0, 4.0], [-3.0, 2.0, 8.0]]]]
    # 1·1 + 2·2 + 3·4 + 4·5 = 37, and so on
    assert grads[1].tolist() == [[[[37.0, 47.0], [67.0, 77.0]]]]
    assert grads[2].tolist() == [10.0]


@every_algorithm
def test_conv2d_sums_over_the_input_channels(algorithm: str) -> None:
    image = torch.tensor([[[[1.0]], [[10.0]]]])
    weight = torch.tensor([[[[2.0]], [[3.0]]]])
    assert ops.conv2d(image, weight, algorithm=algorithm).item() == 32.0


@every_algorithm
def test_max_pool2d_sends_the_gradient_to_the_first_maximum(algorithm: str) -> None:
    image = torch.tensor([[[[5.0, 5.0, 1.0, 0.0], [5.0, 2.0, 0.0, 3.0]]]], requires_grad=True)
    pooled = ops.max_pool2d(image, 2, return_indices=True, algorithm=algorithm)
    assert isinstance(pooled, tuple)
    assert pooled[0].tolist() == [[[[5.0, 3.0]]]]
    assert pooled[1].tolist() == [[[[0, 7]]]]  # the tie goes to the first in row-major order
    (grad,) = torch.autograd.grad(pooled[0], image, torch.tensor([[[[10.0, 20.0]]]]))
    assert grad.tolist() == [[[[10.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 20.0]]]]


@every_algorithm
def test_max_pool2d_adds_up_what_overlapping_windows_send_back(algorithm: str) -> None:
    image = torch.tensor([[[[1.0, 9.0, 2.0]]]], requires_grad=True)
    pooled = ops.max_pool2d(image, (1, 2), 1, algorithm=algorithm)
    assert isinstance(pooled, torch.Tensor)
    (grad,) = torch.autograd.grad(pooled, image, torch.tensor([[[[3.0, 4.0]]]]))
    assert grad.tolist() == [[[[0.0, 7.0, 0.0]]]]


@every_algorithm
def test_avg_pool2d_shares_the_gradient_out(algorithm: str) -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]], requires_grad=True)
    pooled = ops.avg_pool2d(image, 2, algorithm=algorithm)
    assert pooled.tolist() == [[[[3.0]]]]
    (grad,) = torch.autograd.grad(pooled, image, torch.tensor([[[[8.0]]]]))
    assert grad.tolist() == [[[[2.0, 2.0], [2.0, 2.0]]]]


def test_the_formulas_of_relu_linear_layer_and_cross_entropy() -> None:
    """Those that docs/derivation.md gives and torch's autograd computes."""
    x = torch.tensor([[1.0, -2.0, 0.0]], requires_grad=True)
    g = torch.tensor([[5.0, 6.0, 7.0]])
    assert torch.autograd.grad(x.relu(), x, g)[0].tolist() == (g * (x > 0)).tolist()

    x, w, b = (torch.randn(shape, requires_grad=True) for shape in ((4, 3), (2, 3), (2,)))
    g = torch.randn(4, 2)
    found = torch.autograd.grad(torch.nn.functional.linear(x, w, b), (x, w, b), g)
    torch.testing.assert_close(found, (g @ w, g.T @ x, g.sum(0)))

    z, t = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, 1, 1])
    loss = torch.nn.functional.cross_entropy(z, t)
    expected = (z.softmax(1) - torch.nn.functional.one_hot(t, 3)) / 4
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected)
