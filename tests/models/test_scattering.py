"""The scattering transform against its definition, evaluated sum by sum, and the networks on it."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cnnexp.models import ScatterCNN, Scattering2d, ScatterLinear
from cnnexp.nn import conversion, replace_layers


def _periodic(height: int, width: int, formula: Any) -> np.ndarray:
    """The sum of ``formula`` (of row, column) over all periods that matter, at each place of the torus."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    periods = itertools.product(range(-3, 4), repeat=2)
    each = [formula(rows + p * height, columns + q * width) for p, q in periods]
    return np.sum(each, axis=0)


@cache
def _gaussian(height: int, width: int, sigma: float) -> np.ndarray:
    phi = _periodic(height, width, lambda u, v: np.exp(-(u**2 + v**2) / (2 * sigma**2)))
    return phi / phi.sum()


@cache
def _morlet(height: int, width: int, scale: int, angle: int, angles: int) -> np.ndarray:
    theta = (angles // 2 - 1 - angle) * math.pi / angles
    sigma, xi, slant = 0.8 * 2**scale, 0.75 * math.pi / 2**scale, 4 / angles

    def envelope(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        along = u * math.cos(theta) + v * math.sin(theta)
        across = -u * math.sin(theta) + v * math.cos(theta)
        return np.exp(-(along**2 + slant**2 * across**2) / (2 * sigma**2))

    def wave(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return envelope(u, v) * np.exp(1j * xi * (u * math.cos(theta) + v * math.sin(theta)))

    g, gabor = _periodic(height, width, envelope), _periodic(height, width, wave)
    return (gabor - gabor.sum() / g.sum() * g) / g.sum()


def _convolved(x: np.ndarray, kernel: np.ndarray, step: int) -> np.ndarray:
    """Σ_u x(u) kernel(step · m − u) for each m, indices modulo the size."""
    height, width = x.shape
    out = np.zeros((height // step, width // step), dtype=kernel.dtype)
    for m, n in np.ndindex(*out.shape):
        rows = (step * m - np.arange(height)) % height
        columns = (step * n - np.arange(width)) % width
        out[m, n] = (x * kernel[np.ix_(rows, columns)]).sum()
    return out


def _by_definition(image: np.ndarray, scales: int, angles: int) -> np.ndarray:
    height, width = image.shape
    margins = []
    for length in (height, width):
        margin = 2**scales * (length // 2**scales + 2) - length
        margins.append((margin // 2, margin - margin // 2))
    x = np.pad(image, margins, mode="reflect")

    def smooth(field: np.ndarray, grid: int) -> np.ndarray:
        phi = _gaussian(*field.shape, 0.8 * 2 ** (scales - 1 - grid))
        whole = _convolved(field, phi, 2 ** (scales - grid))
        return whole[1 : 1 + height // 2**scales, 1 : 1 + width // 2**scales]

    def modulus(field: np.ndarray, scale: int, angle: int) -> np.ndarray:
        return abs(_convolved(field, _morlet(*field.shape, scale, angle, angles), 2**scale))

    first, second = [], []
    for j1, angle1 in itertools.product(range(scales), range(angles)):
        u1 = modulus(x, j1, angle1)
        first.append(smooth(u1, j1))
        for j2, angle2 in itertools.product(range(j1 + 1, scales), range(angles)):
            second.append(smooth(modulus(u1, j2 - j1, angle2), j2))
    return np.stack([smooth(x, 0), *first, *second])


def _double(*arguments: Any) -> Scattering2d:
    return Scattering2d(*arguments, dtype=torch.float64)


@pytest.mark.parametrize(
    ("size", "scales", "angles"),
    [((8, 8), 2, 8), ((5, 11), 2, 3), ((6, 3), 1, 4), ((9, 10), 3, 2)],
    ids=lambda value: "×".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_the_features_are_those_of_the_definition(
    size: tuple[int, int], scales: int, angles: int
) -> None:
    images = torch.randn(2, 2, *size, dtype=torch.float64)
    transform = _double(size, scales, angles)
    found = transform(images).view(2, 2, transform.features, *transform.out_size)
    for n, c in ((0, 1), (1, 0)):
        wanted = torch.from_numpy(_by_definition(images[n, c].numpy(), scales, angles))
        torch.testing.assert_close(found[n, c], wanted, rtol=0, atol=1e-10)


def test_a_constant_image_has_its_constant_in_order_0_alone() -> None:
    features = _double(12)(torch.full((1, 1, 12, 12), 3.0, dtype=torch.float64))
    torch.testing.assert_close(features[:, :1], torch.full((1, 1, 3, 3), 3.0).double())
    assert features[:, 1:].abs().max() < 1e-12


def test_a_small_shift_changes_the_features_little_and_the_image_much() -> None:
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    stripes = torch.sin(2.2 * columns) * torch.exp(-((rows - 16) ** 2 + (columns - 16) ** 2) / 50)
    one, other = stripes[None, None, :, 1:], stripes[None, None, :, :-1]
    transform = Scattering2d((33, 32))

    def change(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).norm() / a.norm())

    assert change(one, other) > 1.5
    assert change(transform(one)[:, 1:], transform(other)[:, 1:]) < 0.2


def test_contrast_scales_the_features_and_sign_and_offset_leave_orders_1_and_2() -> None:
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    transform = _double(8)
    features = transform(images)
    torch.testing.assert_close(transform(4 * images), 4 * features)
    torch.testing.assert_close(transform(3 - images)[:, 1:], features[:, 1:])


def test_waves_along_a_direction_answer_in_its_channel() -> None:
    transform = Scattering2d(32)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    for angle in range(8):
        theta = (3 - angle) * math.pi / 8
        wave = torch.cos(0.75 * math.pi * (rows * math.cos(theta) + columns * math.sin(theta)))
        energy = transform(wave[None, None])[0, 1:9, 3:5, 3:5].mean((1, 2))
        assert energy.argmax() == angle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize(("n", "channels"), [(0, 1), (1, 1), (3, 3), (70, 2)])
def test_shapes_dtypes_and_no_graph(n: int, channels: int, dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    transform = Scattering2d((8, 13), dtype=wide)
    images = torch.rand(n, channels, 8, 13).mul(255).to(dtype)
    images.requires_grad_(dtype.is_floating_point)
    features = transform(images)
    assert features.shape == (n, channels * 81, 2, 3)
    assert features.dtype == wide
    assert not features.requires_grad
    last = images.detach().contiguous(memory_format=torch.channels_last)
    transform.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert torch.equal(transform(last), features)
    assert not transform.state_dict()
    assert not list(transform.parameters())


def test_no_image_depends_on_another() -> None:
    transform, images = Scattering2d(28), torch.randn(70, 1, 28, 28)
    whole = transform(images)
    assert torch.equal(whole[5:6], transform(images[5:6]))
    changed = images.clone()
    changed[6] = math.nan
    assert torch.equal(transform(changed)[:6], whole[:6])


def test_tensors_without_memory_pass_and_autocast_rounds_nothing() -> None:
    with torch.device("meta"):
        assert Scattering2d(8)(torch.empty(2, 1, 8, 8)).shape == (2, 81, 2, 2)
    transform, images = Scattering2d(8), torch.randn(2, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        under = transform(images)
    assert torch.equal(under, transform(images))


def test_one_graph_takes_any_number_of_images() -> None:
    images = torch.randn(3, 1, 8, 8)
    transform = Scattering2d(8)
    exported = torch.export.export(
        transform, (images,), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=512)},)
    ).module()
    more = torch.randn(70, 1, 8, 8)
    torch.testing.assert_close(exported(more), transform(more))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((28, 0), "scales and angles must be at least 1, but got 0 and 8"),
        (((28, 8), 3), r"images of 28×8 are too small for 3 scales \(9×9 at least\); use fewer"),
    ],
)
def test_mistakes_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scattering2d(*arguments)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be \(N, C, 8, 8\), but got \(1, 1, 8, 9\)"):
        Scattering2d(8)(torch.zeros(1, 1, 8, 9))


@pytest.mark.parametrize(
    ("kind", "parameters"), [(ScatterLinear, 39_700), (ScatterCNN, 11_680 + 4_640 + 16_416 + 330)]
)
def test_the_networks(kind: type[nn.Module], parameters: int) -> None:
    network = kind()
    assert sum(p.numel() for p in network.parameters()) == parameters
    logits = network(torch.randn(2, 1, 28, 28))
    assert logits.shape == (2, 10)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    colour = kind(in_channels=3, num_classes=7, image_size=(13, 9), scales=3, groups=7)
    assert colour(torch.randn(2, 3, 13, 9)).shape == (2, 7)
    with pytest.raises(ValueError, match="groups must divide the 81 features, but got 10"):
        kind(groups=10)


def test_scatter_cnn_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="channels must be two positive numbers and hidden at"):
        ScatterCNN(channels=(8,))


def test_it_is_not_counted_among_the_layers_whose_backward_is_torchs() -> None:
    network = replace_layers(nn.Sequential(Scattering2d(28), nn.Flatten(), nn.Linear(81 * 49, 10)))
    found = conversion(network)
    assert found.kept == {}
    assert list(found.algorithms) == ["2"]
