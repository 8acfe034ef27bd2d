"""The folds of a cross-validation: what is in them, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold

from cnnexp.data import ImageDataModule, ImageSet, load_arrays, load_digits, load_image_folder
from cnnexp.data.folds import fold_of
from tests.data.official_files import held


def _module(fold: int, folds: int = 5, **options: Any) -> ImageDataModule:
    return ImageDataModule(load_digits, val_size=None, folds=folds, fold=fold, **options)


def test_each_image_validates_once_and_trains_in_the_other_folds() -> None:
    whole = load_digits().train.labels
    modules = [_module(fold) for fold in range(5)]
    chosen = [module._chosen for module in modules if module.split()]
    assert [len(m.train) + len(m.val) for m in modules] == [1437] * 5
    assert torch.stack([torch.bincount(c, minlength=1437) for c in chosen]).sum(
        0
    ).unique().tolist() == [4]
    assert sorted(len(m.val) for m in modules) == [287, 287, 287, 288, 288]
    for module in modules:
        counts = torch.bincount(module.val.labels, minlength=10)
        assert (counts - torch.bincount(whole) / 5).abs().max() < 1  # of each class a fifth


def test_the_folds_are_scikit_learns() -> None:
    labels = load_digits().train.labels
    parts = StratifiedKFold(4, shuffle=True, random_state=7).split(labels, labels)
    for fold, (_, expected) in enumerate(parts):
        found = fold_of(labels, load_digits().classes, 4, fold, 7)
        assert found.tolist() == expected.tolist()


def test_the_folds_depend_on_the_splits_seed_alone() -> None:
    one, same, other = (
        _module(1, shuffle_seed=0),
        _module(1, shuffle_seed=9),
        _module(1, split_seed=3),
    )
    few = _module(1, train_size=100)
    assert torch.equal(held(one.val).images, held(same.val).images)
    assert torch.equal(held(one.val).images, held(few.val).images)
    assert len(few.train) == 100
    assert not torch.equal(held(one.val).images, held(other.val).images)
    assert one.title == "digits, fold 1 of 0…4"
    assert ImageDataModule(load_digits).title == "digits"


def test_labels_and_numbers_are_cut_without_strata(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, labels in (
        ("labels", random.integers(0, 2, (20, 3))),
        ("numbers", random.random((20, 2))),
    ):
        file = tmp_path / f"{name}.npz"
        np.savez(file, images=random.random((20, 4, 4)), labels=labels)
        sets = [
            ImageDataModule(lambda file=file: load_arrays(file), val_size=None, folds=4, fold=fold)
            for fold in range(4)
        ]
        assert [(len(s.train), len(s.val)) for s in sets] == [(12, 4)] * 4
        pixels = torch.cat([held(s.val).images for s in sets]).flatten(1).double().sum(1)
        expected = held(sets[0].images.train).images.flatten(1).double().sum(1)
        assert torch.equal(pixels.sort().values, expected.sort().values)
        with pytest.raises(
            ValueError, match=r"the set has 16 training images.* at most data.folds=16"
        ):
            ImageDataModule(
                lambda file=file: load_arrays(file), val_size=None, folds=17, fold=0
            ).split()


def test_folds_of_picture_files(tmp_path: Path) -> None:
    for number in range(10):
        for kind in ("cat", "dog"):
            file = tmp_path / "train" / kind / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), number * 20).save(file)
    test = tmp_path / "test"
    for kind in ("cat", "dog"):
        (test / kind).mkdir(parents=True)
        Image.new("L", (4, 4)).save(test / kind / "a.png")
    module = ImageDataModule(
        lambda: load_image_folder(tmp_path, image_size=4), val_size=None, folds=5, fold=4
    )
    assert (len(module.train), module.val.labels.tolist()) == (16, [0, 0, 1, 1])


def test_classes_that_are_left_out_are_in_no_fold() -> None:
    module = _module(0, folds=3, classes=["7", "2"])
    assert set(module.val.labels.tolist()) == {0, 1}
    assert len(module.train) + len(module.val) == len(module.images.train)


def _with_validation() -> ImageSet:
    digits = load_digits()
    return dataclasses.replace(digits, val=digits.test)


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.folds=500: the class 8 has 139 training images"):
        _module(0, folds=500).split()
    own = ImageDataModule(_with_validation, val_size=None, folds=5, fold=0)
    with pytest.raises(
        ValueError, match=r"data\.folds=5: digits brings 360 validation images of its own"
    ):
        own.split()
    with pytest.raises(ValueError, match=r"too few for 5 folds and data\.train_size=1400"):
        _module(0, train_size=1400).split()
