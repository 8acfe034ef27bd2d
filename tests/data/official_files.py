"""Write small image sets in their official formats, where torchvision looks for them."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from scipy.io import savemat

from cnnexp.data import LabelledImages, Samples, is_at_hand

N_TRAIN, N_TEST = 30, 20


def held(part: Samples) -> LabelledImages:
    """The images of ``part``, which are in memory, in its order."""
    assert is_at_hand(part)
    return LabelledImages(*part.batch(torch.arange(len(part))))


def random_pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def _idx(images: np.ndarray, labels: np.ndarray) -> tuple[bytes, bytes]:
    head = struct.pack(">IIII", 2051, *images.shape)
    return head + images.tobytes(), struct.pack(">II", 2049, len(labels)) + labels.tobytes()


def _labels(count: int, classes: int = 10, first: int = 0) -> np.ndarray:
    return (np.arange(count) % classes + first).astype(np.uint8)


def write_idx(folder: Path, prefix: str = "", classes: int = 10, first: int = 0) -> None:
    folder.mkdir(parents=True)
    names = (("train", N_TRAIN), ("test" if prefix else "t10k", N_TEST))
    for part, count in names:
        images, labels = _idx(random_pixels(count, 28, 28), _labels(count, classes, first))
        (folder / f"{prefix}{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{prefix}{part}-labels-idx1-ubyte").write_bytes(labels)


def _write_qmnist(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "QMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", N_TRAIN), ("test", 60)):
        images, _ = _idx(random_pixels(count, 28, 28), _labels(count))
        about = np.zeros((count, 8), ">i4")
        about[:, 0] = _labels(count)
        (folder / f"qmnist-{part}-images-idx3-ubyte").write_bytes(images)
        head = struct.pack(">III", 0x0C02, count, 8)
        (folder / f"qmnist-{part}-labels-idx2-int").write_bytes(head + about.tobytes())


def _write_cifar10(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(name: str, count: int) -> list[str]:
        flat = random_pixels(count, 3, 32, 32).reshape(count, -1)
        return [name, write(name, {"data": flat, "labels": _labels(count).tolist()})]

    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = write("batches.meta", {"label_names": names})
    patch.setattr(tv.CIFAR10, "train_list", [batch("data_batch_1", N_TRAIN)])
    patch.setattr(tv.CIFAR10, "test_list", [batch("test_batch", N_TEST)])
    patch.setattr(tv.CIFAR10, "meta", {**tv.CIFAR10.meta, "md5": meta})


def _write_svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    root.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part, count in (("train", N_TRAIN), ("test", N_TEST)):
        labels = _labels(count)
        file = root / f"{part}_32x32.mat"
        stored = np.where(labels == 0, 10, labels)[:, None]  # a nought is stored as 10
        savemat(file, {"X": random_pixels(count, 32, 32, 3).transpose(1, 2, 3, 0), "y": stored})
        parts[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    patch.setattr(tv.SVHN, "split_list", parts)


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "fashion_mnist": lambda root, _: write_idx(root / "FashionMNIST" / "raw"),
    "kmnist": lambda root, _: write_idx(root / "KMNIST" / "raw"),
    "emnist": lambda root, _: write_idx(root / "EMNIST" / "raw", "emnist-letters-", 26, 1),
    "qmnist": _write_qmnist,
    "cifar10": _write_cifar10,
    "svhn": _write_svhn,
}
