"""Images that stay in their file: the same bits as in memory, and nothing of them is copied."""

from __future__ import annotations

import pickle
from dataclasses import replace
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
    Selection,
    load_arrays,
    load_synthetic,
)
from cnnexp.data.images import parts_of, pixel_statistics
from cnnexp.training.callbacks.evidence_collector import data_facts, neighbours

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
    for given, kind in ((held, LabelledImages), (mapped, MappedImages)):
        whole = given.train.whole if isinstance(given.train, Selection) else given.train
        assert isinstance(whole, kind)
        assert isinstance(given.train, Selection) is not own_test  # the test is cut from it
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


@pytest.mark.parametrize("mapped", [True, False])
def test_a_selection_shares_the_images(tmp_path: Path, mapped: bool) -> None:
    held, folder = _both(tmp_path, SHAPES[0], own_test=True)
    train = load_arrays(folder).train if mapped else held.train
    assert isinstance(train, MappedImages if mapped else LabelledImages)
    chosen = train.select(torch.tensor([4, 1])).select(torch.tensor([1]), torch.tensor([7]))
    assert isinstance(chosen, Selection)
    assert chosen.whole is train
    assert (chosen.shape, chosen.at_hand) == (train.shape, True)
    assert torch.equal(chosen.batch(torch.tensor([0]))[0], train.batch(torch.tensor([1]))[0])
    assert chosen.labels.tolist() == [7]
    assert len(chosen) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_process_that_gets_them_maps_the_file_itself(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    train = load_arrays(_both(tmp_path, shape)[1]).train
    assert isinstance(train, Selection)
    sent = pickle.dumps(train)
    assert len(sent) < 4000
    again = pickle.loads(sent)
    every = torch.arange(len(train))
    assert all(map(torch.equal, again.batch(every), train.batch(every)))


@pytest.mark.parametrize("own_test", [False, True])
def test_a_split_set_shares_the_images(tmp_path: Path, own_test: bool) -> None:
    held, folder = _both(tmp_path, SHAPES[0], own_test)
    for given in (held, load_arrays(folder)):
        module = ImageDataModule(lambda given=given: given, val_size=10, classes=["0", "2"])
        for part in module.split():
            assert isinstance(part, Selection)
            whole = part.whole.whole if isinstance(part.whole, Selection) else part.whole
            assert whole is getattr(given.train, "whole", given.train)


def test_the_diagnosis_compares_their_images(tmp_path: Path) -> None:
    """Half of the validation images are training images, in memory as in the file."""
    images = RANDOM.integers(0, 256, (60, 5, 4), dtype=np.uint8)
    labels = np.arange(60) % 4
    arrays = {
        "images": images, "labels": labels, "test_images": images, "test_labels": labels,
        "val_images": np.concatenate([images[:8], 255 - images[:8]]), "val_labels": labels[:16],
    }  # fmt: skip
    np.savez(tmp_path / "mine.npz", **arrays)
    (tmp_path / "mine").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "mine" / f"{name}.npy", array)
    found = []
    for place in ("mine.npz", "mine"):
        given = load_arrays(tmp_path / place)
        assert given.val is not None
        for val_size in (None, 0):  # the validation images of the set, or none
            one = given if val_size is None else replace(given, val=None)
            data = ImageDataModule(lambda one=one: one, val_size=0)
            facts = data_facts(data, 4)
            assert facts["duplicates"] == (0.5 if val_size is None else 0.0)
            found.append((facts, neighbours(data)))
    assert found[:2] == found[2:]
    assert [asked for _, (_, _, asked) in found] == [16, 30, 16, 30]


def test_the_file_is_never_written(tmp_path: Path) -> None:
    _, folder = _both(tmp_path, SHAPES[0], own_test=True)
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
