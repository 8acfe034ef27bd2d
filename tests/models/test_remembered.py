"""Features of images are computed once, and are what would have been computed, to the bit."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from cnnexp.models import Remembered, Scattering2d, ScatterLinear


class Counting(nn.Module):
    """Twice the images; counts how many it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return 2 * images


def _images(n: int = 4) -> Tensor:
    return torch.randn(n, 1, 3, 2)  # 24 bytes each


def test_an_image_is_computed_once_in_whatever_company() -> None:
    module, images = Remembered(fixed := Counting(), megabytes=1), _images()
    assert torch.equal(module(images), 2 * images)
    assert (fixed.seen, module.images) == (4, 4)
    other = torch.cat([images[2:], _images(3), images[2:3], images[:1]])
    assert torch.equal(module(other), 2 * other)
    assert (fixed.seen, module.images) == (7, 7)


def test_an_image_that_stands_twice_in_a_batch_is_computed_once() -> None:
    module, images = Remembered(fixed := Counting(), megabytes=1), _images(1).repeat(3, 1, 1, 1)
    assert torch.equal(module(images), 2 * images)
    assert fixed.seen == 1


def test_what_does_not_fit_is_computed_each_time() -> None:
    module, images = Remembered(fixed := Counting(), megabytes=3 * 24e-6), _images()
    for seen in (4, 5, 6):  # three are remembered
        assert torch.equal(module(images), 2 * images)
        assert (fixed.seen, module.images) == (seen, 3)


@pytest.mark.parametrize("megabytes", [0, 1])
def test_the_caller_may_write_to_the_result(megabytes: float) -> None:
    module, images = Remembered(Counting(), megabytes), _images()
    for _ in range(3):
        module(images).zero_()
    assert torch.equal(module(images), 2 * images)


def test_equal_bytes_of_another_shape_or_dtype_are_another_image() -> None:
    module = Remembered(fixed := Counting(), megabytes=1)
    zeros = torch.zeros(1, 1, 2, 2)
    assert module(zeros).shape == (1, 1, 2, 2)
    for other in (
        zeros.view(1, 1, 4, 1),
        zeros.view(torch.int32),
        torch.zeros(1, 1, 2, 1).double(),
    ):
        for _ in range(2):
            assert (module(other).shape, module(other).dtype) == (other.shape, other.dtype)
    assert module.images == fixed.seen == 4


def test_copies_pickles_and_moved_modules_have_an_empty_memory() -> None:
    module, images = Remembered(Counting(), megabytes=1), _images()
    module(images)
    torch.save(module, file := io.BytesIO())
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert (other.images, module.images) == (0, 4)
        assert torch.equal(other(images), 2 * images)
    assert module.double().images == 0
    assert not module.state_dict()


def test_nothing_is_remembered_where_bytes_do_not_say_all() -> None:
    module = Remembered(Counting(), megabytes=1)
    images = _images().requires_grad_()
    assert module(images).requires_grad  # a graph
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(_images())
    torch.func.vmap(lambda image: module(image[None]))(_images())
    module(torch.empty(2, 1, 3, 2, device="meta"))
    assert module(_images(0)).shape == (0, 1, 3, 2)
    torch.compile(module, backend="eager")(_images())
    assert module.images == 0


@pytest.mark.parametrize(
    ("fixed", "megabytes", "message"),
    [
        (nn.ReLU(), -1, "megabytes to remember must be at least 0, but got -1"),
        (nn.Linear(2, 2), 1, "Linear has parameters, which training may change"),
    ],
)
def test_mistakes_are_named(fixed: nn.Module, megabytes: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Remembered(fixed, megabytes)


@pytest.mark.parametrize("shape", [(), (28,), (1, 28, 28), (2, 1, 27, 28)], ids=str)
def test_images_of_a_wrong_shape_get_the_message_of_what_is_remembered(
    shape: tuple[int, ...],
) -> None:
    with pytest.raises(ValueError, match=r"images must be \(N, C, 28, 28\), but got"):
        Remembered(Scattering2d(28), megabytes=1)(torch.rand(shape))


def test_scattering_is_the_same_to_the_bit_whoever_else_is_in_the_batch() -> None:
    transform, images = Scattering2d(16), torch.rand(65, 1, 16, 16)
    whole = transform(images)
    for size in (1, 2, 7, 64):
        assert torch.equal(torch.cat([transform(part) for part in images.split(size)]), whole)


def test_a_network_on_features_learns_the_same_with_and_without_memory() -> None:
    images, grads = torch.rand(5, 1, 16, 16), []
    for remember in (0, 1):
        torch.manual_seed(0)
        network = ScatterLinear(image_size=(16, 16), remember=remember)
        for part in (images, images[3:]):
            network.zero_grad()
            network(part).square().sum().backward()
        grads.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(*grads, rtol=0, atol=0)
