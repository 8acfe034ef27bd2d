"""The user's own pictures: one folder per class, decoded during training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnexp.data.batches import seeded_generator
from cnnexp.data.depth import ValueRange, checked_range
from cnnexp.data.images import DataUnavailableError, ImageSet, pixel_statistics
from cnnexp.data.picture_files import (
    PICTURE_ENDINGS,
    read_picture,
    seen_files,
    verify_picture,
)

_TEST_SHARE = 0.2
_MEASURED = 1000  # mean and standard deviation are estimated from this many pictures


@dataclass(frozen=True)
class PictureFiles:
    """Pictures on disk and their classes; a batch is decoded when it is requested.

    Attributes:
        files: The N files.
        labels: (N,) int64, 0 to classes − 1.
        shape: (C, H, W) that each picture is brought to, see ``read_picture``.
        value_range: (black, white) in pictures of more than 8 bits per channel, see ``open_picture``.
    """

    files: Sequence[Path]
    labels: Tensor
    shape: tuple[int, int, int]
    value_range: ValueRange | None = None

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) uint8 and labels (B,) for (B,) indices.

        Raises:
            DataFileError: A file cannot be decoded; the message names it.
        """
        channels, height, width = self.shape
        images = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            file = self.files[index]
            images[row] = read_picture(file, channels, (height, width), self.value_range)
        return images, self.labels[indices]

    def select(self, indices: Tensor, labels: Tensor | None = None) -> PictureFiles:
        """The pictures at ``indices``, in that order; ``labels`` (B,), if given, replace their
        labels.
        """
        chosen = [self.files[index] for index in indices.tolist()]
        labels = self.labels[indices] if labels is None else labels
        return replace(self, files=chosen, labels=labels)


def load_image_folder(
    folder: Path | str,
    *,
    image_size: int | Sequence[int] = 64,
    channels: int = 3,
    value_range: Sequence[float] | None = None,
) -> ImageSet:
    """Pictures in ``folder``/train/<class>/… and ``folder``/test/<class>/…, of any size and format.

    The pictures in a folder ``val`` beside them validate; where ``test`` is missing, they are the test.
    Without ``train``, the folders of the classes lie in ``folder`` itself, and a fifth of each class, always
    the same, is the test set.
    Folders below a class belong to it; hidden files and files of other kinds are ignored.

    Every file is read once here, for the checksum (of names and contents). Mean and standard deviation
    are those of 1,000 training pictures, or of all if there are fewer.

    Args:
        folder: The folder of the pictures.
        image_size: The height and the width that every picture is brought to, ≥ 1, see ``read_picture``; one
            number for both.
        channels: 3 for colour, 1 for grey.
        value_range: [black, white] in pictures of more than 8 bits per channel. It must be given for
            32-bit integers and floats, and for 8 or 12 bits stored in 16, where the file does not say
            it. None for what the format says.

    Raises:
        DataUnavailableError: The folder is missing, or has fewer than two classes, or a class has
            no picture.
        DataFileError: A file is not a picture, or nothing says what its numbers mean.
        ValueError: A range is violated.
    """
    like = no_pictures(image_size, channels, value_range)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataUnavailableError(
            f"there is no folder {folder}; set data.folder to one that holds train/<class>/ and "
            f"test/<class>/, or <class>/"
        )
    parted = (folder / "train").is_dir()
    classes = _classes(folder / "train" if parted else folder)
    whole = _pictures(folder / "train" if parted else folder, classes, like)
    val = None
    if parted:
        train, test = whole, _pictures(_test_folder(folder), classes, like)
        if (folder / "val").is_dir() and (folder / "test").is_dir():
            val = _pictures(folder / "val", classes, like)
    else:
        train, test = _cut(whole)
    order = torch.randperm(len(train), generator=seeded_generator(0))[:_MEASURED]
    mean, std = pixel_statistics([train.batch(order.sort().values)[0]])
    parts = (train, test) if val is None else (train, test, val)
    return ImageSet(
        folder.name, train, test, classes, mean, std, _checksum(folder, *parts), val=val
    )


def no_pictures(
    image_size: int | Sequence[int], channels: int, value_range: Sequence[float] | None
) -> PictureFiles:
    """A set of such pictures without one yet; the arguments are those of :func:`load_image_folder`.

    Raises:
        ValueError: A range is violated.
    """
    size = [image_size] * 2 if isinstance(image_size, int) else [*image_size]
    if len(size) != 2 or min(size) < 1 or channels not in (1, 3):
        raise ValueError(
            f"pictures need an image_size of at least 1, or [height, width], and 1 or 3 channels, but got "
            f"{image_size} and {channels}"
        )
    shape = (channels, size[0], size[1])
    return PictureFiles((), torch.empty(0), shape, checked_range(value_range))


def _test_folder(folder: Path) -> Path:
    for name in ("test", "val"):
        if (folder / name).is_dir():
            return folder / name
    raise DataUnavailableError(f"{folder} has a folder train, but neither test nor val beside it")


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise DataUnavailableError(
            f"{folder} must hold a folder for each class, two at least, but has "
            f"{', '.join(names) or 'none'}"
        )
    return tuple(names)


def _pictures(folder: Path, classes: Sequence[str], like: PictureFiles) -> PictureFiles:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = [p for p in seen_files(folder / name) if _is_picture(p)]
        if not found:
            raise DataUnavailableError(
                f"{folder / name} holds no picture (known: {' '.join(PICTURE_ENDINGS)})"
            )
        files += found
        labels += [label] * len(found)
    others = sorted(set(_classes(folder)) - set(classes))
    if others:
        raise DataUnavailableError(
            f"{folder} has folders of classes that the training images lack: {', '.join(others)}"
        )
    return replace(like, files=files, labels=torch.tensor(labels))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_ENDINGS and path.is_file()


def _cut(whole: PictureFiles) -> tuple[PictureFiles, PictureFiles]:
    """Split the pictures into (training, test): a fifth of each class, at least one, is for the
    test.
    """
    held_out = torch.zeros(len(whole), dtype=torch.bool)
    for label in whole.labels.unique().tolist():
        (own,) = (whole.labels == label).nonzero(as_tuple=True)
        order = own[torch.randperm(len(own), generator=seeded_generator(label))]
        if len(own) < 2:
            name = whole.files[int(own[0])].parent
            raise DataUnavailableError(f"{name} holds one picture; a class needs two at least")
        held_out[order[: max(1, round(_TEST_SHARE * len(own)))]] = True
    (test,) = held_out.nonzero(as_tuple=True)
    (train,) = (~held_out).nonzero(as_tuple=True)
    return whole.select(train), whole.select(test)


def _checksum(folder: Path, *parts: PictureFiles) -> str:
    """The md5 of all pictures' names and contents, in order."""
    digest = hashlib.md5()
    for part in parts:
        add_pictures(digest, part, lambda file: file.relative_to(folder).as_posix())
    return digest.hexdigest()


def add_pictures(digest: Any, part: PictureFiles, named: Callable[[Path], str]) -> None:
    """Add the names and contents of the pictures of ``part`` to a ``digest`` of hashlib's, in order.

    Raises:
        DataFileError: One of them is no picture, see :func:`~cnnexp.data.picture_files.verify_picture`.
    """
    for file in part.files:
        content = file.read_bytes()
        verify_picture(file, content, part.value_range)
        digest.update(f"{named(file)}\0{len(content)}\0".encode())
        digest.update(content)
