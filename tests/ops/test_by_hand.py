"""Small cases whose answers are computed on paper; docs/derivation.md shows the first one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cnnexp import ops

X = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])
W = torch.tensor([[[[1.0, 0.0], [-1.0, 2.0]]]])
G = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
every_algorithm = pytest.mark.parametrize("algorithm", ops.algorithm_names("conv2d"))
every_max_pool = pytest.mark.parametrize("algorithm", ops.algorithm_names("max_pool2d"))
every_avg_pool = pytest.mark.parametrize("algorithm", ops.algorithm_names("avg_pool2d"))


def _equal(found: torch.Tensor, on_paper: object) -> None:
    """Equal but for the rounding of transforms."""
    torch.testing.assert_close(found, torch.tensor(on_paper), rtol=1e-6, atol=1e-6)


@every_algorithm
def test_conv2d_3x3_with_a_2x2_kernel(algorithm: str) -> None:
    x, w, b = X.clone().requires_grad_(), W.clone().requires_grad_(), torch.tensor([0.5])
    y = ops.conv2d(x, w, b.requires_grad_(), algorithm=algorithm)
    # 1·1 + 2·0 − 4·1 + 5·2 + ½ = 7½, and so on
    _equal(y, [[[[7.5, 9.5], [13.5, 15.5]]]])
    grads = torch.autograd.grad(y, (x, w, b), G)
    # each window hands g·w back to where it read
    _equal(grads[0], [[[[1.0, 2.0, 0.0], [2.0, 4.0, 4.0], [-3.0, 2.0, 8.0]]]])
    # 1·1 + 2·2 + 3·4 + 4·5 = 37, and so on
    _equal(grads[1], [[[[37.0, 47.0], [67.0, 77.0]]]])
    _equal(grads[2], [10.0])


@every_algorithm
def test_conv2d_sums_over_the_input_channels(algorithm: str) -> None:
    image = torch.tensor([[[[1.0]], [[10.0]]]])
    weight = torch.tensor([[[[2.0]], [[3.0]]]])
    _equal(ops.conv2d(image, weight, algorithm=algorithm), [[[[32.0]]]])


@every_max_pool
def test_max_pool2d_sends_the_gradient_to_the_first_maximum(algorithm: str) -> None:
    image = torch.tensor([[[[5.0, 5.0, 1.0, 0.0], [5.0, 2.0, 0.0, 3.0]]]], requires_grad=True)
    pooled = ops.max_pool2d(image, 2, return_indices=True, algorithm=algorithm)
    assert isinstance(pooled, tuple)
    assert pooled[0].tolist() == [[[[5.0, 3.0]]]]
    assert pooled[1].tolist() == [[[[0, 7]]]]  # the tie goes to the first in row-major order
    (grad,) = torch.autograd.grad(pooled[0], image, torch.tensor([[[[10.0, 20.0]]]]))
    assert grad.tolist() == [[[[10.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 20.0]]]]


@every_max_pool
def test_max_pool2d_adds_up_what_overlapping_windows_send_back(algorithm: str) -> None:
    image = torch.tensor([[[[1.0, 9.0, 2.0]]]], requires_grad=True)
    pooled = ops.max_pool2d(image, (1, 2), 1, algorithm=algorithm)
    assert isinstance(pooled, torch.Tensor)
    (grad,) = torch.autograd.grad(pooled, image, torch.tensor([[[[3.0, 4.0]]]]))
    assert grad.tolist() == [[[[0.0, 7.0, 0.0]]]]


@every_avg_pool
def test_avg_pool2d_shares_the_gradient_out(algorithm: str) -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]], requires_grad=True)
    pooled = ops.avg_pool2d(image, 2, algorithm=algorithm)
    assert pooled.tolist() == [[[[3.0]]]]
    (grad,) = torch.autograd.grad(pooled, image, torch.tensor([[[[8.0]]]]))
    assert grad.tolist() == [[[[2.0, 2.0], [2.0, 2.0]]]]


POINTWISE = {  # x, ∂L/∂y → y, ∂L/∂x
    "relu": ([2.0, -1.0, 0.0], [5.0, 6.0, 7.0], [2.0, 0.0, 0.0], [5.0, 0.0, 0.0]),
    "leaky_relu": ([2.0, -1.0, 0.0], [5.0, 6.0, 7.0], [2.0, -0.01, 0.0], [5.0, 0.06, 0.07]),
    "tanh": ([0.0, 20.0], [3.0, 4.0], [0.0, 1.0], [3.0, 0.0]),
    # Φ(0) = ½, φ(0)·0 = 0; far out x or 0
    "gelu": ([0.0, 30.0, -30.0], [4.0, 5.0, 6.0], [0.0, 30.0, 0.0], [2.0, 5.0, 0.0]),
}


@pytest.mark.parametrize("algorithm", ["direct", "native"])
@pytest.mark.parametrize("op", POINTWISE)
def test_activations(op: str, algorithm: str) -> None:
    x, g, y, grad = (torch.tensor(values) for values in POINTWISE[op])
    output = ops.get_op(op)(x.requires_grad_(), algorithm=algorithm)
    torch.testing.assert_close(output.detach(), y)
    torch.testing.assert_close(torch.autograd.grad(output, x, g)[0], grad)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("linear"))
def test_linear(algorithm: str) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    w = torch.tensor([[1.0, -1.0]], requires_grad=True)
    b = torch.tensor([10.0], requires_grad=True)
    y = ops.linear(x, w, b, algorithm=algorithm)
    assert y.tolist() == [[9.0], [9.0]]
    grads = torch.autograd.grad(y, (x, w, b), torch.tensor([[1.0], [2.0]]))
    # 1·(1, 2) + 2·(3, 4) = (7, 10)
    assert [g.tolist() for g in grads] == [[[1.0, -1.0], [2.0, -2.0]], [[7.0, 10.0]], [3.0]]


@pytest.mark.parametrize("algorithm", ops.algorithm_names("batch_norm"))
def test_batch_norm_takes_away_shift_and_stretch(algorithm: str) -> None:
    x = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]], requires_grad=True)  # mean 0, variance 1
    y = ops.batch_norm(x, None, None, training=True, eps=1e-12, algorithm=algorithm)
    torch.testing.assert_close(y, x)
    # (1, 0, 0, 0) less its mean ¼ less x̂ times the mean of g·x̂, −¼
    (grad,) = torch.autograd.grad(y, x, torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
    torch.testing.assert_close(grad, torch.tensor([[0.5], [0.0], [-0.5], [0.0]]))


@pytest.mark.parametrize("algorithm", ops.algorithm_names("batch_norm"))
def test_batch_norm_moves_the_running_statistics_by_momentum(algorithm: str) -> None:
    mean, variance = torch.tensor([10.0]), torch.tensor([3.0])
    x = torch.tensor([[-1.0], [1.0]])  # mean 0, unbiased variance 2
    ops.batch_norm(x, mean, variance, training=True, momentum=0.5, algorithm=algorithm)
    assert (mean.item(), variance.item()) == (5.0, 2.5)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("cross_entropy"))
def test_cross_entropy_is_softmax_minus_target(algorithm: str) -> None:
    z = torch.tensor([[0.0, math.log(3.0)]], requires_grad=True)  # softmax: ¼, ¾
    loss = ops.cross_entropy(z, torch.tensor([0]), algorithm=algorithm)
    assert loss.item() == pytest.approx(math.log(4.0))
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], torch.tensor([[-0.75, 0.75]]))
    loss = ops.cross_entropy(z, torch.tensor([0]), label_smoothing=0.2, algorithm=algorithm)
    # the target is 0.9, 0.1
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], torch.tensor([[-0.65, 0.65]]))


@pytest.mark.parametrize("algorithm", ops.algorithm_names("focal_loss"))
def test_the_focal_loss_of_an_even_guess(algorithm: str) -> None:
    z = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = ops.focal_loss(z, torch.tensor([0]), gamma=2.0, algorithm=algorithm)
    assert loss.item() == pytest.approx(0.25 * math.log(2))  # (1 − ½)² · −log ½
    (grad,) = torch.autograd.grad(loss, z)
    slope = 0.5 * (0.25 + 2 * 0.5 * 0.5 * math.log(2))  # |s − 1| · ((1−p)² − 2p(1−p) log p)
    assert grad[0].tolist() == pytest.approx([-slope, slope])


@pytest.mark.parametrize("algorithm", ["direct", "native"])
def test_losses_of_labels_and_numbers(algorithm: str) -> None:
    x = torch.tensor([0.5, -3.0], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([1.0, 0.0], dtype=torch.float64)
    weight = torch.tensor([3.0, 3.0], dtype=torch.float64)
    named: dict[str, Any] = {"algorithm": algorithm, "reduction": "sum"}
    for loss, value, grads in (
        (ops.mse_loss(x, t, **named), 9.25, [-1.0, -6.0]),
        (ops.huber_loss(x, t, **named), 0.125 + 2.5, [-0.5, -1.0]),
        (
            ops.binary_cross_entropy_with_logits(x, t, pos_weight=weight, **named),
            3 * math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(-3)),
            [-3 / (1 + math.exp(0.5)), 1 / (1 + math.exp(3))],
        ),
    ):
        assert loss.item() == pytest.approx(value)
        assert torch.autograd.grad(loss, x)[0].tolist() == pytest.approx(grads)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("cross_entropy"))
def test_cross_entropy_of_nothing_that_counts_is_nan_without_a_gradient(algorithm: str) -> None:
    z = torch.randn(2, 3, requires_grad=True)
    loss = ops.cross_entropy(z, torch.tensor([-100, -100]), algorithm=algorithm)
    assert loss.isnan()
    assert torch.autograd.grad(loss, z)[0].tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("algorithm", ops.algorithm_names("adaptive_avg_pool2d"))
def test_adaptive_avg_pool2d_intervals_overlap(algorithm: str) -> None:
    x = torch.tensor([[[[1.0, 2.0, 6.0]]]], requires_grad=True)  # columns 0–1 and 1–2
    y = ops.adaptive_avg_pool2d(x, (1, 2), algorithm=algorithm)
    assert y.tolist() == [[[[1.5, 4.0]]]]
    (grad,) = torch.autograd.grad(y, x, torch.tensor([[[[2.0, 4.0]]]]))
    assert grad.tolist() == [[[[1.0, 3.0, 2.0]]]]


@pytest.mark.parametrize("algorithm", ops.algorithm_names("dropout"))
def test_dropout_keeps_and_scales_the_same_elements_of_the_gradient(algorithm: str) -> None:
    x = torch.ones(1000, requires_grad=True)
    y = ops.dropout(x, 0.75, algorithm=algorithm)
    assert set(y.tolist()) == {0.0, 4.0}
    assert 0.2 < (y > 0).float().mean().item() < 0.3
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach())
    assert torch.equal(ops.dropout(x, 0.75, training=False, algorithm=algorithm), x)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("conv_relu_pool"))
def test_conv_relu_pool(algorithm: str) -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    b = torch.tensor([-10.0], requires_grad=True)
    y = ops.conv_relu_pool(x, w, b, algorithm=algorithm)
    # the convolution is 7, 9, 13, 15: less 10 and cut off 0, 0, 3, 5
    assert y.tolist() == [[[[5.0]]]]
    grads = torch.autograd.grad(y, (x, w, b), torch.tensor([[[[2.0]]]]))
    # all goes to the lower right window, pixels 5, 6, 8, 9
    assert grads[0].tolist() == [[[[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, -2.0, 4.0]]]]
    assert grads[1].tolist() == [[[[10.0, 12.0], [16.0, 18.0]]]]
    assert grads[2].tolist() == [2.0]


@pytest.mark.parametrize("algorithm", ops.algorithm_names("conv_tanh_pool"))
def test_conv_tanh_pool(algorithm: str) -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    b = torch.tensor([-9.0], requires_grad=True)
    y = ops.conv_tanh_pool(x, w, b, pool=ops.Pool("avg"), algorithm=algorithm)
    # the convolution is 7, 9, 13, 15: less 9, −2, 0, 4, 6, whose tanh is this, and 1 − tanh² as follows
    a, slope = [-0.964028, 0.0, 0.999329, 0.999988], [0.070651, 1.0, 0.001341, 0.000025]
    torch.testing.assert_close(y, torch.tensor([[[[sum(a) / 4]]]]), rtol=0, atol=1e-6)
    of_x, of_w, of_b = torch.autograd.grad(y, (x, w, b), torch.tensor([[[[4.0]]]]))
    windows = [X[..., i : i + 2, j : j + 2] for i in (0, 1) for j in (0, 1)]
    expected = sum(s * window for s, window in zip(slope, windows, strict=True))
    torch.testing.assert_close(of_w, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(of_b, torch.tensor([sum(slope)]), rtol=0, atol=1e-5)
    image = torch.zeros_like(X)
    for s, (i, j) in zip(slope, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        image[..., i : i + 2, j : j + 2] += s * W
    torch.testing.assert_close(of_x, image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("batch_norm"))
def test_batch_norm_needs_a_positive_eps(algorithm: str) -> None:
    said = "eps must be positive( during training)?, but got 0"  # shorter in torch 2.11
    with pytest.raises(ValueError, match=said):
        ops.batch_norm(torch.ones(2, 1), None, None, training=True, eps=0.0, algorithm=algorithm)
