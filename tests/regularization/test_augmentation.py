from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cnnexp.data import BatchSlice, Draws, seeded_generator
from cnnexp.regularization import (
    RandomElastic,
    RandomErasing,
    RandomFlip,
    RandomRotation,
    RandomShift,
    Regularizer,
)

ALL: dict[str, Callable[[], Regularizer]] = {
    "shift": lambda: RandomShift(2),
    "mirrored_shift": lambda: RandomShift(2, "reflect"),
    "flip": lambda: RandomFlip(alternate=False),
    "rotation": lambda: RandomRotation(15),
    "elastic": lambda: RandomElastic(8.0, 3.0),
    "erasing": lambda: RandomErasing(1.0),
}


def _images(n: int = 6, channels: int = 2, size: tuple[int, int] = (12, 17)) -> Tensor:
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(0))


def _draws(images: Tensor, *numbers: int) -> Draws:
    return Draws(seeded_generator(*numbers), len(images))


@pytest.mark.parametrize("name", ALL)
def test_a_seed_gives_the_same_images_and_the_input_is_left_alone(name: str) -> None:
    images, augmentation = _images(), ALL[name]()
    before = images.clone()
    one = augmentation.images(images, _draws(images, 1, 2))
    assert torch.equal(one, augmentation.images(images, _draws(images, 1, 2)))
    assert not torch.equal(one, augmentation.images(images, _draws(images, 1, 3)))
    assert torch.equal(images, before)
    assert one.shape == images.shape
    assert one.dtype == images.dtype
    assert 0 <= one.min() <= one.max() <= 1


@pytest.mark.parametrize("name", ALL)
def test_each_image_is_changed_in_its_own_way_and_its_channels_alike(name: str) -> None:
    images = _images(1, 1).expand(5, 3, -1, -1)
    changed = ALL[name]().images(images, _draws(images, 0))
    for image in changed:
        assert torch.equal(image[0], image[1])
    assert any(not torch.equal(changed[0], other) for other in changed[1:])


@pytest.mark.parametrize("name", ALL)
def test_an_empty_batch_stays_one(name: str) -> None:
    assert ALL[name]().images(_images(0), Draws(seeded_generator(0), 0)).shape == (0, 2, 12, 17)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"erasing"}))
@pytest.mark.parametrize("value", [-1.0, 0.0, 0.7])
def test_no_frame_appears_around_an_image_that_is_moved(name: str, value: float) -> None:
    # a normalised image's background is any number, and 0 the mean grey
    images = torch.full((40, 1, 9, 12), value)
    moved = ALL[name]().images(images, _draws(images, 1))
    torch.testing.assert_close(moved, images, rtol=1e-5, atol=1e-6)


def test_shift_moves_by_whole_pixels_each_as_often() -> None:
    images = torch.zeros(900, 1, 5, 5)
    images[:, :, 2, 2] = 1
    moved = RandomShift(1).images(images, _draws(images, 3))[:, 0, 1:4, 1:4].flatten(1)
    assert (moved.sum(1) == 1).all()
    counts = moved.sum(0)
    assert counts.min() > 60  # of 100 expected for each of the nine places


@pytest.mark.parametrize("edge", ["replicate", "reflect"])
def test_shift_is_a_window_of_the_padded_image(edge: str) -> None:
    images = _images()
    moved = RandomShift(2, edge).images(images, _draws(images, 7))
    corner = _draws(images, 7).integers(5, 1, before=(2,))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode=edge)
    for i, (row, column) in enumerate(corner.view(2, -1).T.tolist()):
        assert torch.equal(moved[i], padded[i, :, row : row + 12, column : column + 17])


def test_an_image_that_is_too_small_to_mirror_is_refused() -> None:
    images = _images(size=(4, 9))
    with pytest.raises(ValueError, match=r"pixels must be below the 4 pixels .* but got 4"):
        RandomShift(4, "reflect").images(images, _draws(images, 0))


def test_alternating_flips_show_each_form_once_in_two_epochs() -> None:
    images = torch.randint(0, 256, (200, 3, 6, 7), generator=seeded_generator(1)).float() / 255
    flip = RandomFlip(alternate=True)
    first, second, third = (
        flip.images(images, Draws(seeded_generator(0, epoch), 200, epoch=epoch))
        for epoch in range(3)
    )
    assert torch.equal(first.flip(3), second)
    assert torch.equal(first, third)
    as_they_are = (first == images).flatten(1).all(1)
    assert torch.equal(first[~as_they_are], images[~as_they_are].flip(3))
    assert 60 < as_they_are.sum() < 140
    order = torch.randperm(200, generator=seeded_generator(2))  # another batch, the same images
    again = flip.images(images[order], Draws(seeded_generator(5), 200))
    assert torch.equal(again, first[order])


def test_drawn_flips_mirror_half_of_the_images() -> None:
    images = _images(400)
    flipped = RandomFlip(alternate=False).images(images, _draws(images, 4))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 160 < mirrored.sum() < 240


def test_rotation_by_a_quarter_is_torchs_rot90(monkeypatch: pytest.MonkeyPatch) -> None:
    images = _images(1, 1, (9, 9))
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.ones(n, dtype=torch.float64))
    turned = RandomRotation(90).images(images, _draws(images, 0))  # by +90 degrees
    expected = torch.rot90(images, 1, (2, 3))
    assert any(
        torch.allclose(turned, each, atol=1e-5)
        for each in (expected, torch.rot90(images, -1, (2, 3)))
    )


def test_rotation_keeps_distances_on_images_that_are_not_square() -> None:
    images = torch.zeros(20, 1, 21, 41)
    images[:, :, 10, 26] = 1  # six to the right of the centre
    turned = RandomRotation(60).images(images, _draws(images, 0))[:, 0]
    mass = turned.sum((1, 2))
    rows, columns = torch.arange(21.0) - 10, torch.arange(41.0) - 20
    down = (turned * rows[:, None]).sum((1, 2)) / mass
    right = (turned * columns).sum((1, 2)) / mass
    distance = (down.square() + right.square()).sqrt()
    torch.testing.assert_close(distance, torch.full((20,), 6.0), atol=0.5, rtol=0)
    assert down.abs().max() > 3  # it did turn


def test_elastic_of_a_tiny_alpha_changes_next_to_nothing() -> None:
    images = _images()
    still = RandomElastic(1e-6, 3.0).images(images, _draws(images, 0))
    torch.testing.assert_close(still, images, atol=1e-4, rtol=0)


def test_erasing_blanks_a_rectangle_within_its_bounds() -> None:
    images = torch.ones(300, 1, 20, 30)
    erased = 1 - RandomErasing(0.5, [0.1, 0.2]).images(images, _draws(images, 0))[:, 0]
    share = erased.mean((1, 2))
    touched = share > 0
    assert 0.4 < touched.float().mean() < 0.6
    assert share[touched].min() > 0.05  # sides are rounded, and at most the image's
    assert share[touched].max() < 0.25
    for image in erased[touched]:
        rows, columns = image.any(1), image.any(0)
        assert image.sum() == rows.sum() * columns.sum()  # no hole, no second piece


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomShift(0), r"random_shift\.pixels must be at least 1, but got 0"),
        (
            lambda: RandomShift(1, "wrap"),
            r"random_shift\.edge must be one of replicate, reflect, but got wrap",
        ),
        (lambda: RandomRotation(200), r"random_rotation\.degrees must be above 0, at most 180"),
        (lambda: RandomElastic(0, 1), r"random_elastic\.alpha must be above 0, but got 0"),
        (lambda: RandomElastic(1, 0), r"random_elastic\.sigma must be above 0, but got 0"),
        (lambda: RandomErasing(0), r"random_erasing\.probability must be above 0"),
        (lambda: RandomErasing(0.5, [0.3, 0.2]), r"random_erasing\.area must be two shares"),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], Regularizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_what_happens_to_an_image_depends_on_no_number_of_processes(name: str, ranks: int) -> None:
    images, augmentation = _images(), ALL[name]()
    whole = augmentation.images(images, _draws(images, 5))
    for rank in range(ranks):
        share = BatchSlice.of_rank(len(images), rank, ranks)
        part = slice(share.start, share.start + share.images)
        draws = Draws(seeded_generator(5), len(images), share)
        torch.testing.assert_close(augmentation.images(images[part], draws), whole[part])
