"""Noise and sharpness, against the definitions."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnexp.diagnostics import gradient_moments, noise_scale, sharpness, undisturbed
from cnnexp.models import SeedCNN, TinyCNN
from cnnexp.nn import replace_layers


def _small(backward: str, norm: str = "none") -> nn.Module:
    torch.manual_seed(0)
    network = SeedCNN(1, 3, (8, 8), channels=[2, 3], norm=norm)
    return replace_layers(network, backward).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 1, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(3, (16,), generator=generator)


def _hessian(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """∂²L/∂θ² in full, of torch's own layers."""
    twin = replace_layers(copy.deepcopy(network), "native")
    names = [name for name, _ in twin.named_parameters()]
    shapes = [p.shape for p in twin.parameters()]
    buffers = {name: buffer.clone() for name, buffer in twin.named_buffers()}

    def loss(theta: Tensor) -> Tensor:
        pieces = theta.split([s.numel() for s in shapes])
        parts = {n: piece.view(s) for n, piece, s in zip(names, pieces, shapes, strict=True)}
        state = {**parts, **{n: b.clone() for n, b in buffers.items()}}
        return F.cross_entropy(torch.func.functional_call(twin, state, (images,)), labels)

    theta = torch.cat([p.detach().reshape(-1) for p in twin.parameters()])
    hessian = torch.autograd.functional.hessian(loss, theta)
    assert isinstance(hessian, Tensor)
    return hessian


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("backward", ["native", "direct", "im2col", "fused", "reference"])
def test_sharpness_is_the_largest_eigenvalue_of_the_hessian(backward: str, norm: str) -> None:
    network, (images, labels) = _small(backward, norm), _batch()
    expected = torch.linalg.eigvalsh(_hessian(network, images, labels)).max()
    with undisturbed(network):
        found = sharpness(
            lambda: F.cross_entropy(network(images), labels),
            list(network.parameters()),
            iterations=400,
            tolerance=1e-9,
        )
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_it_is_the_largest_where_the_greatest_is_negative() -> None:
    weight = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    curvatures = torch.tensor([-5.0, 2.0, 1.0], dtype=torch.float64)
    found = sharpness(
        lambda: (curvatures * weight**2).sum() / 2, [weight], iterations=400, tolerance=1e-9
    )
    assert found == pytest.approx(2.0, rel=1e-5)


def test_the_noise_is_that_of_single_images_and_the_square_that_of_their_mean() -> None:
    network, (images, labels) = _small("direct"), _batch()

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(network(images), labels)

    parameters = list(network.parameters())
    each = []
    for i in range(16):
        one = torch.autograd.grad(loss(images[i : i + 1], labels[i : i + 1]), parameters)
        each.append(torch.cat([g.reshape(-1) for g in one]))
    gradients = torch.stack(each)
    variance = gradients.var(0, correction=1).sum()  # tr Σ of the sample: unbiased
    square = gradients.mean(0).square().sum() - variance / 16
    moments = gradient_moments(loss, parameters, images, labels, parts=16)
    assert moments is not None
    torch.testing.assert_close(moments[0], variance)
    torch.testing.assert_close(moments[1], square)
    by_parts = gradient_moments(loss, parameters, images, labels, parts=4)
    assert by_parts is not None
    assert float(by_parts[0]) == pytest.approx(float(variance), rel=0.5)  # of 4 parts only
    assert gradient_moments(loss, parameters, images[:3], labels[:3], parts=4, least=2) is None


def test_the_noise_scale_is_their_ratio_if_there_is_one() -> None:
    assert noise_scale(6.0, 2.0) == 3.0
    assert noise_scale(-1.0, 2.0) == 0.0
    assert noise_scale(6.0, -0.1) is None


def test_looking_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    network = TinyCNN(dropout=0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state, modes = torch.get_rng_state(), [m.training for m in network.modules()]
    with undisturbed(network):
        assert not network.dropout.training
        network(torch.randn(4, 1, 28, 28)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in network.modules()] == modes
