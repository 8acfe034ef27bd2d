"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28×28 grey.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits" (1998).
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cnnexp.data.digits import load_digits
from cnnexp.data.images import DataFileError, DataUnavailableError, ImageSet, LabelledImages
from cnnexp.data.packed import (
    Official,
    download_timeout,
    lacking,
    named_missing,
    packed_file,
    unpacked,
)

MNIST_CHECKSUMS: Mapping[str, str] = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
MNIST_TRAIN_SIZE = 60_000


def load_mnist(
    root: Path | str, *, download: bool = True, checksums: Mapping[str, str] = MNIST_CHECKSUMS
) -> ImageSet:
    """MNIST from ``root``/MNIST/raw; missing files are downloaded to there.

    The four files may lie there as they are, or packed (``.gz``) as they are published. Packed files are
    unpacked next to themselves or, where that folder cannot be written, temporarily for this process.

    Args:
        root: The folder that holds ``MNIST/raw`` (torchvision's layout) or is to hold it.
        download: Whether to fetch missing files from torchvision's mirrors.
        checksums: The md5 of each of the four unpacked files, by name.

    Raises:
        DataUnavailableError: A file is missing and cannot be downloaded.
        DataFileError: A file's checksum or content is wrong; the message names it and the checksum expected.
    """
    place = Path(root).expanduser()
    folder = place / "MNIST" / "raw"
    missing = lacking(folder, checksums)
    if missing and download:
        _download(folder, missing)
        missing = lacking(folder, checksums)
    if missing:
        raise DataUnavailableError(
            f"MNIST is not in {folder} ({named_missing(missing, checksums)})"
        )
    official = {name: Official(content=md5) for name, md5 in checksums.items()}
    with unpacked(place, "MNIST", official) as found:
        raw = found / "MNIST" / "raw"
        for name, expected in checksums.items():
            if (folder / name).is_file():  # a packed file was verified when it was unpacked
                _verify(folder / name, expected)
        train, test = (_read(raw, part) for part in ("train", "t10k"))
    return ImageSet(
        name="mnist",
        train=train,
        test=test,
        classes=tuple(str(digit) for digit in range(10)),
        mean=(0.1307,),
        std=(0.3081,),
        checksum=hashlib.md5("".join(checksums.values()).encode()).hexdigest(),
    )


def load_mnist_or_digits(
    root: Path | str, *, fallback: Literal["digits", "error"] = "digits", download: bool = True
) -> ImageSet:
    """MNIST or, where it is not on disk and cannot be downloaded, the bundled digits.

    The digits carry a ``notice`` that says so. A corrupt file is an error, never a reason to fall back.

    Args:
        root: As in :func:`load_mnist`.
        fallback: ``"digits"``, or ``"error"`` to raise an error instead.
        download: As in :func:`load_mnist`.

    Raises:
        DataUnavailableError: ``fallback="error"``, and MNIST cannot be obtained.
        DataFileError: A file is corrupt.
    """
    try:
        return load_mnist(root, download=download)
    except DataUnavailableError as error:
        if fallback == "error":
            raise DataUnavailableError(
                f"{error}; set data.root or CNNEXP_DATA to a folder that holds MNIST/raw, or "
                f"data.fallback=digits to train on the bundled digits"
            ) from error
        notice = (
            f"NO MNIST: {error}. Training on the bundled digits instead (scikit-learn's 8×8, enlarged to "
            f"28×28): all results say 'digits' and do not compare with MNIST's"
        )
        return replace(load_digits(), notice=notice, stands_in_for=MNIST_TRAIN_SIZE)


def _verify(file: Path, expected: str) -> None:
    found = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    if found != expected:
        packed = packed_file(file.parent, file.name)
        raise DataFileError(
            f"{file} is corrupt or truncated: its md5 is {found}, expected {expected} "
            f"({file.stat().st_size} bytes); delete it to have it "
            f"{f'unpacked from {packed.name}' if packed else 'downloaded'} again"
        )


def _read(folder: Path, part: str) -> LabelledImages:
    try:
        images = _idx(folder / f"{part}-images-idx3-ubyte", 3)
        labels = _idx(folder / f"{part}-labels-idx1-ubyte", 1)
    except ValueError as error:
        raise DataFileError(f"{folder}/{part}-*: not in the IDX format: {error}") from error
    return LabelledImages(images.unsqueeze(1), labels.long())


def _idx(file: Path, dimensions: int) -> Tensor:
    """The bytes of an IDX file in the shape that it says; torchvision's reader takes seconds to import.

    Source: the format is described on LeCun's page of MNIST: two bytes 0, one of the type (8: unsigned
    bytes), one of the number of dimensions; their sizes, 4 bytes each, the first the highest; the content.

    Raises:
        ValueError: It is not of unsigned bytes in ``dimensions`` dimensions, or of another length.
    """
    content = file.read_bytes()
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < start:
        raise ValueError(f"{file.name} does not begin as {dimensions} dimensions of bytes do")
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    values = np.frombuffer(content, np.uint8, offset=start)
    if math.prod(shape) != values.size:
        raise ValueError(f"{file.name} has {values.size} bytes for the shape {shape}")
    return torch.from_numpy(values.reshape(shape).copy())


def _download(folder: Path, missing: Sequence[str]) -> None:
    """Fetch the ``missing`` files into ``folder``; each appears there complete or not at all."""
    from torchvision.datasets import MNIST

    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch, download_timeout():
            raw = Path(MNIST(scratch, download=True).raw_folder)
            for name in missing:
                os.replace(raw / name, folder / name)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(error).replace("\n", " ").strip()
        with suppress(OSError):  # those that hold something stay
            for path in made:
                path.rmdir()
        raise DataUnavailableError(
            f"MNIST is not in {folder} ({named_missing(missing, MNIST_CHECKSUMS)}) and could not be "
            f"downloaded ({reason[:300]})"
        ) from error
