"""Images that stay in their file, which is mapped into memory: a set may be larger than the memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cnnexp.data.images import DataFileError, Selection

__all__ = ["MappedImages", "checksum_of", "mapped_arrays"]

_BLOCK = 1 << 20  # bytes of a file that are read at a time


@dataclass(frozen=True)
class MappedImages:
    """Images in a file that is mapped into memory, and their classes.

    A batch is read when it is requested, small ones with some that follow, by one gather: from the system's
    page cache at the speed of memory, from the disk if it is not there. What the process holds itself is 8
    bytes an image for a class.

    Attributes:
        images: (N, C, H, W) uint8, the whole file.
        labels: (N,) int64, or (N, K); see ``ImageSet.targets``.
        file: The .npy file.
    """

    images: Tensor
    labels: Tensor
    file: Path
    at_hand: ClassVar[bool] = True

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker that is not forked maps the file itself; torch would copy the images into shared memory
        layout = self.images.size(), self.images.stride()
        return _mapped_again, (self.file, layout, self.labels)

    def __len__(self) -> int:
        return self.images.size(0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of each image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) and labels (B,) for (B,) indices, by one gather."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def select(self, indices: Tensor, labels: Tensor | None = None) -> Selection:
        """The images at ``indices``, in that order; ``labels`` (B,), if given, replace their
        labels.
        """
        return Selection.of(self, indices, labels)


def _mapped_again(
    file: Path, layout: tuple[torch.Size, tuple[int, ...]], labels: Tensor
) -> MappedImages:
    content = torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))
    return MappedImages(content.as_strided(*layout), labels, file)


def mapped_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the .npy files in ``folder``, by their names without ``.npy``, mapped into memory.

    What is written into one of them changes no file.

    Raises:
        DataFileError: There is none, or one is not in that format.
    """
    files = _files(folder)
    if not files:
        raise DataFileError(f"{folder}: is a folder without .npy files; images.npy is one")
    arrays = {}
    for file in files:
        try:
            arrays[file.stem] = np.load(file, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split())
            raise DataFileError(f"{file}: is no .npy file that can be mapped: {reason}") from error
    return arrays


def checksum_of(place: Path) -> str:
    """The md5 of a file; of a folder that of its .npy files, one after the other, by their names."""
    digest = hashlib.md5()
    for file in _files(place) if place.is_dir() else [place]:
        if place.is_dir():
            digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))
