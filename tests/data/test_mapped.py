"""Images that stay in their file: the same bits as in memory, and nothing of them is copied."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnexp.data import (
    DataFileError,
    ImageDataModule,
    ImageSet,
    LabelledImages,
    MappedImages,
    load_arrays,
    load_synthetic,
)
from cnnexp.data.images import parts_of, pixel_statistics

RANDOM = np.random.default_rng(0)
SHAPES = [(60, 5, 4), (60, 3, 5, 4), (60, 5, 4, 3)]


def _both(folder: Path, shape: tuple[int, ...], own_test: bool = False) -> tuple[ImageSet, Path]:
    """The set in memory, and the folder of the same arrays."""
    arrays = {"images": RANDOM.integers(0, 256, shape, dtype=np.uint8), "labels": np.arange(60) % 4}
    if own_test:
        arrays |= {"test_images": arrays["images"][:9], "test_labels": arrays["labels"][:9]}
    np.savez(folder / "mine.npz", **arrays)
    (folder / "mine").mkdir()
    for name, array in arrays.items():
        np.save(folder / "mine" / f"{name}.npy", array)
    return load_arrays(folder / "mine.npz"), folder / "mine"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("own_test", [False, True])
def test_the_batches_are_those_of_the_set_in_memory(
    tmp_path: Path, shape: tuple[int, ...], own_test: bool
) -> None:
    held, folder = _both(tmp_path, shape, own_test)
    mapped = load_arrays(folder)
    assert isinstance(mapped.train, MappedImages)
    assert isinstance(held.train, LabelledImages)
    assert (mapped.mean, mapped.std, mapped.classes) == (held.mean, held.std, held.classes)
    for classes in (None, ("3", "1")):
        modules = [
            ImageDataModule(
                lambda given=given: given,
                batch_size=7,
                val_size=10,
                train_size=10,
                classes=classes,
                split_seed=3,
                shuffle_seed=5,
            )
            for given in (held, mapped)
        ]
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            pairs = zip(*(getattr(module, loader)() for module in modules), strict=True)
            for (images, labels), (others, other_labels) in pairs:
                assert torch.equal(images, others)
                assert images.is_contiguous() == others.is_contiguous()
                assert torch.equal(labels, other_labels)


def test_a_selection_shares_the_file(tmp_path: Path) -> None:
    _, folder = _both(tmp_path, SHAPES[0])
    train = load_arrays(folder).train
    assert isinstance(train, MappedImages)
    chosen = train.select(torch.tensor([4, 1])).select(torch.tensor([1]), torch.tensor([7]))
    assert chosen.images.data_ptr() == train.images.data_ptr()
    assert torch.equal(chosen.batch(torch.tensor([0]))[0], train.batch(torch.tensor([1]))[0])
    assert chosen.labels.tolist() == [7]
    assert len(chosen) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_process_that_gets_them_maps_the_file_itself(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    train = load_arrays(_both(tmp_path, shape)[1]).train
    sent = pickle.dumps(train)
    assert len(sent) < 3000
    again = pickle.loads(sent)
    every = torch.arange(len(train))
    assert all(map(torch.equal, again.batch(every), train.batch(every)))


def test_the_file_is_never_written(tmp_path: Path) -> None:
    _, folder = _both(tmp_path, SHAPES[0])
    before = (folder / "images.npy").read_bytes()
    train = load_arrays(folder).train
    assert isinstance(train, MappedImages)
    train.images.zero_()
    assert (folder / "images.npy").read_bytes() == before


def test_the_checksum_knows_the_content(tmp_path: Path) -> None:
    _, folder = _both(tmp_path, SHAPES[0])
    first = load_arrays(folder).checksum
    assert load_arrays(folder).checksum == first
    np.save(folder / "labels.npy", np.arange(60) % 3)
    assert load_arrays(folder).checksum != first


def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"a folder without .npy files; images.npy is one"):
        load_arrays(tmp_path)
    (tmp_path / "images.npy").write_bytes(b"nothing")
    with pytest.raises(DataFileError, match=r"images.npy: is no .npy file that can be mapped"):
        load_arrays(tmp_path)
    np.save(tmp_path / "images.npy", np.zeros((60, 5, 4)))
    np.save(tmp_path / "labels.npy", np.arange(60))
    with pytest.raises(
        DataFileError, match=r"images.npy is float64; a file that is mapped .* uint8"
    ):
        load_arrays(tmp_path)


def test_statistics_do_not_depend_on_how_the_images_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.randint(256, (50, 3, 4, 5), dtype=torch.uint8)
    held = LabelledImages(images, torch.zeros(50, dtype=torch.int64))
    whole = pixel_statistics([images])
    monkeypatch.setattr("cnnexp.data.images._PART", 7)
    assert [len(part) for part in parts_of(held)] == [7] * 7 + [1]
    assert pixel_statistics(parts_of(held)) == whole
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    assert whole[0] == pytest.approx(pixels.mean(1).tolist(), abs=1e-4)
    assert whole[1] == pytest.approx(pixels.std(1, unbiased=False).tolist(), abs=1e-4)


def test_synthetic_images_are_drawn_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_synthetic(50, image_size=9)
    monkeypatch.setattr("cnnexp.data.synthetic._AT_A_TIME", 7)
    assert load_synthetic(50, image_size=9).checksum == whole.checksum
