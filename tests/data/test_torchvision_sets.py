"""Small files in each set's official format, read by the real code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cnnexp.data import (
    TORCHVISION_SETS,
    DataFileError,
    DataUnavailableError,
    load_synthetic,
    load_torchvision_set,
)
from tests.data.official_files import N_TRAIN, WRITERS, held, random_pixels, write_idx


@pytest.mark.parametrize("name", TORCHVISION_SETS)
def test_official_files_become_tensors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    split = "letters" if name == "emnist" else None
    made = load_torchvision_set(name, tmp_path, download=False, split=split)
    colour = name in ("cifar10", "svhn")
    assert held(made.train).images.shape == (
        (N_TRAIN, 3, 32, 32) if colour else (N_TRAIN, 1, 28, 28)
    )
    assert held(made.train).images.dtype == torch.uint8
    classes = 26 if split else 10
    assert torch.equal(made.train.labels, torch.arange(N_TRAIN) % classes)
    assert len(made.classes) == classes
    assert made.name == ("emnist-letters" if split else name)
    pixels = random_pixels(N_TRAIN, *((3, 32, 32) if name == "cifar10" else (28, 28)))
    if name == "emnist":
        assert torch.equal(held(made.train).images[:, 0], torch.from_numpy(pixels).transpose(1, 2))
    elif name == "svhn":
        pixels = random_pixels(N_TRAIN, 32, 32, 3)
        assert torch.equal(held(made.train).images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    else:
        assert torch.equal(held(made.train).images.squeeze(1), torch.from_numpy(pixels))
    scaled = held(made.train).images.double() / 255
    assert made.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert made.std == pytest.approx(scaled.std((0, 2, 3)).tolist(), abs=1e-3)


def test_every_set_has_a_small_twin_here() -> None:
    assert set(WRITERS) == set(TORCHVISION_SETS)


def test_missing_files_are_unavailable_and_broken_ones_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataUnavailableError, match=r"KMNIST is not in .*set data\.root to a folder"
    ):
        load_torchvision_set("kmnist", tmp_path, download=False)
    write_idx(tmp_path / "KMNIST" / "raw")
    (tmp_path / "KMNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"no such format")
    with pytest.raises(DataFileError, match=r"KMNIST in .*: not in its format"):
        load_torchvision_set("kmnist", tmp_path, download=False)


def test_splits_are_for_emnist(tmp_path: Path) -> None:
    for name, split in (("kmnist", "letters"), ("emnist", None), ("emnist", "lettres")):
        with pytest.raises(ValueError, match=r"data\.split=.*emnist, which needs one of balanced"):
            load_torchvision_set(name, tmp_path, split=split)
    with pytest.raises(ValueError, match="unknown image set 'mnist2'; known: fashion_mnist"):
        load_torchvision_set("mnist2", tmp_path)


def test_synthetic_images_depend_on_their_seed_alone() -> None:
    one, again = (load_synthetic(50, image_size=9, channels=2, num_classes=5) for _ in range(2))
    other = load_synthetic(50, image_size=9, channels=2, num_classes=5, seed=1)
    assert held(one.train).images.shape == (50, 2, 9, 9)
    assert len(one.test) == 10
    assert one.checksum == again.checksum != other.checksum
    with pytest.raises(ValueError, match="synthetic images need 2 classes"):
        load_synthetic(5, num_classes=10)
