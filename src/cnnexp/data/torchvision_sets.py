"""Image sets that torchvision knows, held whole as tensors.

Source: Xiao, Rasul & Vollgraf, "Fashion-MNIST" (2017); Clanuwat et al., "Deep Learning for Classical
Japanese Literature" (2018, KMNIST); Cohen et al., "EMNIST" (2017); Yadav & Bottou, "Cold Case: The
Lost MNIST Digits" (2019, QMNIST); Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images" (2009, CIFAR-10); Netzer et al., "Reading Digits in Natural Images" (2011, SVHN).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnexp.data.download import download_timeout
from cnnexp.data.images import (
    DataFileError,
    DataUnavailableError,
    ImageSet,
    LabelledImages,
    image_set,
)

__all__ = ["EMNIST_SPLITS", "TORCHVISION_SETS", "load_torchvision_set"]

EMNIST_SPLITS = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")


class _Set(NamedTuple):
    """The class in ``torchvision.datasets``, its arguments for the two parts, how to read it."""

    kind: str
    train: dict[str, Any]
    test: dict[str, Any]
    read: Callable[[Any], tuple[Tensor, Tensor]]


def _grey(part: Any) -> tuple[Tensor, Tensor]:
    return part.data.unsqueeze(1), torch.as_tensor(part.targets)


def _qmnist(part: Any) -> tuple[Tensor, Tensor]:
    return part.data.unsqueeze(1), torch.as_tensor(part.targets)[:, 0]  # the rest is who wrote it


def _emnist(part: Any) -> tuple[Tensor, Tensor]:
    images, labels = _grey(part)  # stored with rows and columns exchanged
    first = 1 if part.classes[0] == "N/A" else 0  # the letters are counted from 1
    return images.transpose(2, 3).contiguous(), labels - first


def _cifar(part: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)


def _svhn(part: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.ascontiguousarray(part.data)), torch.from_numpy(part.labels)


_PARTS = {"train": True}, {"train": False}
TORCHVISION_SETS: dict[str, _Set] = {
    "fashion_mnist": _Set("FashionMNIST", *_PARTS, _grey),
    "kmnist": _Set("KMNIST", *_PARTS, _grey),
    "emnist": _Set("EMNIST", *_PARTS, _emnist),
    "qmnist": _Set("QMNIST", {"what": "train"}, {"what": "test10k"}, _qmnist),
    "cifar10": _Set("CIFAR10", *_PARTS, _cifar),
    "svhn": _Set("SVHN", {"split": "train"}, {"split": "test"}, _svhn),
}


def load_torchvision_set(
    name: str, root: Path | str, *, download: bool = True, split: str | None = None
) -> ImageSet:
    """The image set ``name`` from ``root``, in torchvision's layout, downloaded if it is missing.

    Args:
        name: One of :data:`TORCHVISION_SETS`.
        root: Folder that holds the files or shall hold them.
        download: Fetch missing files from torchvision's mirrors.
        split: Of EMNIST, one of :data:`EMNIST_SPLITS`.

    Raises:
        DataUnavailableError: Files are missing and cannot be downloaded.
        DataFileError: A file is not in its format.
        ValueError: The name or the split is unknown.
    """
    import torchvision.datasets

    if name not in TORCHVISION_SETS:
        raise ValueError(f"unknown image set '{name}'; known: {', '.join(TORCHVISION_SETS)}")
    if (name == "emnist") != (split is not None) or split not in (None, *EMNIST_SPLITS):
        raise ValueError(
            f"data.split={split}: is for emnist, which needs one of {', '.join(EMNIST_SPLITS)}"
        )
    kind, *arguments, read = TORCHVISION_SETS[name]
    folder = Path(root).expanduser()
    parts: list[LabelledImages] = []
    classes: list[str] = []
    for each in arguments:
        options = each | ({"split": split} if split else {})
        try:
            with download_timeout():
                part = getattr(torchvision.datasets, kind)(folder, download=download, **options)
            images, labels = read(part)
        except (OSError, HTTPException, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataUnavailableError(
                f"{kind} is not in {folder} and could not be had ({reason}); set data.root to a "
                f"folder that holds it in torchvision's layout"
            ) from error
        except (
            AssertionError,
            ValueError,
            TypeError,
            KeyError,
            EOFError,
            pickle.PickleError,
        ) as error:
            raise DataFileError(f"{kind} in {folder}: not in its format: {error}") from error
        parts.append(LabelledImages(images, labels.long()))
        classes = list(getattr(part, "classes", None) or map(str, range(10)))
    train, test = parts
    names = tuple(each for each in classes if each != "N/A")
    return image_set(name if split is None else f"{name}-{split}", train, test, names)
