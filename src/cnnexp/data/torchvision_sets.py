"""Image sets that torchvision can load, held as whole tensors in memory.

Source: Xiao, Rasul & Vollgraf, "Fashion-MNIST" (2017); Clanuwat et al., "Deep Learning for Classical
Japanese Literature" (2018, KMNIST); Cohen et al., "EMNIST" (2017); Yadav & Bottou, "Cold Case: The
Lost MNIST Digits" (2019, QMNIST); Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images" (2009, CIFAR-10); Netzer et al., "Reading Digits in Natural Images" (2011, SVHN).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnexp.data.images import (
    DataFileError,
    DataUnavailableError,
    ImageSet,
    LabelledImages,
    image_set,
)
from cnnexp.data.packed import Official, download_timeout, lacking, named_missing, unpacked

_WRONG_FORMAT = (AssertionError, ValueError, TypeError, KeyError, EOFError, pickle.PickleError)

EMNIST_SPLITS = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")


class _Set(NamedTuple):
    """The way to load one image set with torchvision.

    Attributes:
        kind: The name of its class in ``torchvision.datasets``.
        train, test: The class's arguments for the two parts.
        read: Turns a loaded part into images (N, C, H, W) uint8 and labels (N,).
        files: For sets in MNIST's format, gives the files of both parts in ``<kind>/raw``.
    """

    kind: str
    train: dict[str, Any]
    test: dict[str, Any]
    read: Callable[[Any], tuple[Tensor, Tensor]]
    files: Callable[[Any, str | None], dict[str, Official]] = lambda _kind, _split: {}


def _grey(part: Any) -> tuple[Tensor, Tensor]:
    return part.data.unsqueeze(1), torch.as_tensor(part.targets)


def _qmnist(part: Any) -> tuple[Tensor, Tensor]:
    # the other columns of the targets say who wrote the digit
    return part.data.unsqueeze(1), torch.as_tensor(part.targets)[:, 0]


def _emnist(part: Any) -> tuple[Tensor, Tensor]:
    images, labels = _grey(part)  # stored with rows and columns exchanged
    first = 1 if part.classes[0] == "N/A" else 0  # the letters are counted from 1
    return images.transpose(2, 3).contiguous(), labels - first


def _cifar(part: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)


def _svhn(part: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.ascontiguousarray(part.data)), torch.from_numpy(part.labels)


def _listed(kind: Any, _split: str | None) -> dict[str, Official]:
    return {_stem(url): Official(packed=md5) for url, md5 in kind.resources}


def _qmnist_files(kind: Any, _split: str | None) -> dict[str, Official]:
    both = [*kind.resources["train"], *kind.resources["test"]]
    return {_stem(url): Official(packed=md5) for url, md5 in both}


def _emnist_files(_kind: Any, split: str | None) -> dict[str, Official]:
    names = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return {f"emnist-{split}-{p}-{n}": Official() for p in ("train", "test") for n in names}


def _stem(url: str) -> str:
    """The name of the file inside the ``.gz`` file at ``url``."""
    return url.rpartition("/")[2].removesuffix(".gz")


_PARTS = {"train": True}, {"train": False}
TORCHVISION_SETS: dict[str, _Set] = {
    "fashion_mnist": _Set("FashionMNIST", *_PARTS, _grey, _listed),
    "kmnist": _Set("KMNIST", *_PARTS, _grey, _listed),
    "emnist": _Set("EMNIST", *_PARTS, _emnist, _emnist_files),
    "qmnist": _Set("QMNIST", {"what": "train"}, {"what": "test10k"}, _qmnist, _qmnist_files),
    "cifar10": _Set("CIFAR10", *_PARTS, _cifar),
    "svhn": _Set("SVHN", {"split": "train"}, {"split": "test"}, _svhn),
}


def load_torchvision_set(
    name: str, root: Path | str, *, download: bool = True, split: str | None = None
) -> ImageSet:
    """The image set ``name`` from ``root``, in torchvision's layout; it is downloaded if it is missing.

    Files that lie there packed, as they are published, are verified and unpacked.

    Args:
        name: One of :data:`TORCHVISION_SETS`.
        root: The folder that holds the files or is to hold them.
        download: Whether to fetch missing files from torchvision's mirrors.
        split: For EMNIST, one of :data:`EMNIST_SPLITS`.

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
    wanted, folder = TORCHVISION_SETS[name], Path(root).expanduser()
    kind = getattr(torchvision.datasets, wanted.kind)
    files = wanted.files(kind, split)
    missing = lacking(folder / wanted.kind / "raw", files)
    with unpacked(folder, wanted.kind, {} if missing else files) as place:
        may_unpack = download or _archived(kind, folder, bool(missing))
        options = {"download": may_unpack, **({"split": split} if split else {})}
        try:
            parts, classes = _parts(kind, wanted, place, options)
        except DataUnavailableError as error:
            named = f" ({named_missing(missing, files)})" if missing else ""
            raise DataUnavailableError(
                f"{wanted.kind} is not in {folder}{named} and could not be had ({error}); set data.root "
                f"to a folder that holds it in torchvision's layout"
            ) from error
    names = tuple(each for each in classes if each != "N/A")
    return image_set(name if split is None else f"{name}-{split}", *parts, names)


def _archived(kind: Any, folder: Path, missing: bool) -> bool:
    """Whether the missing files are in the one archive that torchvision unpacks.

    Raises:
        DataFileError: They are, but the archive is damaged.
    """
    from torchvision.datasets.utils import calculate_md5

    name = kind.__name__
    if name == "CIFAR10" and not (folder / kind.base_folder).is_dir():
        archive, expected = folder / kind.filename, kind.tgz_md5
    elif name == "EMNIST" and missing:
        archive, expected = folder / name / "raw" / "gzip.zip", kind.md5
    else:
        return False
    if not archive.is_file():
        return False
    found = calculate_md5(archive)
    if found != expected:
        raise DataFileError(
            f"{archive} is damaged or not the official file: its md5 is {found}, expected {expected}; "
            f"delete it to have it downloaded again"
        )
    return True


def _parts(
    kind: Any, wanted: _Set, folder: Path, options: Mapping[str, Any]
) -> tuple[tuple[LabelledImages, LabelledImages], list[str]]:
    """((training, test) images, names of the classes) as torchvision reads them.

    Raises:
        DataUnavailableError: torchvision does not find the files; the message is its own.
        DataFileError: A file is not in its format.
    """
    parts: list[LabelledImages] = []
    classes: list[str] = []
    for each in (wanted.train, wanted.test):
        try:
            with download_timeout():
                part = kind(folder, **each, **options)
            images, labels = wanted.read(part)
        except (OSError, HTTPException, RuntimeError) as error:
            raise DataUnavailableError(" ".join(str(error).split())[:300]) from error
        except _WRONG_FORMAT as error:
            raise DataFileError(f"{wanted.kind} in {folder}: not in its format: {error}") from error
        parts.append(LabelledImages(images, labels.long()))
        classes = list(getattr(part, "classes", None) or map(str, range(10)))
    train, test = parts
    return (train, test), classes
