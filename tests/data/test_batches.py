from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Sampler

from cnnexp.data import (
    BatchOrder,
    DataFileError,
    ImageDataModule,
    LabelledImages,
    Samples,
    batch_loader,
    load_digits,
    loader_of,
)
from tests.data.official_files import held


def _orders(seed: int, epoch: int) -> list[int]:
    order = BatchOrder(100, 32, seed)
    order.set_epoch(epoch)
    return torch.cat(list(order)).tolist()


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert _orders(3, 1) == _orders(3, 1)
    different = {tuple(_orders(seed, epoch)) for seed in (0, 1, 2**32 - 1) for epoch in (0, 1, 2)}
    assert len(different) == 9
    assert all(sorted(order) == list(range(100)) for order in different)


def test_batches_without_shuffling_and_with_a_smaller_last_one() -> None:
    batches = list(BatchOrder(10, 4))
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(BatchOrder(10, 4)) == 3
    assert len(BatchOrder(8, 4)) == 2


def test_a_loader_gathers_whole_batches() -> None:
    data = LabelledImages(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    images, labels = next(iter(batch_loader(data, 4, seed=1)))
    assert images.shape == (4, 1, 1, 1)
    assert images.flatten().tolist() == labels.tolist()


@dataclasses.dataclass(frozen=True)
class _Counted:
    """Samples that note how many images each gather is of."""

    whole: LabelledImages
    at_hand: bool
    gathers: list[int]

    @property
    def labels(self) -> torch.Tensor:
        return self.whole.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.whole.shape

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.gathers.append(len(indices))
        return self.whole.batch(indices)

    def select(self, indices: torch.Tensor, labels: torch.Tensor | None = None) -> Samples:
        return self.whole.select(indices, labels)


@pytest.mark.parametrize(
    ("size", "at_hand", "gathers"),
    [
        (2, True, [25]),  # all are few bytes
        (300, True, [8, 8, 8, 1]),  # of 352 KB a batch: two are below a mebibyte
        (2000, True, [4] * 6 + [1]),  # of 4 MB each: none is gathered with another
        (2, False, [4] * 6 + [1]),  # as they would be from files that have to be decoded
    ],
)
def test_small_batches_of_images_at_hand_are_gathered_together(
    size: int, at_hand: bool, gathers: list[int]
) -> None:
    pixels = torch.arange(25, dtype=torch.uint8).view(25, 1, 1, 1).expand(25, 1, size, size)
    data = _Counted(LabelledImages(pixels, torch.arange(25)), at_hand, [])
    loader = batch_loader(data, 4, seed=1)
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        data.gathers.clear()
        batches = [(images[:, 0, 0, 0].tolist(), labels.tolist()) for images, labels in loader]
        assert data.gathers == gathers
        order = BatchOrder(25, 4, 1)
        order.set_epoch(epoch)
        assert batches == [(each.tolist(), each.tolist()) for each in order]


class _Asked(Sampler[torch.Tensor]):
    """Counts the batches that were taken from it, as one may that draws secret numbers in turn."""

    taken = 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in range(5):
            self.taken += 1
            yield torch.tensor([number])


def test_no_other_sampler_is_ahead_of_the_training() -> None:
    data = LabelledImages(torch.zeros(5, 1, 1, 1, dtype=torch.uint8), torch.arange(5))
    sampler = _Asked()
    batches = iter(loader_of(data, sampler))
    for number in range(3):
        _, labels = next(batches)
        assert (labels.tolist(), sampler.taken) == ([number], number + 1)


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16])
def test_pixels_are_scaled_to_the_same_bits_whatever_their_dtype(default: torch.dtype) -> None:
    module = _module(val_size=0)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    torch.set_default_dtype(default)
    try:
        found = [
            module.on_after_batch_transfer((pixels.to(dtype), torch.zeros(1)), 0)[0]
            for dtype in (torch.uint8, torch.int32, torch.float32)
        ]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(each.dtype == torch.float32 for each in found)
    assert all(torch.equal(each, pixels.float() / 255) for each in found)


def test_images_and_labels_must_match() -> None:
    with pytest.raises(DataFileError, match="3 images, but 4 labels"):
        LabelledImages(torch.zeros(3, 1, 1, 1, dtype=torch.uint8), torch.zeros(4))


def _module(**options: Any) -> ImageDataModule:
    return ImageDataModule(load_digits, **options)


def test_validation_is_cut_from_the_training_images_by_seed() -> None:
    one, same, other = (_module(val_size=137, split_seed=s) for s in (1, 1, 2))
    assert (len(one.train), len(one.val)) == (1300, 137)
    assert torch.equal(held(one.val).images, held(same.val).images)
    assert not torch.equal(held(one.val).images, held(other.val).images)
    rejoined = torch.cat((held(one.train).images, held(one.val).images)).flatten(1).double().sum(1)
    whole = held(load_digits().train).images.flatten(1).double().sum(1)
    assert torch.equal(rejoined.sort().values, whole.sort().values)  # every image once


def test_no_validation() -> None:
    module = _module(val_size=0)
    assert len(module.train) == 1437
    assert len(module.val_dataloader()) == 0


def test_fewer_training_images() -> None:
    small, large = (_module(val_size=100, train_size=size) for size in (50, 60))
    assert len(small.train) == 50
    assert torch.equal(held(small.val).images, held(large.val).images)


def test_a_set_that_stands_in_for_another_is_split_in_proportion() -> None:
    stand_in = dataclasses.replace(load_digits(), stands_in_for=60_000)
    module = ImageDataModule(lambda: stand_in, val_size=5000, train_size=10_000)
    assert (len(module.train), len(module.val)) == (240, 120)  # of 1,437


@pytest.mark.parametrize("options", [{"val_size": 1437}, {"val_size": 1000, "train_size": 500}])
def test_a_split_that_asks_for_too_many(options: dict[str, int]) -> None:
    with pytest.raises(
        ValueError, match=r"digits has 1437 training images: too few for data\.val_size"
    ):
        _module(**options).split()


def test_pixels_are_scaled_on_the_device() -> None:
    module = _module(val_size=0)
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    scaled, _ = module.on_after_batch_transfer((images, torch.tensor([1])), 0)
    torch.testing.assert_close(scaled, torch.tensor([[[[0.0, 0.2, 1.0]]]]))


def test_sizes_may_be_shares() -> None:
    module = _module(val_size=0.1, train_size=0.5)
    assert (len(module.val), len(module.train)) == (144, 646)
    assert len(_module(val_size=0, train_size=1e-9).train) == 1


def test_only_some_classes_in_the_order_given() -> None:
    whole = load_digits()
    module = _module(classes=["7", "2"], val_size=0)
    assert module.images.classes == ("7", "2")
    is_7, is_2 = whole.train.labels == 7, whole.train.labels == 2
    assert len(module.train) == int((is_7 | is_2).sum())
    assert torch.equal(module.train.labels, torch.where(is_2, 1, 0)[is_7 | is_2])
    assert torch.equal(
        module.train.batch(torch.arange(9))[0], held(whole.train).images[is_7 | is_2][:9]
    )
    assert module.images.mean == whole.mean
    stand_in = dataclasses.replace(whole, stands_in_for=14370).keep_classes(["7", "2"])
    assert stand_in.stands_in_for == 10 * len(module.train)
    for names in (["7"], ["7", "7"], ["7", "seven"]):
        with pytest.raises(ValueError, match=r"must be two or more of digits's, each once: 0, 1"):
            whole.keep_classes(names)


def test_a_batch_is_transferred_to_another_device_alone() -> None:
    data = ImageDataModule(load_digits, batch_size=4)
    batch = (torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert [part.device.type for part in moved] == ["meta", "meta"]
