"""``data=arrays``: what a file may hold, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnnexp.data import DataFileError, DataUnavailableError, load_arrays

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 9), dtype=np.uint8)
CLASSES = np.arange(20) % 4


def _file(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "mine.npz", **{"images": IMAGES, "labels": CLASSES, **arrays})
    return folder / "mine.npz"


def test_rectangular_images_of_classes(tmp_path: Path) -> None:
    images = load_arrays(_file(tmp_path), ["a", "b", "c", "d"])
    assert (images.name, images.targets, images.classes) == (
        "mine",
        "classes",
        ("a", "b", "c", "d"),
    )
    assert images.train.shape == (1, 6, 9)
    assert (len(images.train), len(images.test)) == (16, 4)
    again = load_arrays(_file(tmp_path))
    assert torch.equal(images.test.labels, again.test.labels)


def test_a_split_of_the_files_own(tmp_path: Path) -> None:
    parts = {"test_images": IMAGES[:3], "test_labels": CLASSES[:3]}
    val = {"val_images": IMAGES[:5], "val_labels": CLASSES[:5]}
    images = load_arrays(_file(tmp_path, **parts, **val))
    assert (len(images.train), len(images.test)) == (20, 3)
    assert images.val is not None
    assert len(images.val) == 5


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((20, 5, 6, 9), (5, 6, 9)), ((20, 6, 9, 3), (3, 6, 9)), ((20, 3, 6, 9), (3, 6, 9))],
)
def test_any_number_of_channels(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    pixels = np.random.default_rng(1).random(shape).astype("float32")
    images = load_arrays(_file(tmp_path, images=pixels))
    assert images.train.shape == expected
    assert len(images.mean) == expected[0]
    first = images.train.batch(torch.tensor([0]))[0]
    assert first.dtype == torch.uint8


def test_several_labels_and_numbers(tmp_path: Path) -> None:
    several = load_arrays(_file(tmp_path, labels=np.eye(4, dtype=bool)[CLASSES]))
    assert (several.targets, several.classes) == ("labels", ("0", "1", "2", "3"))
    assert several.train.labels.dtype == torch.float32
    numbers = load_arrays(_file(tmp_path, labels=np.linspace(0, 1, 20)), ["size"])
    assert (numbers.targets, numbers.classes) == ("numbers", ("size",))
    assert numbers.train.labels.shape == (16, 1)
    assert load_arrays(_file(tmp_path), targets="numbers").targets == "numbers"


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"images": IMAGES, "labels": CLASSES}, tmp_path / "m.safetensors")
    assert load_arrays(tmp_path / "m.safetensors").train.shape == (1, 6, 9)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": CLASSES[:5]}, "20 images, but 5 labels"),
        ({"images": IMAGES.astype(float)}, r"must lie in 0…1, but go from 0 to 255; divide them"),
        ({"images": IMAGES.astype("int32")}, "images is int32; known: uint8"),
        ({"images": IMAGES[0]}, r"images has the shape \(6, 9\)"),
        ({"labels": CLASSES - 1}, r"classes go from -1 to 2; they must begin with 0"),
        ({"labels": np.full((20, 2), 7)}, r"must be 0 or 1; targets=numbers"),
        ({"labels": np.full(20, np.nan)}, "infinite or NaN"),
        ({"labels": np.full(20, "cat")}, r"labels are <U3 \(20,\)"),
        ({"labels": np.full(20, None)}, "allow_pickle"),
        ({"test_image": IMAGES}, r"holds 'test_image'; known: .*Did you mean 'test_images'\?"),
        ({"test_images": IMAGES}, "holds test_images, but no test_labels"),
    ],
)  # fmt: skip
def test_what_fits_nothing_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        load_arrays(_file(tmp_path, **arrays))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match=r"there is no file .*gone.npz; set data.file"):
        load_arrays(tmp_path / "gone.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataFileError, match=r"is no .npz or .safetensors file"):
        load_arrays(tmp_path / "text.npz")
    file = _file(tmp_path)
    with pytest.raises(ValueError, match=r"names=\[a\]: must be 4"):
        load_arrays(file, ["a"])
    with pytest.raises(ValueError, match=r"targets=class: must be classes, labels or numbers"):
        load_arrays(file, targets="class")


@pytest.mark.parametrize(
    ("kind", "other", "said"),
    [
        ("labels", np.full((4, 2), 255), r"test_labels \(N, K\) of whole numbers must be 0 or 1"),
        ("classes", np.array([0.0, 1.7, 1.0, 0.0]), r"test_labels are float64 \(4,\), not classes"),
        ("classes", np.zeros((4, 1), int), r"test_labels are int64 \(4, 1\), not classes"),
    ],
)
def test_labels_of_the_other_parts_are_of_the_same_kind(
    kind: str, other: np.ndarray, said: str, tmp_path: Path
) -> None:
    labels = np.array([0, 1] * 4) if kind == "classes" else np.array([[0, 1]] * 8)
    images, tests = np.zeros((8, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    file = tmp_path / "mine.npz"
    np.savez(file, images=images, labels=labels, test_images=tests, test_labels=other)
    with pytest.raises(DataFileError, match=said):
        load_arrays(file)
